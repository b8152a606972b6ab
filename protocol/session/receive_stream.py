"""The receiving side of one stream: what has come, what became of it, and how much more may come.

Invariant
    Four offsets of the stream describe it, each the end of what it names:

        told <= settled <= received <= granted

        granted     the peer may send so far: it was said in a CREDIT, or a GAP reached beyond it
        received    so far bytes have come, or a GAP said that they will not
        settled     so far each byte has its outcome: handed on, lost, or swallowed by a GAP
        told        so far the peer of this connection was told of the outcome, by ACK or LOST

    Each only grows, but for ``told`` and ``granted``, which ``attach`` puts back for a new connection: what was on
    its way in the old one may not have arrived.

Way of thinking
    ``settled`` moves in order, because ACK is one number. A GAP that comes while bytes before it wait for the line
    therefore becomes a *skip*: a range that settles by itself as soon as ``settled`` touches its start.

    An ACK means "handed on" only for what no LOST has named before, so a LOST that the peer never saw would turn a
    loss into a success. Every LOST is kept, as *unproven*, until a PONG shows that it arrived (``confirm``). After a
    cut the unproven ranges are *untold* again, and are told from where the peer says that it stands.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final, NamedTuple, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.message_rules import MAX_MESSAGE
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Ack, Channel, Credit, Gap, Lost

__all__ = ["ReceiveStream"]


_MAX_UNPROVEN: Final = 1_024
"""LOST ranges that are kept before no more credit is granted; those that touch are one."""


class _Skip(NamedTuple):
    """A range that settles as soon as all before it has: for a GAP, or as lost for a reason of our own."""

    start: int
    end: int
    reason: Reason | None


@final
class ReceiveStream:
    """One incoming stream from offset ``start``.

    Credit is granted up to ``window`` bytes beyond what is settled, whenever less than half of that is left. Where
    ``partial`` names the offset of a message whose rest is awaited, it is granted at once for all of that message.
    """

    def __init__(self, channel: Channel, start: int, window: int) -> None:
        self.channel = channel
        self.window = window
        self.told = self.settled = self.received = self.granted = start
        self.partial: int | None = None
        self._skips: deque[_Skip] = deque()
        self._unproven: deque[Lost] = deque()
        self._untold: deque[Lost] = deque()

    @property
    def untold(self) -> bool:
        """Return whether the peer has yet to be told of an outcome."""
        return self.told < self.settled

    @property
    def can_wait(self) -> bool:
        """Return whether nothing is to be told but that little was handed on, and the peer has credit for more."""
        return (
            self.partial is None
            and not self._untold
            and 4 * (self.settled - self.told) < self.window
            and 2 * (self.granted - self.received) >= self.window
        )

    def take(self, offset: int, end: int) -> None:
        """Take bytes. Raises RemoteProtocolError where they are not the next ones, or go beyond the credit."""
        self._expect(offset)
        if end > self.granted:
            raise RemoteProtocolError(f"bytes to {end} on {self.channel!r}, credit to {self.granted}")
        self.received = end

    def skip(self, gap: Gap) -> None:
        """Take a GAP; a message whose rest it swallows is lost. Raises RemoteProtocolError."""
        self._expect(gap.offset)
        if self.partial is not None:
            # Nobody has begun to write the parts that came: a message is begun when it is whole.
            self._skips.append(_Skip(self.partial, gap.offset, Reason.INCOMPLETE))
            self.partial = None
        last = self._skips[-1] if self._skips else None
        if last is not None and last.end == gap.offset and last.reason is None:
            self._skips[-1] = last._replace(end=gap.end)
        else:
            self._skips.append(_Skip(gap.offset, gap.end, None))
        self.received = gap.end
        self.granted = max(self.granted, gap.end)
        self._jump()

    def hand(self, end: int) -> None:
        """Settle everything before ``end`` as handed on. Raises LocalProtocolError for what was not received."""
        self._settle(end)
        if self._skips:
            self._jump()

    def lose(self, end: int, reason: Reason) -> None:
        """Settle everything before ``end`` as lost for ``reason``. Raises LocalProtocolError."""
        self._record(end, reason)
        self._jump()

    def attach(self, told: int) -> None:
        """Begin anew on another connection, with a peer that knows the outcome of all before ``told``.

        Raises RemoteProtocolError.
        """
        if told > self.settled:
            raise RemoteProtocolError(f"{told} known to be settled on {self.channel!r}: it is {self.settled}")
        self.confirm(told)
        self.told = told
        self.granted = self.received
        self._untold = deque(self._unproven)

    def confirm(self, told: int) -> None:
        """Forget the LOST ranges before ``told``: the peer has proved that it knows them."""
        while self._unproven and self._unproven[0].end <= told:
            self._unproven.popleft()

    def next_frame(self) -> Ack | Lost | Credit | None:
        """Return what there is to tell: first the outcomes, in the order of their offsets, then new credit."""
        if self._untold:
            lost = self._untold[0]
            if self.told < lost.offset:
                return self._acknowledge(lost.offset)
            # It goes on from ``told``, not from where the range began: a resumption may fall into its middle.
            self._untold.popleft()
            offset, self.told = self.told, lost.end
            return Lost(self.channel, offset, lost.end - offset, lost.reason)
        if self.told < self.settled:
            return self._acknowledge(self.settled)
        granted = self.granted
        if self.partial is not None:
            # However small the window, the rest of a message must fit: its first part cannot be settled without it.
            granted = max(self.settled + self.window, self.partial + MAX_MESSAGE)
        elif len(self._unproven) > _MAX_UNPROVEN:
            # Each of these costs memory until a PONG comes, so a peer that withholds it gets nothing more to lose.
            return None
        elif 2 * (self.granted - self.received) < self.window:
            granted = self.settled + self.window
        if granted <= self.granted:
            return None
        self.granted = granted
        return Credit(self.channel, granted)

    def _acknowledge(self, offset: int) -> Ack:
        self.told = offset
        return Ack(self.channel, offset)

    def _expect(self, offset: int) -> None:
        if offset != self.received:
            raise RemoteProtocolError(f"offset {offset} on {self.channel!r}, expected {self.received}")

    def _settle(self, end: int) -> int:
        """Move the position, if that is behind ``end``; return where it was."""
        # What a skip covers settles by itself, so nobody has anything to say about it.
        limit = self._skips[0].start if self._skips else self.received
        start = self.settled
        if end > limit:
            raise LocalProtocolError(f"{end} settled on {self.channel!r}, of which {limit} was received")
        self.settled = max(start, end)
        return start

    def _record(self, end: int, reason: Reason) -> None:
        start = self._settle(end)
        if end > start:
            lost = Lost(self.channel, start, end - start, reason)
            _extend(self._unproven, lost)
            _extend(self._untold, lost)

    def _jump(self) -> None:
        """Settle the skips that everything before has reached."""
        while self._skips and self._skips[0].start == self.settled:
            skip = self._skips.popleft()
            if skip.reason is None:
                self.settled = skip.end
            else:
                self._record(skip.end, skip.reason)


def _extend(ranges: deque[Lost], lost: Lost) -> None:
    """Put a range behind the others, or into the last one where it only makes that longer."""
    last = ranges[-1] if ranges else None
    if last is not None and last.end == lost.offset and last.reason is lost.reason:
        ranges[-1] = replace(last, count=last.count + lost.count)
    else:
        ranges.append(lost)
