"""The frames of a session's streams: bytes, and what both sides say about ranges of them.

``decode`` reads what ``parts`` wrote, and refuses every other form; see ``frames``. Those that pass with
each message are tuples, which are made in a fifth of the time of a frozen dataclass.
"""

from __future__ import annotations

import enum
import struct
from typing import ClassVar, Final, NamedTuple, Self, final

from protocol.frozen import frozen
from protocol.link.header import LIMIT, Parts
from protocol.link.message_rules import MAX_MESSAGE
from protocol.link.reasons import Reason
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus

__all__ = [
    "MAX_DATA",
    "OTHERS",
    "Ack",
    "Asker",
    "Channel",
    "Control",
    "Credit",
    "DownData",
    "Gap",
    "Lost",
    "Turn",
    "UpData",
]

MAX_DATA: Final = 16_375
"""The most line bytes in one frame down, which may name their asker beside them."""

_OTHER_FORM: Final = "in another form than its one"
_MORE: Final = 1
_ASKED: Final = 2
_UP: Final = struct.Struct("!IB")
_RANGE: Final = struct.Struct("!QB")
_TURN: Final = struct.Struct("!BB")
_ASKER: Final = struct.Struct("!BQ")


@final
class Channel(enum.IntEnum):
    """The streams of a session: one down, and one up for each traffic class."""

    LINE = 0
    PTZ = 1
    TCP = 2
    CGI = 3


_CHANNELS: Final = tuple(Channel)
"""The channels by their numbers: to ask the class takes as long as to open a frame."""


def _channel(number: int) -> Channel:
    return _CHANNELS[number] if number < len(_CHANNELS) else Channel(number)  # which refuses it


def _check_end(end: int) -> None:
    """Raise ValueError where a range that was decoded goes too far.

    What we say ourselves is not judged by it: behind a peer's position just below the limit we may well have to say
    more, and it is the peer's to refuse that.
    """
    if end >= LIMIT:
        raise ValueError(f"a range to {end}: it must end below 2^62")


class _Message(NamedTuple):
    channel: Channel
    offset: int
    accepted: int
    data: bytes
    turn: TurnParameters | None = None
    more: bool = False


class UpData(_Message):
    """A message towards the line, or with ``more`` a part of one whose rest follows on the same channel.

    ``accepted`` is when it was read from its client, in milliseconds (u32) of the sender's clock.
    """

    __slots__ = ()
    code: ClassVar[int] = 7

    @property
    def end(self) -> int:
        """Return the offset after the last byte."""
        return self.offset + len(self.data)

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        options = self.turn.encode() if self.turn else b""
        payload = _UP.pack(self.accepted, len(options)) + options + self.data
        return Parts(payload, self.channel, _MORE if self.more else 0, self.offset)

    @classmethod
    def decode(cls, parts: Parts) -> UpData:
        """Read the frame back. Raises ValueError or struct.error."""
        accepted, length = _UP.unpack_from(parts.payload)
        start = _UP.size + length
        size = len(parts.payload) - start
        if not 0 < size <= MAX_MESSAGE:
            raise ValueError(f"a message has 1 to {MAX_MESSAGE} bytes, at most {MAX_MESSAGE}")
        turn = TurnParameters.decode(parts.payload[_UP.size : start]) if length else None
        channel, more = _channel(parts.channel), bool(parts.flags)
        frame = cls(channel, parts.offset, accepted, parts.payload[start:], turn, more)
        if parts.flags & ~_MORE or (turn is not None and turn.encode() != parts.payload[_UP.size : start]):
            raise ValueError(_OTHER_FORM)
        _check_end(parts.offset + size)
        return frame


@final
class Control(UpData):
    """A message that asks something of the line beside its bytes: a ``control_steps.ControlRequest``, or a part of one.

    It is a message of its stream like those before and behind it, so it is carried out in its place among them, neither
    lost nor done twice, whatever becomes of connections. It asks for no turn: it is one.
    """

    __slots__ = ()
    code: ClassVar[int] = 0x54

    @classmethod
    def decode(cls, parts: Parts) -> UpData:
        """Read the frame back. Raises ValueError or struct.error."""
        frame = super().decode(parts)
        if frame.turn is not None:
            raise ValueError("a control with turn parameters")
        return frame


@final
class Asker(NamedTuple):
    """The message that bytes of the line answer: that of this link at ``offset`` of ``channel``."""

    channel: Channel
    offset: int


OTHERS: Final = Asker(Channel.LINE, 0)
"""Whoever asked is not at this link, or has gone: nobody below hears the answer but monitors."""


class _Said(NamedTuple):
    offset: int
    data: bytes
    asker: Asker | None = None


@final
class DownData(_Said):
    """Bytes from the line: for everybody, or for ``asker`` and monitors alone."""

    __slots__ = ()
    code: ClassVar[int] = 7
    channel: ClassVar[Channel] = Channel.LINE

    @property
    def end(self) -> int:
        """Return the offset after the last byte."""
        return self.offset + len(self.data)

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        if self.asker is None:
            return Parts(self.data, offset=self.offset)
        return Parts(_ASKER.pack(*self.asker) + self.data, flags=_ASKED, offset=self.offset)

    @classmethod
    def decode(cls, parts: Parts) -> DownData | UpData:
        """Read the frame back: the channel tells which. Raises ValueError or struct.error."""
        if parts.channel:
            return UpData.decode(parts)
        if parts.flags & ~_ASKED:
            raise ValueError(_OTHER_FORM)
        if not parts.flags:
            frame = cls(parts.offset, parts.payload)
        else:
            channel, offset = _ASKER.unpack_from(parts.payload)
            frame = cls(parts.offset, parts.payload[_ASKER.size :], Asker(Channel(channel), offset))
            _check_end(offset)
            if not channel and offset:
                raise ValueError("a message at another link has no offset here")
        if not 0 < len(frame.data) <= MAX_DATA:
            raise ValueError(f"a frame brings 1 to {MAX_DATA} bytes of the line, at most {MAX_DATA}")
        _check_end(frame.end)
        return frame


class _Mark(NamedTuple):
    channel: Channel
    offset: int

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(b"", self.channel, offset=self.offset)

    @classmethod
    def decode(cls, parts: Parts) -> Self:
        """Read the frame back. Raises ValueError."""
        if parts.payload or parts.flags:
            raise ValueError(_OTHER_FORM)
        return cls(_channel(parts.channel), parts.offset)


@final
class Ack(_Mark):
    """The receiver says that all before ``offset`` has been handed on, or is known to be lost."""

    __slots__ = ()
    code: ClassVar[int] = 8


@final
class Credit(_Mark):
    """The receiver says that bytes before ``offset`` may be sent."""

    __slots__ = ()
    code: ClassVar[int] = 9


@frozen
class _Range:
    channel: Channel
    offset: int
    count: int
    reason: Reason

    @property
    def end(self) -> int:
        """Return the offset after the range."""
        return self.offset + self.count

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_RANGE.pack(self.count, self.reason), self.channel, offset=self.offset)

    @classmethod
    def decode(cls, parts: Parts) -> Self:
        """Read the frame back. Raises ValueError or struct.error."""
        count, reason = _RANGE.unpack(parts.payload)
        frame = cls(Channel(parts.channel), parts.offset, count, Reason(reason))
        _check_end(frame.end)
        frame.check()
        return frame

    def check(self) -> None:
        """Raise ValueError where the count and the reason cannot stand together."""
        if self.count < 1:
            raise ValueError("a range has at least one byte")


_GAPS_UP: Final = frozenset({Reason.WITHDRAWN, Reason.TOO_OLD, Reason.INCOMPLETE})
_GAPS_DOWN: Final = frozenset({Reason.OVERFLOW, Reason.RESTARTED})


@final
class Gap(_Range):
    """The sender says that these bytes will not come. On channel 0 RESTARTED means that nobody knows how many.

    Then ``count`` is the least that is missing, and may be 0.
    """

    __slots__ = ()
    code: ClassVar[int] = 10

    def check(self) -> None:
        """Raise ValueError for a count or a reason that no GAP of this channel has."""
        line = self.channel is Channel.LINE
        if self.reason not in (_GAPS_DOWN if line else _GAPS_UP):
            raise ValueError(f"no GAP on {self.channel!r} has the reason {self.reason!r}")
        if self.count < 1 and self.reason is not Reason.RESTARTED:
            raise ValueError("only RESTARTED may be of unknown size")


@final
class Lost(_Range):
    """The receiver says that these bytes were taken, and will not be written."""

    __slots__ = ()
    code: ClassVar[int] = 11


@final
@frozen
class Turn:
    """B to A, in order among the line's bytes: the turn of the message at ``offset`` began, or ended."""

    code: ClassVar[int] = 13
    channel: Channel
    offset: int
    phase: TurnPhase
    status: TurnStatus

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_TURN.pack(self.phase, self.status), self.channel, offset=self.offset)

    @classmethod
    def decode(cls, parts: Parts) -> Turn:
        """Read the frame back. Raises ValueError or struct.error."""
        phase, status = _TURN.unpack(parts.payload)
        if (phase == TurnPhase.BEGIN) != (status == TurnStatus.RUNNING):
            raise ValueError("a turn begins RUNNING, and ends otherwise")
        return cls(Channel(parts.channel), parts.offset, TurnPhase(phase), TurnStatus(status))
