"""The errors that the sans-IO modules raise.

Nothing here knows of sockets, files or tasks: an error says what was wrong and what would be right,
and whoever called decides where its sender looks for it.
"""

from __future__ import annotations

from typing import final

__all__ = ["LocalProtocolError", "ParameterError", "ProtocolError", "RemoteProtocolError"]


class ProtocolError(Exception):
    """Somebody broke the rules of a protocol."""


@final
class LocalProtocolError(ProtocolError):
    """We did: a bug on this side, never the peer's doing."""


class RemoteProtocolError(ProtocolError):
    """The peer did."""


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
