"""Tell how many bytes wait in Linux' driver cdc_acm, which counts transfers where other drivers count bytes.

Each write becomes a transfer of its own, and TIOCOUTQ is the number of transfers times the most bytes that one could
hold, the *block*: 20 packets of the adapter, which is 1280 bytes at full speed and 10240 at high speed. A longer write
becomes several transfers. So what is written is cut into pieces of one transfer each, and their lengths are kept:
transfers end in their order, so the last pieces are those that wait. That is exact except for the piece on its way,
since it is unknown how much of that the adapter has. Hence the pieces are short, which also shows sooner that a line
moves; and they are whole packets, so that the adapter sees the same packets as without the cuts.

No call returns the block. It is what the driver counts when a first piece has nothing before it; but the count must be
a possible block, because an XOFF that the kernel sends by itself is a transfer too.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

__all__ = ["MAJOR", "Transfers"]

MAJOR: Final = 166
"""The major number of its devices, ``ttyACM`` (Linux, devices.txt)."""
_MOST: Final = 16  # transfers that the driver can have (ACM_NW)
_PACKETS: Final = 20
_BLOCKS: Final = frozenset(_PACKETS * size for size in (8, 16, 32, 64, 512, 1024))
"""The possible blocks, for the packet sizes of bulk endpoints (USB 2.0, 5.8.3; USB 3.2, 9.6.6)."""
_FIRST: Final = 128  # before the block is known: the smallest is that of 8-byte packets, 160 bytes
_PIECE: Final = 256  # or a packet, where that is longer


@final
class Transfers:
    """The pieces that were written to one open device."""

    def __init__(self) -> None:
        self.longest = _FIRST
        """The most bytes to write at once."""
        self._block = 0
        self._pieces: deque[int] = deque(maxlen=_MOST)

    @property
    def is_known(self) -> bool:
        """Return whether the block is known. Until then ask the driver after each write to an empty queue."""
        return self._block > 0

    def wrote(self, count: int) -> None:
        """Note a piece."""
        self._pieces.append(count)

    def waiting(self, counted: int) -> int:
        """Return how many bytes wait when the driver counts ``counted``; perhaps too many, never too few."""
        if not counted:
            self._pieces.clear()
        elif not self._block:
            if len(self._pieces) != 1 or counted not in _BLOCKS:
                return counted
            self._block = counted
            packet = counted // _PACKETS
            self.longest = min(packet * max(_PIECE // packet, 1), counted)
        while len(self._pieces) * self._block > counted:
            self._pieces.popleft()
        return sum(self._pieces)
