"""One session at the owner: counted, heard from the first byte, and truthful about what it was refused."""

from __future__ import annotations

import trio
import trio.testing

from gateway.port.rights import Right
from gateway.remote_port.session import Pace, RemoteSession
from protocol.link.reasons import Reason
from protocol.link.turn_parameters import TurnStatus
from tests.gateway.remote_port.linked import chained, holds


async def test_what_it_carries_is_counted() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, far), _):
            (session,) = owner.service.sessions
            assert isinstance(session, RemoteSession)
            await far.connect(Right.TCP).write(b"12345")
            owner.bus.deliver(b"678")
            await holds(lambda: far.bus.received == 3 and owner.tty.taken)
            assert (session.received, session.sent, session.size, session.dropped, session.gaps) == (5, 3, 0, 0, 0)
            assert far.device.round_trip is not None
            assert not far.device.keyless


async def test_it_has_a_device_that_is_open_on_demand_opened_for_as_long_as_it_lasts() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, _), _):
            (session,) = owner.service.sessions
            session.permit(Right(0))
            assert owner.bus.needs.value == 1
            owner.service.kick(session)
            await holds(lambda: owner.bus.needs.value == 0)


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


async def test_it_hears_the_line_from_the_instant_at_which_the_session_began() -> None:
    with trio.fail_after(5):
        async with chained() as ((owner, _), _):
            (session,) = owner.service.sessions
            session.end("over")
            owner.bus.deliver(b"not heard")
            assert session.sent == 0


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
    from gateway.port.line import Reply
    from gateway.port.receive_buffer import ReceiveBuffer
    from gateway.remote_port.session import _status

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
