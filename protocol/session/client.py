"""A's side of a session, the device behind a port manager. ``session`` tells how it is used.

It must not know when a connection should be made, nor who writes and who listens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import Close, Open, Opened, Ping, Pong, Port, Position, Positions
from protocol.link.stream_frames import Ack, Channel, Credit, DownData, Gap, Lost, Turn
from protocol.session.heartbeat import Heartbeat
from protocol.session.receive_stream import ReceiveStream
from protocol.session.send_stream import SendStream, Settled
from protocol.session.session import CLASSES, NO_SESSION, SEND_ORDER, Resumed, SessionLimits

if TYPE_CHECKING:
    from protocol.link.frames import Frame
    from protocol.link.port_state import PortState
    from protocol.link.turn_parameters import TurnParameters

__all__ = ["ClientEvent", "ClientSession"]

ClientEvent: TypeAlias = Resumed | DownData | Gap | Turn | Port | Settled | Close


@final
class ClientSession:
    """What a client keeps through all its connections. ``node`` is our own node id.

    ``id`` is the session that the next connection asks for, ``number`` the last connection's, ``attached``
    whether that lives as far as we know, ``resumed`` whether the server has answered on it.
    """

    def __init__(self, node: bytes, limits: SessionLimits) -> None:
        self._node = node
        self._flows = {
            channel: SendStream(channel, limits.age[channel], limits.ring_bytes, limits.ring_frames)
            for channel in CLASSES
        }
        self._line = ReceiveStream(Channel.LINE, 0, limits.window)
        self._turns = dict.fromkeys(CLASSES, (-1, 0))
        self._heartbeat = Heartbeat()
        self._opening = False
        self._closing: CloseReason | None = None
        self._heard = False
        self.id = NO_SESSION
        self.number = 0
        self.attached = False
        self.resumed = False

    @property
    def round_trip(self) -> int | None:
        """The best round trip to the server in milliseconds, None before it is known."""
        return self._heartbeat.clock.round_trip

    @property
    def waiting(self) -> bool:
        """Whether a PING (or the OPEN) has no answer yet."""
        return self._heartbeat.waiting

    @property
    def holding(self) -> bool:
        """Whether anything waits to be sent, and may grow too old."""
        return any(flow.ring.unsent for flow in self._flows.values())

    def attach(self) -> int:
        """Go over to a new connection; return its number."""
        self.number += 1
        self.attached, self.resumed = True, False
        self._opening, self._closing = True, None
        self._heartbeat = Heartbeat()
        return self.number

    def detach(self) -> None:
        """The connection has gone; what was sent and not acknowledged waits for the next."""
        self.attached = self.resumed = False

    def write(self, channel: Channel, data: bytes, accepted: int, turn: TurnParameters | None = None) -> int | None:
        """Take a message for the line; return its offset, or None while there is no room.

        ``accepted`` is when its bytes were read from the client. Raises LocalProtocolError for an empty
        message, or one over MAX_MESSAGE.
        """
        return self._flows[channel].write(data, accepted, turn)

    def withdraw(self, channel: Channel, offset: int) -> list[Settled]:
        """Do not send the message at ``offset``, unless it is on its way; return what that settles."""
        self._flows[channel].withdraw(offset)
        return self._news()

    def expire(self, now: int) -> list[Settled]:
        """Drop what is too old and not on its way; return what that settles."""
        for flow in self._flows.values():
            flow.expire(now)
        return self._news()

    def next_expiry(self, now: int) -> int | None:
        """Return when to call ``expire`` next; None for never."""
        moments = (flow.next_expiry(now) for flow in self._flows.values())
        return min((moment for moment in moments if moment is not None), default=None)

    def abandon(self, reason: Reason) -> list[Settled]:
        """End the session without a word: what was sent is uncertain, the rest lost for ``reason``."""
        self.detach()
        self.id = NO_SESSION
        for flow in self._flows.values():
            flow.abandon(reason)
        return self._news()

    def ping(self) -> None:
        """Ask whether the server is there."""
        self._heartbeat.ask()

    def close(self, reason: CloseReason) -> None:
        """Say CLOSE as soon as it can be sent, and nothing after it; then ``abandon``."""
        self._closing = reason

    def next_frame(self, number: int, now: int) -> Frame | None:
        """Return what that connection should send next, if anything."""
        if number != self.number or not self.attached:
            return None
        if self._opening:
            self._opening = False
            return Open(self.id, number, self._heartbeat.asked(now), self._positions())
        if self._closing is not None:
            self.detach()
            return Close(self._closing, self._positions())
        return self._next(now) if self.resumed else None

    def receive(self, number: int, frame: Frame, now: int) -> list[ClientEvent]:
        """Take a frame of that connection. Raises RemoteProtocolError."""
        if number != self.number or not self.attached:
            return []
        events = self._take(frame, now)
        return [*self._news(), *events]

    def _next(self, now: int) -> Frame | None:
        frame = self._heartbeat.next_frame(now) or self._line.next_frame()
        if frame is not None:
            return frame
        for channel in SEND_ORDER:
            if (message := self._flows[channel].next_frame(now)) is not None:
                return message
        return None

    def _take(self, frame: Frame, now: int) -> list[ClientEvent]:
        match frame:
            case DownData():
                self._line.take(frame.offset, frame.end)
                self._line.hand(frame.end)
                return [frame]
            case Gap():
                self._line.skip(frame)
                return [frame]
            case Turn():
                return self._turned(frame)
            case Opened():
                return self._resume(frame, now)
            case Port():
                return [frame, *self._check_path(frame.state)]
            case Close():
                return self._closed(frame)
        self._note(frame, now)
        return []

    def _note(self, frame: Frame, now: int) -> None:
        match frame:
            case Ack():
                self._flows[frame.channel].acknowledged(frame.offset)
            case Lost():
                self._flows[frame.channel].lost(frame)
            case Credit():
                self._flows[frame.channel].ring.grant(frame.offset)
            case Ping():
                self._heartbeat.heard(frame.clock)
            case Pong():
                self._heartbeat.answered(frame.echo, frame.clock, now)
            case _:
                raise LocalProtocolError(f"no session takes {frame!r:.60}: its connection does")

    def _resume(self, opened: Opened, now: int) -> list[ClientEvent]:
        if opened.session == NO_SESSION:
            raise RemoteProtocolError("OPENED without a session")
        self._heartbeat.answered(opened.echo, opened.clock, now)
        self._heartbeat.heard(opened.clock)
        line = opened.positions[Channel.LINE]
        if line.reached != self._line.received:
            raise RemoteProtocolError(f"the line goes on from {line.reached}, not {self._line.received}")
        fresh, heard = opened.session != self.id, self._heard
        self.id = opened.session
        self._line.attach(line.settled)
        for channel, flow in self._flows.items():
            if fresh:
                flow.forget()
            flow.resume(*opened.positions[channel])
        self.resumed = self._heard = True
        gap = [Gap(Channel.LINE, line.reached, 0, Reason.RESTARTED)] if fresh and heard else []
        return [*gap, Resumed(fresh, opened.port), *self._check_path(opened.port)]

    def _turned(self, turn: Turn) -> list[ClientEvent]:
        """Pass a TURN on once: a resumption may bring it again, since it moves no offset."""
        mark = turn.offset, int(turn.phase)
        if mark <= self._turns[turn.channel]:
            return []
        self._turns[turn.channel] = mark
        return [turn]

    def _check_path(self, port: PortState) -> list[ClientEvent]:
        if self._node not in port.path:
            return []
        self.close(CloseReason.LOOP)
        return [Close(CloseReason.LOOP)]

    def _closed(self, close: Close) -> list[ClientEvent]:
        """The server ended the session; said instead of OPENED it only means this connection."""
        if self.resumed:
            for channel, flow in self._flows.items():
                flow.closed(close.positions[channel].settled)
            self.id = NO_SESSION
        self.number = max(self.number, close.last)
        self.detach()
        return [close]

    def _positions(self) -> Positions:
        line = Position(self._line.received, self._line.settled)
        ptz, tcp, cgi = (Position(flow.ring.next, flow.ring.acked) for flow in self._flows.values())
        return line, ptz, tcp, cgi

    def _news(self) -> list[Settled]:
        return [settled for flow in self._flows.values() for settled in flow.news()]
