"""Keep what a line says until a request reads it: the newest 4096 bytes, and more while a read waits for more."""

from __future__ import annotations

import math
from typing import final

import trio

__all__ = ["ReceiveBuffer"]

_KEPT = 4096
"""The newest bytes that are kept while no read waits."""


@final
class ReceiveBuffer:
    """The bytes of the line that no read has taken yet."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._readers = trio.lowlevel.ParkingLot()
        self._wanted = 0

    @property
    def size(self) -> int:
        """Bytes in it."""
        return len(self._data)

    def deliver(self, data: bytes) -> None:
        """Add ``data``, and forget the oldest bytes beyond the limit."""
        self._data += data
        # A waiting read raises the limit by its length, or a long reply would lose its beginning while it arrives.
        del self._data[: -(_KEPT + self._wanted)]
        self._readers.unpark_all()

    def has(self, data: bytes) -> bool:
        """Return whether these bytes are in it."""
        return data in self._data

    def clear(self) -> None:
        """Empty it."""
        self._data.clear()

    async def wait_for(self, most: float, until: bytes | None) -> None:
        """Wait until ``most`` bytes are there, or the bytes ``until`` among them."""
        bounded = 0 if most == math.inf else int(most)
        self._wanted += bounded
        try:
            while len(self._data) < most and (until is None or until not in self._data):
                await self._readers.park()
        finally:
            self._wanted -= bounded

    def take(self, most: int, until: bytes | None) -> bytes:
        """Take out and return what is there: at most ``most`` bytes, and none after ``until``."""
        end = self._data.find(until) + len(until) if until is not None and until in self._data else most
        taken = bytes(self._data[: min(end, most)])
        del self._data[: len(taken)]
        return taken
