"""A byte stream cut to requests."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.sharing.modbus_rtu import framed
from protocol.sharing.piece import Piece
from protocol.sharing.request_splitter import MAX_RUN, PATIENCE, RequestSplitter
from protocol.sharing.turn_rule import TurnRule
from tests.protocol.sharing.frames import EXCHANGES, OWN, READ, VISCA_EXCHANGES

MODBUS, VISCA = TurnRule("modbus-rtu"), TurnRule("visca")
BROADCAST = framed(bytes([0, 5, 0, 1, 255, 0]))
MODBUS_REQUESTS = [request for request, _ in (EXCHANGES | OWN).values()] + [BROADCAST]
VISCA_REQUESTS = [request for request, _ in VISCA_EXCHANGES.values()]


def split(rule: TurnRule, *reads: bytes, pause: float = 0.01) -> tuple[list[bytes], int]:
    """Read, wait for a pause each time and at last for patience; return the requests and the count of rubbish."""
    splitter = RequestSplitter(rule)
    now, found = 100.0, []
    for read in reads:
        found += splitter.feed(read, now)
        now += pause
        found += splitter.expire(now)
    found += splitter.expire(now + PATIENCE)
    assert splitter.waiting == 0
    assert splitter.deadline is None
    return [piece.data for piece in found], splitter.rubbish


@pytest.mark.parametrize("request_", MODBUS_REQUESTS)
def test_each_request_of_modbus_is_one_whole_and_byte_by_byte(request_: bytes) -> None:
    assert split(MODBUS, request_) == ([request_], 0)
    assert split(MODBUS, *(bytes([byte]) for byte in request_)) == ([request_], 0)


@pytest.mark.parametrize("request_", VISCA_REQUESTS)
def test_each_request_of_visca_is_one_whole_and_byte_by_byte(request_: bytes) -> None:
    assert split(VISCA, request_) == ([request_], 0)
    assert split(VISCA, *(bytes([byte]) for byte in request_)) == ([request_], 0)


def test_a_whole_request_goes_at_once() -> None:
    splitter = RequestSplitter(MODBUS)
    assert splitter.feed(READ, 5.0) == [Piece(READ, 5.0)]
    assert splitter.deadline is None


def test_one_read_may_bring_three_requests_and_a_half() -> None:
    splitter = RequestSplitter(MODBUS)
    assert [piece.data for piece in splitter.feed(3 * READ + READ[:4], 5.0)] == [READ] * 3
    assert splitter.waiting == 4
    assert splitter.deadline == 5.0 + PATIENCE
    assert splitter.feed(READ[4:] + READ[:1], 5.1) == [Piece(READ, 5.0)]
    assert splitter.feed(READ[1:], 5.2) == [Piece(READ, 5.1)]


def test_the_age_of_a_request_counts_from_its_first_byte() -> None:
    splitter = RequestSplitter(VISCA)
    assert splitter.feed(b"\x81\x01", 5.0) == []
    assert splitter.feed(b"\x06\x04\xff\x81\x09\x04\x47\xff\x81", 5.2) == [
        Piece(b"\x81\x01\x06\x04\xff", 5.0),
        Piece(b"\x81\x09\x04\x47\xff", 5.2),
    ]
    assert splitter.feed(b"\x09\x04\x47\xff", 5.3) == [Piece(b"\x81\x09\x04\x47\xff", 5.2)]


@pytest.mark.parametrize(("rule", "request_"), [(MODBUS, READ), (VISCA, VISCA_REQUESTS[0])])
def test_the_half_of_a_request_is_given_up_after_patience(rule: TurnRule, request_: bytes) -> None:
    splitter = RequestSplitter(rule)
    assert splitter.feed(request_[:3], 5.0) == []
    assert splitter.expire(5.0 + PATIENCE - 0.001) == []
    assert splitter.waiting == 3
    assert splitter.feed(request_, 5.0 + PATIENCE) == [Piece(request_, 5.0 + PATIENCE)]
    assert splitter.rubbish == 3


def test_time_in_which_nobody_read_the_client_is_no_silence() -> None:
    splitter = RequestSplitter(MODBUS)
    splitter.feed(READ[:3], 5.0)
    splitter.resume(8.0)
    assert splitter.deadline == 8.0 + PATIENCE
    assert splitter.feed(READ[3:], 8.1) == [Piece(READ, 5.0)]
    assert splitter.rubbish == 0


def test_a_request_behind_the_half_of_one_is_found() -> None:
    assert split(MODBUS, READ[:4], READ) == ([READ], 4)
    assert split(MODBUS, b"\x11", READ) == ([READ], 1)


def test_a_client_that_leaves_gives_up_the_half_of_a_request() -> None:
    splitter = RequestSplitter(MODBUS)
    assert splitter.finish() == []
    long_write = b"\x11\x10\x00\x01\x00\x10\x20"
    assert splitter.feed(long_write + READ, 5.0) == []
    assert splitter.finish() == [Piece(READ, 5.0)]
    assert splitter.rubbish == len(long_write)


def test_rubbish_before_between_and_behind_is_dropped_and_counted() -> None:
    assert split(MODBUS, b"\xff\xff" + READ + b"\xfe" + READ + b"\xff") == ([READ, READ], 4)
    assert split(VISCA, b"\x00\x99" + VISCA_REQUESTS[0] + b"\xff" + VISCA_REQUESTS[1]) == (VISCA_REQUESTS[:2], 3)


@pytest.mark.parametrize("at", range(len(READ)))
def test_a_request_with_a_wrong_byte_is_rubbish(at: int) -> None:
    wrong = bytearray(READ)
    wrong[at] ^= 0x01
    requests, rubbish = split(MODBUS, bytes(wrong), READ)
    assert requests == [READ]
    assert rubbish == len(READ)


def test_a_packet_that_is_too_long_or_too_short_is_rubbish() -> None:
    assert split(VISCA, b"\x81" + bytes(14) + b"\xff") == ([b"\x81" + bytes(14) + b"\xff"], 0)
    assert split(VISCA, b"\x81" + bytes(15) + b"\xff") == ([], 17)
    assert split(VISCA, b"\x81\xff") == ([], 2)


def test_two_requests_of_unknown_form_in_one_read_are_told_apart_by_silence() -> None:
    own = framed(b"\x11\x41\x01\x02")
    splitter = RequestSplitter(MODBUS)
    assert splitter.feed(own + own, 5.0) == []
    assert [piece.data for piece in splitter.expire(5.0 + PATIENCE)] == [own, own]
    assert splitter.rubbish == 0


def test_the_longest_request_of_unknown_form_is_one() -> None:
    longest = framed(b"\x11\x41" + bytes(252))
    assert split(MODBUS, longest) == ([longest], 0)
    requests, _ = split(MODBUS, b"\x11\x41" + bytes([1]) * 300, READ, pause=PATIENCE)
    assert requests == [READ]


def test_a_stream_of_another_protocol_costs_a_look_a_read() -> None:
    splitter = RequestSplitter(MODBUS)
    assert splitter.feed(b"\xff" * 10_000, 5.0) == []
    assert splitter.rubbish == 10_000
    # A request is found again where a read begins with it, and behind rubbish only after a pause.
    assert splitter.feed(b"\xff" + READ, 5.01) == []
    assert splitter.feed(READ + b"\xff" + READ, 5.02) == [Piece(READ, 5.02), Piece(READ, 5.02)]
    assert splitter.feed(b"\xff" * (MAX_RUN + 1), 5.03) == []
    assert splitter.feed(b"\xff" + READ, 5.03 + PATIENCE) == [Piece(READ, 5.03 + PATIENCE)]


@pytest.mark.parametrize("rule", [TurnRule("silence"), TurnRule("none"), TurnRule("line", end=b"\n")])
def test_where_the_rule_knows_no_requests_each_read_is_one(rule: TurnRule) -> None:
    splitter = RequestSplitter(rule)
    assert splitter.feed(b"*IDN?\n*RST", 5.0) == [Piece(b"*IDN?\n*RST", 5.0)]
    assert splitter.feed(b"", 5.0) == []
    assert splitter.deadline is None
    assert splitter.rubbish == 0


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


FRAGMENTS = st.one_of(
    st.sampled_from(MODBUS_REQUESTS + VISCA_REQUESTS),
    st.sampled_from(MODBUS_REQUESTS + VISCA_REQUESTS).flatmap(
        lambda request: st.integers(0, len(request)).map(lambda size: request[:size])
    ),
    st.binary(max_size=300),
)


@given(
    st.sampled_from([MODBUS, VISCA]),
    st.lists(FRAGMENTS, max_size=8).map(b"".join),
    st.lists(st.integers(0, 2000), max_size=6),
    st.sampled_from([0.0, 0.01, PATIENCE]),
)
@example(MODBUS, b"\x11\x10\x00\x01\x00\x10\x20" + READ, [], 0.01)
def test_any_bytes_in_any_cuts_are_requests_in_order_and_rubbish(
    rule: TurnRule, data: bytes, places: list[int], pause: float
) -> None:
    splitter = RequestSplitter(rule)
    now, pieces = 100.0, []
    for read in cut(data, places):
        pieces += splitter.feed(read, now)
        assert splitter.waiting <= 256
        now += pause
        due = splitter.deadline
        assert due is None or now - pause < due <= now + PATIENCE
        pieces += splitter.expire(now)
    pieces += splitter.finish()
    assert splitter.waiting == 0
    assert splitter.rubbish + sum(len(piece.data) for piece in pieces) == len(data)
    ages = [piece.accepted for piece in pieces]
    assert ages == sorted(ages)
    assert all(100.0 <= age <= now for age in ages)
    # Every request is one by itself, and they stand in the stream in this order.
    at = 0
    for piece in pieces:
        assert split(rule, piece.data) == ([piece.data], 0)
        at = data.index(piece.data, at) + len(piece.data)


@given(st.lists(st.sampled_from([request for request, _ in EXCHANGES.values()]), max_size=6), st.data())
def test_requests_of_known_form_are_found_whatever_the_cuts(requests: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(requests)
    places = data.draw(st.lists(st.integers(0, 500), max_size=12))
    known = [request for request in requests if request[1] != 8]
    if known == requests:
        assert split(MODBUS, *cut(stream, places)) == (requests, 0)


@given(st.lists(st.sampled_from(VISCA_REQUESTS), max_size=6), st.lists(st.integers(0, 100), max_size=12))
def test_packets_are_found_whatever_the_cuts(requests: list[bytes], places: list[int]) -> None:
    assert split(VISCA, *cut(b"".join(requests), places)) == (requests, 0)
