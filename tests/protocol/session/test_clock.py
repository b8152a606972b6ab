from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.link.session_frames import Ping, Pong
from protocol.session.clock import PeerClock, age, to_wire
from protocol.session.heartbeat import Heartbeat

moments = st.integers(0, 2**33)
delays = st.integers(0, 5_000)


@given(moments, moments, st.lists(st.tuples(delays, delays), min_size=1, max_size=12), delays)
def test_nothing_passes_for_younger_nor_for_much_older_than_it_is(
    ours: int, theirs: int, trips: list[tuple[int, int]], past: int
) -> None:
    clock, passed = PeerClock(), 0
    for there, back in trips:
        asked = ours + passed
        passed += there
        answer = theirs + passed
        passed += back
        clock.answered(to_wire(asked), to_wire(answer), ours + passed)
    now = ours + passed
    then = clock.local(to_wire(theirs + passed - past), now)
    best = min(there + back for there, back in trips[-8:])
    assert clock.round_trip == best
    assert now - past - best <= then <= now - past


def test_before_the_first_answer_there_is_no_round_trip() -> None:
    assert PeerClock().round_trip is None


def test_a_moment_that_is_yet_to_come_is_now() -> None:
    assert age(to_wire(2**32 + 5), 2**32 + 3) == 0
    clock = PeerClock()
    clock.answered(0, 0, 0)
    assert clock.local(10, 7) == 7


def test_answers_come_before_questions() -> None:
    heartbeat = Heartbeat()
    heartbeat.ask()
    heartbeat.heard(5)
    assert heartbeat.next_frame(7) == Pong(5, 7)
    assert heartbeat.next_frame(8) == Ping(8)
    assert heartbeat.next_frame(9) is None
    heartbeat.answered(8, 100, 10)
    assert heartbeat.clock.round_trip == 2
    with pytest.raises(RemoteProtocolError, match="not asked"):
        heartbeat.answered(8, 100, 10)


def test_an_answer_to_what_was_not_asked_is_refused() -> None:
    heartbeat = Heartbeat()
    with pytest.raises(RemoteProtocolError, match="not asked"):
        heartbeat.answered(1, 2, 3)
    heartbeat.asked(4)
    with pytest.raises(RemoteProtocolError, match="or not next"):
        heartbeat.answered(5, 2, 3)
