"""A part of the process that has a bug."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from gateway.tasks.contain import contain

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock


async def test_a_bug_is_logged_and_the_part_is_started_again_ever_more_rarely(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[float] = []

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        starts.append(trio.current_time())
        raise KeyError("a bug")

    with trio.move_on_after(300):
        await contain("front door", fail)
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[0] <= 1
    assert all(pause <= 60 for pause in pauses)
    assert all(pause >= 44 for pause in pauses[7:])
    assert caplog.text.count("front door: a bug ended it; it is started again") == len(starts)


async def test_a_part_that_ran_for_a_minute_is_started_again_at_once(autojump_clock: MockClock) -> None:
    starts: list[float] = []

    async def last_a_minute() -> None:
        starts.append(trio.current_time())
        await trio.sleep(60)
        raise KeyError("a bug")

    with trio.move_on_after(250):
        await contain("front door", last_a_minute)
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == [60.0] * 4
