"""What a peer brings about is written whole at first, and then counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from gateway.tasks.event_log import EventLog

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock


async def test_ten_events_of_a_kind_are_written_whole_and_then_their_number_once_a_minute(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    events = EventLog(logging.getLogger("peers"))
    for number in range(500):
        events.log(logging.WARNING, "wrong keys", "wrong key from %s", f"192.0.2.{number % 2}")
    assert [record.getMessage() for record in caplog.records][-1] == "wrong key from 192.0.2.1"
    assert len(caplog.records) == 10
    for _ in range(2):
        autojump_clock.jump(60)
        for _ in range(100):
            events.log(logging.WARNING, "wrong keys", "wrong key from %s", "192.0.2.9")
    counted = [record.getMessage() for record in caplog.records][10:]
    assert counted == ["wrong keys: 490 more in 60 s", "wrong keys: 100 more in 60 s"]


async def test_kinds_do_not_compete_and_a_quiet_minute_begins_anew(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    events = EventLog(logging.getLogger("peers"))
    for _ in range(10):
        events.log(logging.WARNING, "wrong keys", "wrong key")
    events.log(logging.WARNING, "gaps", "a gap")
    autojump_clock.jump(60)
    for _ in range(11):
        events.log(logging.WARNING, "wrong keys", "again")
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["wrong key"] * 10 + ["a gap"] + ["again"] * 10


async def test_a_number_is_written_after_its_minute_without_another_event(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    events = EventLog(logging.getLogger("peers"))
    for _ in range(464):
        events.log(logging.WARNING, "wrong keys", "wrong key")
    events.log(logging.WARNING, "gaps", "a gap")
    for seconds in (59, 1, 30, 60, 60):
        autojump_clock.jump(seconds)
        events.tell()
    assert [record.getMessage() for record in caplog.records][11:] == ["wrong keys: 454 more in 60 s"]
    events.log(logging.WARNING, "wrong keys", "wrong key again")
    assert caplog.records[-1].getMessage() == "wrong key again", "a quiet minute began anew"


async def test_while_it_runs_it_tells_the_number_by_itself(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    events = EventLog(logging.getLogger("peers"))
    for _ in range(464):
        events.log(logging.WARNING, "wrong keys", "wrong key")
    with trio.move_on_after(61):
        await events.run()
    assert [record.getMessage() for record in caplog.records][10:] == ["wrong keys: 454 more in 60 s"]
