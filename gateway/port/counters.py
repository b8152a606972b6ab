"""Count the bytes that one client sends, by their outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Counters"]


@final
@dataclass(slots=True)
class Counters:
    """Bytes of one client towards the line.

    At any instant ``received == written + dropped + pending``: each byte is on the line, will never be, or is on its
    way.
    """

    received: int = 0
    """Bytes that were read from the client."""
    written: int = 0
    """Bytes of these that the line's tty took."""
    dropped: int = 0
    """Bytes of these that will not reach the line."""

    @property
    def pending(self) -> int:
        """Bytes of these that wait for their turn or for the tty, even if the client has left."""
        return self.received - self.written - self.dropped
