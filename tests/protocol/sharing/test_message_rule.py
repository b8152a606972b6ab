"""Pieces of a byte stream, joined to messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sharing.message_rule import MAX_GAP, MAX_JOINED, MAX_MESSAGE_END, MessageJoiner, MessageRule
from protocol.sharing.piece import Piece

END, GAP, BOTH = MessageRule(end=b"\xff"), MessageRule(gap=0.02), MessageRule(end=b"\r\n", gap=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"end": b""},
        {"end": bytes(MAX_MESSAGE_END + 1)},
        {"gap": 0.0},
        {"gap": MAX_GAP + 0.001},
        {"end": b"\n", "gap": math.nan},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        MessageRule(**wrong)


def test_the_bounds_themselves_are_allowed() -> None:
    MessageRule(end=bytes(MAX_MESSAGE_END), gap=MAX_GAP)
    MessageRule(gap=0.001)


def test_pieces_are_joined_until_the_end_and_their_age_counts_from_the_first() -> None:
    joiner = MessageJoiner(END)
    assert joiner.feed(b"\x81\x01", 5.0) == []
    assert joiner.feed(b"\x06\x04", 5.05) == []
    assert joiner.waiting == 4
    assert joiner.deadline == 5.0 + MAX_GAP
    assert joiner.feed(b"\xff", 5.09) == [Piece(b"\x81\x01\x06\x04\xff", 5.0)]
    assert joiner.deadline is None


def test_several_ends_are_several_messages() -> None:
    joiner = MessageJoiner(END)
    assert joiner.feed(b"a\xffb\xff\xffc", 5.0) == [Piece(b"a\xff", 5.0), Piece(b"b\xff", 5.0), Piece(b"\xff", 5.0)]
    assert joiner.feed(b"\xff", 5.05) == [Piece(b"c\xff", 5.0)]


def test_an_end_of_two_bytes_may_come_in_two_pieces() -> None:
    joiner = MessageJoiner(BOTH)
    assert joiner.feed(b"a\r", 5.0) == []
    assert joiner.feed(b"\nb", 5.01) == [Piece(b"a\r\n", 5.0)]
    assert joiner.waiting == 1
    assert joiner.deadline == pytest.approx(5.03)


def test_a_gap_ends_a_message() -> None:
    joiner = MessageJoiner(GAP)
    assert joiner.feed(b"a", 5.0) == []
    assert joiner.feed(b"b", 5.015) == []
    assert joiner.expire(5.03) == []
    assert joiner.deadline == pytest.approx(5.035)
    assert joiner.expire(5.035) == [Piece(b"ab", 5.0)]
    assert joiner.expire(6.0) == []


def test_a_piece_behind_a_gap_begins_another_message_though_nobody_looked_at_the_clock() -> None:
    joiner = MessageJoiner(GAP)
    joiner.feed(b"a", 5.0)
    assert joiner.feed(b"b", 5.5) == [Piece(b"a", 5.0)]
    assert joiner.expire(6.0) == [Piece(b"b", 5.5)]


def test_what_has_no_end_in_time_goes_as_a_transfer() -> None:
    joiner = MessageJoiner(END)
    joiner.feed(b"abc", 5.0)
    assert joiner.expire(5.0 + MAX_GAP - 0.001) == []
    assert joiner.expire(5.0 + MAX_GAP) == [Piece(b"abc", 5.0, whole=False)]


def test_what_never_pauses_goes_as_a_transfer() -> None:
    joiner = MessageJoiner(GAP)
    pieces = [piece for at in range(12) for piece in joiner.feed(b"x", 5 + at / 100)]
    assert pieces == [Piece(b"x" * 10, 5.0, whole=False)]


@pytest.mark.parametrize("rule", [END, BOTH, GAP])
def test_what_is_too_long_without_an_end_goes_as_a_transfer(rule: MessageRule) -> None:
    joiner = MessageJoiner(rule)
    assert joiner.feed(bytes(MAX_JOINED), 5.0) == []
    assert joiner.feed(b"\0", 5.01) == [Piece(bytes(MAX_JOINED + 1), 5.0, whole=False)]
    assert joiner.waiting == 0


def test_a_message_that_is_too_long_is_a_transfer_and_the_one_behind_it_is_not() -> None:
    longest = bytes(MAX_JOINED - 1) + b"\xff"
    assert MessageJoiner(END).feed(longest, 5.0) == [Piece(longest, 5.0)]
    assert MessageJoiner(END).feed(b"\0" + longest + b"a\xff", 5.0) == [
        Piece(b"\0" + longest, 5.0, whole=False),
        Piece(b"a\xff", 5.0),
    ]


def test_what_a_client_leaves_behind_goes_as_a_transfer() -> None:
    joiner = MessageJoiner(END)
    assert joiner.finish() == []
    joiner.feed(b"a", 5.0)
    assert joiner.finish() == [Piece(b"a", 5.0, whole=False)]
    assert joiner.deadline is None


def test_time_in_which_nobody_read_the_client_does_not_end_a_message() -> None:
    for rule, patience in ((END, MAX_GAP), (GAP, 0.02)):
        joiner = MessageJoiner(rule)
        joiner.feed(b"a", 5.0)
        joiner.resume(8.0)
        assert joiner.deadline == pytest.approx(8.0 + patience)
        assert joiner.feed(b"\xff", 8.01) + joiner.expire(8.1) == [Piece(b"a\xff", 5.0)]


@given(
    st.sampled_from([END, GAP, BOTH]),
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from([b"\xff", b"\r", b"\n", b"\r\n"]), st.binary(max_size=700)),
            st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1]),
        ),
        max_size=12,
    ),
)
def test_nothing_is_lost_or_changed_or_kept_for_long(rule: MessageRule, reads: list[tuple[bytes, float]]) -> None:
    joiner, now, pieces = MessageJoiner(rule), 100.0, []
    for data, pause in reads:
        pieces += joiner.feed(data, now)
        assert joiner.waiting <= MAX_JOINED
        assert joiner.deadline is None or now < joiner.deadline <= now + MAX_GAP
        now += pause
    pieces += joiner.expire(now + MAX_GAP)
    assert joiner.waiting == 0
    assert b"".join(piece.data for piece in pieces) == b"".join(data for data, _ in reads)
    for piece in pieces:
        assert piece.data
        assert not piece.whole or len(piece.data) <= MAX_JOINED
        if rule.end is not None:
            assert rule.end not in piece.data[: -len(rule.end)]
