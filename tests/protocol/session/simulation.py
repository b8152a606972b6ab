"""A chain of CPUs in one process: no sockets, no clock, a network that does its worst.

Node 0 owns the line; node n reaches it through node n - 1. Every node has a clock of its own, which shows
another time than the others'. What the network holds back, it delivers when it is told to, as many bytes as it
is told, or never. Beside the honest nodes a liar may open sessions of his own at any of them, and say what he likes.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import CHAIN, Picture, Survey
from protocol.link.connection import Connection, Event, State
from protocol.link.control_frames import CONTROLS, LineReport
from protocol.link.control_steps import Configure, ControlRequest
from protocol.link.frames import decode
from protocol.link.handshake import Acceptor, Initiator, Peer, key_point
from protocol.link.header import LIMIT, CutError
from protocol.link.hello import Hello
from protocol.link.identity import NodeKey
from protocol.link.key_frames import KEYS, Rekey, Rekeyed, Told, ToldCpu
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import Close, Open, Ping, Pong, Port, Position
from protocol.link.stream_frames import OTHERS, Ack, Asker, Channel, Credit, DownData, Gap, Turn, UpData
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus
from protocol.session.client import ClientEvent, ClientSession
from protocol.session.inbox import Message
from protocol.session.receive_stream import ReceiveStream
from protocol.session.register import Ended, Refused, Register
from protocol.session.send_stream import Settled
from protocol.session.server import HOLD
from protocol.session.session import CLASSES, NO_SESSION, SessionLimits
from tests.protocol.session.hostile import Choices, Liar

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.session.inquiry import Inquiry
    from protocol.session.server import ServerEvent, ServerSession

FEATURES = CHAIN | KEYS | CONTROLS
LIAR = Peer(1, b"l" * 16, 0, "")
POINT = key_point("correct horse battery staple")
AGE = {Channel.PTZ: 2_000, Channel.TCP: 15_000, Channel.CGI: 15_000}
LIMITS = SessionLimits(ring_bytes=700, ring_frames=24, window=96, age=AGE)
SOCKET = 900
FAR = LIMIT - 2**20
WINDOW = 60_000
EVERYBODY, STRANGERS = 0, -1
"""Whom bytes of the line are for, where it is not the writer of a message, who has a number."""


def fresh(size: int, *seed: object) -> bytes:
    return hashlib.shake_128(repr(seed).encode()).digest(size)


@functools.cache
def node_key(place: int) -> NodeKey:
    return NodeKey(fresh(32, "node", place))


def line_bytes(start: int, end: int) -> bytes:
    """The line's bytes never repeat, so that eight of them tell where they belong."""
    blocks = range(start // 32, end // 32 + 1)
    return b"".join(fresh(32, "line", at) for at in blocks)[start % 32 :][: end - start]


@dataclass
class Written:
    """A message as its writer knows it."""

    number: int
    node: int
    channel: Channel
    data: bytes
    accepted: float
    turn: bool
    control: bool
    offset: int | None = None
    outcomes: list[tuple[int, int, Reason | None]] = field(default_factory=list)


@dataclass
class Wire:
    """One TCP connection: what is under way in it, and the two ends."""

    client: Connection
    server: Connection
    number: int = 0
    session: ServerSession | None = None
    served: int = 0
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    client_open: bool = True
    server_open: bool = True
    tampered: bool = False


Segment: TypeAlias = "list[tuple[bytes, int] | int]"
"""What a node heard of the line, without a hole of unknown size: bytes and for whom, or how many are missing."""

Range: TypeAlias = tuple[int, int, "tuple[ServerSession, int] | Written"]
"""What was written above: from where, to where, and for whom."""


def begin_far(client: ClientSession) -> None:
    """Let every stream stand shortly before the end of all offsets, as after a thousand years."""
    for stream in client._streams.values():
        stream.ring.acked = stream.ring.tail = stream.ring.credit = stream._told = FAR
    client._line = ReceiveStream(Channel.LINE, FAR, LIMITS.window)


class Node:
    """One CPU: its client session (but for the owner), its register (but for the last), what it holds."""

    def __init__(self, world: World, place: int, life: int) -> None:
        self.world, self.place = world, place
        self.key = node_key(place)
        self.id = self.key.id
        self.skew = int.from_bytes(fresh(5, "skew", place, life), "big")
        self.upstream = ClientSession(self.id, LIMITS) if place else None
        if self.upstream and world.far:
            begin_far(self.upstream)
        self.register = Register(LIMITS)
        self.state = PortState(0b1110, True, 9600, "", "9600 8N1", tuple(node_key(n).id for n in range(place + 1)))
        self.held: dict[Channel, deque[tuple[ServerSession, Message]]] = {
            channel: deque() for channel in CLASSES
        }  # messages from below that wait for their turn
        self.ranges: dict[Channel, deque[Range]] = {
            channel: deque() for channel in CLASSES
        }  # what was written above, and for whom
        self.turns: dict[tuple[Channel, int], tuple[ServerSession, int] | Written] = {}
        self.bus: list[Segment] = [[]]
        self.report = LineReport(3)
        self.own_turns: list[tuple[Written, TurnPhase, list[Segment]]] = []

    @property
    def client(self) -> ClientSession:
        assert self.upstream is not None, "the owner has none"
        return self.upstream

    @property
    def now(self) -> int:
        return self.world.time + self.skew

    # What comes from below

    def heard_below(self, session: ServerSession, event: ServerEvent) -> None:
        match event:
            case Message():
                self.held[event.channel].append((session, event))
                self.pass_up(event.channel)
            case Gap():
                self.world.gaps += event.count
            case Survey() | Picture():
                self.world.surveyed(session.inquiry, event)
            case Rekeyed():
                self.world.rekeyed(event)
            case Close():
                self.ended(self.register.end(session, CloseReason.STOPPING))

    def ended(self, ended: tuple[Ended, ...]) -> None:
        for end in ended:
            for channel, held in self.held.items():
                self.held[channel] = deque(item for item in held if item[0] is not end.session)
                for low, _, owner in list(self.ranges[channel]):
                    if isinstance(owner, tuple) and owner[0] is end.session:
                        self.outcomes(self.client.withdraw(channel, low))

    def stale(self, message: Message) -> bool:
        return self.now - message.accepted > AGE[message.channel]

    def pass_up(self, channel: Channel) -> None:
        """A CPU in the middle hands on what its own ring takes; the owner waits for a turn."""
        held = self.held[channel]
        while self.upstream and held:
            session, message = held[0]
            if self.stale(message):
                # Outcomes come in order: those of this session's messages that are on their way come first.
                if any(isinstance(owner, tuple) and owner[0] is session for _, _, owner in self.ranges[channel]):
                    return
                session.lost(channel, message.end, Reason.TOO_OLD)
            elif message.control and not self.client.takes_controls:
                if any(isinstance(owner, tuple) and owner[0] is session for _, _, owner in self.ranges[channel]):
                    return
                session.lost(channel, message.end, Reason.FORBIDDEN)
            else:
                if message.control:
                    offset = self.client.control(channel, message.control, message.accepted)
                else:
                    offset = self.client.write(channel, message.data, message.accepted, message.turn)
                if offset is None:
                    return
                self.ranges[channel].append((offset, offset + len(message.data), (session, message.offset)))
                if not message.control:
                    self.turns[channel, offset] = session, message.offset
            held.popleft()

    def write_to_tty(self, channel: Channel, session_pick: int, share: int) -> None:
        """One turn of the owner's bus."""
        held = self.held[channel]
        sessions = list(dict.fromkeys(id(item[0]) for item in held))
        if not sessions:
            return
        wanted = sessions[session_pick % len(sessions)]
        session, message = next(item for item in held if id(item[0]) == wanted)
        held.remove((session, message))
        if self.stale(message):
            session.lost(channel, message.end, Reason.TOO_OLD)
            return
        if message.control:
            self.carry_out(session, message, share)
            return
        count = len(message.data) * share // 4
        # A message without parameters has its turn by the owner's rule, and then its reply is for its writer alone.
        self.world.note_turn(message, TurnPhase.BEGIN)
        session.turn(channel, message.offset, TurnPhase.BEGIN, TurnStatus.RUNNING)
        self.world.answer(9, session, None if message.turn else message)
        self.world.tty.append((message.data[:count], self.world.time))
        session.handed(channel, message.offset + count)
        session.lost(channel, message.end, Reason.PORT_DOWN)
        self.world.note_turn(message, TurnPhase.END)
        status = TurnStatus.TIME if message.turn else TurnStatus.RULE
        session.turn(channel, message.offset, TurnPhase.END, status)

    def carry_out(self, session: ServerSession, message: Message, share: int) -> None:
        """What is asked beside the bytes is done, or fails; the line is told of before its outcome is."""
        if share < 4:
            session.lost(message.channel, message.end, Reason.INCOMPLETE)
            return
        self.world.tty.append((message.data, self.world.time))
        self.world.done[int.from_bytes(message.data[:4], "big")] = len(self.world.done) + 1
        self.tell(LineReport(3, breaks=len(self.world.done)))
        session.handed(message.channel, message.end)

    def tell(self, report: LineReport) -> None:
        self.report = report
        self.below(lambda session: session.report(report))

    # What comes from above

    def heard_above(self, event: ClientEvent) -> None:
        match event:
            case Settled():
                self.outcomes([event])
            case DownData():
                self.heard_line(event)
            case Gap():
                assert event.reason in (Reason.OVERFLOW, Reason.RESTARTED)
                self.bus[-1].append(event.count)
                if event.reason is Reason.RESTARTED:
                    self.bus.append([])
                self.below(lambda session: session.gap(event.count, event.reason))
            case Turn():
                owner = self.turns[event.channel, event.offset]
                if isinstance(owner, Written):
                    self.own_turns.append((owner, event.phase, list(map(list, self.bus))))
                else:
                    owner[0].turn(event.channel, owner[1], event.phase, event.status)
            case Port():
                self.state = event.state
            case LineReport():
                self.tell(event)
            case Survey() | Picture():
                self.world.surveyed(self.client.inquiry, event)
            case Rekey():
                self.client.inquiry.tell(Rekeyed(event.number, (ToldCpu(event.nodes[0], "", Told.CHANGED),)))

    def heard_line(self, event: DownData) -> None:
        asker = event.asker
        owner = None if asker is None else self.turns.get(asker)
        audience = owner.number if isinstance(owner, Written) else EVERYBODY if asker is None else STRANGERS
        self.bus[-1].append((event.data, audience))
        for session in self.register:
            if isinstance(owner, tuple) and owner[0] is session:
                assert asker is not None
                session.line(event.data, Asker(asker.channel, owner[1]))
            else:
                session.line(event.data, asker and OTHERS)

    def below(self, tell: Callable[[ServerSession], None]) -> None:
        for session in self.register:
            tell(session)

    def outcomes(self, settled: list[Settled]) -> None:
        for outcome in settled:
            ranges = self.ranges[outcome.channel]
            low = outcome.offset
            while low < outcome.end:
                start, end, owner = ranges[0]
                assert start <= low < end, "outcomes come in order, without a hole"
                high = min(end, outcome.end)
                if isinstance(owner, Written):
                    owner.outcomes.append((low - start, high - start, outcome.reason))
                    if owner.control and outcome.reason is None and not self.world.older:
                        assert self.report.breaks >= self.world.done[owner.number], "who knows that it was done sees it"
                elif outcome.reason is None:
                    owner[0].handed(outcome.channel, owner[1] + high - start)
                else:
                    owner[0].lost(outcome.channel, owner[1] + high - start, outcome.reason)
                low = high
                if high == end:
                    ranges.popleft()
            self.pass_up(outcome.channel)

    def write_own(self, written: Written) -> bool:
        turn = TurnParameters(4, b"\r", 100) if written.turn else None
        if not written.control:
            written.offset = self.client.write(written.channel, written.data, self.now, turn)
        elif self.client.takes_controls:
            written.offset = self.client.control(written.channel, ControlRequest.decode(written.data), self.now)
        if written.offset is None:
            return False
        end = written.offset + len(written.data)
        self.ranges[written.channel].append((written.offset, end, written))
        if not written.control:
            self.turns[written.channel, written.offset] = written
        return True


class World:
    """The chain and its network; ``links[n]`` leads from node n + 1 to node n."""

    def __init__(self, nodes: int, *, far: bool = False) -> None:
        self.far = far
        self.liars: dict[int, tuple[Node, ServerSession]] = {}
        self.lies = 0
        self.time = 0
        self.serial = 0
        self.line = 0
        self.tty: list[tuple[bytes, int]] = []
        self.written: dict[int, Written] = {}
        self.lost_writers: set[int] = set()
        self.turns: dict[tuple[int, TurnPhase], int] = {}
        self.answers: list[tuple[int, int, int]] = []  # from where to where the line answered which message
        self.done: dict[int, int] = {}  # what was asked and carried out: how many had been by then
        self.older = False  # some link was with a CPU that knows no controls
        self.gaps = 0
        self.pictures = 0
        self.keys: dict[int, Rekey] = {}
        self.nodes = [Node(self, place, 0) for place in range(nodes)]
        self.wires: list[list[Wire]] = [[] for _ in range(nodes - 1)]

    def unique(self) -> int:
        self.serial += 1
        return self.serial

    # What may happen

    def write(self, place: int, channel: Channel, size: int, *, turn: bool) -> None:
        number = self.unique()
        data = number.to_bytes(4, "big") + fresh(4 + size, "message", number)
        written = Written(number, place, channel, data, self.time, turn, control=False)
        if self.nodes[place].write_own(written):
            self.written[number] = written
        self.run()

    def control(self, place: int, channel: Channel, steps: int) -> None:
        number = self.unique()
        data = ControlRequest(number, (Configure((("BaudRate", "19200"),)),) * steps).encode()
        written = Written(number, place, channel, data, self.time, turn=False, control=True)
        if self.nodes[place].write_own(written):
            self.written[number] = written
        self.run()

    def speak(self, count: int) -> None:
        self.answer(count, None, None)
        self.run()

    def answer(self, count: int, asking: ServerSession | None, message: Message | None) -> None:
        """Have the line speak: the reply to ``message``, or for everybody."""
        data = line_bytes(self.line, self.line + count)
        if message is not None:
            self.answers.append((self.line, self.line + count, int.from_bytes(message.data[:4], "big")))
        self.line += count
        for session in self.nodes[0].register:
            asker = Asker(message.channel, message.offset) if message and session is asking else OTHERS
            session.line(data, asker if message else None)

    def connect(self, link: int, features: int = FEATURES) -> None:
        self.older = self.older or features != FEATURES
        client, server = self.nodes[link + 1], self.nodes[link]
        number = self.unique()
        initiator = Initiator(POINT, client.key, 0, fresh(32, "a", number), fresh(16, "f", number), features=FEATURES)
        acceptor = Acceptor(POINT, server.key, 0, "", fresh(32, "b", number), features=features)
        wire = Wire(Connection(initiator), Connection(acceptor))
        wire.up += wire.client.data_to_send()
        if self.wires[link]:
            self.wires[link][-1].client_open = False
        client.client.detach()
        self.wires[link].append(wire)

    def redial(self, link: int) -> None:
        newest = self.wires[link][-1]
        if not newest.client_open or newest.client.state is State.CLOSED:
            self.connect(link)

    def cut(self, link: int, *, client: bool, server: bool, flight: bool) -> None:
        """Each end may learn of it now or later; what is under way may still arrive."""
        for wire in self.wires[link][-1:]:
            if client:
                self.hang_up_client(link, wire)
            if server:
                self.hang_up_server(link, wire)
            if flight:
                wire.up.clear()
                wire.down.clear()
                self.hang_up_client(link, wire)
                self.hang_up_server(link, wire)
        self.run()

    def hang_up_client(self, link: int, wire: Wire) -> None:
        client = self.nodes[link + 1].client
        if wire.client_open and client.number == wire.number:
            client.detach()
        wire.client_open = False

    def hang_up_server(self, link: int, wire: Wire) -> None:
        if wire.server_open and wire.session is not None and wire.session.number == wire.served:
            wire.session.detach(self.nodes[link].now)
        wire.server_open = False

    def flip(self, link: int, *, up: bool, place: int) -> None:
        for wire in self.wires[link][-1:]:
            queue = wire.up if up else wire.down
            if queue:
                queue[place % len(queue)] ^= 1 << place % 8
                wire.tampered = True

    def wait(self, milliseconds: int) -> None:
        self.time += milliseconds
        for node in self.nodes:
            if node.upstream:
                node.outcomes(node.client.expire(node.now))
            node.ended(node.register.sweep(node.now, WINDOW))
        self.run()

    def withdraw(self, number: int) -> None:
        written = self.written.get(number)
        if written and number not in self.lost_writers:
            node = self.nodes[written.node]
            assert written.offset is not None
            node.outcomes(node.client.withdraw(written.channel, written.offset))
            self.run()

    def ping(self, link: int, *, up: bool) -> None:
        if up:
            self.nodes[link + 1].client.ping()
        else:
            self.nodes[link].below(lambda session: session.ping())
        self.run()

    def survey(self, link: int, *, up: bool) -> None:
        """Have one side of a link ask what the chain looks like on the other."""
        if up:
            self.nodes[link + 1].client.inquiry.ask(self.time & 0xFFFF)
        else:
            self.nodes[link].below(lambda session: session.inquiry.ask(self.time & 0xFFFF))
        self.run()

    def surveyed(self, inquiry: Inquiry, event: Survey | Picture) -> None:
        """Answer a question; an answer is one to the last question of this very connection, once."""
        if isinstance(event, Survey):
            inquiry.answer(event.number, fresh(9, event.number, event.patience))
            return
        assert event.number == inquiry._number or self.lies
        assert not inquiry._stands
        self.pictures += 1

    def rekey(self, link: int) -> None:
        """Have the upper side of a link tell the lower one another key."""
        number = self.unique()
        told = Rekey(number, 1000, 3600, (fresh(16, number),), f"key {number}")
        self.keys[number] = told
        self.nodes[link].below(lambda session: session.inquiry.tell(told))
        self.run()

    def rekeyed(self, answer: Rekeyed) -> None:
        """Have an answer judged: nobody answers what he was not told."""
        told = self.keys.get(answer.number)
        assert self.lies or (told is not None and answer.cpus[0].node == told.nodes[0])

    def restart(self, place: int) -> None:
        for link in (place - 1, place):
            for wire in self.wires[link] if 0 <= link < len(self.wires) else ():
                self.hang_up_client(link, wire)
                self.hang_up_server(link, wire)
        self.lost_writers |= {w.number for w in self.written.values() if w.node == place}
        self.nodes[place] = Node(self, place, self.unique())
        self.run()

    def close(self, link: int, *, up: bool) -> None:
        """A clean end of a session, from either side."""
        client, server = self.nodes[link + 1], self.nodes[link]
        if up:
            client.client.close(CloseReason.STOPPING)
            self.run()
            client.outcomes(client.client.abandon(Reason.CLOSED))
        else:
            self.stop_writing(server)
            for session in server.register:
                server.ended(server.register.end(session, CloseReason.STOPPING))
        self.run()

    def stop_writing(self, server: Node) -> None:
        if server.upstream:
            server.outcomes(server.client.abandon(Reason.CLOSED))

    def deliver(self, link: int, *, up: bool, count: int, wire: int = -1) -> None:
        wires = [each for each in self.wires[link] if each.client_open or each.server_open]
        if not wires:
            return
        chosen = wires[wire % len(wires)]
        queue = chosen.up if up else chosen.down
        data = bytes(queue[:count])
        del queue[:count]
        self.receive(link, chosen, data, up=up)
        self.run()

    def lie(self, place: int, said: bytes) -> None:
        """Have a liar with a session of his own at a node say something, which must cost him alone."""
        choices = Choices(said)
        node, session = self.nodes[place], None
        if place in self.liars and self.liars[place][0] is node:
            session = self.liars[place][1]
        self.lies += 1
        if session is None or not session.attached or session not in node.register:
            at = FAR if self.far else 0
            number = self.lies if choices.below(8) else choices.number(0) % LIMIT
            line, ptz, tcp, cgi = (Position(choices.number(at) % LIMIT, choices.number(0) % LIMIT) for _ in Channel)
            again = NO_SESSION if session is None else session.id
            opening = Open(again, number, 0, (line, ptz, tcp, cgi))
            outcome = node.register.admit(LIAR, opening, fresh(16, "liar", self.unique()), node.state)
            node.ended(outcome.ended)
            if not isinstance(outcome, Refused):
                self.liars[place] = node, outcome.session
        else:
            frame = Liar(choices, session._positions()).frame([0, node.now], session.id)
            allowed = (UpData, Gap, Ack, Credit, Ping, Pong, Survey, Picture, Rekeyed, Close)
            try:
                if decode(frame.code, frame.parts()) is None or not isinstance(frame, allowed):
                    return
                if (getattr(frame, "channel", None) is Channel.LINE) is not isinstance(frame, Ack | Credit):
                    return
                for each in session.receive(session.number, frame, node.now):
                    node.heard_below(session, each)
            except (RemoteProtocolError, struct.error):
                node.ended(node.register.end(session, CloseReason.PROTOCOL))
            while session.next_frame(session.number, node.now) is not None:
                pass
        self.run()

    def note_turn(self, message: Message, phase: TurnPhase) -> None:
        self.turns[int.from_bytes(message.data[:4], "big"), phase] = self.line

    # How it follows

    def run(self) -> None:
        """Every side sends what it has to say, as far as its socket takes it."""
        for link, wires in enumerate(self.wires):
            for wire in wires:
                self.flush(link, wire)
        self.check_bounds()

    def flush(self, link: int, wire: Wire) -> None:
        client, server = self.nodes[link + 1], self.nodes[link]
        while wire.client_open and wire.number and len(wire.up) < SOCKET:
            frame = client.client.next_frame(wire.number, client.now)
            if frame is None:
                break
            wire.up += wire.client.send(frame)
        while wire.server_open and wire.session and len(wire.down) < SOCKET:
            frame = wire.session.next_frame(wire.served, server.now)
            if frame is None:
                break
            wire.down += wire.server.send(frame)

    def receive(self, link: int, wire: Wire, data: bytes, *, up: bool) -> None:
        connection = wire.server if up else wire.client
        if not data or not (wire.server_open if up else wire.client_open):
            return
        connection.receive_data(data)
        try:
            while (event := connection.next_event()) is not None:
                (self.at_server if up else self.at_client)(link, wire, event)
        except CutError:
            if not wire.tampered:
                raise
            (self.hang_up_server if up else self.hang_up_client)(link, wire)
        if up:
            wire.down += wire.server.data_to_send()
        else:
            wire.up += wire.client.data_to_send()

    def at_client(self, link: int, wire: Wire, event: Event) -> None:
        node = self.nodes[link + 1]
        if isinstance(event, Peer):
            wire.up += wire.client.data_to_send()
            if wire.client_open:
                wire.number = node.client.attach(event.node, event.features)
            return
        for each in node.client.receive(wire.number, event, node.now):
            node.heard_above(each)

    def at_server(self, link: int, wire: Wire, event: Event) -> None:
        node = self.nodes[link]
        if isinstance(event, Peer | Hello):
            return
        if isinstance(event, Open):
            self.admit(node, wire, event)
            return
        assert wire.session is not None
        for each in wire.session.receive(wire.served, event, node.now):
            node.heard_below(wire.session, each)

    def admit(self, node: Node, wire: Wire, opening: Open) -> None:
        assert wire.server.peer is not None
        outcome = node.register.admit(wire.server.peer, opening, fresh(16, "id", self.unique()), node.state)
        node.ended(outcome.ended)
        if isinstance(outcome, Refused):
            assert outcome.close.reason is CloseReason.STALE
            wire.down += wire.server.send(outcome.close)
        else:
            wire.session, wire.served = outcome.session, opening.number
            wire.session.report(node.report)

    # What must hold

    def check_bounds(self) -> None:
        for node in self.nodes:
            if node.upstream:
                for stream in node.client._streams.values():
                    assert stream.ring.size <= LIMITS.ring_bytes
                    assert stream.ring.frames <= LIMITS.ring_frames + 1
            for session in node.register:
                assert session._down.ring.size <= LIMITS.ring_bytes
                assert session._down.ring.frames <= LIMITS.ring_frames + 1

    def check_up(self) -> None:
        """Received is sent but for what was announced; in order, once, whole, and not too late."""
        written_bytes: dict[int, int] = {}
        last: dict[tuple[int, Channel], int] = {}
        for data, when in self.tty:
            if not data:
                continue
            number = int.from_bytes(data[:4], "big")
            if number not in self.written:
                assert self.lies, "nobody but a liar writes what nobody wrote"
                if any(data):  # he writes zeros, or asks for something beside them
                    ControlRequest.decode(data)
                continue
            message = self.written[number]
            assert number not in written_bytes, "no byte twice"
            assert message.data.startswith(data)
            written_bytes[number] = len(data)
            assert when - message.accepted <= AGE[message.channel], "nothing after its age limit"
            key = message.node, message.channel
            assert last.get(key, 0) < number, "in order"
            last[key] = number
        for number, message in self.written.items():
            self.check_outcomes(message, written_bytes.get(number, 0))

    def check_outcomes(self, message: Written, count: int) -> None:
        position = 0
        for low, high, reason in message.outcomes:
            assert low == position, "one outcome for every byte, in order"
            position = high
            if reason is None:
                assert high <= count, "what was acknowledged is in the tty"
            elif reason is not Reason.UNCERTAIN:
                assert low >= count, "what was announced as lost is not"

    def check_down(self) -> None:
        for node in self.nodes[1:]:
            self.check_bus(node.bus)
            marks = [(written.number, phase) for written, phase, _ in node.own_turns]
            assert len(set(marks)) == len(marks), "no turn begins or ends twice"
            for mark, (_, _, bus) in zip(marks, node.own_turns, strict=True):
                place = self.check_bus(bus)
                known = sum(len(part[0]) for part in bus[-1] if isinstance(part, tuple)) >= 8
                assert place == self.turns[mark] or not known, "a turn stands where it stood on the line"

    def check_bus(self, bus: list[Segment]) -> int:
        """Each stretch without a gap of unknown size is on the line, behind the stretch before it."""
        start = 0
        for segment in bus:
            start = self.place_of(segment, start)
        return start

    def place_of(self, segment: Segment, start: int) -> int:
        length = sum(part if isinstance(part, int) else len(part[0]) for part in segment)
        known = next((at for at in range(start, self.line - length + 1) if self.fits(segment, at)), None)
        assert known is not None, "what the bus heard is what the line said"
        return known + length

    def fits(self, segment: Segment, at: int) -> bool:
        for part in segment:
            if isinstance(part, int):
                at += part
            elif line_bytes(at, at + len(part[0])) != part[0] or not self.is_for(at, at + len(part[0]), part[1]):
                return False
            else:
                at += len(part[0])
        return True

    def is_for(self, start: int, end: int, audience: int) -> bool:
        """Whether a reply is nobody's but its asker's, and what is no reply is everybody's."""
        asked = [
            (max(start, low), min(end, high), who) for low, high, who in self.answers if low < end and start < high
        ]
        if audience == EVERYBODY:
            return not asked
        covered = sum(high - low for low, high, _ in asked) == end - start
        return covered and (audience == STRANGERS or {who for _, _, who in asked} == {audience})

    # The end of every schedule

    def settle(self) -> None:
        """The network becomes kind: everything must now flow, whatever happened before."""
        for link in range(len(self.wires)):
            for wire in self.wires[link]:
                self.hang_up_client(link, wire)
                self.hang_up_server(link, wire)
        for link in range(len(self.wires)):
            self.connect(link)
        for _ in range(400):
            before = self.progress()
            self.go_on()
            if before == self.progress():
                break
        for node in self.nodes[1:]:
            for stream in node.client._streams.values():
                assert stream.ring.acked == stream.ring.tail, "no deadlock of credit, and every outcome is told"
        for written in self.written.values():
            if written.number not in self.lost_writers:
                assert written.outcomes[-1][1] == len(written.data)

    def go_on(self) -> None:
        self.time += HOLD
        for link in range(len(self.wires)):
            self.redial(link)
            for up in (True, False):
                self.deliver(link, up=up, count=10_000)
        for channel in CLASSES:
            while self.nodes[0].held[channel]:
                self.nodes[0].write_to_tty(channel, 0, 4)
        for node in self.nodes[1:]:
            for channel in CLASSES:
                node.pass_up(channel)
        self.run()

    def progress(self) -> list[object]:
        clients = [node.client for node in self.nodes[1:]]
        return [
            [len(each.up) + len(each.down) for wires in self.wires for each in wires],
            [(client._line.received, client.resumed, client._positions()) for client in clients],
            len(self.tty),
        ]
