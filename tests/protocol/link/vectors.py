"""The test vectors of the wire: each frame in clear and as it goes over TCP, from one conversation with fixed secrets.

``python -m tests.protocol.link.vectors`` writes docs/remote-port-vectors.json anew; a test holds the file to the code.
"""

from __future__ import annotations

import contextlib
import enum
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.link import cpace
from protocol.link.chain_frames import CHAIN, Picture, Survey
from protocol.link.chain_tree import Alarm, Branch, Cpu, Hop, Seen, Way
from protocol.link.connection import Connection, Party
from protocol.link.control_frames import CONFIGURE, CONTROLS, LINES, LineErrors, LineFormat, LineReport, Look
from protocol.link.control_steps import Break, Configure, ControlRequest, HoldBreak, Pause, Purge, SetLines
from protocol.link.frames import decode
from protocol.link.handshake import Acceptor, Initiator, WrongKeyError, key_point
from protocol.link.header import FrameDecoder, Parts, RawFrame
from protocol.link.identity import NodeKey
from protocol.link.key_frames import KEYS, Rekey, Rekeyed, Told, ToldCpu
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason, Reason
from protocol.link.secure import Opener, traffic_keys
from protocol.link.session_frames import Close, Open, Opened, Ping, Pong, Port, Position, Positions
from protocol.link.stream_frames import OTHERS, Ack, Asker, Channel, Control, Credit, DownData, Gap, Lost, Turn, UpData
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus
from protocol.sharing.message_rule import MessageRule
from protocol.sharing.turn_rule import TurnRule

if TYPE_CHECKING:
    from protocol.link.frames import Frame

FILE: Final = Path(__file__).parents[3] / "docs" / "remote-port-vectors.json"

KEY: Final = "pelco123"
YA, YB, FRESH = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 80))
A_NODE, B_NODE = NodeKey(b"A" * 32, "cpu-a"), NodeKey(b"B" * 32, "cpu-b")
OWNER, SESSION = b"O" * 16, b"S" * 16
MODBUS = TurnRule(
    "modbus-rtu", reply_timeout=0x0506 / 1000, reply_silence=0x0708 / 1000, max_wait=0x090A / 1000, echo=True
)
LINE = TurnRule("line", end=b"\r\n", gap=0.011, reply_to="all")
LENGTH = TurnRule("length", length=0x0102, gap=0.0)
END, EITHER = MessageRule(end=b"\xff"), MessageRule(end=b"\r\n", gap=0.02)
PORT = PortState(0b1010, True, 115_200, "", "RS485_2 115200 8N1", (OWNER, B_NODE.id), MODBUS, END)
DOWN = PortState(0b0110, False, 2400, "no such device", "RS232 9600 7E2", (), LINE, EITHER)
AGAIN = PortState(0b1010, True, 9600, "", "RS232 9600 7E2", (OWNER, B_NODE.id), LENGTH)
# The answer of a CPU in the middle to one below it: itself, the owner above it, and a link of it that is down.
MIDDLE = Cpu(
    B_NODE.id, 0x09, "cpu-b", "1.2.3", True, "", 0x0102030405060708, 0x090A0B0C, (("GenericTCPServer", 0x0D0E),)
)
TOP = Cpu(OWNER, 0x0F, "cpu-o", "1.2.0", False, "no such device", alarms=((Alarm.WRONG_KEY, "192.0.2.9"),))
LEFT = Cpu(bytes(range(0x60, 0x70)), name="cpu-l")
UPWARD = Hop(Way.UP, Seen.TOLD, 0x1112, 0x13141516, 0x1718191A, 0x1B1C1D1E1F202122, "192.0.2.1", "")
AWAY = Hop(Way.DOWN, Seen.GONE, None, 0x23242526, 0x2728292A, 0x2B2C2D2E2F303132, "192.0.2.4", "the peer hung up")
TREE = Branch(b"", MIDDLE.encode(), (Branch(UPWARD.encode(), TOP.encode()), Branch(AWAY.encode(), LEFT.encode())))

STEPS = ControlRequest(
    0xA1A2A3A4,
    (
        Configure((("BaudRate", "19200"), ("Parity", "Even"), ("FlowControlRTSCTS", "yes"))),
        SetLines(dtr=False, rts=True),
        Pause(0x0102 / 1000),
        Break(0x0304 / 1000),
        HoldBreak(on=True),
        Purge(),
    ),
)
REPORT = LineReport(
    LINES | CONFIGURE,
    LineFormat(0xB1B2B3B4, 7, "E", 2, xon_xoff=True, rts_cts=False),
    0b010110,
    0xC1C2C3C4,
    LineErrors(0xD1D2D3D4, 0xE1E2E3E4, 0xF1F2F3F4),
    0x91929394,
)


def positions(first: int) -> Positions:
    """Eight numbers in the order of the wire, each another one."""
    line, ptz, tcp, cgi = (Position(first + 2 * at, first + 2 * at + 1) for at in range(4))
    return line, ptz, tcp, cgi


A, B = Party.CLIENT, Party.SERVER
CONVERSATION: Final[tuple[tuple[Party, str, Frame], ...]] = (
    (A, "goes on with a session", Open(SESSION, 0x0102030405060708, 0x11121314, positions(0x2122232425262728))),
    (B, "answers it", Opened(SESSION, 0x11121314, 0x31323334, positions(0x0142434445464748), PORT)),
    (A, "answers OPENED, before anything else", Pong(0x31323334, 0x51525354)),
    (A, "a message", UpData(Channel.PTZ, 0x0162636465666768, 0x71727374, bytes.fromhex("81 01 06 04 ff"))),
    (
        A,
        "a message that asks for a turn",
        UpData(Channel.CGI, 0x0A0B0C0D0E0F1011, 0x12131415, b"MEAS?\r", TurnParameters(0x1617, b"\r\n", 0x1819)),
    ),
    (A, "a part of a message", UpData(Channel.TCP, 0x2A2B2C2D2E2F3031, 0x32333435, b"first ", None, more=True)),
    (A, "the rest of it", UpData(Channel.TCP, 0x2A2B2C2D2E2F3037, 0x32333435, b"last")),
    (A, "bytes that A will not send", Gap(Channel.PTZ, 0x3A3B3C3D3E3F4041, 0x42434445, Reason.TOO_OLD)),
    (A, "the line's bytes before it are on A's bus", Ack(Channel.LINE, 0x1A1B1C1D1E1F2021)),
    (A, "the line's bytes before it may be sent", Credit(Channel.LINE, 0x1A1B1C1D1E2F3031)),
    (A, "asks whether B is there", Ping(0x61626364)),
    (B, "answers", Pong(0x61626364, 0x71727374)),
    (B, "the line's bytes", DownData(0x1122334455667788, b"\x90\x41\xff")),
    (
        B,
        "the line's bytes, for one writer",
        DownData(0x112233445566778B, b"42", Asker(Channel.CGI, 0x0A0B0C0D0E0F1011)),
    ),
    (B, "the line's bytes, for somebody at another link", DownData(0x112233445566778D, b"43", OTHERS)),
    (B, "bytes of the line that B dropped", Gap(Channel.LINE, 0x112233445566778F, 0x4A4B4C4D, Reason.OVERFLOW)),
    (B, "an unknown number of bytes", Gap(Channel.LINE, 0x11223344A0B1C2DC, 0, Reason.RESTARTED)),
    (B, "a turn begins", Turn(Channel.CGI, 0x0A0B0C0D0E0F1011, TurnPhase.BEGIN, TurnStatus.RUNNING)),
    (B, "a turn ends", Turn(Channel.CGI, 0x0A0B0C0D0E0F1011, TurnPhase.END, TurnStatus.LENGTH)),
    (B, "all before it is in the owner's tty", Ack(Channel.PTZ, 0x016263646566676D)),
    (B, "bytes before it may be sent", Credit(Channel.TCP, 0x2A2B2C2D2E3F4041)),
    (B, "bytes that will not be written", Lost(Channel.TCP, 0x2A2B2C2D2E2F3031, 0x52535455, Reason.FORBIDDEN)),
    (B, "a turn without parameters begins", Turn(Channel.PTZ, 0x0162636465666768, TurnPhase.BEGIN, TurnStatus.RUNNING)),
    (B, "and ends by the rule", Turn(Channel.PTZ, 0x0162636465666768, TurnPhase.END, TurnStatus.RULE)),
    (B, "the port went down, and has other rules", Port(DOWN)),
    (B, "the port is up again, and has others again", Port(AGAIN)),
    (B, "asks whether A is there", Ping(0x2A2B2C2D)),
    (A, "asks what the chain looks like from B", Survey(0x81828384, 0x8586)),
    (B, "tells itself, the owner above it, and a link that is down", Picture(0x81828384, TREE.encode())),
    (B, "asks the same of A", Survey(0x91929394, 0x9596)),
    (A, "asks something of the line", Control(Channel.TCP, 0x2A2B2C2D2E2F303B, 0x36373839, STEPS.encode())),
    (
        A,
        "a client of A has left",
        Control(Channel.TCP, 0x2A2B2C2D2E2F303B + len(STEPS.encode()), 0x3A3B3C3D, ControlRequest(0xA1A2A3A4).encode()),
    ),
    (A, "somebody wants to know of the modem lines", Look(wanted=True, question=0x91929394)),
    (B, "how the line is, and what may be asked of it", REPORT),
    (B, "nothing is known of the line but a break, and nothing may be asked", LineReport(0, breaks=1, answered=2)),
    (B, "has another key for two CPUs", Rekey(0xA1A2A3A4, 0xA5A6, 0x00010203, (b"C" * 16, b"D" * 16), "the next key")),
    (
        A,
        "has it, and so has one CPU behind it; another is down",
        Rekeyed(
            0xA1A2A3A4,
            (
                ToldCpu(b"C" * 16, "cpu2", Told.CHANGED),
                ToldCpu(b"D" * 16, "cpu3", Told.SAME),
                ToldCpu(b"E" * 16, "", Told.GONE),
            ),
        ),
    ),
    (B, "ends the session", Close(CloseReason.STOPPING, positions(0x0152535455565758))),
)
REFUSED: Final = Close(CloseReason.STALE, last=0x0908070605040302)
WRONG_KEY: Final = Close(CloseReason.WRONG_KEY)


def readable(value: object) -> object:
    """Say a frame's field as JSON can: bytes in hex, numbers in hex as well, since u64 is too much for some readers."""
    match value:
        case bytes():
            return value.hex()
        case bool() | str() | None:
            return value
        case enum.IntEnum():
            return value.name
        case int():
            return hex(value)
        case float():
            return value
        case UpData() | DownData() | Ack() | Credit():
            return {name: readable(each) for name, each in zip(value._fields, value, strict=True)}
        case tuple() | frozenset():
            return [readable(each) for each in value]
    assert is_dataclass(value)
    return {field.name: readable(getattr(value, field.name)) for field in fields(value)}


class Recorder:
    """Two connections with fixed secrets, and what each of their frames looks like."""

    def __init__(self, client_key: str = KEY) -> None:
        features = CHAIN | KEYS | CONTROLS
        self.a = Connection(Initiator(key_point(client_key), A_NODE, 7, YA, FRESH, features=features))
        self.b = Connection(Acceptor(key_point(KEY), B_NODE, 9, "blade-7", YB, features=features))
        self.vectors: list[dict[str, object]] = []
        self._numbers = {A: 0, B: 0}

    def shake_hands(self) -> None:
        """Note the handshake's frames."""
        (hello,) = self._step(self.a, self.b)
        reply, identity_b = self._step(self.b, self.a)
        confirm, identity_a = self._step(self.a, self.b)
        self._note(A, "begins", hello)
        self._note(B, "answers", reply)
        self._note(B, "says who it is, sealed behind its answer", identity_b, sealed=True)
        self._note(A, "proves the key", confirm)
        self._note(A, "says who it is, sealed behind its proof", identity_a, sealed=True)

    def _step(self, by: Connection, to: Connection) -> list[RawFrame]:
        decoder = FrameDecoder()
        data = by.data_to_send()
        decoder.receive_data(data)
        to.receive_data(data)
        while to.next_event() is not None:
            pass
        return list(iter(decoder.next_frame, None))

    def _note(self, party: Party, what: str, raw: RawFrame, *, sealed: bool = False) -> None:
        vector: dict[str, object] = {"from": "A" if party is A else "B", "what": what}
        payload = raw.body
        if sealed:
            key = self.traffic_keys()["up" if party is A else "down"]
            payload = Opener(bytes.fromhex(key)).open(raw.head, raw.body)
            vector["number"] = self._numbers[party]
            self._numbers[party] += 1
        frame = decode(raw.code, Parts(payload))
        assert frame is not None
        vector |= {"frame": type(frame).__name__, "fields": readable(frame)}
        self.vectors.append(vector | {"payload": payload.hex(), "wire": (raw.head + raw.body).hex()})

    def traffic_keys(self) -> dict[str, str]:
        """Return the keys of both directions, from the hellos alone as a reader computes them."""
        hello, reply = (bytes.fromhex(str(vector["payload"])) for vector in self.vectors[:2])  # noted first
        seen = cpace.transcript(hello[:32], hello[32:], reply[:32], reply[32:-64])
        keys = traffic_keys(cpace.intermediate_key(YA, reply[:32], seen), cpace.session_output(seen))
        return {"up": keys.up.hex(), "down": keys.down.hex()}

    def say(self, party: Party, what: str, frame: Frame, *, clear: bool = False) -> None:
        """Note one frame."""
        by, to = (self.a, self.b) if party is A else (self.b, self.a)
        wire = by.send(frame)
        to.receive_data(wire)
        assert to.next_event() == frame
        vector: dict[str, object] = {"from": "A" if party is A else "B", "what": what}
        if not clear:
            vector["number"] = self._numbers[party]
            self._numbers[party] += 1
        vector |= {"frame": type(frame).__name__, "fields": readable(frame)}
        self.vectors.append(vector | {"payload": frame.parts().payload.hex(), "wire": wire.hex()})


def conversation() -> dict[str, object]:
    """Return all vectors."""
    whole = Recorder()
    whole.shake_hands()
    for party, what, frame in CONVERSATION:
        whole.say(party, what, frame)
    stale = Recorder()
    stale.shake_hands()
    stale.say(A, "asks with a number that is not new", Open(SESSION, 0x0908070605040301, 0x21222324, positions(0x31)))
    stale.say(B, "refuses it", REFUSED)
    stranger = Recorder("pelco124")
    stranger.b.receive_data(stranger.a.data_to_send())
    stranger.b.next_event()
    stranger.a.receive_data(stranger.b.data_to_send())
    with contextlib.suppress(WrongKeyError):
        stranger.a.next_event()
    clear = stranger.a.send(WRONG_KEY)
    return {
        "about": "docs/remote-port-protocol.md, section 7; 'payload' is in clear, 'wire' is the whole frame",
        "secrets": {
            "key": KEY,
            "ya": YA.hex(),
            "yb": YB.hex(),
            "node key of A": (b"A" * 32).hex(),
            "node key of B": (b"B" * 32).hex(),
            **whole.traffic_keys(),
        },
        "conversation": whole.vectors,
        "instead of OPENED": stale.vectors[5:],
        "in clear": [
            {
                "from": "A",
                "what": "has another key than B",
                "frame": "Close",
                "fields": readable(WRONG_KEY),
                "payload": WRONG_KEY.parts().payload.hex(),
                "wire": clear.hex(),
            }
        ],
    }


def written() -> str:
    """Return the file's text."""
    return json.dumps(conversation(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(written())
