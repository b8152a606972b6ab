"""Know what waits in Linux' driver cdc_acm, which counts transfers where others count bytes.

Each write becomes a transfer of its own, and TIOCOUTQ is their number times the most that one could hold, the *block*:
20 packets of the adapter, which is 1280 bytes at full speed and 10240 at high speed. A longer write becomes several. So
what is written is cut to pieces that become one transfer each, and their lengths are kept: as transfers end in their
order, the last pieces are those that wait. That is exact but for the piece on its way, of which nobody knows how much
the adapter has. Hence they are short, which also shows sooner that a line moves; and of whole packets, so the adapter
sees no other packets than it would.

No call tells the block. It is what the driver counts of a first piece that has nothing before it, unless that is no
block at all: an XOFF that the kernel sends for itself is a transfer too.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

__all__ = ["MAJOR", "Transfers"]

MAJOR: Final = 166
"""The number of its devices, ``ttyACM`` (Linux, devices.txt)."""
_MOST: Final = 16  # transfers that the driver can have (ACM_NW)
_PACKETS: Final = 20
_BLOCKS: Final = frozenset(_PACKETS * size for size in (8, 16, 32, 64, 512, 1024))
"""The packets of bulk endpoints: USB 2.0, 5.8.3; USB 3.2, 9.6.6."""
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
        """Return whether the block is known; otherwise the driver is to be asked after a write to an empty queue."""
        return self._block > 0

    def wrote(self, count: int) -> None:
        """Take note of a piece."""
        self._pieces.append(count)

    def waiting(self, counted: int) -> int:
        """Return how many bytes wait, where the driver counts ``counted``: never less than do."""
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
