"""Where frames of Modbus RTU end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sharing import modbus_rtu
from protocol.sharing.modbus_rtu import crc, find_reply, framed, has_crc, request_length, shortest_frame
from tests.protocol.sharing.frames import EXCHANGES, OWN, READ, READ_REPLY

BOTH = EXCHANGES | OWN


def test_the_crc_is_that_of_the_standard() -> None:
    assert crc(b"\x02\x07") == 0x1241  # Modbus over serial line V1.02, 6.2.2
    assert framed(READ[:-2]) == READ


@pytest.mark.parametrize("name", BOTH)
def test_every_frame_of_the_standards_has_its_crc(name: str) -> None:
    assert all(has_crc(frame) for frame in BOTH[name])


def test_what_is_too_short_or_too_long_is_no_frame() -> None:
    assert not has_crc(b"")
    assert not has_crc(framed(b"\x01"))
    assert has_crc(framed(bytes([1, 65])))
    assert has_crc(framed(bytes(254)))
    assert not has_crc(framed(bytes(255)))


@pytest.mark.parametrize("name", [name for name in EXCHANGES if name != "return query data"])
def test_a_request_tells_its_length_as_soon_as_it_can(name: str) -> None:
    request, _ = EXCHANGES[name]
    known = [request_length(request[:size]) for size in range(len(request) + 1)]
    assert set(known) == {None, len(request)}
    assert known == sorted(known, key=lambda length: length is not None)
    assert known[min(len(request), 11)] == len(request)


@pytest.mark.parametrize("name", ["return query data", "CANopen over Modbus", "somebody's own function"])
def test_a_request_of_unknown_form_does_not_tell_its_length(name: str) -> None:
    request, _ = BOTH[name]
    assert request_length(request) == 0


@pytest.mark.parametrize("function", [0, 128, 131, 255])
def test_no_request_has_the_function_code_of_an_exception_or_none(function: int) -> None:
    assert request_length(bytes([1, function])) == -1


def test_a_request_that_would_be_longer_than_a_frame_is_none() -> None:
    assert request_length(bytes([1, 16, 0, 0, 0, 0, 247])) == 256
    assert request_length(bytes([1, 16, 0, 0, 0, 0, 248])) == -1


@given(st.binary(max_size=300))
def test_the_shortest_frame_is_the_first_that_has_its_crc(data: bytes) -> None:
    frame = framed(data)
    assert shortest_frame(frame) == next((size for size in range(4, 257) if has_crc(frame[:size])), 0)


def test_a_broadcast_has_no_reply() -> None:
    assert not modbus_rtu.expects_reply(framed(bytes([0, 5, 0, 1, 255, 0])))
    assert modbus_rtu.expects_reply(READ)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_reply_ends_with_its_last_byte(name: str) -> None:
    request, reply = EXCHANGES[name]
    for size in range(len(reply)):
        assert find_reply(request, reply[:size], silent=True) is None
    assert find_reply(request, reply) == slice(0, len(reply))
    assert find_reply(request, reply + READ_REPLY) == slice(0, len(reply))


@pytest.mark.parametrize("name", OWN)
def test_a_reply_of_unknown_form_ends_by_silence(name: str) -> None:
    request, reply = OWN[name]
    for size in range(len(reply)):
        assert find_reply(request, reply[:size], silent=True) is None
    assert find_reply(request, reply) is None
    assert find_reply(request, reply, silent=True) == slice(0, len(reply))
    assert find_reply(request, b"\xff" + reply, silent=True) == slice(1, 1 + len(reply))


@pytest.mark.parametrize("name", BOTH)
def test_an_exception_ends_every_reply(name: str) -> None:
    request, _ = BOTH[name]
    exception = framed(bytes([request[0], request[1] | 0x80, 2]))
    assert find_reply(request, exception) == slice(0, 5)
    assert find_reply(request, exception[:-1]) is None


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_late_word_of_another_unit_is_no_part_of_a_reply(name: str) -> None:
    request, reply = EXCHANGES[name]
    late = framed(bytes([request[0] + 1, 3, 2, 0, 7]))
    assert find_reply(request, late) is None
    assert find_reply(request, late + reply) == slice(len(late), len(late + reply))
    assert modbus_rtu.reply_start(request, late + reply) == len(late)
    assert modbus_rtu.reply_start(request, late) == len(late)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_reply_with_a_bit_that_flipped_is_none(name: str) -> None:
    request, reply = EXCHANGES[name]
    for bit in range(8 * len(reply)):
        wrong = bytearray(reply)
        wrong[bit // 8] ^= 1 << bit % 8
        assert find_reply(request, bytes(wrong)) is None


def test_a_wrong_reply_is_left_behind_and_the_beginning_of_one_is_not() -> None:
    wrong = READ_REPLY[:-1] + b"\0"
    assert modbus_rtu.reply_start(READ, wrong + READ_REPLY[:4]) == len(wrong)
    assert modbus_rtu.reply_start(READ, READ_REPLY) == 0
    assert modbus_rtu.reply_start(READ, READ_REPLY[:1]) == 0
    assert modbus_rtu.reply_start(READ, b"") == 0


def test_a_reply_that_would_be_longer_than_a_frame_is_none() -> None:
    assert modbus_rtu.reply_start(READ, b"\x11\x03\xfb") == 0
    assert modbus_rtu.reply_start(READ, b"\x11\x03\xfc") == 3
    fifo = framed(b"\x11\x18\x04\xde")
    assert modbus_rtu.reply_start(fifo, b"\x11\x18\xff\xff") == 4


@given(st.binary(max_size=3), st.binary(max_size=300))
def test_what_is_no_request_has_no_reply(request: bytes, heard: bytes) -> None:
    assert find_reply(request, heard, silent=True) is None
    assert modbus_rtu.reply_start(request, heard) == len(heard)


@given(st.sampled_from([*BOTH.values()]), st.binary(max_size=300), st.binary(max_size=20), st.booleans())
def test_whatever_is_heard_a_reply_is_a_frame_of_the_unit_or_none(
    exchange: tuple[bytes, bytes], before: bytes, after: bytes, silent: bool
) -> None:
    request, reply = exchange
    heard = before + reply + after
    found = find_reply(request, heard, silent=silent)
    start = modbus_rtu.reply_start(request, heard)
    assert 0 <= start <= len(heard)
    if found is not None:
        frame = heard[found]
        assert has_crc(frame)
        assert frame[0] == request[0]
        assert frame[1] & 0x7F == request[1]
        assert start <= found.start
