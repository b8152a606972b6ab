"""The rules that a message obeys at every hop, on a line of our own as over a link: how old, and how long.

They stand in a module of their own, which imports nothing, so that a port can use them without loading the wire.
"""

from __future__ import annotations

from typing import Final

__all__ = ["AGE_LIMIT", "MAX_MESSAGE", "MAX_WAITING", "PTZ_AGE_LIMIT", "message_limit", "portion"]

PTZ_AGE_LIMIT: Final = 2_000
"""Milliseconds from when a PTZ command was read from its client until it may not begin any more: a stale one moves."""

AGE_LIMIT: Final = 15_000
"""The same for every other class of traffic."""

MAX_MESSAGE: Final = 8_192
"""The most bytes that one message over a link may have, over however many frames."""

MAX_WAITING: Final = 4_096
"""The most messages of one class over a link that may have no outcome yet, however short they are."""

_LEAST_PORTION: Final = 16
_PORTION_SECONDS: Final = 0.1
_MESSAGE: Final = 512
_MESSAGE_SECONDS: Final = 1.0


def portion(bytes_per_second: float) -> int:
    """Return the bytes of a transfer that go out in one turn: 100 ms of line, 16 at least; 512 where it has no rate."""
    if not bytes_per_second:
        return _MESSAGE
    return max(_LEAST_PORTION, int(bytes_per_second * _PORTION_SECONDS))


def message_limit(bytes_per_second: float) -> int:
    """Return the longest piece of a byte stream that is written as a message; a longer one is a transfer.

    512 bytes, or 100 ms of line where that is more; but no more than a second of line, for a command waits for it, and
    no more than a link carries.
    """
    if not bytes_per_second:
        return _MESSAGE
    longest = min(max(_MESSAGE, portion(bytes_per_second)), MAX_MESSAGE)
    return min(longest, max(_LEAST_PORTION, int(bytes_per_second * _MESSAGE_SECONDS)))
