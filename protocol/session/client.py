"""A's side of a session, the device behind a port manager. ``session`` tells how it is used.

Way of thinking
    ``ClientSession`` lives as long as the device, longer than any session and any connection. Its streams' offsets go
    on through all of them, so that a writer who waits for offset 700 need not know how often the link was cut.

    The connection of the moment is a ``_Stage``. Frames of any other connection are refused by their number alone,
    which is why every call of ``receive`` and ``next_frame`` carries one. This number is our own; the one that OPEN
    carries is counted for each server, since a server may have it leap (STALE), and must not spoil the others'.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.chain_frames import Picture, Survey
from protocol.link.control_frames import CONTROLS, LineReport, Look
from protocol.link.key_frames import Rekey
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import Close, Open, Opened, Ping, Pong, Port, Position, Positions
from protocol.link.stream_frames import Ack, Channel, Control, Credit, DownData, Gap, Lost, Turn
from protocol.session.heartbeat import Heartbeat
from protocol.session.inquiry import Inquiry
from protocol.session.receive_stream import ReceiveStream
from protocol.session.send_stream import SendStream, Settled
from protocol.session.session import CLASSES, NO_SESSION, SEND_ORDER, Resumed, SessionLimits

if TYPE_CHECKING:
    from protocol.link.control_steps import ControlRequest
    from protocol.link.frames import Frame
    from protocol.link.port_state import PortState
    from protocol.link.stream_frames import Asker
    from protocol.link.turn_parameters import TurnParameters

__all__ = ["ClientEvent", "ClientSession"]

ClientEvent: TypeAlias = (
    Resumed | DownData | Gap | Turn | Port | Settled | Close | Survey | Picture | Rekey | LineReport
)


_UNTOLD: Final = 32
"""Frames of the line that one ACK answers at most."""
_NO_LOOK: Final = Look(wanted=False)
_SERVERS: Final = 64
"""Servers whose connection numbers are remembered."""


@final
class _Stage(enum.Enum):
    """How far the newest connection has come."""

    DETACHED = "gone, or never there"
    OPENING = "there: OPEN is the next thing to say"
    ASKED = "OPEN was said, OPENED has not come"
    RESUMED = "the session goes on over it"


@final
class ClientSession:
    """The session that a client keeps through all its connections. ``node`` is our own node id.

    ``id`` is the session that the next connection asks for (NO_SESSION: none), ``number`` our own for the
    last connection.
    """

    def __init__(self, node: bytes, limits: SessionLimits) -> None:
        self._node = node
        self._streams = {
            channel: SendStream(channel, limits.age[channel], limits.ring_bytes, limits.ring_frames)
            for channel in CLASSES
        }
        self._line = ReceiveStream(Channel.LINE, 0, limits.window)
        self._untold = 0
        """Frames of the line since the server was last told what has come."""
        self._tells = True
        """It is to be told now: its ring can wait, so one ACK does for many frames."""
        self._turns = dict.fromkeys(CLASSES, (-1, 0))
        """The last edge of a turn that was passed on, per class: (offset, phase)."""
        self._asked = {channel: deque[int](maxlen=limits.ring_frames + 1) for channel in CLASSES}
        """The offsets of the messages that may have a turn yet: the last one that had, and all behind it.

        Behind it none has an outcome, so there are no more of them than the ring has frames.
        """
        self._heartbeat = Heartbeat()
        self.inquiry = Inquiry()
        """What is asked and answered beside the streams over the connection of the moment."""
        self.takes_controls = False
        """The server of the last connection knows what a Control is."""
        self._look = self._look_told = _NO_LOOK
        """What anybody wants to know of the modem lines, and what the server of this connection was told of that.

        Where the two are equal they are one object: they are compared for each message.
        """
        self._stage = _Stage.DETACHED
        self._closing: CloseReason | None = None
        self._ever_resumed = False
        self.resumes = 0
        """Connections on which a session from before went on."""
        self._server = b""
        self._numbers: dict[bytes, int] = {}
        """The connection number that each server saw last in an OPEN."""
        self.id = NO_SESSION
        self.number = 0

    @property
    def attached(self) -> bool:
        """Return whether the last connection lives, as far as we know."""
        return self._stage is not _Stage.DETACHED

    @property
    def resent(self) -> int:
        """Return how many bytes were sent once more, since a connection took them with it."""
        return sum(stream.ring.resent for stream in self._streams.values())

    @property
    def resumed(self) -> bool:
        """Return whether the server has answered on the last connection, and that lives."""
        return self._stage is _Stage.RESUMED

    @property
    def round_trip(self) -> int | None:
        """Return the best round trip to the server in milliseconds, None before it is known."""
        return self._heartbeat.clock.round_trip

    @property
    def holding(self) -> bool:
        """Return whether anything waits to be sent, and may grow too old."""
        ptz, tcp, cgi = self._streams.values()
        return bool(tcp.ring.unsent or ptz.ring.unsent or cgi.ring.unsent)

    def attach(self, server: bytes, features: int = 0) -> int:
        """Go over to a new connection to the node ``server``; return its number for the other calls.

        ``features`` are those that both sides know.
        """
        self._server = server
        self.takes_controls = bool(features & CONTROLS)
        for stream in self._streams.values():
            stream.takes_controls = self.takes_controls
        self._look_told = _NO_LOOK
        if self._look == _NO_LOOK:
            self._look = _NO_LOOK
        self.number += 1
        # The server counted longest ago is forgotten: at most it says STALE once, and names its number.
        self._numbers[server] = self._numbers.pop(server, 0) + 1
        if len(self._numbers) > _SERVERS:
            del self._numbers[next(iter(self._numbers))]
        self._stage, self._closing = _Stage.OPENING, None
        self._heartbeat = Heartbeat()  # a question of an ended connection has no answer
        self.inquiry = Inquiry()
        return self.number

    def detach(self) -> None:
        """Note that the connection has gone; what was sent and not acknowledged waits for the next."""
        self._stage = _Stage.DETACHED

    def write(self, channel: Channel, data: bytes, accepted: int, turn: TurnParameters | None = None) -> int | None:
        """Take a message for the line; return its offset, or None while there is no room.

        ``accepted`` is when its bytes were read from the client. Raises LocalProtocolError for an empty
        message, or one over MAX_MESSAGE.
        """
        offset = self._streams[channel].write(data, accepted, turn)
        if offset is not None:
            self._asked[channel].append(offset)
        return offset

    def control(self, channel: Channel, request: ControlRequest, accepted: int) -> int | None:
        """Take a request for the line, in its place among the messages of its class; otherwise as ``write``.

        Where it is settled as INCOMPLETE a step failed, and those behind it were not tried.
        """
        return self._streams[channel].write(request.encode(), accepted, None, Control)

    def look(self, wanted: bool) -> None:
        """Have the server look at the modem lines and the errors, or not any more; over all connections."""
        look = replace(self._look, wanted=wanted)
        self._look = self._look_told if look == self._look_told else look

    def ask(self) -> int:
        """Have the server look, and say how the modem lines are now; return the number that its report will answer."""
        self._look = Look(wanted=True, question=(self._look.question + 1) % 2**32)
        return self._look.question

    def is_sent(self, channel: Channel, offset: int) -> bool:
        """Return whether any of the message at ``offset`` is on its way, so that it cannot be taken back."""
        return offset < self._streams[channel].ring.next

    def withdraw(self, channel: Channel, offset: int) -> list[Settled]:
        """Do not send the message at ``offset``, unless it is on its way; return what that settles."""
        self._streams[channel].withdraw(offset)
        return self._news()

    def expire(self, now: int) -> list[Settled]:
        """Drop what is too old and not on its way; return what that settles."""
        for stream in self._streams.values():
            stream.expire(now)
        return self._news()

    def next_expiry(self, now: int) -> int | None:
        """Return when to call ``expire`` next; None for never."""
        moments = (stream.next_expiry(now) for stream in self._streams.values())
        return min((moment for moment in moments if moment is not None), default=None)

    def abandon(self, reason: Reason) -> list[Settled]:
        """End the session without a word: what was sent is uncertain, the rest lost for ``reason``."""
        self.detach()
        self._end()
        for stream in self._streams.values():
            stream.abandon(reason)
        return self._news()

    def ping(self) -> None:
        """Ask whether the server is there."""
        self._heartbeat.ask()

    def close(self, reason: CloseReason) -> None:
        """Say CLOSE as soon as it can be sent, and nothing after it; then call ``abandon``."""
        self._closing = reason

    def next_frame(self, number: int, now: int) -> Frame | None:
        """Return what connection ``number`` should send next, if anything."""
        stage = self._stage
        if number != self.number or stage is _Stage.DETACHED:
            return None
        # The positions are read now, not at attach(): what was settled in between is in OPEN already, and is not told
        # twice.
        if stage is _Stage.OPENING:
            self._stage = _Stage.ASKED
            return Open(self.id, self._numbers[self._server], self._heartbeat.asked(now), self._positions())
        if self._closing is not None:
            # It goes before everything else: nobody reads what we would still say of a session that is over.
            self.detach()
            return Close(self._closing, self._positions())
        if stage is not _Stage.RESUMED:
            return None
        if self._heartbeat.has_news and (beat := self._heartbeat.next_frame(now)) is not None:
            self._tells = True  # with what is said in any case
            return beat
        line = self._line
        if self._tells or self._untold >= _UNTOLD or 4 * (line.settled - line.told) >= line.window:
            self._tells = True
            if (said := line.next_frame()) is not None:
                return said
            self._tells, self._untold = False, 0
        if self.inquiry.has_news and (asked := self.inquiry.next_frame()) is not None:
            return asked
        if self._look is not self._look_told and self.takes_controls:
            self._look_told = self._look
            return self._look
        for channel in SEND_ORDER:
            stream = self._streams[channel]
            if stream.ring.unsent and (message := stream.next_frame(now)) is not None:
                return message
        return None

    def receive(self, number: int, frame: Frame, now: int) -> list[ClientEvent]:
        """Take a frame of connection ``number``. Raises RemoteProtocolError."""
        if number != self.number or self._stage is _Stage.DETACHED:
            return []
        # The two that pass for each message come first, and settle nothing but, the second, bytes of their own stream.
        if isinstance(frame, DownData):
            if frame.asker is not None:
                self._check_asker(frame.asker)
            end = frame.end
            self._line.take(frame.offset, end)
            self._line.hand(end)  # the event is on the bus before anything else happens
            self._untold += 1
            return [frame]
        if isinstance(frame, Ack):
            stream = self._streams[frame.channel]
            stream.acknowledged(frame.offset)
            return [*stream.news()]
        events: list[ClientEvent] = []
        match frame:
            case Gap():
                self._line.skip(frame)
                self._untold += 1
                events = [frame]
            case Turn():
                events = self._turned(frame)
            case Lost():
                self._streams[frame.channel].lost(frame)
            case Credit():
                self._streams[frame.channel].ring.grant(frame.offset)
            case Ping():
                self._heartbeat.heard(frame.clock)
            case Pong():
                self._heartbeat.answered(frame.echo, frame.clock, now)
            case Port():
                events = self._check_path(frame.state) or [frame]
            case Opened():
                events = self._resume(frame, now)
            case Close():
                events = self._closed(frame)
            case LineReport() | Rekey():
                events = [frame]
            case Survey() | Picture():
                events = [*self.inquiry.heard(frame)]
            case _:
                raise LocalProtocolError(f"no session takes {frame!r:.60}: its connection does")
        # What the frame settled comes first: a writer knows his outcome before the port is said to be down.
        return [*self._news(), *events]

    def _resume(self, opened: Opened, now: int) -> list[ClientEvent]:
        if opened.session == NO_SESSION:
            raise RemoteProtocolError("OPENED without a session")
        self._heartbeat.answered(opened.echo, opened.clock, now)
        self._heartbeat.heard(opened.clock)
        line = opened.positions[Channel.LINE]
        # The server goes on where we said we were; anything else would lose bytes or bring some twice without a word.
        if line.reached != self._line.received:
            raise RemoteProtocolError(f"the line goes on from {line.reached}, not {self._line.received}")
        self._line.attach(line.settled)
        self._tells = True
        is_new = opened.session != self.id
        self.id = opened.session
        self.resumes += not is_new
        for channel, stream in self._streams.items():
            # It no longer knows what it had of ours: what was sent and not acknowledged is uncertain, and never sent
            # again.
            if is_new:
                stream.forget()
            stream.resume(*opened.positions[channel])
        # What the line said between two sessions is nowhere: the bus must hear that something is missing. Before
        # the first session there was nothing to miss.
        gap = [Gap(Channel.LINE, line.reached, 0, Reason.RESTARTED)] if is_new and self._ever_resumed else []
        self._stage, self._ever_resumed = _Stage.RESUMED, True
        return self._check_path(opened.port) or [*gap, Resumed(opened.port)]

    def _turned(self, turn: Turn) -> list[ClientEvent]:
        """Pass a TURN on once: a resumption may bring it again, since it moves no offset.

        Any message may have one, for the owner's rule gives turns to those that ask for none. An END may come without
        its BEGIN, which a ring that was full has dropped. Raises RemoteProtocolError for the turn of what is no
        message, or was not sent.
        """
        mark = turn.offset, int(turn.phase)
        if mark <= self._turns[turn.channel]:
            return []
        asked = self._asked[turn.channel]
        while asked and asked[0] < turn.offset:  # a class has one turn after the other: those before it are over
            asked.popleft()
        if not asked or asked[0] != turn.offset or turn.offset >= self._streams[turn.channel].ring.next:
            raise RemoteProtocolError(f"a turn at {turn.offset} on {turn.channel!r}, which nobody asked for")
        self._turns[turn.channel] = mark
        return [turn]

    def _check_asker(self, asker: Asker) -> None:
        """Raise RemoteProtocolError for the answer to a message that was not sent."""
        if asker.channel in self._streams and asker.offset >= self._streams[asker.channel].ring.next:
            raise RemoteProtocolError(f"an answer to {asker.offset} on {asker.channel!r}, which was not sent")

    def _check_path(self, port: PortState) -> list[ClientEvent]:
        """Close where the way to the line leads through ourselves: our own bytes would come back as the line's.

        Nobody hears of such a port, or a CPU further down would be told of a way that names a node twice. Raises
        RemoteProtocolError where the path does not end at the server.
        """
        if port.path and port.path[-1] != self._server:
            raise RemoteProtocolError("the path to the line does not end at the server that tells it")
        if self._node not in port.path:
            return []
        self.close(CloseReason.LOOP)
        return [Close(CloseReason.LOOP)]

    def _closed(self, close: Close) -> list[ClientEvent]:
        """Take the server's word that the session is over; said instead of OPENED it only ends the connection."""
        if self.resumed:
            for channel, stream in self._streams.items():
                stream.closed(close.positions[channel].settled)
            self._end()
        self._numbers[self._server] = max(self._numbers[self._server], close.last)
        self.detach()
        return [close]

    def _end(self) -> None:
        """Forget the session. The line begins anew with the next: a server may have had its offsets leap to the end."""
        self.id = NO_SESSION
        self._line = ReceiveStream(Channel.LINE, 0, self._line.window)

    def _positions(self) -> Positions:
        line = Position(self._line.received, self._line.settled)
        ptz, tcp, cgi = (Position(stream.ring.next, stream.ring.acked) for stream in self._streams.values())
        return line, ptz, tcp, cgi

    def _news(self) -> list[Settled]:
        return [settled for stream in self._streams.values() for settled in stream.news()]
