"""B's side of a session: one client of one port. ``session`` tells how it is used.

Way of thinking
    A client that was cut must not take a loss for a success, so B tells each LOST again until it is proved to have
    arrived. The proof is a PONG: when a question goes out, ``_proofs`` notes how far each class was told by then, and
    its answer confirms that much. So there is one proof for each unanswered question, OPENED included.

    An ACK costs the client as much as the message did us, and mostly nobody waits for it. So one answers many: it is
    held for ``HOLD`` behind the last one, and goes before that with whatever else is said (``_may_be_held``). What
    comes rarely is answered at once. Bytes of the line that came behind a message never overtake its ACK.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias, final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.chain_frames import Picture, Survey
from protocol.link.control_frames import CONTROLS, LineReport, Look
from protocol.link.control_steps import ControlRequest
from protocol.link.key_frames import Rekeyed
from protocol.link.reasons import CloseReason
from protocol.link.session_frames import Close, Open, Opened, Ping, Pong, Port, Position, Positions
from protocol.link.stream_frames import Ack, Channel, Control, Credit, Gap, Turn, UpData
from protocol.session.heartbeat import Heartbeat
from protocol.session.inbox import Inbox, Message
from protocol.session.inquiry import Inquiry
from protocol.session.line_stream import LineStream
from protocol.session.session import CLASSES, SEND_ORDER, SessionLimits

if TYPE_CHECKING:
    from protocol.link.frames import Frame
    from protocol.link.port_state import PortState
    from protocol.link.reasons import Reason
    from protocol.link.stream_frames import Asker
    from protocol.link.turn_parameters import TurnPhase, TurnStatus

__all__ = ["HOLD", "ServerEvent", "ServerSession"]

ServerEvent: TypeAlias = Message | Gap | Close | Survey | Picture | Rekeyed | Look

HOLD: Final = 50
"""Milliseconds for which an ACK may be held behind the last one."""
_UNTOLD: Final = 32
"""Outcomes that one ACK answers at most."""


@final
class ServerSession:
    """One session, attached to the connection whose OPEN ``first`` asked for it; ``key`` is its (node id, R index).

    ``number`` is that of its last connection, and ``place`` where that came from, as the register counts places.
    """

    def __init__(
        self,
        session_id: bytes,
        key: tuple[bytes, int],
        first: Open,
        port: PortState,
        limits: SessionLimits,
        place: str,
        features: int = 0,
    ) -> None:
        self.id = session_id
        self.key = key
        self.detached_at: int | None = None
        """When its last connection was found to have gone; None while that lives, as far as we know."""
        self._inboxes = {
            channel: Inbox(channel, first.positions[channel].reached, limits.window) for channel in CLASSES
        }
        self._down = LineStream(first.positions[Channel.LINE].reached, limits.ring_bytes, limits.ring_frames)
        self._news = set(CLASSES)
        """The classes whose inbox may have something to tell; the others are not asked."""
        self._asked: dict[Channel, int] = dict.fromkeys(CLASSES, -1)
        """Where the last message of a class ends for whose outcome somebody waits: a turn of its own, or a control."""
        self._untold = 0
        """Outcomes since the client was last told of one."""
        self._tells = True
        """They are to be told now."""
        self._held_until = 0
        """Until when they may wait, where nothing of this is so."""
        self._closing: CloseReason | None = None
        self._port = port
        self._port_changed = False
        self._report: LineReport | None = None
        # It knows nothing of what was before, so all that the client has sent counts as settled.
        line, ptz, tcp, cgi = (Position(reached, reached) for reached, _ in first.positions)
        self.resumes = -1
        """Connections on which it went on: all but the first."""
        self.attach(replace(first, positions=(line, ptz, tcp, cgi)), place, features)

    @property
    def attached(self) -> bool:
        """Return whether its last connection lives, as far as we know."""
        return self.detached_at is None

    @property
    def round_trip(self) -> int | None:
        """Return the best round trip to the client in milliseconds, None before it is known."""
        return self._heartbeat.clock.round_trip

    @property
    def dropped(self) -> int:
        """Return how many bytes of the line the client was told it will not get, because its ring was full."""
        return self._down.dropped

    @property
    def resent(self) -> int:
        """Return how many bytes of the line were sent once more, since a connection took them with it."""
        return self._down.ring.resent

    def attach(self, opening: Open, place: str, features: int = 0) -> None:
        """Go over to the connection from ``place`` that brought this OPEN. Raises RemoteProtocolError.

        The caller has seen to it that its number is greater than the last, and that this is its session. ``features``
        are those that both sides know.
        """
        self.number, self.place, self.detached_at = opening.number, place, None
        # A question of an ended connection has no answer.
        self._heartbeat = Heartbeat()
        self.inquiry = Inquiry()
        """What is asked and answered beside the streams over the connection of the moment."""
        self._proofs: deque[dict[Channel, int]] = deque()
        for channel, inbox in self._inboxes.items():
            sent, known = opening.positions[channel]
            # The client would send those bytes again under other offsets, and a command would be written twice.
            if sent < inbox.stream.received:
                raise RemoteProtocolError(f"only {sent} sent on {channel!r}: {inbox.stream.received} came")
            inbox.stream.attach(known)
        self._takes_reports = bool(features & CONTROLS)
        self._report_changed = self._report is not None
        self._news.update(CLASSES)
        self._tells = True
        self._down.ring.rewind(opening.positions[Channel.LINE].reached)
        self.resumes += 1
        self._opening: Open | None = opening
        """The OPEN of this connection, until OPENED has answered it."""

    def detach(self, now: int) -> None:
        """Note that the connection has gone; the session waits."""
        self.detached_at = now

    def handed(self, channel: Channel, end: int) -> None:
        """Acknowledge all before ``end``: it is in the owner's tty, or known to be lost. Raises LocalProtocolError."""
        self._news.add(channel)
        stream = self._inboxes[channel].stream
        asked = stream.settled < self._asked[channel]
        stream.hand(end)
        self._untold += 1
        self._tells = self._tells or asked

    def lost(self, channel: Channel, end: int, reason: Reason) -> None:
        """Tell that what is before ``end`` and not settled will never be written. Raises LocalProtocolError."""
        self._news.add(channel)
        self._tells = True
        self._inboxes[channel].stream.lose(end, reason)

    def window(self, channel: Channel, size: int) -> None:
        """Let so many bytes wait for the line from now on; what is granted stays granted."""
        self._news.add(channel)
        self._inboxes[channel].stream.window = size

    def line(self, data: bytes, asker: Asker | None = None) -> None:
        """Send bytes of the line: for everybody, or for the message ``asker`` of this client, or OTHERS, alone."""
        self._down.line(data, asker)
        self._check_end()

    def gap(self, count: int, reason: Reason) -> None:
        """Say that bytes of the line never reached us; 0 where nobody knows how many."""
        self._down.gap(count, reason)
        self._check_end()

    def turn(self, channel: Channel, offset: int, phase: TurnPhase, status: TurnStatus) -> None:
        """Mark an edge of the turn of this client's message at ``offset`` among the line's bytes."""
        self._down.turn(Turn(channel, offset, phase, status))

    def port(self, state: PortState) -> None:
        """Tell the port's state."""
        if state != self._port:
            self._port, self._port_changed = state, True

    def report(self, report: LineReport) -> None:
        """Tell the state of the line beside its bytes, where the client knows what that is, and it is not the last."""
        if report != self._report:
            self._report, self._report_changed = report, True

    def ping(self) -> None:
        """Ask whether the client is there; at least every five seconds, for its answer proves what it has heard."""
        self._heartbeat.ask()

    def close(self, reason: CloseReason) -> None:
        """Say CLOSE, with the final numbers, as soon as it can be sent, and nothing after it."""
        self._closing = reason

    def last_word(self, reason: CloseReason) -> Close | None:
        """Return the CLOSE for a connection that can carry nothing before it, and so not what is still to be told.

        None where something is: the client would take the numbers for final, and send again what is written.
        """
        if any(inbox.stream.untold for inbox in self._inboxes.values()):
            return None
        return Close(reason, self._positions())

    @property
    def next_tell(self) -> int | None:
        """Return when ``next_frame`` should be asked again though nothing has happened; None for never.

        To be asked when it has returned None.
        """
        return self._held_until if self._news and self.attached else None

    def next_frame(self, number: int, now: int) -> Frame | None:
        """Return what connection ``number`` should send next, if anything.

        Answers go first, then the port and the line's report, outcomes and credit, CLOSE behind all outcomes, and last
        the line's bytes.
        """
        if number != self.number or self.detached_at is not None:
            return None
        if self._opening is not None:
            echo, self._opening, self._port_changed = self._opening.clock, None, False
            self._note_proof()
            return Opened(self.id, echo, self._heartbeat.asked(now), self._positions(), self._port)
        if self._heartbeat.has_news and (frame := self._heartbeat.next_frame(now)) is not None:
            # Noted as the question leaves, not as it is asked for: outcomes that go out in between are proved by it as
            # well.
            if isinstance(frame, Ping):
                self._note_proof()
            self._tells = True  # with what is said in any case
            return frame
        if self._port_changed:
            self._port_changed = False
            return Port(self._port)
        # Before the outcome of whatever has changed it: who waits for that looks here then.
        if self._report_changed:
            self._report_changed = False
            if self._takes_reports:
                return self._report
        if self._news and not self._may_be_held(now):
            self._tells = True
            for channel in SEND_ORDER:
                if channel in self._news:
                    if (outcome := self._inboxes[channel].stream.next_frame()) is not None:
                        return outcome
                    self._news.discard(channel)
            self._tells, self._untold, self._held_until = False, 0, now + HOLD
        # Behind all outcomes, since the numbers in it are final, and before the line's bytes, which could go on for
        # ever.
        if self._closing is not None:
            self.detach(now)
            return Close(self._closing, self._positions())
        if self.inquiry.has_news and (asked := self.inquiry.next_frame()) is not None:
            return asked
        return self._down.next_frame() if self._down.ring.unsent else None

    def receive(self, number: int, frame: Frame, now: int) -> list[ServerEvent]:
        """Take a frame of connection ``number``. Raises RemoteProtocolError."""
        if number != self.number or self.detached_at is not None:
            return []
        match frame:
            case UpData():
                channel = frame.channel
                self._news.add(channel)
                if (whole := self._inboxes[channel].take(frame)) is not None:
                    first, data = whole
                    accepted = self._heartbeat.clock.local(first.accepted, now)
                    control = _request(data) if isinstance(first, Control) else None
                    if control is not None or first.turn is not None:
                        self._asked[channel] = frame.end
                    return [Message(channel, first.offset, data, accepted, first.turn, control)]
            case Gap():
                self._news.add(frame.channel)
                self._tells = True
                self._inboxes[frame.channel].skip(frame)
                return [frame]
            case Rekeyed():
                return [frame]
            case Close():
                self.detach(now)
                return [frame]
            case Survey() | Picture():
                return [*self.inquiry.heard(frame)]
            case Look():
                return [frame]
            case Ack():
                self._down.ring.acknowledge(frame.offset)
            case Credit():
                self._down.ring.grant(frame.offset)
            case Ping():
                self._heartbeat.heard(frame.clock)
            case Pong():
                self._heartbeat.answered(frame.echo, frame.clock, now)
                self._news.update(CLASSES)
                # The heartbeat has refused an answer without a question, so there is a proof for each PONG.
                for channel, told in self._proofs.popleft().items():
                    self._inboxes[channel].stream.confirm(told)
            case _:
                raise LocalProtocolError(f"no session takes {frame!r:.60}: its connection does")
        return []

    def _may_be_held(self, now: int) -> bool:
        """Return whether all that there is to tell is an ACK that can wait: little is untold, and credit is left."""
        if self._tells or now >= self._held_until or self._untold >= _UNTOLD or self._closing is not None:
            return False
        if self._port.turn is not None or self._down.ring.unsent:
            return False
        return all(self._inboxes[channel].stream.can_wait for channel in self._news)

    def _check_end(self) -> None:
        if self._down.exhausted and self._closing is None:
            self.close(CloseReason.STOPPING)  # the next session begins with other offsets

    def _note_proof(self) -> None:
        """Note what went out before a question: its answer proves that all of it arrived."""
        self._proofs.append({channel: inbox.stream.told for channel, inbox in self._inboxes.items()})

    def _positions(self) -> Positions:
        """Return the numbers for OPENED and CLOSE: settled is what the client has been told so far."""
        line = Position(self._down.ring.next, self._down.ring.acked)
        streams = (inbox.stream for inbox in self._inboxes.values())
        ptz, tcp, cgi = (Position(stream.received, stream.told) for stream in streams)
        return line, ptz, tcp, cgi


def _request(data: bytes) -> ControlRequest:
    try:
        return ControlRequest.decode(data)
    except (ValueError, IndexError, struct.error) as error:
        raise RemoteProtocolError(f"a bad control: {error}") from error
