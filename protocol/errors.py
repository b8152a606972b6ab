"""The errors that the sans-IO modules raise.

An error says what was wrong and what would be right. The caller decides where to report it.
"""

from __future__ import annotations

from typing import final

__all__ = ["LocalProtocolError", "ParameterError", "ProtocolError", "RemoteProtocolError"]


class ProtocolError(Exception):
    """Somebody broke the rules of a protocol."""


@final
class LocalProtocolError(ProtocolError):
    """We broke them: a bug on this side, never the peer's fault."""


class RemoteProtocolError(ProtocolError):
    """The peer broke them."""


@final
class ParameterError(ValueError):
    """A value that a parameter cannot take.

    ``name`` is the parameter's full name without ``root.``, ``value`` the text as it was given, and ``why``
    a sentence that says what would be right.
    """

    def __init__(self, name: str, value: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.value = value
        self.why = why
