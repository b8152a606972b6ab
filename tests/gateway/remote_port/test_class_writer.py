"""The writers of a session's classes: in order, a little ahead of the line, and together no burden to others."""

from __future__ import annotations

import trio
import trio.testing

from gateway.port.line import Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.remote_port.class_writer import Pace, _status
from protocol.link.reasons import Reason
from protocol.link.turn_parameters import TurnStatus
from tests.gateway.remote_port.linked import chained, holds


async def test_no_more_than_a_quarter_second_of_line_may_be_sent_ahead_of_it() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            (session,) = owner.service.sessions
            windows = [inbox.stream.window for inbox in session.session._inboxes.values()]
            assert windows == [240, 240, 240]
            owner.bus.adjusted(300, "300 8N1")
            await holds(lambda: [inbox.stream.window for inbox in session.session._inboxes.values()] == [64, 64, 64])
            await far.connect(Right.TCP).write(bytes(4096))
            await holds(lambda: len(owner.tty.taken) == 4096)


async def test_what_was_on_its_way_when_a_right_was_withdrawn_is_lost_and_told() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            (session,) = owner.service.sessions
            driver = far.connect(Right.PTZ)
            session.permit(Right.TCP | Right.CGI)
            await driver.write(b"too late")
            await holds(lambda: driver.counters.dropped == 8)
            assert session.dropped == 8
            assert far.device.losses == {Reason.FORBIDDEN: 8}
            assert not owner.tty.taken


def test_a_turns_end_has_its_reason() -> None:
    heard = ReceiveBuffer()
    heard.deliver(b"ab\r")
    assert _status(heard, Reply(9, b"\r", 1.0)) is TurnStatus.DELIMITER
    assert _status(heard, Reply(3, None, 1.0)) is TurnStatus.LENGTH
    assert _status(heard, Reply(9, b"#", 1.0)) is TurnStatus.TIME


async def test_writers_that_have_much_to_write_let_others_run_and_a_single_message_does_not_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace = Pace()
    rounds = 0
    written = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            await trio.lowlevel.checkpoint()
            rounds += 1

    async def writer() -> None:
        nonlocal written
        for _ in range(10):
            await pace.allow()
            written += 1
            pace.charge(trio.current_time() - 0.0005)

    with trio.testing.assert_no_checkpoints():
        await writer_once(pace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with trio.open_nursery() as writers:
            for _ in range(8):
                writers.start_soon(writer)
        nursery.cancel_scope.cancel()
    assert written == 80
    assert rounds >= 80 // 4 - 2, "four of them take the time of a round"


async def writer_once(pace: Pace) -> None:
    await pace.allow()
    pace.charge(trio.current_time())


async def test_what_waited_for_the_line_is_charged_little_and_a_pause_is_a_new_round(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace = Pace()
    pace.charge(trio.current_time() - 10)
    with trio.testing.assert_no_checkpoints():
        await pace.allow()
    pace.charge(trio.current_time() - 10)
    with trio.testing.assert_checkpoints():
        await pace.allow()
    for _ in range(2):
        pace.charge(trio.current_time() - 10)
    await trio.sleep(0.01)
    with trio.testing.assert_no_checkpoints():
        await pace.allow()
