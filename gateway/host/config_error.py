"""The error of a configuration that cannot be used, apart from what reads one, which costs a start 20 ms."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ConfigError"]


@final
class ConfigError(Exception):
    """The configuration cannot be used; ``messages`` has a line for each mistake."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = tuple(messages)
