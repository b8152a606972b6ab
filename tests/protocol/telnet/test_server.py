"""A server's end of RFC 2217, as its clients meet it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.telnet.com_port import Control, Request, SubCommand, encoded
from protocol.telnet.decoder import Data, escaped, subnegotiation
from protocol.telnet.notices import LineState, ModemState
from protocol.telnet.options import Option
from protocol.telnet.server import Answer, Break, Event, Flow, TelnetServer

COM_PORT = b"\xff\xfb\x2c"
"""WILL COM-PORT-OPTION."""


def asked(command: int, value: bytes = b"") -> bytes:
    return subnegotiation(Option.COM_PORT, bytes([command]) + value)


def connected() -> TelnetServer:
    server = TelnetServer("us")
    server.start()
    assert server.receive(COM_PORT) == [Answer(encoded(SubCommand.MODEM_STATE, 0))]
    return server


def joined(events: list[Event]) -> list[Event]:
    out: list[Event] = []
    for event in events:
        if isinstance(event, Data) and out and isinstance(out[-1], Data):
            out[-1] = Data(out[-1].data + event.data)
        else:
            out.append(event)
    return out


def test_a_client_that_only_asks_us_for_rfc_2217_speaks_it() -> None:
    server = TelnetServer("us")
    server.start()
    will = b"\xff\xfb\x2c"
    assert server.receive(b"\xff\xfd\x2c") == [Answer(will + encoded(SubCommand.MODEM_STATE, 0))]
    assert server.receive(COM_PORT) == []
    assert server.modem(ModemState.CTS) == encoded(SubCommand.MODEM_STATE, 0x11)


def test_data_is_transparent_both_ways() -> None:
    server = connected()
    every = bytes(range(256))
    assert server.receive(escaped(every)) == [Data(every)]
    assert server.data(b"a\xffb") == b"a\xff\xffb"


def test_controls_stand_between_the_bytes_that_they_were_sent_between() -> None:
    stream = b"one" + asked(5, b"\x08") + b"two\xff\xf3three" + asked(1, b"\0\0\x25\x80")
    assert connected().receive(stream) == [
        Data(b"one"),
        Request(SubCommand.CONTROL, Control.DTR_ON),
        Data(b"two"),
        Break(),
        Data(b"three"),
        Request(SubCommand.RATE, 9600),
    ]


@pytest.mark.parametrize(
    ("stream", "answer"),
    [
        (asked(0), encoded(SubCommand.SIGNATURE, b"us")),
        (asked(0, b"a client"), encoded(SubCommand.SIGNATURE, b"us")),
        (asked(6), encoded(SubCommand.LINE_STATE, 0)),
        (asked(7), encoded(SubCommand.MODEM_STATE, 0)),
        (asked(10, b"\x1e"), encoded(SubCommand.LINE_MASK, 0x1E)),
        (asked(10), encoded(SubCommand.LINE_MASK, 0)),
        (asked(11, b"\x10"), encoded(SubCommand.MODEM_MASK, 0x10)),
        (asked(11, b"too long"), encoded(SubCommand.MODEM_MASK, 255)),
        (b"\xff\xf6", b"\r\n[yes]\r\n"),
        (b"\xff\xfb\x1f", b"\xff\xfe\x1f"),
    ],
)
def test_what_concerns_the_connection_alone_is_answered_at_once(stream: bytes, answer: bytes) -> None:
    assert connected().receive(stream) == [Answer(answer)]


@pytest.mark.parametrize(
    "stream", [b"\xff\xf1", COM_PORT, asked(99), subnegotiation(31, b"\0\x50\0\x18"), b"\xff\xfd\x01"]
)
def test_what_says_nothing_new_is_passed_over(stream: bytes) -> None:
    assert connected().receive(stream) == []


def test_a_control_that_nobody_knows_is_answered_as_a_question() -> None:
    (request,) = connected().receive(asked(5, b"\x63"))
    assert request == Request(SubCommand.CONTROL, Control.ASK_FLOW)


def test_an_answer_carries_the_value_in_force() -> None:
    (request,) = connected().receive(asked(1, b"\0\0\x30\x39"))
    assert isinstance(request, Request)
    assert connected().answer(request, 9600) == encoded(SubCommand.RATE, 9600)


def test_a_client_that_refuses_binary_sends_a_nul_behind_a_carriage_return() -> None:
    assert connected().receive(b"\xff\xfc\0a\r\0") == [Data(b"a\r")]
    assert connected().receive(b"a\r\0") == [Data(b"a\r\0")]


# -- notices


def test_a_change_of_a_modem_line_is_told_once() -> None:
    server = connected()
    assert server.modem(ModemState.CTS | ModemState.DSR) == encoded(SubCommand.MODEM_STATE, 0x33)
    assert server.modem(ModemState.CTS | ModemState.DSR) == b""
    assert server.modem(ModemState.CTS) == encoded(SubCommand.MODEM_STATE, 0x12)
    assert server.receive(asked(7)) == [Answer(encoded(SubCommand.MODEM_STATE, 0x10))]


def test_a_ring_shows_its_end_as_a_change() -> None:
    server = connected()
    assert server.modem(ModemState.RI) == encoded(SubCommand.MODEM_STATE, 0x40)
    assert server.modem(ModemState(0)) == encoded(SubCommand.MODEM_STATE, 0x04)


def test_a_mask_keeps_notices_back() -> None:
    server = connected()
    server.receive(asked(11, b"\x80"))
    assert server.modem(ModemState.CTS) == b""
    assert server.modem(ModemState.CTS | ModemState.DCD) == encoded(SubCommand.MODEM_STATE, 0x80)


def test_events_of_the_line_are_told_to_who_asked_for_them() -> None:
    server = connected()
    assert server.line(LineState.BREAK) == b""
    server.receive(asked(10, b"\x10"))
    assert server.line(LineState.BREAK | LineState.PARITY) == encoded(SubCommand.LINE_STATE, 0x10)
    assert server.line(LineState.PARITY) == b""


def test_a_client_without_the_com_port_option_is_told_of_nothing() -> None:
    server = TelnetServer("us")
    server.start()
    assert server.modem(ModemState.CTS) == b""
    assert server.line(LineState.BREAK) == b""


def test_a_suspended_client_is_told_the_newest_state_when_it_resumes() -> None:
    server = connected()
    server.receive(asked(10, b"\xff"))
    assert server.receive(asked(8)) == [Flow(suspended=True)]
    assert server.suspended
    assert server.modem(ModemState.CTS) == b""
    assert server.modem(ModemState.DSR) == b""
    assert server.line(LineState.BREAK) == b""
    assert server.line(LineState.PARITY) == b""
    due = encoded(SubCommand.MODEM_STATE, 0x22) + encoded(SubCommand.LINE_STATE, 0x14)
    assert server.receive(asked(9)) == [Answer(due), Flow(suspended=False)]
    assert not server.suspended
    assert server.receive(asked(9)) == [Flow(suspended=False)]


def test_a_suspended_client_is_answered_all_the_same() -> None:
    server = connected()
    server.receive(asked(8))
    assert server.receive(asked(0)) == [Answer(encoded(SubCommand.SIGNATURE, b"us"))]


# -- any bytes

RECORDED = [
    b"\xff\xfd\x01\xff\xfb\x03\xff\xfd\x03\xff\xfb\x2c\xff\xfd\x2c\xff\xfb\0",
    b"".join(
        asked(n, value) for n, value in [(1, b"\0\0\x25\x80"), (2, b"\x08"), (3, b"\x01"), (4, b"\x01"), (5, b"\x01")]
    ),
    asked(10, b"\xff") + asked(11, b"\xff\xff") + asked(8) + b"data" + asked(9) + asked(12, b"\x03"),
    b"\xff\xfc\0text\r\0\r\n\xff\xff\xff\xf3\xff\xf6",
    asked(0, b"x" * 300) + asked(5, b"\x05") + asked(5, b"\x06"),
]
"""As clients say it."""

FRAGMENTS = st.one_of(
    st.binary(max_size=12), st.sampled_from(RECORDED), st.sampled_from([b"\xff", b"\xff\xfa\x2c", b"\xff\xf0"])
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw what clients say, in any order, with some bytes changed."""
    stream = bytearray(b"".join(draw(st.lists(FRAGMENTS, max_size=10))))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)):
        if at < len(stream):
            stream[at] = byte
    return bytes(stream)


@given(streams(), st.lists(st.integers(1, 80), max_size=8))
def test_any_bytes_in_any_cuts_are_equal_events_within_bounds(stream: bytes, sizes: list[int]) -> None:
    whole, split, single = connected(), connected(), connected()
    events = whole.receive(stream)
    for server, pieces in ((split, sizes), (single, [1] * len(stream))):
        got: list[Event] = []
        at = 0
        for size in pieces:
            got += server.receive(stream[at : at + size])
            at += size
        assert joined(got + server.receive(stream[at:])) == joined(events)
        assert (server.suspended, server.has_com_port) == (whole.suspended, whole.has_com_port)
    said = sum(len(event.data) for event in events if isinstance(event, Answer))
    assert said <= 3 * len(stream) + 64
    assert sum(len(event.data) for event in events if isinstance(event, Data)) <= len(stream)
    for event in events:
        if isinstance(event, Request):
            assert event.value is None or 0 <= event.value < 2**32
            whole.answer(event, event.value or 0)
    whole.modem(ModemState.CTS)
    whole.line(LineState.BREAK)
