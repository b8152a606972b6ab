"""Many at once, then one in a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.token_bucket import TokenBucket


def test_a_burst_goes_at_once_and_then_one_each_pause() -> None:
    bucket = TokenBucket(burst=3, pause=4.0, since=0.0)
    for _ in range(3):
        assert bucket.wait(0.0) == 0
        bucket.take(0.0)
    assert bucket.wait(0.0) == 4.0
    assert bucket.wait(3.0) == 1.0
    assert bucket.wait(4.0) == 0


def test_who_took_without_a_token_pays_the_debt_before_the_next() -> None:
    bucket = TokenBucket(burst=1, pause=2.0, since=0.0)
    bucket.take(0.0)
    bucket.take(0.0)
    assert bucket.wait(0.0) == 4.0
    bucket.put_back()
    assert bucket.wait(0.0) == 2.0


def test_who_takes_only_a_token_that_is_there_runs_into_no_debt() -> None:
    bucket = TokenBucket(burst=1, pause=2.0, since=0.0)
    assert [bucket.try_take(0.0) for _ in range(3)] == [True, False, False]
    assert bucket.wait(0.0) == 2.0
    assert bucket.try_take(2.0)


def test_nothing_is_gained_beyond_the_burst() -> None:
    bucket = TokenBucket(burst=2, pause=1.0, since=0.0)
    bucket.put_back()
    assert bucket.is_full(1000.0)
    bucket.take(1000.0)
    assert not bucket.is_full(1000.0)
    bucket.take(1000.0)
    assert bucket.wait(1000.0) == 1.0


@given(st.lists(st.floats(0, 10), max_size=50), st.integers(1, 5), st.sampled_from([0.5, 1.0, 3.0]))
def test_whoever_waits_is_let_through_no_faster_than_burst_and_pause_say(
    gaps: list[float], burst: int, pause: float
) -> None:
    bucket, now, taken = TokenBucket(burst, pause, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        if bucket.wait(now) == 0:
            bucket.take(now)
            taken += 1
        assert taken <= burst + now / pause + 1e-6
