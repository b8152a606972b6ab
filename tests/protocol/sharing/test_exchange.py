from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sharing.exchange import Audience, Ending, Exchange
from protocol.sharing.modbus_rtu import crc
from protocol.sharing.turn_rule import TurnRule

EVERYBODY, ASKER, MONITORS = Audience.EVERYBODY, Audience.ASKER, Audience.MONITORS
CHARACTER = 0.001


def with_crc(frame: bytes) -> bytes:
    return frame + crc(frame).to_bytes(2, "little")


LINE = TurnRule("line", end=b"\r", reply_timeout=0.3, reply_silence=0.02)
SILENCE = TurnRule("silence", reply_timeout=0.3, reply_silence=0.02)
MODBUS = TurnRule("modbus-rtu", reply_timeout=0.3, reply_silence=0.02)
VISCA = TurnRule("visca", reply_timeout=0.3, reply_silence=0.02)
READ = with_crc(b"\x01\x03\x00\x00\x00\x0a")
READ_REPLY = with_crc(b"\x01\x03\x14" + bytes(range(20)))
INQUIRY = bytes.fromhex("81090612ff")


def asked(rule: TurnRule, request: bytes = b"ask\r") -> Exchange:
    """Return an exchange whose request left the wire at 10."""
    exchange = Exchange(rule, request, CHARACTER)
    exchange.sent(10.0)
    return exchange


def whole(exchange: Exchange) -> tuple[Ending | None, bool]:
    return exchange.ending, exchange.over


def test_a_reply_goes_to_the_asker_as_it_comes_and_its_end_ends_the_turn() -> None:
    exchange = asked(LINE)
    assert exchange.deadline == 10.3
    assert exchange.hear(b"an", 10.1) == [(ASKER, b"an")]
    assert whole(exchange) == (None, False)
    assert exchange.hear(b"swer\r", 10.11) == [(ASKER, b"swer\r")]
    assert whole(exchange) == (Ending.WHOLE, True)
    assert exchange.deadline == 10.11


def test_what_stands_behind_a_whole_reply_is_everybodys() -> None:
    exchange = asked(LINE)
    assert exchange.hear(b"answer\rnews", 10.1) == [(ASKER, b"answer\r"), (EVERYBODY, b"news")]
    assert exchange.hear(b"more", 10.2) == [(EVERYBODY, b"more")]


@pytest.mark.parametrize(("rule", "request_", "reply"), [(LINE, b"ask\r", b"answer\r"), (MODBUS, READ, READ_REPLY)])
def test_what_had_its_audience_elsewhere_is_not_told_again(rule: TurnRule, request_: bytes, reply: bytes) -> None:
    exchange = asked(rule, request_)
    exchange.hear(reply[:3], 10.1)
    exchange.all_told()
    assert exchange.hear(reply[3:], 10.11) == [(ASKER, reply[3:])]
    assert whole(exchange) == (Ending.WHOLE, True)


def test_nobody_answers_what_expects_no_reply() -> None:
    exchange = asked(TurnRule("none"))
    assert whole(exchange) == (Ending.NONE, True)
    assert exchange.deadline == 10.0
    assert exchange.expire(11.0) == []


def test_the_time_for_the_first_byte_runs_from_when_the_request_has_left_the_wire() -> None:
    exchange = Exchange(LINE, b"ask\r", CHARACTER)
    assert exchange.deadline == math.inf
    assert exchange.expire(1e9) == []
    exchange.sent(12.0)
    assert exchange.deadline == 12.3
    exchange.sent(99.0)
    assert exchange.deadline == 12.3


def test_a_reply_that_begins_while_the_request_is_written_is_not_late() -> None:
    exchange = Exchange(LINE, b"ask\r", CHARACTER)
    assert exchange.hear(b"a", 9.0) == [(ASKER, b"a")]
    assert exchange.deadline == math.inf
    exchange.sent(10.0)
    assert exchange.deadline == pytest.approx(10.02)


def test_where_nothing_comes_what_comes_late_is_nobodys_for_once_the_time_of_a_reply() -> None:
    exchange = asked(LINE)
    assert exchange.expire(10.29) == []
    assert exchange.expire(10.3) == []
    assert whole(exchange) == (Ending.TIME, False)
    assert exchange.deadline == pytest.approx(10.6)
    assert exchange.hear(b"late\r", 10.35) == [(MONITORS, b"late\r")]
    assert exchange.deadline == pytest.approx(10.37)
    exchange.expire(10.37)
    assert whole(exchange) == (Ending.TIME, True)
    assert exchange.hear(b"news", 10.4) == [(EVERYBODY, b"news")]


def test_a_quarantine_ends_though_the_line_never_rests() -> None:
    exchange = asked(LINE)
    exchange.expire(10.3)
    now = 10.3
    while now < 10.595:
        assert exchange.hear(b"x", now) == [(MONITORS, b"x")]
        now += 0.01
    assert exchange.deadline == pytest.approx(10.6)
    exchange.expire(exchange.deadline)
    assert exchange.over


def test_a_reply_that_breaks_off_ends_by_silence() -> None:
    exchange = asked(LINE)
    exchange.hear(b"ans", 10.1)
    assert exchange.deadline == pytest.approx(10.12)
    assert exchange.expire(10.12) == []
    assert whole(exchange) == (Ending.SILENCE, False)
    assert exchange.deadline == pytest.approx(10.14)


def test_silence_ends_a_reply_where_the_rule_says_so() -> None:
    exchange = asked(SILENCE)
    assert exchange.hear(b"any", 10.1) == [(ASKER, b"any")]
    assert exchange.expire(10.12) == []
    assert whole(exchange) == (Ending.WHOLE, True)


def test_the_silence_is_three_and_a_half_characters_at_least() -> None:
    exchange = Exchange(SILENCE, b"ask", 0.01)
    exchange.sent(10.0)
    exchange.hear(b"any", 10.1)
    assert exchange.deadline == pytest.approx(10.135)


def test_more_than_any_reply_has_is_isolated() -> None:
    exchange = asked(LINE)
    told = exchange.hear(b"x" * 2000, 10.1)
    assert told == [(MONITORS, b"x" * 2000)]
    assert whole(exchange) == (Ending.TIME, False)


def test_a_modbus_master_is_given_whole_replies_alone() -> None:
    reply = READ_REPLY
    exchange = asked(MODBUS, READ)
    for byte in reply[:-1]:
        assert exchange.hear(bytes([byte]), 10.1) == []
    assert exchange.hear(reply[-1:], 10.1) == [(ASKER, reply)]
    assert whole(exchange) == (Ending.WHOLE, True)


def test_half_a_modbus_reply_is_for_monitors() -> None:
    exchange = asked(MODBUS, READ)
    exchange.hear(READ_REPLY[:5], 10.1)
    assert exchange.expire(10.2) == [(MONITORS, READ_REPLY[:5])]
    assert exchange.ending is Ending.SILENCE


def test_the_late_words_of_another_unit_are_for_monitors_and_the_reply_behind_them_for_the_asker() -> None:
    exchange = asked(MODBUS, READ)
    stranger = b"\x07" + READ_REPLY[1:3]
    told = exchange.hear(stranger + READ_REPLY, 10.1)
    assert told == [(MONITORS, stranger), (ASKER, READ_REPLY)]


def test_a_function_that_no_standard_describes_ends_by_silence() -> None:
    request = with_crc(b"\x01\x41\x07")
    reply = with_crc(b"\x01\x41\x99\x98")
    exchange = asked(MODBUS, request)
    assert exchange.hear(reply, 10.1) == []
    assert exchange.expire(10.2) == [(ASKER, reply)]
    assert exchange.ending is Ending.WHOLE


def test_a_broadcast_has_no_reply() -> None:
    assert asked(MODBUS, with_crc(b"\x00\x06\x00\x01\x00\x02")).ending is Ending.NONE


def test_of_visca_the_asker_is_given_whole_packets() -> None:
    exchange = asked(VISCA, bytes.fromhex("8101060224140503ff"))
    assert exchange.hear(bytes.fromhex("9041"), 10.1) == []
    assert exchange.hear(bytes.fromhex("ff9051"), 10.11) == [(ASKER, bytes.fromhex("9041ff"))]
    assert exchange.hear(b"\xff", 10.12) == [(ASKER, bytes.fromhex("9051ff"))]
    assert exchange.over


ECHOING = TurnRule("line", end=b"\r", echo=True)


def test_an_echo_is_no_reply() -> None:
    exchange = asked(ECHOING)
    assert exchange.hear(b"as", 10.01) == []
    assert exchange.deadline == 10.3
    assert exchange.hear(b"k\ryes\r", 10.02) == [(MONITORS, b"ask\r"), (ASKER, b"yes\r")]
    assert exchange.over


def test_half_an_echo_is_no_reply_either() -> None:
    exchange = asked(TurnRule("silence", echo=True))
    exchange.hear(b"as", 10.01)
    assert exchange.expire(10.3) == [(MONITORS, b"as")]
    assert exchange.ending is Ending.SILENCE


def test_an_adapter_without_an_echo_answers_at_once() -> None:
    exchange = asked(ECHOING)
    assert exchange.hear(b"yes\r", 10.02) == [(ASKER, b"yes\r")]


@pytest.mark.parametrize("heard", [b"", b"\x01\x03"])
def test_a_device_that_goes_ends_it_with_what_was_kept(heard: bytes) -> None:
    exchange = asked(MODBUS, READ)
    exchange.hear(heard, 10.1)
    assert exchange.abort(10.2) == ([(MONITORS, heard)] if heard else [])
    assert whole(exchange) == (Ending.ABORTED, True)
    assert exchange.abort(10.3) == []


def test_a_turn_that_had_ended_before_the_device_went_keeps_its_end() -> None:
    exchange = asked(LINE)
    exchange.expire(10.3)
    exchange.abort(10.4)
    assert whole(exchange) == (Ending.TIME, True)


def test_a_turn_whose_end_nobody_saw_is_isolated() -> None:
    exchange = Exchange.isolated(LINE, CHARACTER, 10.3)
    assert whole(exchange) == (Ending.TIME, False)
    assert exchange.deadline == 10.3
    assert exchange.hear(b"late", 10.1) == [(MONITORS, b"late")]
    exchange.expire(10.2)
    assert exchange.over


RULES = [LINE, SILENCE, MODBUS, VISCA, ECHOING, TurnRule("length", length=4), TurnRule("none")]
REQUESTS = {"modbus-rtu": READ, "visca": INQUIRY}


@given(
    rule=st.sampled_from(RULES),
    pieces=st.lists(
        st.tuples(st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from([READ, b"ask\r", b"\xff"])),
                  st.sampled_from([0.0, 0.001, 0.019, 0.021, 0.31])),
        max_size=60,
    ),
    sent_after=st.integers(0, 3),
)  # fmt: skip
def test_whatever_is_heard_all_of_it_is_given_to_somebody_in_order_and_the_turn_is_bounded(
    rule: TurnRule, pieces: list[tuple[bytes, float]], sent_after: int
) -> None:
    exchange = Exchange(rule, REQUESTS.get(rule.reply, b"ask\r"), CHARACTER)
    now, heard, told = 10.0, b"", b""
    sent_at = math.inf
    for number, (data, pause) in enumerate(pieces):
        if number == sent_after:
            exchange.sent(now)
            sent_at = now
        now += pause
        while exchange.deadline <= now and not exchange.over:
            told += b"".join(data for _, data in exchange.expire(exchange.deadline))
        heard += data
        before = exchange.ending, exchange.over
        given_now = exchange.hear(data, now)
        told += b"".join(data for _, data in given_now)
        if before[0] is not None and not before[1]:
            assert all(audience is MONITORS for audience, _ in given_now)
        if before[1]:
            assert given_now == [(EVERYBODY, data)]
    if sent_at == math.inf:
        exchange.sent(now)
    while not exchange.over:
        assert exchange.deadline < math.inf
        told += b"".join(data for _, data in exchange.expire(exchange.deadline))
    assert told == heard
