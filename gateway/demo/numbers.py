"""Numbered lines, by which the receiver notices lost, repeated and broken bytes. Sans-IO."""

from __future__ import annotations

import re
from typing import Final, final

__all__ = ["LINE", "Numbers"]

LINE: Final = 10
"""The bytes of a numbered line: nine digits and a newline."""
_LINE: Final = re.compile(rb"[0-9]{9}")
_DIGITS: Final = LINE - 1


@final
class Numbers:
    """One direction of traffic: ``next`` makes the lines to send, ``receive`` checks them. All counts are bytes.

    A number that is higher than expected means that the lines before it are lost, because the order is kept on the way.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.arrived = 0
        self.lost = 0
        """Bytes in whose place a later line arrived."""
        self.strange = 0
        """Bytes that arrived broken, twice, or out of order."""
        self._expected = 0
        self._unread = b""

    def next(self, count: int) -> bytes:
        """Return the next ``count`` lines to send, and count them as sent."""
        first = self.sent // LINE
        self.sent += count * LINE
        return b"".join(b"%0*d\n" % (_DIGITS, number) for number in range(first, first + count))

    def receive(self, data: bytes) -> None:
        """Check and count what arrived; it may be cut anywhere."""
        self.arrived += len(data)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if _LINE.fullmatch(line) and int(line) >= self._expected:
                self.lost += (int(line) - self._expected) * LINE
                self._expected = int(line) + 1
            else:
                self.strange += len(line) + 1

    @property
    def on_the_way(self) -> int:
        """The bytes that were sent and have not arrived yet."""
        return self.sent - self._expected * LINE
