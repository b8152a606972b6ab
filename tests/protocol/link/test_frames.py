from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.link.frames import FRAMES, Frame, decode
from protocol.link.header import Parts
from protocol.link.hello import Confirm, Hello, HelloReply
from protocol.link.message_rules import MAX_MESSAGE
from protocol.link.port_state import MAX_PATH, PortState, encode_text
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import Close, Open, Opened, Ping, Pong, Port, Position
from protocol.link.stream_frames import (
    MAX_DATA,
    Ack,
    Channel,
    Credit,
    DownData,
    Gap,
    Lost,
    Turn,
    UpData,
)
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
u64 = st.integers(0, 2**64 - 1)
offsets = st.integers(0, 2**64 - 1 - MAX_DATA)
sixteen, tags, shares = (st.binary(min_size=size, max_size=size) for size in (16, 64, 32))
texts = st.text(max_size=60)
channels = st.sampled_from(Channel)
classes = st.sampled_from([Channel.PTZ, Channel.TCP, Channel.CGI])
positions = st.tuples(*[st.builds(Position, u64, u64)] * 4)
ports = st.builds(PortState, u8, st.booleans(), u32, texts, texts, st.lists(sixteen, max_size=MAX_PATH).map(tuple))
turns = st.builds(TurnParameters, u16, st.binary(max_size=249), u32)
ranges = (channels, offsets, st.integers(1, MAX_DATA), st.sampled_from(Reason))

frames = st.one_of(
    st.builds(Hello, shares, st.lists(u8, max_size=4).map(tuple), sixteen, u8, sixteen),
    st.builds(HelloReply, shares, u8, sixteen, u8, texts, tags),
    st.builds(Confirm, tags),
    st.builds(Close, st.sampled_from(CloseReason), positions, u64),
    st.builds(Open, sixteen, u64, u32, positions),
    st.builds(Opened, sixteen, u32, u32, positions, ports),
    st.builds(UpData, classes, offsets, u32, st.binary(min_size=1, max_size=99), turns | st.none(), st.booleans()),
    st.builds(DownData, offsets, st.binary(min_size=1, max_size=99)),
    st.builds(Ack, channels, u64),
    st.builds(Credit, channels, u64),
    st.builds(Gap, *ranges),
    st.builds(Lost, *ranges),
    st.builds(Port, ports),
    st.builds(Turn, classes, u64, st.sampled_from(TurnPhase), st.sampled_from(TurnStatus)),
    st.builds(Ping, u32),
    st.builds(Pong, u32, u32),
)
parts = st.builds(Parts, st.binary(max_size=200), st.integers(0, 5), st.integers(0, 3), u64)


@given(frames)
def test_a_frame_is_read_as_it_was_written(frame: Frame) -> None:
    assert decode(frame.code, frame.parts()) == frame


@given(st.integers(0, 0x4F), parts)
def test_any_bytes_are_a_frame_with_exactly_these_bytes_or_an_error(code: int, given_parts: Parts) -> None:
    try:
        frame = decode(code, given_parts)
    except RemoteProtocolError:
        return
    assert code >= 0x40 if frame is None else frame.parts() == given_parts


@given(frames, st.data())
def test_a_frame_with_another_byte_is_another_frame_or_an_error(frame: Frame, data: st.DataObject) -> None:
    payload = bytearray(frame.parts().payload + b"\0")
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(frame.code, frame.parts()._replace(payload=bytes(payload)))
    except RemoteProtocolError:
        return
    assert other != frame


def test_every_type_has_its_number() -> None:
    assert sorted(FRAMES) == list(range(1, 16))


@pytest.mark.parametrize("code", [0, 16, 0x3F])
def test_an_unknown_type_below_0x40_is_an_error(code: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"no frame of type {code:#04x}"):
        decode(code, Parts())


@pytest.mark.parametrize("code", [0x40, 0xFF])
def test_an_unknown_type_from_0x40_up_is_ignored(code: int) -> None:
    assert decode(code, Parts(b"whatever", 9, 9, 9)) is None


@pytest.mark.parametrize(
    ("code", "refused", "why"),
    [
        (14, Parts(b"\0\0\0\1", flags=1), "another form"),
        (14, Parts(b"\0\0\0\1", channel=1), "another form"),
        (14, Parts(b"\0\0\0\1", offset=1), "another form"),
        (14, Parts(b"\0\0\0\1\0"), "a bad Ping"),
        (7, Parts(b""), "0 bytes from offset 0"),
        (7, Parts(bytes(MAX_DATA + 1)), "at most 16384"),
        (7, Parts(b"x", offset=2**64 - 1), "no range of a stream"),
        (7, Parts(bytes(5) + bytes(MAX_MESSAGE + 1), channel=1), "at most 8192"),
        (7, Parts(b"\0\0\0\0\1x", channel=1), "a bad DownData"),
        (7, Parts(bytes(6), channel=4), "4 is not a valid Channel"),
        (10, Parts(bytes(8) + b"\1", channel=1), "0 bytes from"),
        (10, Parts(bytes(8) + b"\x63"), "99 is not a valid Reason"),
        (3, Parts(bytes(63)), "a tag has 64 bytes"),
        (12, Parts(bytes([0, 2, 0, 0, 0, 0, 0, 0])), "another form"),
        (12, Parts(bytes(8) + bytes(15)), "node ids of 16 bytes"),
        (12, Parts(bytes(8) + bytes(16 * 9)), "at most 8 node ids"),
        (12, Parts(bytes(6) + b"\2\xff\xfe\0"), "a bad Port"),
        (12, Parts(bytes(6) + b"\2x"), "a bad Port"),
    ],
)
def test_a_refusal_says_what_is_wrong(code: int, refused: Parts, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        decode(code, refused)


def test_a_gap_of_unknown_size_stands_on_the_line_alone() -> None:
    unknown = Gap(Channel.LINE, 7, 0, Reason.RESTARTED)
    assert decode(unknown.code, unknown.parts()) == unknown


def test_a_text_is_cut_between_two_characters() -> None:
    assert encode_text("é" * 200) == bytes([254]) + "é".encode() * 127
