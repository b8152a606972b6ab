"""A telnet stream, cut to data, commands, negotiations and sub-negotiations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.telnet.decoder import (
    MAX_SUBNEGOTIATION,
    Code,
    Command,
    Cut,
    Data,
    Decoder,
    Negotiation,
    Subnegotiation,
    escaped,
    subnegotiation,
)

CASES: list[tuple[bytes, list[Cut]]] = [
    (b"abc", [Data(b"abc")]),
    (b"a\xff\xffx\xff\xff\xff\xffy", [Data(b"a\xffx\xff\xffy")]),
    (b"\r\0\r\n\0", [Data(b"\r\0\r\n\0")]),
    (b"a\xff\xf3b", [Data(b"a"), Command(Code.BREAK), Data(b"b")]),
    (b"\xff\xf1\xff\x07", [Command(241), Command(7)]),
    (b"\xff\xfb\x2c\xff\xfe\xff", [Negotiation(Code.WILL, 44), Negotiation(Code.DONT, 255)]),
    (b"\xff\xfa\x2c\x01\0\0\x25\x80\xff\xf0z", [Subnegotiation(44, b"\x01\0\0\x25\x80"), Data(b"z")]),
    (b"\xff\xfa\x2c\x0a\xff\xff\xff\xf0", [Subnegotiation(44, b"\x0a\xff")]),
    (b"\xff\xfa\x18\xff\xf0", [Subnegotiation(24, b"")]),
    (b"\xff\xfa\x2c\x05\xff\xf3d", [Command(Code.BREAK), Data(b"d")]),
    (b"\xff\xfa\x2c\x05\xff\xfb\0", [Negotiation(Code.WILL, 0)]),
    (b"\xff\xfa\x2c\x05\xff\xfa\x2c\x06\xff\xf0", [Subnegotiation(44, b"\x06")]),
    (b"\xff\xfc\0\r\0\0\r\n\r\r\0", [Negotiation(Code.WONT, 0), Data(b"\r\0\r\n\r\r")]),
    (b"\xff\xfc\0\r\xff\xff\0", [Negotiation(Code.WONT, 0), Data(b"\r\xff\0")]),
    (b"\xff\xfc\0\r\xff\xfb\0\0", [Negotiation(Code.WONT, 0), Data(b"\r"), Negotiation(Code.WILL, 0), Data(b"\0")]),
    (b"\xff\xfe\0\r\0", [Negotiation(Code.DONT, 0), Data(b"\r\0")]),
]
"""A stream, and what it says (RFC 854, RFC 855, RFC 856)."""

FRAGMENTS = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [b"\xff", b"\xff\xff", b"\xff\xfa", b"\xff\xf0", b"\xff\xfc\0", b"\xff\xfb\0", b"\r", b"\0", b"\r\0"]
    ),
    st.sampled_from([case for case, _ in CASES]),
)
STREAMS = st.lists(FRAGMENTS, max_size=20).map(b"".join)


def joined(cuts: list[Cut]) -> list[Cut]:
    """Put together the data that no other cut stands between."""
    out: list[Cut] = []
    for cut in cuts:
        if isinstance(cut, Data) and out and isinstance(out[-1], Data):
            out[-1] = Data(out[-1].data + cut.data)
        else:
            out.append(cut)
    return out


@pytest.mark.parametrize(("stream", "cuts"), CASES)
def test_a_stream_is_cut_alike_whole_and_byte_by_byte(stream: bytes, cuts: list[Cut]) -> None:
    assert Decoder().feed(stream) == cuts
    decoder = Decoder()
    assert joined([cut for byte in stream for cut in decoder.feed(bytes([byte]))]) == cuts


@given(STREAMS, st.lists(st.integers(0, 64), max_size=8))
def test_any_cuts_of_any_stream_say_the_same(stream: bytes, sizes: list[int]) -> None:
    decoder, at, cuts = Decoder(), 0, []
    for size in sizes:
        cuts += decoder.feed(stream[at : at + size])
        at += size
    cuts += decoder.feed(stream[at:])
    assert joined(cuts) == joined(Decoder().feed(stream))


@given(st.binary())
def test_whatever_is_escaped_comes_out_as_it_was(data: bytes) -> None:
    assert joined(Decoder().feed(escaped(data))) == ([Data(data)] if data else [])
    assert Decoder().feed(subnegotiation(44, data[:MAX_SUBNEGOTIATION])) == [
        Subnegotiation(44, data[:MAX_SUBNEGOTIATION])
    ]


def test_data_without_an_iac_is_not_copied_to_be_escaped() -> None:
    data = bytes(range(255))
    assert escaped(data) is data


def test_a_sub_negotiation_without_end_keeps_its_first_bytes_alone() -> None:
    decoder = Decoder()
    for _ in range(100):
        assert decoder.feed(b"\xff\xfa\x2c" + b"x" * 65_536) == []
    assert decoder.feed(b"\xff\xf0") == [Subnegotiation(44, b"x" * MAX_SUBNEGOTIATION)]
