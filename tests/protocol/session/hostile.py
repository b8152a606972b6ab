"""A peer that has the key and lies: any frames, in any order, with any numbers, against either side of a session.

``play(data)`` reads such a peer's frames from random bytes. Whatever it says, the other side must answer with events or
with RemoteProtocolError; any other exception is a bug that the peer could use. What the victim's own users do goes on
meanwhile: they write, the line speaks, questions are asked, the link is cut and comes back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import Picture, Survey
from protocol.link.connection import Connection, Party, State
from protocol.link.control_frames import CONTROLS, LineErrors, LineFormat, LineReport, Look
from protocol.link.control_steps import Break, Configure, ControlRequest, HoldBreak, Pause, SetLines
from protocol.link.frames import FRAMES
from protocol.link.handshake import Peer
from protocol.link.header import LIMIT, encoded_header
from protocol.link.key_frames import Rekey, Rekeyed, Told, ToldCpu
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason, Reason
from protocol.link.secure import TAG
from protocol.link.session_frames import NOWHERE, Close, Open, Opened, Ping, Pong, Port, Position, Positions
from protocol.link.stream_frames import OTHERS, Ack, Asker, Channel, Control, Credit, DownData, Gap, Lost, Turn, UpData
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus
from protocol.session.client import ClientSession
from protocol.session.inbox import Message
from protocol.session.register import Admitted, Register
from protocol.session.session import CLASSES, NO_SESSION, SessionLimits
from protocol.sharing.message_rule import MessageRule
from protocol.sharing.turn_rule import TurnRule
from tests.protocol.session.links import A_NODE, B_NODE, PORT, connections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.link.frames import Frame
    from protocol.session.server import ServerSession

_Option = TypeVar("_Option")

LIMITS: Final = SessionLimits(ring_bytes=600, ring_frames=16, window=200)
REQUESTS: Final = (
    ControlRequest(1),
    ControlRequest(1, (Configure((("BaudRate", "19200"),)), SetLines(dtr=False), Pause(2.0))),
    ControlRequest(2**32 - 1, (HoldBreak(on=True), Break(5.0))),
)
EXTREMES: Final = (0, 1, 2, 7, 100, 8192, 2**32 - 1, LIMIT // 2, LIMIT - 2, LIMIT - 1, LIMIT, 2**63, 2**64 - 1)


class Choices:
    """Decisions read from bytes; when they are used up, everything is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def below(self, count: int) -> int:
        at, self._at = self._at, self._at + 1
        return self._data[at] % count if at < len(self._data) else 0

    def pick(self, options: Sequence[_Option]) -> _Option:
        return options[self.below(len(options))]

    def number(self, near: int) -> int:
        """A number of a stream: mostly where that is or near it, else one that nobody expects."""
        what = self.below(8)
        if what > 3:
            return near
        if what:
            return min(2**64 - 1, max(0, near + self.below(9) - self.below(5)))
        return self.pick(EXTREMES)

    def data(self) -> bytes:
        return bytes(self.below(40) or 1)


class Liar:
    """What a liar makes up, from what he could know of his victim's positions."""

    def __init__(self, choices: Choices, positions: Positions) -> None:
        self.choices = choices
        self.positions = positions

    def at(self, channel: Channel) -> int:
        return self.choices.number(self.choices.pick(self.positions[channel]))

    def some_positions(self) -> Positions:
        if not self.choices.below(3):
            return NOWHERE
        line, ptz, tcp, cgi = (Position(self.at(channel), self.at(channel)) for channel in Channel)
        return line, ptz, tcp, cgi

    def port(self) -> PortState:
        choices = self.choices
        path = choices.pick(((), (B_NODE,), (A_NODE, B_NODE), (B_NODE, B_NODE), (b"o" * 16, B_NODE)))
        rights, up = choices.pick((0, 0b1110, 0xFF)), bool(choices.below(2))
        rate, why = choices.pick((0, 9600, 2**32 - 1)), choices.pick(("", "down", "x\n"))
        turn = choices.pick((None, TurnRule("modbus-rtu"), TurnRule("line", end=b"\r\n", gap=0.01, echo=True)))
        message = choices.pick((None, MessageRule(end=b"\xff"), MessageRule(gap=0.02)))
        return PortState(rights, up, rate, why, "", path, turn, message)

    def request(self) -> bytes:
        """What a client may ask of the line, with another byte now and then, or something else."""
        data = bytearray(self.choices.pick(REQUESTS).encode())
        if self.choices.below(2):
            data[self.choices.below(len(data))] = self.choices.below(256)
        return bytes(data) if self.choices.below(8) else self.choices.data()

    def report(self) -> LineReport:
        choices = self.choices
        rate, bits, parity = choices.pick((0, 9600, 2**32 - 1)), choices.below(256), choices.pick("NOEMSx")
        line = choices.pick((None, LineFormat(rate, bits, parity, choices.below(4), xon_xoff=True, rts_cts=False)))
        errors = choices.pick((None, LineErrors(0, 1, 2**32 - 1)))
        return LineReport(
            choices.below(6), line, choices.pick((None, 0, 63, 255)), choices.below(9), errors, choices.below(3)
        )

    def frame(self, clocks: Sequence[int], session: bytes) -> Frame:
        choices = self.choices
        channel = choices.pick(tuple(Channel))
        offset, reason, count = self.at(channel), choices.pick(tuple(Reason)), choices.number(3)
        match choices.pick(tuple(FRAMES)):
            case Close.code:
                return Close(choices.pick(tuple(CloseReason)), self.some_positions(), choices.pick((0, offset)))
            case Open.code:
                return Open(session, choices.number(2), 5, self.some_positions())
            case Opened.code:
                clock = choices.pick(clocks)
                return Opened(
                    choices.pick((session, b"n" * 16, bytes(16))), clock, 9, self.some_positions(), self.port()
                )
            case DownData.code if channel is Channel.LINE:
                asked = choices.pick(tuple(Channel))
                return DownData(offset, choices.data(), choices.pick((None, OTHERS, Asker(asked, self.at(asked)))))
            case DownData.code:
                turn = choices.pick((None, TurnParameters(2, b"\r", choices.pick((0, 9000, 9001, 2**32 - 1)))))
                return UpData(channel, offset, choices.below(3), choices.data(), turn, bool(choices.below(2)))
            case Ack.code:
                return Ack(channel, offset)
            case Credit.code:
                return Credit(channel, offset)
            case Gap.code:
                return Gap(channel, offset, count, reason)
            case Lost.code:
                return Lost(channel, offset, count, reason)
            case Turn.code:
                return Turn(channel, offset, choices.pick(tuple(TurnPhase)), choices.pick(tuple(TurnStatus)))
            case Port.code:
                return Port(self.port())
            case Ping.code:
                return Ping(choices.below(256))
            case Pong.code:
                return Pong(choices.pick(clocks), choices.below(256))
        return self.of_a_feature(channel, offset)

    def of_a_feature(self, channel: Channel, offset: int) -> Frame:
        choices = self.choices
        match choices.below(7):
            case 0:
                return Survey(choices.pick((0, 1, 2**32 - 1)), choices.pick((0, 3000, 65535)))
            case 1:
                return Picture(choices.below(4), choices.data())
            case 2:
                return Control(channel, offset, choices.below(3), self.request(), None, bool(choices.below(2)))
            case 3:
                return self.report()
            case 4:
                return Look(bool(choices.below(2)), choices.below(4))
            case 5:
                return Rekey(choices.below(4), 9, choices.pick((1, 86400)), (B_NODE,), choices.pick(("k", "k" * 128)))
        return Rekeyed(choices.below(4), (ToldCpu(B_NODE, "", choices.pick(tuple(Told))),))

    def opening(self, clock: int, session: bytes, party: Party) -> list[Frame]:
        """What begins a connection, by the book but for now and then a number."""
        mine = self.some_positions() if not self.choices.below(8) else self.positions
        if party is Party.SERVER:  # the victim is the server, so that we are the client
            return [Open(session, 1 + self.choices.below(200), 5, mine), Pong(clock, 6)]
        line, *classes = mine
        if self.choices.below(2) or session == NO_SESSION:
            session = bytes([self.choices.below(255) + 1]) * 16
            ptz, tcp, cgi = (Position(reached, reached) for reached, _ in classes)
        else:
            ptz, tcp, cgi = (Position(each[self.choices.below(2)], each.settled) for each in classes)
        return [Opened(session, clock, 9, (line, ptz, tcp, cgi), PORT)]


def forged(connection: Connection, frame: Frame, choices: Choices) -> bytes:
    """Seal a frame that the state table would not let out, sometimes with another byte than a frame can have."""
    payload, channel, flags, offset = frame.parts()
    code = frame.code
    if not choices.below(6):
        at = choices.below(max(1, len(payload)))
        payload = payload[:at] + bytes([choices.below(256)]) + payload[at + 1 :]
        flags = choices.pick((0, 1, 2, 0x80))
        code = choices.pick((frame.code, 0x3F, 0x40))
    head = encoded_header(1, code, channel, flags, len(payload) + TAG, offset)
    assert connection._sealer is not None
    return head + connection._sealer.seal(head, payload)


class Victim:
    """One side of a link that a liar is at the other end of, and the users behind it."""

    def __init__(self, choices: Choices, party: Party) -> None:
        self.choices = choices
        self.party = party
        self.client = ClientSession(A_NODE, LIMITS)
        self.register = Register(LIMITS)
        self.server: ServerSession | None = None
        self.messages: list[Message] = []
        self.now = 0
        self.clocks = [0]
        self.connect()

    def connect(self) -> None:
        """Make another connection, whole and honest as far as the handshake goes."""
        a, b = connections(State.OPEN)
        self.mine, self.liars = (a, b) if self.party is Party.CLIENT else (b, a)
        self.number = self.client.attach(B_NODE, self.choices.pick((CONTROLS, 0))) if self.party is Party.CLIENT else 0
        self.clocks = [0]
        self.flush()

    def positions(self) -> Positions:
        if self.party is Party.CLIENT:
            return self.client._positions()
        return NOWHERE if self.server is None else self.server._positions()

    def session(self) -> ClientSession | ServerSession | None:
        return self.client if self.party is Party.CLIENT else self.server

    def flush(self) -> None:
        session = self.session()
        for _ in range(50):
            frame = None if session is None else session.next_frame(self.number, self.now)
            if frame is None or self.mine.state in (State.CLOSED, State.FAILED):
                return
            if isinstance(frame, Ping | Open | Opened):
                self.clocks.append(frame.clock)
            self.mine.send(frame)  # its own connection refuses nothing of it

    def hear(self, wire: bytes) -> None:
        """Raise RemoteProtocolError, and nothing else, for what the liar said."""
        self.mine.receive_data(wire)
        while (event := self.mine.next_event()) is not None:
            assert not isinstance(event, Peer)
            if isinstance(event, Open):
                assert self.mine.peer is not None
                admitted = self.register.admit(self.mine.peer, event, b"s" * 16, PORT)
                if not isinstance(admitted, Admitted):
                    self.mine.send(admitted.close)
                    return
                self.server, self.number = admitted.session, event.number
            elif self.party is Party.CLIENT:
                self.client.receive(self.number, event, self.now)
            elif self.server is not None:
                heard = self.server.receive(self.number, event, self.now)
                self.messages += (each for each in heard if isinstance(each, Message))

    def live(self) -> None:
        """Do what users, a line and a clock do, whatever the peer says."""
        choices = self.choices
        self.now += choices.pick((0, 1, 700, 3000))
        if self.party is Party.CLIENT:
            turn = choices.pick((None, TurnParameters(3, b"", 100)))
            offset = self.client.write(choices.pick(CLASSES), choices.data(), self.now, turn)
            if offset is not None and not choices.below(4):
                self.client.withdraw(choices.pick(CLASSES), offset)
            if not choices.below(3):
                self.client.control(choices.pick(CLASSES), choices.pick(REQUESTS), self.now)
                self.client.look(bool(choices.below(2)))
                self.client.ask()
            self.client.expire(self.now)
            self.client.next_expiry(self.now)
            if not choices.below(4):
                self.client.ping()
                self.client.inquiry.ask(3000)
        elif self.server is not None:
            server = self.server
            server.line(choices.data(), choices.pick((None, OTHERS, Asker(Channel.PTZ, choices.below(9)))))
            if not choices.below(5):
                server.gap(choices.number(3) % LIMIT, Reason.OVERFLOW)
            if not choices.below(5):
                server.ping()
                server.inquiry.ask(3000)
            if not choices.below(5):
                server.port(replace(PORT, rate=self.now))
                server.report(LineReport(3, modem=self.now % 64))
            if not choices.below(5):
                server.turn(Channel.CGI, choices.below(9), TurnPhase.BEGIN, TurnStatus.RUNNING)
            while self.messages and choices.below(3):
                message = self.messages.pop(0)
                if choices.below(2):
                    server.handed(message.channel, message.end)
                else:
                    server.lost(message.channel, message.end, Reason.PORT_DOWN)
            self.register.sweep(self.now, 60_000)
        self.flush()

    def give_up(self, error: RemoteProtocolError | None) -> None:
        """End the connection as the drivers do: a cut leaves the session, a broken rule ends it."""
        self.messages = []
        if self.party is Party.CLIENT:
            self.client.detach() if error is None else self.client.abandon(Reason.CLOSED)
        elif self.server is not None:
            if error is None:
                self.server.detach(self.now)
            else:
                self.register.end(self.server, CloseReason.PROTOCOL)
                self.server.last_word(CloseReason.PROTOCOL)
                self.server = None


def play(data: bytes) -> int:
    """Play a liar's game; return how many frames of his were taken. Raises what must never be raised."""
    choices = Choices(data)
    victim = Victim(choices, choices.pick(tuple(Party)))
    said: list[Frame] = []
    taken, fresh = 0, True
    while choices:
        session = victim.session()
        session_id = NO_SESSION if session is None else session.id
        liar = Liar(choices, victim.positions())
        if fresh and choices.below(8):
            said = liar.opening(victim.clocks[-1], session_id, victim.party)
        fresh = False
        frame = said.pop(0) if said else liar.frame(victim.clocks, session_id)
        if isinstance(frame, Pong) and said == [] and victim.party is Party.SERVER:
            frame = replace(frame, echo=victim.clocks[-1])
        error: RemoteProtocolError | None = None
        try:
            victim.hear(forged(victim.liars, frame, choices))
            taken += 1
        except RemoteProtocolError as caught:
            error = caught
        if error is not None or victim.mine.state is State.CLOSED or not choices.below(40):
            victim.give_up(error)
            victim.connect()
            said, fresh = [], True
        victim.live()
    return taken
