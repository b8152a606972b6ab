"""The receiving side of one stream: what has come, what became of it, and how much more may come.

It must not know what the bytes say, nor of connections, but for one thing: after a new one it tells again
what the peer has not heard. A LOST must not be forgotten before the peer has it, or the peer would take the
ACK behind it for a success; so the ranges are kept until a PONG proves that they arrived.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.message_rules import MAX_MESSAGE
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Ack, Channel, Credit, Gap, Lost

__all__ = ["ReceiveStream"]


class _Skip(NamedTuple):
    """A range that is settled as soon as all before it is: by a GAP, or for a reason of our own."""

    start: int
    end: int
    reason: Reason | None


def _extend(ranges: deque[Lost], lost: Lost) -> None:
    """Put a range behind the others, or into the last where it only makes that longer."""
    last = ranges[-1] if ranges else None
    if last is not None and last.end == lost.offset and last.reason is lost.reason:
        ranges[-1] = replace(last, count=last.count + lost.count)
    else:
        ranges.append(lost)


@final
class ReceiveStream:
    """One incoming stream from offset ``start``.

    Credit is granted to ``window`` bytes beyond what is settled, whenever less than half of that is left; and,
    where ``partial`` names the offset of a message whose rest is awaited, at once for all of that message.
    """

    def __init__(self, channel: Channel, start: int, window: int) -> None:
        self.channel = channel
        self.window = window
        self.received = start
        self.settled = start
        self.told = start
        self.partial: int | None = None
        self._granted = start
        self._skips: deque[_Skip] = deque()
        self._lost: deque[Lost] = deque()
        self._unsaid: deque[Lost] = deque()

    @property
    def untold(self) -> bool:
        """Whether the peer has yet to be told what became of something."""
        return bool(self._unsaid) or self.told < self.settled

    def take(self, offset: int, end: int) -> None:
        """Take bytes. Raises RemoteProtocolError where they are not the next, or beyond the credit."""
        self._expect(offset)
        if end > self._granted:
            raise RemoteProtocolError(f"bytes to {end} on {self.channel!r}, credit to {self._granted}")
        self.received = end

    def skip(self, gap: Gap) -> None:
        """Take a GAP; a message whose rest it swallows is lost. Raises RemoteProtocolError."""
        self._expect(gap.offset)
        if self.partial is not None:
            self._skips.append(_Skip(self.partial, gap.offset, Reason.INCOMPLETE))
            self.partial = None
        if self._skips and self._skips[-1].end == gap.offset and self._skips[-1].reason is None:
            self._skips[-1] = self._skips[-1]._replace(end=gap.end)
        else:
            self._skips.append(_Skip(gap.offset, gap.end, None))
        self.received = gap.end
        self._jump()

    def hand(self, end: int) -> None:
        """All before ``end`` has been handed on. Raises LocalProtocolError for what was not received."""
        self._settle(end)
        self._jump()

    def lose(self, end: int, reason: Reason) -> None:
        """All before ``end`` that is not settled will never be written. Raises LocalProtocolError."""
        self._record(end, reason)
        self._jump()

    def attach(self, told: int) -> None:
        """Begin anew on another connection, with a peer that knows all before ``told``.

        Raises RemoteProtocolError.
        """
        if told > self.settled:
            raise RemoteProtocolError(f"{told} known to be settled on {self.channel!r}: it is {self.settled}")
        self.confirm(told)
        self.told = told
        self._granted = self.received
        self._unsaid = deque(self._lost)

    def confirm(self, told: int) -> None:
        """The peer has proved that it knows all before ``told``."""
        while self._lost and self._lost[0].end <= told:
            self._lost.popleft()

    def next_frame(self) -> Ack | Lost | Credit | None:
        """Return what there is to tell."""
        if self._unsaid:
            return self._tell_lost(self._unsaid[0])
        if self.told < self.settled:
            return self._acknowledge(self.settled)
        allowed = self._allowed()
        if allowed <= self._granted:
            return None
        self._granted = allowed
        return Credit(self.channel, allowed)

    def _allowed(self) -> int:
        if self.partial is not None:
            return max(self.settled + self.window, self.partial + MAX_MESSAGE)
        plenty = 2 * (self._granted - self.received) >= self.window
        return self._granted if plenty else self.settled + self.window

    def _tell_lost(self, lost: Lost) -> Ack | Lost:
        if self.told < lost.offset:
            return self._acknowledge(lost.offset)
        self._unsaid.popleft()
        offset, self.told = self.told, lost.end
        return Lost(self.channel, offset, lost.end - offset, lost.reason)

    def _acknowledge(self, offset: int) -> Ack:
        self.told = offset
        return Ack(self.channel, offset)

    def _expect(self, offset: int) -> None:
        if offset != self.received:
            raise RemoteProtocolError(f"offset {offset} on {self.channel!r}, expected {self.received}")

    def _settle(self, end: int) -> int:
        """Move the position, if that is behind ``end``; return where it was."""
        limit = self._skips[0].start if self._skips else self.received
        start = self.settled
        if end > max(start, limit):
            raise LocalProtocolError(f"{end} settled on {self.channel!r}, of which {limit} was received")
        self.settled = max(start, end)
        return start

    def _record(self, end: int, reason: Reason) -> None:
        start = self._settle(end)
        if end > start:
            lost = Lost(self.channel, start, end - start, reason)
            _extend(self._lost, lost)
            _extend(self._unsaid, lost)

    def _jump(self) -> None:
        while self._skips and self._skips[0].start == self.settled:
            skip = self._skips.popleft()
            if skip.reason is None:
                self.settled = skip.end
            else:
                self._record(skip.end, skip.reason)
