"""Remember the newest bytes of a line for clients that connect later: a console shows how it came to its prompt."""

from __future__ import annotations

from typing import final

__all__ = ["History"]


@final
class History:
    """The newest ``size`` bytes that every reader of a bus was given.

    It is attached as a reader like any other, so it never holds what an ordinary client would not have heard.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._data = bytearray()

    @property
    def newest(self) -> bytes:
        """Return what is remembered, the oldest byte first."""
        return bytes(self._data[-self._size :])

    def deliver(self, data: bytes) -> None:
        """Remember ``data``. Never waits, never raises."""
        self._data += data
        # Trim seldom: moving the rest for each byte would cost more than the line itself.
        if len(self._data) > 2 * self._size:
            del self._data[: -self._size]
