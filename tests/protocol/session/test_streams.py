"""The streams of a session one by one: what is sent up, what is sent down, what is received."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.message_rules import MAX_MESSAGE, MAX_WAITING
from protocol.link.reasons import Reason
from protocol.link.stream_frames import MAX_DATA, OTHERS, Ack, Asker, Channel, Credit, DownData, Gap, Lost, Turn, UpData
from protocol.link.turn_parameters import TurnParameters, TurnPhase, TurnStatus
from protocol.session.inbox import Inbox
from protocol.session.line_stream import LineStream
from protocol.session.receive_stream import ReceiveStream
from protocol.session.send_stream import SendStream, Settled

if TYPE_CHECKING:
    from protocol.session.ring import StreamFrame

TCP = Channel.TCP


def sending(credit: int = 1000, max_bytes: int = 100, max_frames: int = 10) -> SendStream:
    stream = SendStream(TCP, 15_000, max_bytes, max_frames)
    stream.ring.grant(credit)
    return stream


def sent(stream: SendStream, now: int = 0) -> list[UpData | Gap]:
    return list(iter(lambda: stream.next_frame(now), None))


def test_a_message_is_sent_once_and_settled_by_its_acknowledgement() -> None:
    stream = sending()
    turn = TurnParameters(3, b"\r", 100)
    assert stream.write(b"abc", 7, turn) == 0
    assert stream.write(b"de", 2**32 + 8, None) == 3
    assert sent(stream, 10) == [UpData(TCP, 0, 7, b"abc", turn), UpData(TCP, 3, 8, b"de")]
    stream.acknowledged(4)
    assert stream.news() == [Settled(TCP, 0, 4, None)]
    stream.acknowledged(5)
    assert stream.news() == [Settled(TCP, 4, 1, None)]
    assert (stream.ring.size, stream.ring.frames) == (0, 0)


@pytest.mark.parametrize("size", [0, MAX_MESSAGE + 1])
def test_a_message_has_a_size(size: int) -> None:
    with pytest.raises(LocalProtocolError, match="1 to 8192 bytes"):
        sending().write(bytes(size), 0, None)


def test_a_message_may_have_the_greatest_size() -> None:
    assert sending(max_bytes=MAX_MESSAGE).write(bytes(MAX_MESSAGE), 0, None) == 0


@pytest.mark.parametrize("how", ["acknowledged", "withdrawn", "too old", "forgotten", "closed in its middle"])
def test_what_has_its_outcome_makes_room_for_as_much(how: str) -> None:
    stream = sending(max_bytes=4)
    stream.write(b"abcd", 0, None)
    if how not in ("withdrawn", "too old"):
        sent(stream)
    match how:
        case "acknowledged":
            stream.acknowledged(4)
        case "withdrawn":
            stream.withdraw(0)
        case "too old":
            stream.expire(15_001)
        case "forgotten":
            stream.forget()
        case _:
            stream.closed(2)
    assert stream.write(b"efghi", 0, None) is None
    assert stream.write(b"efgh", 0, None) == 4


def test_a_full_ring_takes_nothing_and_says_so() -> None:
    stream = sending(max_bytes=5, max_frames=2)
    assert stream.write(b"abcde", 0, None) == 0
    assert stream.write(b"f", 0, None) is None
    stream = sending(max_frames=2)
    assert [stream.write(b"a", 0, None) for _ in range(3)] == [0, 1, None]


def test_without_credit_nothing_goes() -> None:
    stream = sending(credit=2)
    stream.write(b"ab", 0, None)
    stream.write(b"cd", 0, None)
    assert len(sent(stream)) == 1
    stream.ring.grant(4)
    assert len(sent(stream)) == 1


def test_a_message_larger_than_all_credit_goes_in_parts_and_its_turn_with_the_first() -> None:
    stream = sending(credit=2)
    turn = TurnParameters(1, b"", 1)
    stream.write(b"abcdef", 0, turn)
    assert sent(stream) == [UpData(TCP, 0, 0, b"ab", turn, more=True)]
    stream.ring.grant(8)
    assert sent(stream) == [UpData(TCP, 2, 0, b"cdef")]


def test_a_message_behind_others_goes_in_parts_that_are_whole_together() -> None:
    stream = sending(credit=2)
    stream.write(b"ab", 0, None)
    stream.write(b"cdefg", 0, None)
    assert sent(stream) == [UpData(TCP, 0, 0, b"ab")]
    stream.acknowledged(2)
    stream.ring.grant(4)
    assert sent(stream) == [UpData(TCP, 2, 0, b"cd", more=True)]
    stream.ring.grant(7)
    assert sent(stream) == [UpData(TCP, 4, 0, b"efg")]


def test_what_is_too_old_becomes_one_gap_and_needs_no_credit() -> None:
    stream = sending(credit=2)
    for data, accepted in ((b"ab", 0), (b"cd", 1), (b"ef", 2), (b"gh", 20_000)):
        stream.write(data, accepted, None)
    assert sent(stream) == [UpData(TCP, 0, 0, b"ab")]
    assert stream.next_expiry(10) == 15_002
    assert sent(stream, 15_003) == [Gap(TCP, 2, 4, Reason.TOO_OLD)]
    assert stream.news() == [], "in order: what is before it has no outcome yet"
    stream.acknowledged(2)
    assert stream.news() == [Settled(TCP, 0, 2, None), *(Settled(TCP, at, 2, Reason.TOO_OLD) for at in (2, 4))]
    stream.ring.grant(20)
    assert len(sent(stream, 20_000)) == 1
    assert stream.next_expiry(20_000) is None
    stream.acknowledged(8)
    assert stream.news() == [Settled(TCP, 6, 2, None)]


def test_what_is_too_old_already_expires_at_once() -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    assert stream.next_expiry(15_000) == 15_001
    assert stream.next_expiry(20_000) == 20_000


def test_of_what_was_given_up_in_a_row_the_greatest_reason_is_told() -> None:
    stream = sending()
    for accepted in (20_000, 0, 20_000):
        stream.write(b"ab", accepted, None)
    stream.withdraw(0)
    stream.withdraw(4)
    stream.expire(20_000)
    assert sent(stream, 20_000) == [Gap(TCP, 0, 6, Reason.TOO_OLD)]
    assert [outcome.reason for outcome in stream.news()] == [Reason.WITHDRAWN, Reason.TOO_OLD, Reason.WITHDRAWN]


def test_a_message_goes_until_its_age_limit_is_over_and_not_after() -> None:
    for now, kind in ((15_000, UpData), (15_001, Gap)):
        stream = sending()
        stream.write(b"ab", 0, None)
        assert [type(frame) for frame in sent(stream, now)] == [kind]


def test_one_acknowledgement_over_a_gap_tells_each_outcome() -> None:
    stream = sending()
    for data, accepted in ((b"ab", 20_000), (b"cd", 0), (b"ef", 20_000)):
        stream.write(data, accepted, None)
    sent(stream, 20_000)
    stream.acknowledged(6)
    assert [outcome.reason for outcome in stream.news()] == [None, Reason.TOO_OLD, None]


def test_a_message_whose_asker_has_gone_is_not_sent() -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    stream.write(b"cd", 0, None)
    stream.withdraw(0)
    stream.withdraw(99)
    assert stream.news() == [Settled(TCP, 0, 2, Reason.WITHDRAWN)]
    assert sent(stream) == [Gap(TCP, 0, 2, Reason.WITHDRAWN), UpData(TCP, 2, 0, b"cd")]


def test_what_is_not_written_yet_cannot_be_withdrawn() -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    stream.withdraw(2)
    stream.write(b"cd", 0, None)
    assert sent(stream) == [UpData(TCP, 0, 0, b"ab"), UpData(TCP, 2, 0, b"cd")]


def test_a_withdrawal_is_forgotten_with_its_message() -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    sent(stream)
    stream.withdraw(0)
    stream.acknowledged(2)
    stream.withdraw(0)
    assert stream._withdrawn == set()


def test_what_was_given_up_for_one_reason_is_not_given_up_for_another() -> None:
    stream = sending()
    stream.write(b"ab", 20_000, None)
    stream.write(b"cd", 0, None)
    assert sent(stream, 15_000)[0] == UpData(TCP, 0, 20_000, b"ab")
    stream.resume(0, 0)
    stream.expire(15_001)
    stream.withdraw(2)
    stream.withdraw(0)
    assert stream.news() == [Settled(TCP, 0, 2, Reason.WITHDRAWN), Settled(TCP, 2, 2, Reason.TOO_OLD)]


def test_what_was_sent_is_withdrawn_only_if_it_must_be_sent_again() -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    sent(stream)
    stream.withdraw(0)
    assert stream.news() == []
    stream.resume(0, 0)
    assert sent(stream) == [Gap(TCP, 0, 2, Reason.WITHDRAWN)]


def test_after_a_cut_it_goes_on_from_what_was_received_under_new_credit() -> None:
    stream = sending()
    for data in (b"ab", b"cd", b"ef"):
        stream.write(data, 0, None)
    sent(stream)
    stream.resume(2, 0)
    assert sent(stream) == []
    stream.ring.grant(6)
    assert [frame.offset for frame in sent(stream)] == [2, 4]


def test_a_gap_of_which_a_part_was_received_goes_on_behind_that() -> None:
    stream = sending()
    for data in (b"ab", b"cd"):
        stream.write(data, 0, None)
    stream.withdraw(0)
    assert sent(stream)[0] == Gap(TCP, 0, 2, Reason.WITHDRAWN)
    stream.resume(1, 0)
    assert sent(stream) == [Gap(TCP, 1, 1, Reason.WITHDRAWN)]


@pytest.mark.parametrize(("received", "settled"), [(1, 0), (5, 0), (2, 1)])
def test_numbers_that_cannot_be_are_refused_at_a_resumption(received: int, settled: int) -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    stream.write(b"cd", 0, None)
    sent(stream)
    with pytest.raises(RemoteProtocolError, match=r"received|to go on from 1"):
        stream.resume(received, settled)


def test_a_receiver_that_goes_back_behind_what_it_settled_is_refused() -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    sent(stream)
    stream.acknowledged(2)
    with pytest.raises(RemoteProtocolError, match="0 received: it must be in 2 to 2"):
        stream.resume(0, 2)


def test_credit_that_is_granted_once_more_takes_nothing_back() -> None:
    stream = sending(credit=2)
    stream.write(b"ab", 0, None)
    stream.ring.grant(2)
    assert len(sent(stream)) == 1


def test_numbers_that_cannot_be_are_refused_ever() -> None:
    stream = sending()
    stream.write(b"ab", 0, None)
    with pytest.raises(RemoteProtocolError, match="it must be in 0 to 0"):
        stream.acknowledged(1)
    with pytest.raises(RemoteProtocolError, match="it must begin at 0"):
        stream.lost(Lost(TCP, 1, 1, Reason.TOO_OLD))
    with pytest.raises(RemoteProtocolError, match="credit to 1 after credit to 1000"):
        stream.ring.grant(1)


def test_what_the_receiver_loses_is_told_with_its_reason() -> None:
    stream = sending()
    stream.write(b"abcd", 0, None)
    sent(stream)
    stream.acknowledged(1)
    stream.lost(Lost(TCP, 1, 3, Reason.PORT_DOWN))
    assert stream.news() == [Settled(TCP, 0, 1, None), Settled(TCP, 1, 3, Reason.PORT_DOWN)]


def test_a_loss_settles_what_was_given_up_behind_it() -> None:
    stream = sending(credit=2)
    for data in (b"ab", b"cd"):
        stream.write(data, 0, None)
    sent(stream)
    stream.withdraw(2)
    stream.lost(Lost(TCP, 0, 2, Reason.PORT_DOWN))
    assert stream.news() == [Settled(TCP, 0, 2, Reason.PORT_DOWN), Settled(TCP, 2, 2, Reason.WITHDRAWN)]


@pytest.mark.parametrize("gap_is_sent", [True, False])
def test_what_was_given_up_is_not_uncertain_when_the_session_ends(gap_is_sent: bool) -> None:
    stream = sending(credit=2)
    for data in (b"ab", b"cd"):
        stream.write(data, 0, None)
    sent(stream)
    stream.withdraw(2)
    if gap_is_sent:
        assert sent(stream) == [Gap(TCP, 2, 2, Reason.WITHDRAWN)]
    assert stream.news() == []
    stream.abandon(Reason.CLOSED)
    assert stream.news() == [Settled(TCP, 0, 2, Reason.UNCERTAIN), Settled(TCP, 2, 2, Reason.WITHDRAWN)]


def test_a_receiver_without_memory_leaves_uncertain_what_was_sent_and_gets_the_rest() -> None:
    stream = sending(credit=4)
    for data in (b"ab", b"cd", b"ef"):
        stream.write(data, 0, None)
    stream.withdraw(0)
    sent(stream)
    stream.news()
    stream.forget()
    assert stream.news() == [Settled(TCP, 2, 2, Reason.UNCERTAIN)]
    stream.resume(4, 4)
    stream.ring.grant(6)
    assert sent(stream) == [UpData(TCP, 4, 0, b"ef")]


def test_the_rest_of_a_message_never_goes_alone() -> None:
    stream = sending(credit=2)
    stream.write(b"abcd", 0, None)
    sent(stream)
    stream.forget()
    assert stream.news() == [Settled(TCP, 0, 2, Reason.UNCERTAIN), Settled(TCP, 2, 2, Reason.INCOMPLETE)]


def test_after_a_clean_end_nothing_is_uncertain_and_what_was_not_written_may_go_again() -> None:
    stream = sending()
    for data in (b"ab", b"cdef", b"gh"):
        stream.write(data, 0, None)
    sent(stream)
    stream.closed(4)
    assert stream.news() == [
        Settled(TCP, 0, 4, None),
        Settled(TCP, 4, 2, Reason.INCOMPLETE),
    ]
    assert sent(stream) == [Gap(TCP, 4, 2, Reason.INCOMPLETE)]
    stream.ring.grant(9)
    assert sent(stream) == [UpData(TCP, 6, 0, b"gh")]


def test_to_give_up_leaves_nothing_open() -> None:
    stream = sending(credit=2)
    stream.write(b"ab", 0, None)
    stream.write(b"cd", 0, None)
    sent(stream)
    stream.abandon(Reason.CLOSED)
    assert stream.news() == [Settled(TCP, 0, 2, Reason.UNCERTAIN), Settled(TCP, 2, 2, Reason.CLOSED)]
    assert (stream.ring.size, stream.ring.frames, stream.ring.acked) == (0, 0, 4)


# Down


def line_stream(max_bytes: int = 8, max_frames: int = 4, credit: int = 10**6) -> LineStream:
    stream = LineStream(0, max_bytes, max_frames)
    stream.ring.grant(credit)
    return stream


def said(stream: LineStream) -> list[StreamFrame]:
    return list(iter(stream.next_frame, None))


def test_the_line_is_cut_into_frames() -> None:
    stream = line_stream(max_bytes=10**6, max_frames=99)
    stream.line(bytes(MAX_DATA + 5))
    assert said(stream) == [DownData(0, bytes(MAX_DATA)), DownData(MAX_DATA, bytes(5))]


def test_a_link_that_is_too_slow_loses_the_oldest_and_hears_how_much() -> None:
    stream = line_stream()
    for at in range(6):
        stream.line(b"%d%d%d" % (at, at, at))
    assert stream.ring.size <= 8
    assert said(stream) == [Gap(Channel.LINE, 0, 12, Reason.OVERFLOW), DownData(12, b"444"), DownData(15, b"555")]
    assert stream.dropped == 12


def test_what_was_sent_may_be_dropped_and_is_a_gap_only_where_it_did_not_arrive() -> None:
    stream = line_stream()
    stream.line(b"aaaa")
    stream.line(b"bbbb")
    said(stream)
    stream.line(b"cccc")
    stream.ring.rewind(0)
    stream.ring.grant(99)
    assert said(stream) == [Gap(Channel.LINE, 0, 4, Reason.OVERFLOW), DownData(4, b"bbbb"), DownData(8, b"cccc")]


def test_a_gap_begins_where_its_first_byte_is_missing() -> None:
    stream = line_stream()
    stream.line(b"aaaa")
    assert said(stream) == [DownData(0, b"aaaa")]
    stream.ring.acknowledge(4)
    for data in (b"bbbb", b"cccc", b"dddd"):
        stream.line(data)
    assert said(stream) == [Gap(Channel.LINE, 4, 4, Reason.OVERFLOW), DownData(8, b"cccc"), DownData(12, b"dddd")]
    stream.ring.acknowledge(8)
    stream.line(b"eeee")
    stream.line(b"ffff")  # drops what was sent, though nobody knows whether it arrived
    stream.ring.rewind(8)
    stream.ring.grant(99)
    assert said(stream)[0] == Gap(Channel.LINE, 8, 8, Reason.OVERFLOW)


def test_pieces_are_joined_up_to_a_sixteenth_of_the_ring() -> None:
    stream = line_stream(max_bytes=64)
    for data in (b"ab", b"cd", b"e"):
        stream.line(data)
    assert said(stream) == [DownData(0, b"abcd"), DownData(4, b"e")]


def test_pieces_are_joined_up_to_4096_bytes() -> None:
    stream = line_stream(max_bytes=10**6)
    for size in (4095, 1, 1):
        stream.line(bytes(size))
    assert said(stream) == [DownData(0, bytes(4096)), DownData(4096, bytes(1))]


def test_a_piece_that_is_joined_counts_in_the_ring_too() -> None:
    stream = line_stream(max_bytes=64, max_frames=99)
    for size in (20, 20, 21, 1, 3):
        stream.line(bytes(size))
    assert stream.ring.size == 45
    assert said(stream)[0] == Gap(Channel.LINE, 0, 20, Reason.OVERFLOW)


def test_many_small_frames_are_bounded_too() -> None:
    stream = line_stream(max_bytes=1000)
    for _ in range(50):
        stream.line(b"x" * 62)
    assert stream.ring.frames <= 4
    assert said(stream)[0] == Gap(Channel.LINE, 0, 47 * 62, Reason.OVERFLOW)


def test_a_line_that_speaks_byte_by_byte_fills_no_ring_with_frames() -> None:
    stream = line_stream(max_bytes=64 * 1024, max_frames=8)
    for number in range(10_000):
        stream.line(bytes([number % 256]))
    stream.turn(Turn(Channel.CGI, 0, TurnPhase.BEGIN, TurnStatus.RUNNING))
    stream.line(b"after the turn")
    assert stream.ring.size == stream.ring.tail == 10_014
    said_all = said(stream)
    *pieces, turn, last = said_all
    assert isinstance(turn, Turn)
    assert b"".join(piece.data for piece in pieces if isinstance(piece, DownData)) == bytes(range(256)) * 39 + bytes(
        range(16)
    )
    assert last == DownData(10_000, b"after the turn")


def test_a_gap_of_unknown_size_is_never_forgotten() -> None:
    stream = line_stream(max_bytes=4)
    stream.gap(0, Reason.RESTARTED)
    for _ in range(4):
        stream.line(b"abcd")
    assert said(stream) == [Gap(Channel.LINE, 0, 12, Reason.RESTARTED), DownData(12, b"abcd")]
    stream.line(b"x")
    stream.gap(7, Reason.OVERFLOW)
    assert said(stream)[-1] == Gap(Channel.LINE, 17, 7, Reason.OVERFLOW)
    stream = line_stream(max_frames=2)
    stream.gap(3, Reason.OVERFLOW)
    stream.gap(0, Reason.RESTARTED)
    stream.line(b"abcd")
    assert said(stream) == [Gap(Channel.LINE, 0, 3, Reason.RESTARTED), DownData(3, b"abcd")]


def test_a_turn_that_is_dropped_alone_is_no_gap() -> None:
    stream = line_stream(max_frames=2)
    turn = Turn(TCP, 5, TurnPhase.BEGIN, TurnStatus.RUNNING)
    for _ in range(3):
        stream.turn(turn)
    assert said(stream) == [turn, turn]


def test_a_turn_stands_among_the_bytes_and_comes_again_until_what_is_behind_it_arrived() -> None:
    stream = line_stream()
    begin, end = (Turn(TCP, 5, phase, TurnStatus.RUNNING) for phase in TurnPhase)
    stream.turn(begin)
    stream.line(b"ab")
    stream.turn(end)
    assert said(stream) == [begin, DownData(0, b"ab"), end]
    stream.ring.acknowledge(2)
    stream.ring.rewind(2)
    assert said(stream) == [end]


def test_bytes_of_the_line_are_cut_to_small_credit() -> None:
    stream = line_stream(credit=3)
    stream.line(b"abcdef")
    assert said(stream) == [DownData(0, b"abc")]
    stream.ring.grant(6)
    assert said(stream) == [DownData(3, b"def")]


def test_bytes_for_one_asker_are_joined_with_no_others_and_stay_his_when_they_are_cut() -> None:
    stream = line_stream(credit=3, max_bytes=1000)
    for asker in (Asker(TCP, 7), Asker(TCP, 8), None, OTHERS):
        for piece in (b"ab", b"cd"):
            stream.line(piece, asker)
    assert said(stream) == [DownData(0, b"abc", Asker(TCP, 7))]
    stream.ring.grant(100)
    assert said(stream) == [
        DownData(3, b"d", Asker(TCP, 7)),
        DownData(4, b"abcd", Asker(TCP, 8)),
        DownData(8, b"abcd"),
        DownData(12, b"abcd", OTHERS),
    ]


# Received


def receiving(window: int = 10) -> ReceiveStream:
    stream = ReceiveStream(TCP, 0, window)
    stream.next_frame()
    return stream


def told(stream: ReceiveStream) -> list[Ack | Lost | Credit]:
    return list(iter(stream.next_frame, None))


def test_what_is_handed_on_is_acknowledged_and_gives_new_credit() -> None:
    stream = ReceiveStream(TCP, 0, 10)
    assert told(stream) == [Credit(TCP, 10)]
    stream.take(0, 5)
    assert told(stream) == []
    stream.hand(5)
    assert told(stream) == [Ack(TCP, 5)], "half of the window is left"
    stream.take(5, 6)
    stream.hand(6)
    assert told(stream) == [Ack(TCP, 6), Credit(TCP, 16)]


def test_bytes_out_of_place_or_beyond_the_credit_are_refused() -> None:
    stream = receiving()
    with pytest.raises(RemoteProtocolError, match=r"offset 1 on .*, expected 0"):
        stream.take(1, 2)
    with pytest.raises(RemoteProtocolError, match=r"bytes to 11 .*, credit to 10"):
        stream.take(0, 11)
    with pytest.raises(RemoteProtocolError, match="expected 0"):
        stream.skip(Gap(TCP, 1, 1, Reason.TOO_OLD))


def test_only_what_was_received_can_be_settled() -> None:
    stream = receiving()
    stream.take(0, 2)
    with pytest.raises(LocalProtocolError, match=r"3 settled on .*, of which 2 was received"):
        stream.hand(3)
    stream.hand(2)
    stream.hand(1)
    stream.lose(1, Reason.TOO_OLD)
    assert told(stream)[0] == Ack(TCP, 2)


def test_losses_stand_in_order_among_the_acknowledgements() -> None:
    stream = receiving()
    stream.take(0, 10)
    stream.hand(2)
    stream.lose(4, Reason.TOO_OLD)
    stream.lose(6, Reason.TOO_OLD)
    stream.hand(7)
    stream.lose(9, Reason.PORT_DOWN)
    assert told(stream) == [
        Ack(TCP, 2),
        Lost(TCP, 2, 4, Reason.TOO_OLD),
        Ack(TCP, 7),
        Lost(TCP, 7, 2, Reason.PORT_DOWN),
        Credit(TCP, 19),
    ]


def test_a_loss_is_told_again_until_its_arrival_is_proved() -> None:
    stream = receiving()
    stream.take(0, 10)
    stream.lose(4, Reason.TOO_OLD)
    stream.hand(6)
    told(stream)
    stream.attach(1)
    assert told(stream) == [Lost(TCP, 1, 3, Reason.TOO_OLD), Ack(TCP, 6), Credit(TCP, 16)]
    stream.confirm(6)
    stream.attach(6)
    assert told(stream) == [Credit(TCP, 16)]


def test_a_loss_that_is_proved_to_its_very_end_is_told_no_more() -> None:
    stream = receiving()
    stream.take(0, 4)
    stream.lose(4, Reason.TOO_OLD)
    assert told(stream) == [Lost(TCP, 0, 4, Reason.TOO_OLD)]
    stream.confirm(4)
    stream.attach(0)
    assert told(stream) == [Ack(TCP, 4), Credit(TCP, 14)]
    stream = receiving()
    stream.take(0, 4)
    stream.lose(4, Reason.TOO_OLD)
    told(stream)
    stream.attach(4)
    assert told(stream) == [Credit(TCP, 14)], "that the peer states it is proof as well"


def test_a_peer_that_knows_more_than_there_is_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=r"1 known to be settled on .*: it is 0"):
        receiving().attach(1)


def test_a_gap_is_settled_when_all_before_it_is() -> None:
    stream = receiving()
    stream.take(0, 2)
    stream.skip(Gap(TCP, 2, 3, Reason.TOO_OLD))
    stream.skip(Gap(TCP, 5, 3, Reason.TOO_OLD))
    assert told(stream) == [Credit(TCP, 10)][:0]
    with pytest.raises(LocalProtocolError, match="of which 2 was received"):
        stream.hand(3)
    stream.hand(2)
    assert told(stream) == [Ack(TCP, 8), Credit(TCP, 18)]


def test_a_gap_behind_a_loss_is_settled_with_it() -> None:
    stream = receiving()
    stream.take(0, 2)
    stream.skip(Gap(TCP, 2, 3, Reason.TOO_OLD))
    stream.lose(2, Reason.PORT_DOWN)
    assert told(stream) == [Lost(TCP, 0, 2, Reason.PORT_DOWN), Ack(TCP, 5)]


def test_the_rest_of_a_message_is_swallowed_once() -> None:
    stream = receiving()
    stream.take(0, 2)
    stream.partial = 0
    stream.skip(Gap(TCP, 2, 1, Reason.TOO_OLD))
    assert stream.partial is None
    stream.skip(Gap(TCP, 3, 1, Reason.TOO_OLD))
    assert told(stream) == [Lost(TCP, 0, 2, Reason.INCOMPLETE), Ack(TCP, 4)]


def test_gaps_that_touch_are_remembered_as_one() -> None:
    stream = receiving()
    stream.take(0, 1)
    for at in range(1, 1001):
        stream.skip(Gap(TCP, at, 1, Reason.TOO_OLD))
    assert len(stream._skips) == 1


def test_gaps_with_bytes_between_them_are_two() -> None:
    stream = receiving()
    stream.take(0, 2)
    stream.skip(Gap(TCP, 2, 1, Reason.TOO_OLD))
    stream.take(3, 5)
    stream.skip(Gap(TCP, 5, 1, Reason.TOO_OLD))
    stream.hand(2)
    assert stream.settled == 3, "the bytes between have no outcome yet"
    stream.hand(5)
    assert stream.settled == 6


def test_a_peer_cannot_know_the_outcome_of_what_has_none_yet() -> None:
    stream = receiving()
    stream.take(0, 5)
    stream.hand(2)
    with pytest.raises(RemoteProtocolError, match=r"3 known to be settled on .*: it is 2"):
        stream.attach(3)


def test_losses_for_different_reasons_that_touch_are_two_and_nothing_lost_is_none() -> None:
    stream = receiving()
    stream.take(0, 6)
    stream.hand(1)
    stream.lose(1, Reason.PORT_DOWN)
    stream.lose(3, Reason.TOO_OLD)
    stream.lose(4, Reason.PORT_DOWN)
    stream.lose(4, Reason.TOO_OLD)
    lost = [Lost(TCP, 1, 2, Reason.TOO_OLD), Lost(TCP, 3, 1, Reason.PORT_DOWN)]
    assert told(stream) == [Ack(TCP, 1), *lost, Credit(TCP, 14)]
    stream.attach(1)
    assert told(stream)[:2] == lost, "and so they are when they are told again"


def test_a_part_of_a_message_is_granted_its_rest_and_no_less_than_the_window() -> None:
    stream = receiving(window=20_000)
    stream.take(0, 12_000)
    stream.hand(11_000)
    stream.partial = 11_990
    assert told(stream) == [Ack(TCP, 11_000), Credit(TCP, 31_000)]
    stream = receiving(window=100)
    stream.take(0, 90)
    stream.partial = 80
    assert told(stream) == [Credit(TCP, 80 + MAX_MESSAGE)]


def test_so_many_losses_without_a_proof_are_kept_and_one_more_stops_the_credit() -> None:
    stream = receiving(window=2)
    for at in range(1025):
        stream.take(2 * at, 2 * at + 2)
        stream.hand(2 * at + 1)
        stream.lose(2 * at + 2, Reason.TOO_OLD)
        credit = [frame for frame in told(stream) if isinstance(frame, Credit)]
        assert credit == ([Credit(TCP, 2 * at + 4)] if at < 1024 else [])
    stream.confirm(2)
    assert told(stream) == [Credit(TCP, 2052)]


class Receiving(RuleBasedStateMachine):
    """A receive stream, driven as a peer and a line may drive it."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = ReceiveStream(TCP, 5, 10)
        self.limits = (5, 5, 5)

    @rule(count=st.integers(1, 30))
    def take(self, count: int) -> None:
        start = self.stream.received
        if start + count <= self.stream.granted:
            self.stream.take(start, start + count)
        else:
            with pytest.raises(RemoteProtocolError):
                self.stream.take(start, start + count)

    @rule(count=st.integers(1, 30))
    def skip(self, count: int) -> None:
        self.stream.skip(Gap(TCP, self.stream.received, count, Reason.TOO_OLD))

    @rule(count=st.integers(1, 30), reason=st.sampled_from([None, Reason.TOO_OLD, Reason.PORT_DOWN]))
    def settle(self, count: int, reason: Reason | None) -> None:
        end = self.stream.settled + count
        with contextlib.suppress(LocalProtocolError):  # it was not received, or is a GAP's
            if reason is None:
                self.stream.hand(end)
            else:
                self.stream.lose(end, reason)

    @rule()
    def tell(self) -> None:
        self.stream.next_frame()

    @rule(back=st.integers(0, 40))
    def cut(self, back: int) -> None:
        self.stream.attach(max(5, self.stream.settled - back))

    @rule(back=st.integers(0, 40))
    def confirm(self, back: int) -> None:
        self.stream.confirm(self.stream.told - back)

    @invariant()
    def the_positions_are_in_their_order(self) -> None:
        stream = self.stream
        assert stream.told <= stream.settled <= stream.received <= stream.granted
        assert self.limits[0] <= stream.settled
        assert self.limits[1] <= stream.received
        self.limits = stream.settled, stream.received, stream.granted

    def teardown(self) -> None:
        """All that is settled can be told, each byte once."""
        at = self.stream.told
        for frame in told(self.stream):
            if isinstance(frame, Ack | Lost):
                start, at = at, frame.offset if isinstance(frame, Ack) else frame.end
                assert start < at
                assert isinstance(frame, Ack) or frame.offset == start
        assert at == self.stream.told == self.stream.settled


TestReceiving = Receiving.TestCase


def part(offset: int, data: bytes, *, more: bool = True) -> UpData:
    return UpData(TCP, offset, 0, data, None, more)


def inbox(window: int = 4) -> Inbox:
    box = Inbox(TCP, 0, window)
    told(box.stream)
    return box


def test_a_message_comes_out_whole_and_has_credit_to_its_end() -> None:
    box = inbox()
    assert box.take(part(0, b"abcd")) is None
    assert told(box.stream) == [Credit(TCP, MAX_MESSAGE)]
    last = part(4, b"ef", more=False)
    assert box.take(last) == (part(0, b"abcd"), b"abcdef")
    assert box.take(part(6, b"g", more=False)) == (part(6, b"g", more=False), b"g")


def test_a_message_whose_rest_will_not_come_is_lost_in_its_place() -> None:
    box = inbox(window=100)
    box.take(part(0, b"xy", more=False))
    box.take(part(2, b"ab"))
    box.skip(Gap(TCP, 4, 3, Reason.TOO_OLD))
    assert told(box.stream) == []
    box.stream.hand(2)
    assert told(box.stream) == [Ack(TCP, 2), Lost(TCP, 2, 2, Reason.INCOMPLETE), Ack(TCP, 7)]
    assert box.take(part(7, b"z", more=False)) == (part(7, b"z", more=False), b"z")


def test_a_message_has_an_end() -> None:
    box = inbox(window=2 * MAX_MESSAGE)
    box.take(part(0, bytes(MAX_MESSAGE)))
    with pytest.raises(RemoteProtocolError, match="more than 8192 bytes"):
        box.take(part(MAX_MESSAGE, b"x"))


def test_a_wider_window_is_granted_at_once() -> None:
    box = inbox()
    box.stream.window = 9
    assert told(box.stream) == [Credit(TCP, 9)]


def test_a_gap_takes_a_message_away_from_its_first_part_on_however_many_came() -> None:
    box = inbox(window=100)
    assert box.take(part(0, b"ab")) is None
    assert box.take(part(2, b"cd")) is None
    box.skip(Gap(TCP, 4, 1, Reason.WITHDRAWN))
    assert told(box.stream) == [Lost(TCP, 0, 4, Reason.INCOMPLETE), Ack(TCP, 5)]


def test_a_gap_behind_a_whole_message_of_two_parts_takes_nothing_away() -> None:
    box = inbox(window=100)
    box.take(part(0, b"ab"))
    assert box.take(part(2, b"cd", more=False)) == (part(0, b"ab"), b"abcd")
    box.skip(Gap(TCP, 4, 1, Reason.WITHDRAWN))
    box.stream.hand(4)
    assert [frame for frame in told(box.stream) if not isinstance(frame, Credit)] == [Ack(TCP, 5)]


def test_a_message_with_an_outcome_makes_room_for_another() -> None:
    box = inbox(window=100_000)
    for at in range(2 * MAX_WAITING):
        if at == MAX_WAITING:
            box.stream.hand(MAX_WAITING)
        assert box.take(part(at, b"x", more=False)) is not None
    with pytest.raises(RemoteProtocolError, match="without an outcome"):
        box.take(part(2 * MAX_WAITING, b"x", more=False))
