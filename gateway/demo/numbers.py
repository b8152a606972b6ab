"""Numbered bytes, by which a loss shows: lines with a number each, said one after another.

Sans-IO: it must not know what they travel over.
"""

from __future__ import annotations

import re
from typing import Final, final

__all__ = ["LINE", "Numbers"]

LINE: Final = 10
"""Bytes of a numbered line."""
_LINE: Final = re.compile(rb"[0-9]{9}")
_DIGITS: Final = LINE - 1


@final
class Numbers:
    """One direction: ``next`` is what is said there, ``receive`` takes what arrives, and counts what does not."""

    def __init__(self) -> None:
        self.sent = 0
        self.arrived = 0
        self.lost = 0
        """Bytes in whose place a later line came."""
        self.strange = 0
        """Bytes that arrived broken, twice, or out of order."""
        self._expected = 0
        self._unread = b""

    def next(self, count: int) -> bytes:
        """The next ``count`` lines, to be sent."""
        first = self.sent // LINE
        self.sent += count * LINE
        return b"".join(b"%0*d\n" % (_DIGITS, number) for number in range(first, first + count))

    def receive(self, data: bytes) -> None:
        """Take what arrived, in any pieces."""
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
        """Bytes that were sent and have not come yet."""
        return self.sent - self._expected * LINE
