"""docs/remote-port-protocol.md against the code: every byte that it shows, and every table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.discovery.mdns import SERVICE
from gateway.discovery.pairing import PAIRING
from gateway.remote_port import candidates, chain, class_writer, controls, link
from gateway.remote_port import client as remote_device
from gateway.remote_port import server as remote_service
from gateway.serial_line import beside
from protocol.errors import RemoteProtocolError
from protocol.link import cpace, guesses, pairing
from protocol.link.advert import Advert
from protocol.link.connection import CHANNELS, CLOSES, TRANSITIONS, Connection, State
from protocol.link.frames import FRAMES
from protocol.link.handshake import VERSIONS, Acceptor, Initiator, key_point
from protocol.link.identity import NodeKey
from protocol.link.key_frames import Told
from protocol.link.message_rules import MAX_WAITING
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason, Reason
from protocol.link.secure import traffic_keys
from protocol.link.session_frames import NOWHERE, Open, Opened, Pong
from protocol.link.sharing_rules import ReplyCode
from protocol.link.stream_frames import Channel, UpData
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from protocol.session import line_stream, register
from protocol.session import server as session_server
from protocol.session.heartbeat import MAX_QUESTIONS
from protocol.session.session import NO_SESSION, SessionLimits
from tests.protocol.session.links import frames_of

DOCUMENT = (Path(__file__).parents[3] / "docs" / "remote-port-protocol.md").read_text()
SHOWN = {name: bytes.fromhex(data) for name, data in re.findall(r"```hex (\w+)\n(.*?)```", DOCUMENT, re.DOTALL)}

YA, YB, FRESH = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 80))
A_NODE, B_NODE, SESSION = NodeKey(b"A" * 32, "cpu-a"), NodeKey(b"B" * 32, "cpu-b"), b"S" * 16
PORT = PortState(0b1110, True, 9600, "", "RS232 9600 8N1", (B_NODE.id,))
PARTIES = {"client": "A", "server": "B"}
AGE = SessionLimits().age

VALUES = {
    "handshake, on either side": f"{link.HANDSHAKE_DEADLINE:g} s",
    "from a good CONFIRM to OPEN": f"{link.HANDSHAKE_DEADLINE:g} s",
    "A waits for TCP to connect": f"{remote_device._CONNECT:g} s",
    "PING after silence of": f"{link._QUIET:g} s",
    "dead after silence of": f"{link._QUIET + link._SILENT:g} s",
    "PING in any case after": f"{link._PROVE:g} s",
    "dead with a PING unanswered for": f"{link._ANSWER:g} s",
    "an incomplete frame": f"{link._WHOLE:g} s",
    "between two looks at these three": f"{link._LOOK:g} s",
    "age limit of PTZ": f"{AGE[Channel.PTZ] / 1000:g} s",
    "age limit of the others": f"{max(AGE[Channel.TCP], AGE[Channel.CGI]) / 1000:g} s",
    "resume window, on either side": f"{max(remote_device.RESUME_WINDOW, remote_service.RESUME_WINDOW):g} s",
    "A renews its connection after": f"{remote_device._REKEY / 3600:g} h",
    "B ends a connection after": f"{remote_service._OLDEST_KEYS / 3600:g} h",
    "B, when it stops, waits for what it began": f"{remote_service._RETIRE:g} s",
    "A, when it closes, waits for what it took": f"{remote_device._RETIRE:g} s",
    "A's first pause between two tries": f"{remote_device._FIRST_RETRY:g} s",
    "A's longest pause": f"{remote_device._LAST_RETRY:g} s",
    "A's pause after a wrong key": f"{candidates.WRONG_KEY_PAUSE:g} s",
    "the same where Bonjour found the server": f"{candidates._STRANGER_PAUSE:g} s",
    "wrong keys at once, an address that Bonjour found": str(candidates._OF_ADDRESS),
    "then A dials that address each": f"{candidates._BREATH:g} s",
    "dials at once of servers that Bonjour found": f"{candidates._DIALS:g}",
    "then one each": f"{candidates._PAUSE:g} s",
    "A dials only the server that it remembers for": f"{candidates._LOYALTY:g} s",
    "to say HELLO, of the handshake": f"{remote_service._FIRST_FRAME:g} s",
    "handshakes at once, a port": str(remote_service._HANDSHAKES),
    "handshakes at once, a network": str(remote_service._SHARE),
    "links, a port": str(register.MAX_LINKS),
    "links of one address": str(register.MAX_OF_PLACE),
    "sessions of one node": str(register.MAX_OF_NODE),
    "detached sessions, a port": str(register.MAX_DETACHED),
    "questions without an answer, either side": str(MAX_QUESTIONS),
    "messages of a class without an outcome": str(MAX_WAITING),
    "guesses at once, a network": f"{guesses._BURST:g}",
    "the fastest regain of a guess": f"{guesses._FASTEST:g} s",
    "the slowest": f"{guesses._SLOWEST:g} s",
    "networks remembered": str(guesses._ADDRESSES),
    "guesses at once, an IPv6 /56": f"{guesses._WIDER[56]:g}",
    "guesses at once, an IPv6 /48": f"{guesses._WIDER[48]:g}",
    "guesses at once, all strangers together": f"{guesses._WORLD_BURST:g}",
    "their regain of a guess": f"{guesses._WORLD_PAUSE:g} s",
    "least window up": str(class_writer._LEAST_WINDOW),
    "largest window up": str(class_writer._MOST_WINDOW),
    "window down": str(remote_device._WINDOW),
    "ring down": str(remote_service._RING),
    "ring up, a class": str(SessionLimits().ring_bytes),
    "frames in a ring": str(SessionLimits().ring_frames),
    "small pieces joined, down, up to": str(line_stream._PIECE),
    "an ACK up is held behind the last one for": f"{session_server.HOLD} ms",
    "outcomes that one answers at most": str(session_server._UNTOLD),
    "the most patience that a SURVEY is given": f"{chain.PATIENCE:g} s",
    "of it, kept for the way back at each hop": f"{chain._WAY_BACK:g} s",
    "a PICTURE serves all who ask for": f"{chain._FRESH:g} s",
    "between two PICTUREs to one link, at least": f"{chain._PAUSE:g} s",
    "between two looks at the modem lines": f"{beside._PAUSE:g} s",
    "controls of a link at once": f"{controls._BURST}",
    "then one control each": f"{controls._PAUSE:g} s",
    "clients of a link that may hold anything": f"{controls._MOST_CLIENTS}",
}
"""What the document says of times and limits, in the words of its table."""


def worked() -> dict[str, bytes]:
    """The document's example, computed anew."""
    point = key_point("pelco123")
    a = Connection(Initiator(point, A_NODE, 0, YA, FRESH))
    b = Connection(Acceptor(point, B_NODE, 0, "blade-7", YB))
    said = {"generator": point, "hello": a.data_to_send()}
    heard(b, said["hello"])
    said["hello_reply"], said["identity_down"] = frames_of(b.data_to_send())
    heard(a, said["hello_reply"] + said["identity_down"])
    said["confirm"], said["identity_up"] = frames_of(a.data_to_send())
    heard(b, said["confirm"] + said["identity_up"])
    seen = cpace.transcript(
        said["hello"][16:48], said["hello"][48:], said["hello_reply"][16:48], said["hello_reply"][48:-64]
    )
    said["isk"] = cpace.intermediate_key(YA, said["hello_reply"][16:48], seen)
    said["session_output"] = cpace.session_output(seen)
    said["key_up"], said["key_down"] = traffic_keys(said["isk"], said["session_output"])
    said["open"] = a.send(Open(NO_SESSION, 1, 1000, NOWHERE))
    heard(b, said["open"])
    said["opened"] = b.send(Opened(SESSION, 1000, 5000, NOWHERE, PORT))
    heard(a, said["opened"])
    a.send(Pong(5000, 1002))
    said["data"] = a.send(UpData(Channel.PTZ, 0, 1001, bytes.fromhex("81 01 06 04 ff")))
    return said


def heard(connection: Connection, data: bytes) -> None:
    connection.receive_data(data)
    while connection.next_event() is not None:
        pass


@pytest.mark.parametrize("name", sorted(worked()))
def test_the_document_shows_the_bytes_that_are_sent(name: str) -> None:
    assert SHOWN[name].hex(" ") == worked()[name].hex(" ")


def test_the_document_shows_nothing_else() -> None:
    assert SHOWN.keys() == worked().keys()


def rows(section: str) -> dict[int, str]:
    """The numbered rows of the first table behind a heading."""
    text = DOCUMENT[DOCUMENT.index(section) :]
    table = text[text.index("|") :].split("\n\n", 1)[0]
    return {int(number): name for number, name in re.findall(r"^\| (\d+) \| `?(\w+)", table, re.MULTILINE)}


def table(section: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    text = DOCUMENT[DOCUMENT.index(section) :]
    lines = text[text.index("|") :].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(
    ("section", "numbers"),
    [
        ("### Frame types", {code: re.sub("([a-z])([A-Z])", r"\1_\2", k.__name__) for code, k in FRAMES.items()}),
        ("### Reasons", {reason.value: reason.name for reason in Reason}),
        ("### Close reasons", {reason.value: reason.name for reason in CloseReason}),
        ("### Channels", {channel.value: channel.name for channel in Channel}),
        ("### Turn status", {status.value: status.name for status in TurnStatus}),
        ("### Reply kinds", {code.value: code.name for code in ReplyCode}),
        ("### A new key", {told.value: told.name for told in Told}),
        ("## 8. Pairing", {kind.value: kind.name for kind in pairing._Type}),
        ("### Turn phase", {phase.value: phase.name for phase in TurnPhase}),
    ],
)
def test_the_documents_numbers_are_the_codes(section: str, numbers: dict[int, str]) -> None:
    if section == "### Frame types":
        numbers |= {7: "Data"}
    assert rows(section) == {number: name.upper() for number, name in numbers.items()}


def test_the_document_shows_every_transition() -> None:
    table = DOCUMENT[DOCUMENT.index("### States") :]
    shown = set(re.findall(r"^\| (\w+) \| ([AB]) \| (\w+) \| (\w+) \|$", table, re.MULTILINE))
    code = {
        (state.name, PARTIES[party.value], rows("### Frame types")[kind.code], to.name)
        for state, moves in TRANSITIONS.items()
        for (party, kind), to in moves.items()
    }
    assert shown == code
    assert {state for state, *_ in shown} | {"CLOSED"} == {state.name for state in State}


def test_the_documents_diagram_is_drawn_from_the_table() -> None:
    drawn = re.search(r"```mermaid\n(.*?)```", DOCUMENT, re.DOTALL)
    assert drawn is not None
    shown = {
        (state, said[0], frame, to)
        for state, to, label in re.findall(r"^    (\w+) --> (\w+) : (.*)$", drawn[1], re.MULTILINE)
        for said in label.split(" / ")
        for frame in said[2:].split(", ")
    }
    code = {
        (state.name, PARTIES[party.value], rows("### Frame types")[kind.code], to.name)
        for state, moves in TRANSITIONS.items()
        for (party, kind), to in moves.items()
    }
    assert shown == code


def test_the_document_says_of_each_close_whether_each_side_may_say_it() -> None:
    may: dict[int, set[str]] = {reason.value: set() for reason in CloseReason}
    for party, states in CLOSES.items():
        for reason in frozenset[CloseReason]().union(*states.values()):
            may[reason.value].add(PARTIES[party.value])
    words = {"either": {"A", "B"}, "nobody": set[str]()}
    for number, _, who in (row[:3] for row in table("### Close reasons")):
        shown = words.get(who.split()[0].strip(",:"), set(re.findall(r"(?:^|; )([AB])\b", who)))
        assert shown == may[int(number)], who


def test_every_line_of_the_document_but_code_fits_a_screen() -> None:
    assert max(len(line) for line in DOCUMENT.splitlines() if not line.startswith("    ")) <= 120


def test_the_document_shows_who_says_what_on_which_channel() -> None:
    shown = table("### Who says what of a stream")
    code = {
        (rows("### Frame types")[kind.code], PARTIES[party.value], ", ".join(map(str, sorted(map(int, channels)))))
        for (party, kind), channels in CHANNELS.items()
    } | {("DATA", "B", "0")}  # its class has no other
    assert {tuple(row) for row in shown} == code


def test_the_document_says_who_says_each_close() -> None:
    said = {int(row[0]): row[2] for row in table("### Close reasons")}
    assert said.keys() == {reason.value for reason in CloseReason}
    assert all(re.match("A|B|either|nobody", who) for who in said.values())


def test_the_documents_times_and_limits_are_the_codes() -> None:
    assert {row[0]: row[1] for row in table("### Times and limits")} == VALUES


def test_both_sides_wait_for_each_other_equally_long() -> None:
    assert remote_device.RESUME_WINDOW == remote_service.RESUME_WINDOW
    assert AGE[Channel.TCP] == AGE[Channel.CGI]


def test_the_document_shows_the_record_that_is_announced() -> None:
    shown = re.search(r"```txt advert\n(.*?)```", DOCUMENT, re.DOTALL)
    assert shown is not None
    strings = [line.encode() for line in shown[1].splitlines()]
    text = b"".join(bytes([len(string)]) + string for string in strings)
    assert text == Advert(bytes([0x42]) * 16, 0, "blade-7", 1, True, VERSIONS, "cpu2").encode()
    for service in (SERVICE, PAIRING):
        assert f"`{service.removesuffix('.local.')}`" in DOCUMENT


def test_a_recorded_handshake_does_not_open_a_second_connection() -> None:
    said = worked()
    b = Connection(Acceptor(key_point("pelco123"), B_NODE, 0, "blade-7", bytes(range(1, 33))))
    heard(b, said["hello"])
    with pytest.raises(RemoteProtocolError):
        heard(b, said["confirm"])
