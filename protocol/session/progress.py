"""How far the outcome of one message is known, in the offsets of its stream; used on both sides of a link.

A client counts with it what the server has settled of a message that it took, a server what the line has settled
of a message that it began. Both hold ``start <= position <= end``, and ``position`` only grows: the bytes before it
have their outcome, those behind it have none yet.
"""

from __future__ import annotations

from typing import final

from protocol.errors import LocalProtocolError

__all__ = ["Progress"]


@final
class Progress:
    """The range of a message, from ``start`` to ``end``, and the ``position`` up to which it is settled."""

    __slots__ = ("end", "position", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = self.position = start
        self.end = end

    @property
    def begun(self) -> bool:
        """True once any byte has its outcome."""
        return self.position > self.start

    @property
    def left(self) -> int:
        """The number of bytes that have no outcome yet; 0 when the message is done."""
        return self.end - self.position

    def settle(self, count: int) -> None:
        """Note the outcome of the next ``count`` bytes. Raises LocalProtocolError for more than are left."""
        if not 0 <= count <= self.left:
            raise LocalProtocolError(f"{count} bytes settled of a message of which {self.left} are left")
        self.position += count

    def settle_to(self, offset: int) -> int:
        """Note that everything before ``offset`` has its outcome; return how many bytes of this message that adds.

        An offset outside the message counts as its nearer end, since one outcome may cover several messages.
        """
        count = max(0, min(offset, self.end) - self.position)
        self.position += count
        return count
