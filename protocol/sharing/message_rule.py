"""Find the end of a message in a byte stream, by a port's rule: its last bytes, or a gap.

A message that TCP delivers in three reads is one message on the line, and two messages in one read are two. Without a
rule a message is what one read returned.
"""

from __future__ import annotations

import math
from typing import Final, final

from protocol.frozen import frozen
from protocol.sharing.piece import Piece

__all__ = ["MAX_GAP", "MAX_JOINED", "MAX_MESSAGE_END", "MessageJoiner", "MessageRule"]

MAX_JOINED: Final = 512
"""The most bytes of a message that is joined; a longer one is a transfer."""

MAX_GAP: Final = 0.1
"""The most seconds from the first piece of a message to its end; what has come by then goes as a transfer."""

MAX_MESSAGE_END: Final = 16
"""The most bytes that end a message."""


@final
@frozen
class MessageRule:
    """The end of a message: its last bytes ``end`` (1 to MAX_MESSAGE_END), a ``gap`` after it, or the first of both.

    ``gap`` is in seconds, 0.001 to MAX_GAP; None for the one that the port does not use. Raises ValueError for
    anything else.
    """

    end: bytes | None = None
    gap: float | None = None

    def __post_init__(self) -> None:
        if self.end is None and self.gap is None:
            raise ValueError("a message ends by its last bytes, or by a gap")
        if self.end is not None and not 0 < len(self.end) <= MAX_MESSAGE_END:
            raise ValueError(f"a message ends with 1 to {MAX_MESSAGE_END} bytes")
        if self.gap is not None and not 0.001 <= self.gap <= MAX_GAP:
            raise ValueError(f"the gap behind a message is 0.001 to {MAX_GAP:g} s")


@final
class MessageJoiner:
    """Joins what one client sends into messages: ``feed`` what was read, ``expire`` at ``deadline``.

    Both return the pieces that go to the line now, in order; nothing is lost, changed or kept for longer than MAX_GAP
    while its client is read.
    """

    def __init__(self, rule: MessageRule) -> None:
        self._rule = rule
        self._waiting = b""
        self._first = self._last = 0.0
        """When the first and the last byte of what waits were read."""
        self._resumed = -math.inf
        """When reading from the client began again after a pause."""

    @property
    def waiting(self) -> int:
        """The number of bytes that wait for the end of their message."""
        return len(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When ``expire`` is due; None while nothing waits."""
        if not self._waiting:
            return None
        latest = max(self._first, self._resumed) + MAX_GAP
        return latest if self._rule.gap is None else min(latest, self._silent_at)

    @property
    def _silent_at(self) -> float:
        """When the gap behind what waits is over."""
        return math.inf if self._rule.gap is None else max(self._last, self._resumed) + self._rule.gap

    def resume(self, now: float) -> None:
        """Note that nobody read from the client until ``now``: the rest may have come, and wait to be read."""
        self._resumed = now

    def feed(self, data: bytes, now: float) -> list[Piece]:
        """Take what was read at ``now``."""
        pieces = self.expire(now)
        while data:
            if not self._waiting:
                self._first = now
            before = len(self._waiting)
            self._waiting += data
            self._last = now
            end = self._end(before)
            if end is None:
                if len(self._waiting) > MAX_JOINED:
                    pieces.append(self._go(len(self._waiting), whole=False))
                break
            data = self._waiting[end:]
            pieces.append(self._go(end, whole=end <= MAX_JOINED))
        return pieces

    def expire(self, now: float) -> list[Piece]:
        """Release what has waited long enough by ``now``; it is whole only if the gap after it ended it."""
        if self.deadline is None or now < self.deadline:
            return []
        return [self._go(len(self._waiting), whole=now >= self._silent_at)]

    def finish(self) -> list[Piece]:
        """Release what waits, because its client has left or ended its sending."""
        return [self._go(len(self._waiting), whole=False)] if self._waiting else []

    def _end(self, before: int) -> int | None:
        """Return where the first message that waits ends; its end may have begun in what was there ``before``."""
        end = self._rule.end
        if end is None:
            return None
        at = self._waiting.find(end, max(0, before - len(end) + 1))
        return at + len(end) if at >= 0 else None

    def _go(self, count: int, *, whole: bool) -> Piece:
        data, self._waiting = self._waiting[:count], b""
        return Piece(data, self._first, whole)
