"""The sending side of one traffic class: messages that wait for their outcome, within the class's age limit.

Invariant
    The ring holds every message without an outcome, and each byte gets exactly one, in order: ``Settled`` ranges
    touch, from offset 0 on, and end at ``_told``. It is

        acked <= _told <= tail

    since a Gap before which everything is settled needs no answer from the receiver: its outcome is our own doing.

Way of thinking
    What is in the ring's ``unsent`` is certainly not with the receiver, so it may still be dropped: withdrawn, too
    old, given up. What is in ``sent`` may be there, and only the receiver can tell, by ACK, LOST, OPENED or CLOSE;
    where it has lost its memory, nobody can, and the outcome is UNCERTAIN. A resumption moves messages back from
    ``sent`` to ``unsent``; then what was decided of them meanwhile (``_withdrawn``) comes into force.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.message_rules import MAX_MESSAGE
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel, Control, Gap, Lost, UpData
from protocol.session.clock import age, to_wire
from protocol.session.ring import Entry, Ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.link.turn_parameters import TurnParameters

__all__ = ["SendStream", "Settled"]


@final
class Settled(NamedTuple):
    """The outcome of ``count`` bytes from ``offset``: in the owner's tty where ``reason`` is None.

    Otherwise they are lost for that reason; Reason.UNCERTAIN means perhaps one, perhaps the other. On each channel
    these come in order and without a hole. A message may have several, of different reasons.
    """

    channel: Channel
    offset: int
    count: int  # type: ignore[assignment]  # which hides a tuple's own, that nobody asks for
    reason: Reason | None

    @property
    def end(self) -> int:
        """Return the offset after the last byte."""
        return self.offset + self.count


@final
class SendStream:
    """One up stream of a client's session. ``age_limit`` in milliseconds."""

    def __init__(self, channel: Channel, age_limit: int, max_bytes: int, max_frames: int) -> None:
        self.channel = channel
        self.ring = Ring(channel, 0, max_bytes, max_frames)
        """The messages without an outcome: to look at, and to grant credit to."""
        self.takes_controls = False
        """The receiver of the moment knows what a Control is; without, those that wait are withdrawn."""
        self._age_limit = age_limit
        self._told = 0
        self._withdrawn: set[int] = set()
        self._news: list[Settled] = []

    def write(self, data: bytes, accepted: int, turn: TurnParameters | None, kind: type[UpData] = UpData) -> int | None:
        """Take a message that was accepted at ``accepted``; return its offset, or None if there is no room.

        Raises LocalProtocolError for an empty message, or one over MAX_MESSAGE.
        """
        if not 0 < len(data) <= MAX_MESSAGE:
            raise LocalProtocolError(f"a message has 1 to {MAX_MESSAGE} bytes, not {len(data)}")
        ring = self.ring
        if ring.size + len(data) > ring.max_bytes or ring.frames >= ring.max_frames:
            return None
        start = ring.tail
        frame = kind(self.channel, start, to_wire(accepted), data, turn)
        ring.append(Entry(start, frame.end, start, frame))
        return start

    def withdraw(self, offset: int) -> None:
        """Do not send the message at ``offset`` any more, if it is not on its way already."""
        if self._told <= offset < self.ring.tail:
            # Kept also where it is on its way: a resumption may show that it never arrived.
            self._withdrawn.add(offset)
            self._drop(lambda entry: Reason.WITHDRAWN if entry.origin == offset else None)

    def expire(self, now: int) -> None:
        """Drop what is too old and not on its way."""
        self._drop(lambda entry: self._judge(entry, now))

    def next_expiry(self, now: int) -> int | None:
        """Return when ``expire`` should be called next, by the same clock; None for never."""
        messages = (entry.frame for entry in self.ring.unsent if isinstance(entry.frame, UpData))
        oldest = max((age(message.accepted, now) for message in messages), default=None)
        return None if oldest is None else now + max(0, self._age_limit - oldest + 1)

    def next_frame(self, now: int) -> UpData | Gap | None:
        """Return what is to be sent next, if anything may be; what is too old becomes a GAP."""
        ring = self.ring
        if not ring.unsent:
            return None
        # The head is the oldest but for what a hop in between accepted out of order, so it alone is looked at for
        # each frame; where it is stale, others are likely to be so too.
        if self._judge(ring.unsent[0], now):
            self.expire(now)
        if isinstance(ring.unsent[0].frame, Gap):
            return self._next_gaps()
        entry = ring.ready()
        if entry is None:
            return None
        ring.advance()
        assert isinstance(entry.frame, UpData)
        return entry.frame

    def _next_gaps(self) -> Gap:
        """Return all Gaps at the head as one."""
        gaps = []
        while isinstance(gap := self.ring.head, Gap):
            gaps.append(gap)
            self.ring.advance()
        count = gaps[-1].end - gaps[0].offset
        return Gap(self.channel, gaps[0].offset, count, max(gap.reason for gap in gaps))

    def acknowledged(self, offset: int) -> None:
        """Take an ACK. Raises RemoteProtocolError."""
        for entry in self.ring.acknowledge(offset):
            if isinstance(entry.frame, Gap):
                self._report(entry.start, None)
                self._report(entry.end, entry.frame.reason)
        self._report(offset, None)
        self._settle()

    def lost(self, lost: Lost) -> None:
        """Take a LOST. Raises RemoteProtocolError."""
        if lost.offset != self.ring.acked:
            raise RemoteProtocolError(f"lost from {lost.offset}: it must begin at {self.ring.acked}")
        self.ring.acknowledge(lost.end)
        self._report(lost.end, lost.reason)
        self._settle()

    def resume(self, received: int, settled: int) -> None:
        """Go on after a cut, with the numbers that the receiver states. Raises RemoteProtocolError."""
        if settled != self.ring.acked:
            raise RemoteProtocolError(f"to go on from {settled}: it must be {self.ring.acked}")
        self.ring.rewind(received)

    def forget(self) -> None:
        """Begin with a receiver that knows nothing: what was sent is uncertain, the rest goes to the new session."""
        for entry in self.ring.drop_sent():
            self._report(entry.end, entry.frame.reason if isinstance(entry.frame, Gap) else Reason.UNCERTAIN)
        self._drop_rest()

    def closed(self, settled: int) -> None:
        """Take the receiver's word that it ended the session having settled so much: the rest is not written.

        It may go to the next session, but for the rest of a message that has begun. Raises
        RemoteProtocolError.
        """
        self.acknowledged(settled)
        self.ring.split_at(settled)
        self.ring.rewind(settled)
        self._drop_rest()

    def abandon(self, reason: Reason) -> None:
        """Give everything up: what was sent is uncertain, what was not is lost for ``reason``."""
        self.forget()
        self._drop(lambda _: reason)
        self.ring.drop_gaps()

    def news(self) -> list[Settled]:
        """Return what has been settled since the last call."""
        news, self._news = self._news, []
        return news

    def _judge(self, entry: Entry, now: int) -> Reason | None:
        if not isinstance(entry.frame, UpData):
            return None
        if entry.origin in self._withdrawn:
            return Reason.WITHDRAWN
        if isinstance(entry.frame, Control) and not self.takes_controls:
            return Reason.WITHDRAWN
        return Reason.TOO_OLD if age(entry.frame.accepted, now) > self._age_limit else None

    def _drop_rest(self) -> None:
        """Drop what is left of a message of which a part was sent: alone it would be another message."""
        begun = self.ring.acked
        self._drop(lambda entry: Reason.INCOMPLETE if entry.origin < begun else None)

    def _drop(self, judge: Callable[[Entry], Reason | None]) -> None:
        self.ring.drop(lambda entry: judge(entry) if isinstance(entry.frame, UpData) else None)
        self._settle()

    def _settle(self) -> None:
        """Report the Gaps before which everything is settled: they need no answer."""
        for entry in chain(self.ring.sent, self.ring.unsent):
            if not isinstance(entry.frame, Gap):
                break
            self._report(entry.end, entry.frame.reason)
        if self._withdrawn:
            self._withdrawn = {offset for offset in self._withdrawn if offset >= self._told}

    def _report(self, end: int, reason: Reason | None) -> None:
        if end > self._told:
            self._news.append(Settled(self.channel, self._told, end - self._told, reason))
            self._told = end
