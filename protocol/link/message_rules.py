"""The limits of a message's age and length, the same at every hop, for our own line and over a link.

They have a module of their own, which imports nothing, so that a port can use them without loading the wire.
"""

from __future__ import annotations

from typing import Final

__all__ = ["AGE_LIMIT", "MAX_MESSAGE", "MAX_WAITING", "PTZ_AGE_LIMIT", "message_limit", "portion"]

PTZ_AGE_LIMIT: Final = 2_000
"""Milliseconds after its read within which a PTZ command must begin: a stale one would move a camera unexpectedly."""

AGE_LIMIT: Final = 15_000
"""The same for every other class of traffic."""

MAX_MESSAGE: Final = 8_192
"""The most bytes that one message over a link may have, over however many frames."""

MAX_WAITING: Final = 4_096
"""The most messages of one class over a link without an outcome, however short they are."""

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

    It is 512 bytes, or 100 ms of line if that is more; but at most a second of line, because a command waits for it,
    and at most what a link carries.
    """
    if not bytes_per_second:
        return _MESSAGE
    longest = min(max(_MESSAGE, portion(bytes_per_second)), MAX_MESSAGE)
    return min(longest, max(_LEAST_PORTION, int(bytes_per_second * _MESSAGE_SECONDS)))
