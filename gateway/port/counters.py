"""Count what becomes of the bytes that one client sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Counters"]


@final
@dataclass(slots=True)
class Counters:
    """Bytes of one client, towards the line.

    At any instant ``received == written + pending + dropped``: the line has a byte, has charge of it, or never will.
    """

    received: int = 0
    """Bytes that were read from the client."""
    written: int = 0
    """Bytes of these that the line's tty took."""
    pending: int = 0
    """Bytes of these that wait for their turn or for the tty, though the client may have left."""

    @property
    def dropped(self) -> int:
        """Bytes that were read from the client and will not reach the line."""
        return self.received - self.written - self.pending
