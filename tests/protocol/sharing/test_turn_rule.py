"""Where the turn of a request ends, and what a rule may say."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sharing.turn_rule import KINDS, MAX_END, MAX_REPLY, MAX_TIME, TurnRule
from tests.protocol.sharing.frames import EXCHANGES, OWN, READ, READ_REPLY, VISCA_EXCHANGES

CHARACTER = 11 / 9600

MODBUS, VISCA, SILENCE, NONE = (TurnRule(kind) for kind in ("modbus-rtu", "visca", "silence", "none"))
LINE, LENGTH = TurnRule("line", end=b"\r\n"), TurnRule("length", length=3)
EACH = [MODBUS, VISCA, SILENCE, NONE, LINE, LENGTH]


def test_there_is_a_rule_of_each_kind() -> None:
    assert {rule.reply for rule in EACH} == set(KINDS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reply": "modbus"},
        {"reply": "silence", "reply_to": "nobody"},
        {"reply": "line"},
        {"reply": "line", "end": bytes(MAX_END + 1)},
        {"reply": "silence", "end": b"\n"},
        {"reply": "length"},
        {"reply": "length", "length": MAX_REPLY + 1},
        {"reply": "length", "length": -1},
        {"reply": "visca", "length": 3},
        {"reply": "visca", "reply_timeout": 0},
        {"reply": "visca", "reply_timeout": MAX_TIME + 0.001},
        {"reply": "visca", "reply_silence": 0.0001},
        {"reply": "visca", "max_wait": math.nan},
        {"reply": "visca", "gap": -0.001},
        {"reply": "visca", "gap": math.inf},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TurnRule(**wrong)


def test_the_bounds_themselves_are_allowed() -> None:
    TurnRule("line", end=bytes(MAX_END), reply_timeout=MAX_TIME, reply_silence=0.001, gap=0, max_wait=MAX_TIME)
    TurnRule("length", length=MAX_REPLY, gap=MAX_TIME, reply_to="all", echo=True)


def test_only_a_protocol_that_is_known_tells_where_a_request_ends() -> None:
    assert [rule.reply for rule in EACH if rule.has_requests] == ["modbus-rtu", "visca"]


def test_who_is_answered() -> None:
    broadcast = bytes.fromhex("00 05 00 01 ff 00 dc 2b")
    assert not MODBUS.expects_reply(broadcast)
    assert not NONE.expects_reply(broadcast)
    assert all(rule.expects_reply(READ) for rule in EACH if rule is not NONE)


def test_a_newer_request_supersedes_any_under_modbus_and_elsewhere_the_same_one() -> None:
    for rule in EACH:
        assert rule.supersedes(b"stop", b"stop")
        assert rule.supersedes(b"focus", b"stop") == (rule is MODBUS)


def test_an_echo_is_the_request_in_whole() -> None:
    rule = TurnRule("length", length=1, echo=True)
    assert rule.echoed(b"abc", b"") is None
    assert rule.echoed(b"abc", b"ab") is None
    assert rule.echoed(b"abc", b"abc") == 3
    assert rule.echoed(b"abc", b"abcd") == 3
    assert rule.echoed(b"abc", b"ax") == 0
    assert LENGTH.echoed(b"abc", b"abc") == 0


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_reply_of_modbus_ends_by_its_length(name: str) -> None:
    request, reply = EXCHANGES[name]
    assert MODBUS.reply_end(request, reply[:-1]) is None
    assert not MODBUS.is_whole(request, reply[:-1])
    assert MODBUS.reply_end(request, reply + b"\0") == len(reply)
    assert MODBUS.reply_start(request, b"\xfa" + reply) == 1


@pytest.mark.parametrize("name", OWN)
def test_a_reply_of_unknown_form_is_whole_when_the_line_is_silent(name: str) -> None:
    request, reply = OWN[name]
    assert MODBUS.reply_end(request, reply) is None
    assert MODBUS.is_whole(request, reply)


@pytest.mark.parametrize("name", VISCA_EXCHANGES)
def test_a_reply_of_visca_ends_by_its_completion(name: str) -> None:
    request, reply = VISCA_EXCHANGES[name]
    assert VISCA.reply_end(request, reply[:-1]) is None
    assert VISCA.reply_end(request, reply) == len(reply)
    assert VISCA.reply_start(request, b"\x90\x38\xff" + reply) == 3


def test_a_line_ends_with_its_last_bytes() -> None:
    assert LINE.reply_end(b"?", b"1.5\r") is None
    assert LINE.reply_end(b"?", b"1.5\r\nmore") == 5


def test_a_length_ends_with_its_last_byte() -> None:
    assert LENGTH.reply_end(b"?", b"12") is None
    assert LENGTH.reply_end(b"?", b"1234") == 3


def test_only_silence_is_ended_by_silence() -> None:
    for rule in EACH:
        assert rule.is_whole(READ, READ_REPLY) == (rule in {SILENCE, MODBUS})
    assert not SILENCE.is_whole(b"?", b"")
    assert SILENCE.reply_end(b"?", b"anything") is None
    assert NONE.reply_end(b"?", b"anything") is None
    assert LINE.reply_start(b"?", b"anything") == 0


def test_patience_is_the_timeout_before_the_reply_and_the_silence_in_it() -> None:
    for rule in EACH:
        assert rule.patience(b"?", b"", CHARACTER) == 0.3
        assert rule.patience(b"?", b"x", CHARACTER) == 0.02
        assert rule.patience(b"?", b"x", 0.1) == pytest.approx(0.35)
        assert rule.patience(b"?", b"\x90\x41\xff", CHARACTER) == (0.3 if rule is VISCA else 0.02)


def test_the_longest_reply_is_that_of_the_kind() -> None:
    assert [rule.longest_reply for rule in EACH] == [256, 64, 1024, 0, 1024, 3]


def test_the_quiet_between_frames_of_modbus_is_three_and_a_half_characters_and_never_less_than_1750_us() -> None:
    assert MODBUS.quiet(11 / 9600) == pytest.approx(0.00401, abs=0.00001)
    assert MODBUS.quiet(11 / 115200) == 0.00175
    assert VISCA.quiet(11 / 9600) == 0
    assert TurnRule("none", gap=0.05).quiet(11 / 9600) == 0.05
    assert TurnRule("modbus-rtu", gap=0).quiet(11 / 9600) == 0


def test_the_longest_course_is_request_timeout_reply_and_quiet() -> None:
    assert LENGTH.longest_course(5, 0.001) == pytest.approx(0.308)
    assert TurnRule("length", length=3, echo=True).longest_course(5, 0.001) == pytest.approx(0.313)
    assert MODBUS.longest_course(8, 0.001) == pytest.approx(0.264 + 0.3 + 0.0035)
    assert TurnRule("none", gap=0.05).longest_course(5, 0.001) == pytest.approx(0.055)
    assert TurnRule("line", end=b"\n").longest_course(8, CHARACTER) < 1.5


@given(st.sampled_from(EACH), st.binary(max_size=20), st.binary(max_size=300))
def test_any_request_and_anything_heard_have_an_answer_within_what_was_heard(
    rule: TurnRule, request: bytes, heard: bytes
) -> None:
    end = rule.reply_end(request, heard)
    assert end is None or 0 < end <= len(heard)
    assert 0 <= rule.reply_start(request, heard) <= (len(heard) if end is None else end)
    assert rule.patience(request, heard, CHARACTER) > 0
    if rule.is_whole(request, heard):
        assert heard
    if end is not None:
        assert rule.reply_end(request, heard[:end]) == end
