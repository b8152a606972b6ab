"""docs/remote-port-protocol.md against the code: every byte that it shows, and every table of numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocol import cpace
from protocol.errors import RemoteProtocolError
from protocol.frames import FRAMES
from protocol.handshake import Answer, Call, key_point
from protocol.port_state import PortState
from protocol.reasons import CloseReason, Reason
from protocol.remote_port import TRANSITIONS, Connection, State
from protocol.secure import traffic_keys
from protocol.session import NO_SESSION
from protocol.session_frames import NOWHERE, Open, Opened, Pong
from protocol.stream_frames import Channel, UpData
from protocol.turns import TurnPhase, TurnStatus

DOCUMENT = (Path(__file__).parents[2] / "docs" / "remote-port-protocol.md").read_text()
SHOWN = {name: bytes.fromhex(data) for name, data in re.findall(r"```hex (\w+)\n(.*?)```", DOCUMENT, re.DOTALL)}

YA, YB, FRESH = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 80))
A_NODE, B_NODE, SESSION = b"A" * 16, b"B" * 16, b"S" * 16
PORT = PortState(0b1110, True, 9600, "", "9600 8N1 RS232", (B_NODE,))


def worked() -> dict[str, bytes]:
    """The document's example, computed anew."""
    point = key_point("pelco123")
    a = Connection(Call(point, A_NODE, 0, YA, FRESH))
    b = Connection(Answer(point, B_NODE, 0, "blade-7", YB))
    said = {"generator": point, "hello": a.data_to_send()}
    heard(b, said["hello"])
    said["hello_reply"] = b.data_to_send()
    heard(a, said["hello_reply"])
    said["confirm"] = a.data_to_send()
    heard(b, said["confirm"])
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


@pytest.mark.parametrize(
    ("section", "numbers"),
    [
        ("### Frame types", {code: re.sub("([a-z])([A-Z])", r"\1_\2", k.__name__) for code, k in FRAMES.items()}),
        ("### Reasons", {reason.value: reason.name for reason in Reason}),
        ("### Close reasons", {reason.value: reason.name for reason in CloseReason}),
        ("### Channels", {channel.value: channel.name for channel in Channel}),
        ("### Turn status", {status.value: status.name for status in TurnStatus}),
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
    parties = {"client": "A", "server": "B"}
    code = {
        (state.name, parties[party.value], "DATA" if kind.code == 7 else rows("### Frame types")[kind.code], to.name)
        for state, moves in TRANSITIONS.items()
        for (party, kind), to in moves.items()
        if state is not State.FAILED
    }
    assert shown == code


def test_a_recorded_handshake_does_not_open_a_second_connection() -> None:
    said = worked()
    b = Connection(Answer(key_point("pelco123"), B_NODE, 0, "blade-7", bytes(range(1, 33))))
    heard(b, said["hello"])
    with pytest.raises(RemoteProtocolError):
        heard(b, said["confirm"])
