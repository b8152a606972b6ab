from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.tasks.supervise import Backoff, supervise

if TYPE_CHECKING:
    from trio.testing import MockClock


def test_the_first_try_is_at_once_and_the_pauses_double_up_to_the_most() -> None:
    backoff = Backoff(0.1, 2.0)
    pauses = [backoff.next() for _ in range(8)]
    assert pauses[0] == 0
    for pause, full in zip(pauses[1:], (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0), strict=True):
        assert full * 0.75 <= pause <= full


def test_what_worked_begins_anew() -> None:
    backoff = Backoff(0.1, 2.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 0


async def test_failures_are_told_and_tried_again(autojump_clock: MockClock) -> None:
    told: list[str] = []
    tries: list[float] = []

    async def fail(_: Backoff) -> None:
        tries.append(trio.current_time())
        if len(tries) == 4:
            await trio.sleep_forever()
        raise OSError(f"try {len(tries)}")

    with trio.move_on_after(60):
        await supervise(fail, (OSError,), told.append, Backoff(1.0, 15.0))
    assert told == ["try 1", "try 2", "try 3"]
    pauses = [later - sooner for sooner, later in itertools.pairwise(tries)]
    for pause, full in zip(pauses, (1, 2, 4), strict=True):
        assert full * 0.75 <= pause <= full


async def test_a_bug_is_no_failure_and_passes() -> None:
    async def bug(_: Backoff) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await supervise(bug, (OSError,), print, Backoff(1.0, 15.0))
