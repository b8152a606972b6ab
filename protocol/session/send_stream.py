"""The sending side of one traffic class: messages that wait for their fate, within the class's age limit.

It must not know of connections. What is in the ring's ``unsent`` is certainly not with the receiver, so it
may still be withdrawn; what is in ``sent`` may be, until an acknowledgement or a resumption tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.message_rules import MAX_MESSAGE
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel, Gap, Lost, UpData
from protocol.session.clock import age, to_wire
from protocol.session.ring import Entry, Ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.link.turn_parameters import TurnParameters

__all__ = ["SendStream", "Settled"]


@final
@dataclass(frozen=True, slots=True)
class Settled:
    """The fate of ``count`` bytes from ``offset``: in the owner's tty where ``reason`` is None.

    Otherwise lost for that reason, or for Reason.UNCERTAIN perhaps one, perhaps the other. On each channel
    these come in order and without a hole; a message may have several, and several fates.
    """

    channel: Channel
    offset: int
    count: int
    reason: Reason | None

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.count


@final
class SendStream:
    """One up stream of a client's session. ``age_limit`` in milliseconds."""

    def __init__(self, channel: Channel, age_limit: int, max_bytes: int, max_frames: int) -> None:
        self.channel = channel
        self._age_limit = age_limit
        self._ring = Ring(channel, 0, max_bytes, max_frames)
        self._told = 0
        self._withdrawn: set[int] = set()
        self._news: list[Settled] = []

    @property
    def ring(self) -> Ring:
        """The messages that have no fate yet (to look at)."""
        return self._ring

    def write(self, data: bytes, accepted: int, turn: TurnParameters | None) -> int | None:
        """Take a message that was accepted at ``accepted``; return its offset, or None if there is no room.

        Raises LocalProtocolError for an empty message, or one over MAX_MESSAGE.
        """
        if not 0 < len(data) <= MAX_MESSAGE:
            raise LocalProtocolError(f"a message has 1 to {MAX_MESSAGE} bytes, not {len(data)}")
        ring = self._ring
        if ring.size + len(data) > ring.max_bytes or ring.frames >= ring.max_frames:
            return None
        start = ring.tail
        frame = UpData(self.channel, start, to_wire(accepted), data, turn)
        ring.append(Entry(start, frame.end, start, frame))
        return start

    def withdraw(self, offset: int) -> None:
        """Do not send the message at ``offset`` any more, if it is not on its way already."""
        if self._told <= offset < self._ring.tail:
            self._withdrawn.add(offset)
            self._drop(lambda entry: Reason.WITHDRAWN if entry.origin == offset else None)

    def expire(self, now: int) -> None:
        """Drop what is too old and not on its way."""
        self._drop(lambda entry: self._judge(entry, now))

    def next_expiry(self, now: int) -> int | None:
        """Return when ``expire`` should be called next, by the same clock; None for never."""
        messages = (entry.frame for entry in self._ring.unsent if isinstance(entry.frame, UpData))
        oldest = max((age(message.accepted, now) for message in messages), default=None)
        return None if oldest is None else now + max(0, self._age_limit - oldest + 1)

    def next_frame(self, now: int) -> UpData | Gap | None:
        """Return what is to be sent next, if anything may be; what is too old becomes a GAP."""
        if not self._ring.unsent:
            return None
        self._drop_stale_head(now)
        gaps = []
        while isinstance(gap := self._ring.head, Gap):
            gaps.append(gap)
            self._ring.advance()
        if gaps:
            count = gaps[-1].end - gaps[0].offset
            return Gap(self.channel, gaps[0].offset, count, max(gap.reason for gap in gaps))
        entry = self._ring.ready()
        if entry is None:
            return None
        self._ring.advance()
        assert isinstance(entry.frame, UpData)
        return entry.frame

    def acknowledged(self, offset: int) -> None:
        """Take an ACK. Raises RemoteProtocolError."""
        for entry in self._ring.acknowledge(offset):
            self._report(entry.end, entry.frame.reason if isinstance(entry.frame, Gap) else None)
        self._report(offset, None)
        self._settle()

    def lost(self, lost: Lost) -> None:
        """Take a LOST. Raises RemoteProtocolError."""
        if lost.offset != self._ring.acked:
            raise RemoteProtocolError(f"lost from {lost.offset}: it must begin at {self._ring.acked}")
        self._ring.acknowledge(lost.end)
        self._report(lost.end, lost.reason)
        self._settle()

    def resume(self, received: int, settled: int) -> None:
        """Go on after a cut, with the numbers that the receiver states. Raises RemoteProtocolError."""
        if settled != self._ring.acked:
            raise RemoteProtocolError(f"to go on from {settled}: it must be {self._ring.acked}")
        self._ring.rewind(received)

    def forget(self) -> None:
        """The receiver has lost its memory: what was sent is uncertain, what was not goes to its heir."""
        for entry in self._ring.drop_sent():
            self._report(entry.end, entry.frame.reason if isinstance(entry.frame, Gap) else Reason.UNCERTAIN)
        self._drop_rest()

    def closed(self, settled: int) -> None:
        """The receiver ended the session having settled so much: the rest is certainly not written.

        It may go to the next session, but for the rest of a message that has begun. Raises
        RemoteProtocolError.
        """
        self.acknowledged(settled)
        self._ring.split_at(settled)
        self._ring.rewind(settled)
        self._drop_rest()

    def abandon(self, reason: Reason) -> None:
        """Give everything up: what was sent is uncertain, what was not is lost for ``reason``."""
        self.forget()
        self._drop(lambda _: reason)
        self._ring.clear()

    def news(self) -> list[Settled]:
        """Return what has been settled since the last call."""
        news, self._news = self._news, []
        return news

    def _judge(self, entry: Entry, now: int) -> Reason | None:
        if not isinstance(entry.frame, UpData):
            return None
        if entry.origin in self._withdrawn:
            return Reason.WITHDRAWN
        return Reason.TOO_OLD if age(entry.frame.accepted, now) > self._age_limit else None

    def _drop_stale_head(self, now: int) -> None:
        if self._judge(self._ring.unsent[0], now):
            self.expire(now)

    def _drop_rest(self) -> None:
        begun = self._ring.acked
        self._drop(lambda entry: Reason.INCOMPLETE if entry.origin < begun else None)

    def _drop(self, judge: Callable[[Entry], Reason | None]) -> None:
        self._ring.drop(lambda entry: judge(entry) if isinstance(entry.frame, UpData) else None)
        self._settle()

    def _settle(self) -> None:
        """Report the Gaps before which everything is settled: they need no answer."""
        for entry in chain(self._ring.sent, self._ring.unsent):
            if not isinstance(entry.frame, Gap):
                break
            self._report(entry.end, entry.frame.reason)
        if self._withdrawn:
            self._withdrawn = {offset for offset in self._withdrawn if offset >= self._told}

    def _report(self, end: int, reason: Reason | None) -> None:
        if end > self._told:
            self._news.append(Settled(self.channel, self._told, end - self._told, reason))
            self._told = end
