"""Modbus TCP in front of an RTU line."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sharing.modbus_rtu import framed, has_crc
from protocol.sharing.modbus_tcp import MAX_ADU, MAX_PDU, MbapDecoder, ModbusException, TcpRequest
from tests.protocol.sharing.frames import EXCHANGES, OWN, READ, READ_REPLY

ADU = bytes.fromhex("15 01 00 00 00 06 ff 04 00 00 00 01")  # Modbus messaging on TCP/IP V1.0b, 4.4.2.1 (length 6)
REQUEST = TcpRequest(0x1501, 0xFF, bytes.fromhex("04 00 00 00 01"))
BOTH = EXCHANGES | OWN


def adu(transaction: int, frame: bytes) -> bytes:
    return struct.pack("!HHH", transaction, 0, len(frame) - 2) + frame[:-2]


def test_the_request_of_the_standard_is_read_whole_and_byte_by_byte() -> None:
    assert MbapDecoder().feed(ADU) == [REQUEST]
    decoder = MbapDecoder()
    assert [request for byte in ADU for request in decoder.feed(bytes([byte]))] == [REQUEST]
    assert decoder.waiting == 0
    assert decoder.broken is None


def test_one_read_may_bring_several_requests_and_a_half() -> None:
    decoder = MbapDecoder()
    assert decoder.feed(2 * ADU + ADU[:9]) == [REQUEST, REQUEST]
    assert decoder.waiting == 9
    assert decoder.feed(ADU[9:]) == [REQUEST]


@pytest.mark.parametrize("header", ["15 01 00 01 00 06", "15 01 00 00 00 00", "15 01 00 00 00 01", "15 01 00 00 00 ff"])
def test_behind_a_header_that_makes_no_sense_nothing_is_read(header: str) -> None:
    decoder = MbapDecoder()
    assert decoder.feed(ADU + bytes.fromhex(header) + ADU) == [REQUEST]
    assert decoder.broken is not None
    assert decoder.feed(ADU) == []
    assert decoder.waiting == 0


def test_the_shortest_and_the_longest_request_are_read() -> None:
    for size in (1, MAX_PDU):
        data = struct.pack("!HHHB", 1, 0, 1 + size, 5) + bytes(size)
        assert len(data) <= MAX_ADU
        assert MbapDecoder().feed(data) == [TcpRequest(1, 5, bytes(size))]


@pytest.mark.parametrize("name", BOTH)
def test_each_exchange_of_the_standards_goes_there_and_back(name: str) -> None:
    frame, reply = BOTH[name]
    [request] = MbapDecoder().feed(adu(0xABCD, frame))
    assert request.rtu == frame
    assert request.fault is None
    assert request.answer(reply) == adu(0xABCD, reply)
    assert request.answer(b"\xff" + reply) == adu(0xABCD, reply)


@pytest.mark.parametrize("name", BOTH)
def test_what_is_no_reply_is_no_answer(name: str) -> None:
    frame, reply = BOTH[name]
    [request] = MbapDecoder().feed(adu(7, frame))
    none = struct.pack("!HHHBBB", 7, 0, 3, frame[0], frame[1] | 0x80, 0x0B)
    assert request.answer(b"") == none
    assert request.answer(reply[:-1]) == none
    assert request.answer(framed(bytes([frame[0] ^ 1]) + reply[1:-2])) == none


def test_a_refusal_says_why() -> None:
    assert REQUEST.refuse(ModbusException.NO_PATH) == bytes.fromhex("15 01 00 00 00 03 ff 84 0a")


@pytest.mark.parametrize(
    ("pdu", "fault"),
    [
        ("00", ModbusException.FUNCTION),
        ("80 01", ModbusException.FUNCTION),
        ("ff", ModbusException.FUNCTION),
        ("03 00 00 00", ModbusException.VALUE),
        ("03 00 00 00 01 00", ModbusException.VALUE),
        ("10", ModbusException.VALUE),
        ("10 00 01 00 02 05 00 0a 01 02", ModbusException.VALUE),
        ("10 00 01 00 02 ff 00 0a 01 02", ModbusException.VALUE),
        ("41 01 02 03 04 05", None),
    ],
)
def test_a_request_that_no_unit_could_read_is_refused_here(pdu: str, fault: ModbusException | None) -> None:
    assert TcpRequest(1, 5, bytes.fromhex(pdu)).fault is fault


def test_a_late_reply_to_another_unit_is_passed_over() -> None:
    [request] = MbapDecoder().feed(adu(9, READ))
    assert request.answer(framed(b"\x12\x03\x02\x00\x01") + READ_REPLY) == adu(9, READ_REPLY)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([adu(1, frame) for frame, _ in BOTH.values()]),
            st.tuples(
                st.integers(0, 65535), st.sampled_from([0, 0, 0, 1]), st.integers(0, 300), st.binary(max_size=260)
            ).map(lambda each: struct.pack("!HHH", *each[:3]) + each[3]),
            st.binary(max_size=20),
        ),
        max_size=6,
    ).map(b"".join),
    st.lists(st.integers(0, 1500), max_size=6),
    st.binary(max_size=300),
)
def test_any_bytes_are_the_same_requests_whatever_the_cuts_and_each_has_one_answer(
    data: bytes, places: list[int], heard: bytes
) -> None:
    whole, cut = MbapDecoder(), MbapDecoder()
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    requests = whole.feed(data)
    assert [each for a, b in itertools.pairwise(edges) for each in cut.feed(data[a:b])] == requests
    assert (cut.broken, cut.waiting) == (whole.broken, whole.waiting)
    assert cut.waiting < MAX_ADU
    for request in requests:
        assert has_crc(request.rtu)
        [answer] = MbapDecoder().feed(request.answer(heard))
        assert (answer.transaction, answer.unit) == request[:2]
        assert answer.pdu[0] & 0x7F == request.pdu[0] & 0x7F
