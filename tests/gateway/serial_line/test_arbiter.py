"""Writers of one line: each message whole, each writer in order, every byte counted, whoever is cancelled when."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.port.bus import Bus
from gateway.port.control import Break, SetLines
from gateway.port.line import ModemLines, PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.serial_line.arbiter import Arbiter
from protocol.link.reasons import Reason
from protocol.parameters.settings import SerialPort
from tests.gateway.line import NarrowTty, Unwanted, Writer, closed, serial_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

PORTION = 576
"""100 ms of line at this rate, and the longest piece of a byte stream that is a message there."""
RATE = 57600


async def write(turns: Arbiter, data: bytes, writer: Writer | None = None) -> None:
    await turns.write(data, writer or Writer(), trio.current_time())


async def transfer(turns: Arbiter, data: bytes, writer: Writer | None = None) -> None:
    await turns.transfer(data, writer or Writer(), trio.current_time())


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


# The plain way ----------------------------------------------------------------------------------------------


async def test_a_message_is_in_the_kernel_when_write_returns_and_no_other_task_had_to_run() -> None:
    async with serial_line() as line:
        writer = Writer()
        coroutine = line.turns.write(b"\x81\x01\x04\x07\x02\xff", writer, trio.current_time())
        with pytest.raises(StopIteration):  # it never yielded
            coroutine.send(None)
        with trio.fail_after(5):
            assert await line.hear(6) == b"\x81\x01\x04\x07\x02\xff"
        assert writer.written == line.turns.written == 6
        assert line.turns.unfinished == 0


async def test_a_large_transfer_arrives_whole_through_a_pty_that_takes_it_in_pieces() -> None:
    data = random.Random(7).randbytes(300_000)
    async with serial_line() as line:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transfer, line.turns, data)
                assert await line.hear(len(data)) == data
        assert line.turns.written == len(data)


async def test_an_empty_message_writes_nothing_and_leaves_the_line_free() -> None:
    tty = NarrowTty(10)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    await write(turns, b"")
    await transfer(turns, b"")
    await write(turns, b"x")
    assert tty.taken == b"x"


class Sipping(NarrowTty):
    """A pty whose reader keeps up: it takes three bytes at a time, until it was given ``calls``, and then hangs up."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def send_nowait(self, data: memoryview) -> int:
        self.room, self.closed, self.calls = 3, self.calls <= 0, self.calls - 1
        return super().send_nowait(data)


async def test_while_its_reader_keeps_up_a_pty_is_given_all_of_a_long_piece_in_one_step() -> None:
    turns, writer = Arbiter(Sipping(4).as_uart, Bus("P0")), Writer()
    assert turns.write_nowait(b"0123456789", writer, trio.current_time(), whole=False) == 10
    assert writer.written == turns.written == 10
    assert turns.is_ready


async def test_what_a_device_took_before_it_hung_up_in_the_same_step_counts_and_the_rest_is_refused() -> None:
    turns, writer = Arbiter(Sipping(2).as_uart, Bus("P0")), Writer()
    accepted = trio.current_time()
    assert turns.write_nowait(b"0123456789", writer, accepted, whole=False) == 6
    with pytest.raises(PortDown, match="the cable is out"):
        await turns.transfer(b"0123456789", writer, accepted, 6)
    assert writer.written == turns.written == 6


# In turn ----------------------------------------------------------------------------------------------------


async def test_writers_are_served_in_the_order_in_which_they_came() -> None:
    tty = NarrowTty(1)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        for name in (b"aa", b"bb", b"cc"):
            nursery.start_soon(write, turns, name)
            await blocked()
        tty.make_room(5)
    assert tty.taken == b"aabbcc"


async def test_nobody_slips_in_before_the_writer_whom_the_turn_was_handed_to() -> None:
    tty = NarrowTty()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        turn = await turns.turn(Writer(), trio.current_time())
        nursery.start_soon(write, turns, b"first")
        await blocked()
        turn.close()
        tty.make_room(20)
        await write(turns, b"second")
    assert tty.taken == b"firstsecond"


async def test_a_long_transfer_lets_a_waiting_writer_in_after_a_portion() -> None:
    tty = NarrowTty(PORTION + 100, RATE)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transfer, turns, b"t" * PORTION * 4)
        await blocked()
        nursery.start_soon(write, turns, b"PTZ")
        await blocked()
        tty.make_room(PORTION * 9)
    assert tty.taken.index(b"PTZ") == PORTION * 2
    assert len(tty.taken) == PORTION * 4 + 3


async def test_two_transfers_share_the_line_portion_by_portion() -> None:
    tty = NarrowTty(0, RATE)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transfer, turns, b"a" * PORTION * 3)
        await blocked()
        nursery.start_soon(transfer, turns, b"b" * PORTION * 3)
        await blocked()
        tty.make_room(PORTION * 6)
    assert tty.taken == (b"a" * PORTION + b"b" * PORTION) * 3


async def test_a_transfer_does_not_grow_stale_for_the_turns_that_it_lets_others_have(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tty = NarrowTty(0, RATE)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    writers = Writer(age_limit=15), Writer(age_limit=15)
    async with trio.open_nursery() as nursery:
        for writer in writers:
            nursery.start_soon(transfer, turns, bytes(PORTION * 8), writer)
        for _ in range(160):
            await trio.sleep(0.5)  # 80 s in all
            tty.make_room(PORTION // 10 + 1)
    assert [writer.written for writer in writers] == [PORTION * 8] * 2


async def test_a_faster_line_has_longer_portions_once_it_is_reckoned_with() -> None:
    tty = NarrowTty()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    tty.settings.timing = SerialPort(baud_rate=460800)
    turns.update_rate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transfer, turns, b"t" * 10_000)
        await blocked()
        nursery.start_soon(write, turns, b"PTZ")
        await blocked()
        tty.make_room(20_000)
    assert tty.taken.index(b"PTZ") == 4608


async def test_a_turn_keeps_others_out_until_it_is_closed_even_twice() -> None:
    tty = NarrowTty(100)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    writer = Writer()
    turn = await turns.turn(writer, trio.current_time(), b"request")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, turns, b"other")
        nursery.start_soon(write, turns, b"third")
        await turn.write(lambda: None)
        await turn.write(lambda: None)  # a message is written once
        await blocked()
        assert tty.taken == b"request"
        turn.close()
        turn.close()
    assert sorted((tty.taken[7:12], tty.taken[12:])) == [b"other", b"third"]
    assert writer.written == 7


async def test_the_reply_is_heard_from_before_the_first_byte_is_written_until_it_is_whole_or_its_time_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tty = NarrowTty(100)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    taken_before: list[bytes] = []
    turn = await turns.turn(Writer(), trio.current_time(), b"request")
    await turn.write(lambda: taken_before.append(tty.taken))
    assert taken_before == [b""]
    heard = ReceiveBuffer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn.replied, heard, Reply(5, None, 10))
        await trio.sleep(3)
        heard.deliver(b"reply")
    assert trio.current_time() == 3
    heard.clear()
    await turn.replied(heard, Reply(5, None, 10))
    assert trio.current_time() == 13
    turn.close()


async def test_what_is_beside_the_data_is_asked_of_the_device() -> None:
    class Modem(NarrowTty):
        def __init__(self) -> None:
            super().__init__(0)
            self.asked: list[object] = []

        async def send_break(self, seconds: float) -> None:
            await trio.lowlevel.checkpoint()
            self.asked.append(seconds)

        def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
            self.asked.append((dtr, rts))

        def modem_lines(self) -> ModemLines:
            return ModemLines(*[True] * 6)

    tty = Modem()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    await turns.control((Break(0.25), SetLines(True, None)), Writer(), trio.current_time())
    assert tty.asked == [0.25, (True, None)]
    assert turns.modem_lines() == ModemLines(*[True] * 6)


async def test_idle_waits_until_nobody_has_the_turn() -> None:
    turns = Arbiter(NarrowTty(9).as_uart, Bus("P0"))
    with trio.fail_after(5):
        await turns.idle()
        turn = await turns.turn(Writer(), trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.idle)
            await blocked()
            assert nursery.child_tasks
            turn.close()


# No longer wanted -------------------------------------------------------------------------------------------


async def test_a_message_that_is_not_wanted_when_its_turn_comes_is_not_written_and_the_next_one_is() -> None:
    tty = NarrowTty(10)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    turn = await turns.turn(Writer(), trio.current_time())
    revoked = Writer()

    async def fail() -> None:
        with pytest.raises(Unwanted):
            await write(turns, b"evil", revoked)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await blocked()
        nursery.start_soon(write, turns, b"good")
        await blocked()
        revoked.revoked = True
        turn.close()
    assert tty.taken == b"good"


@pytest.mark.parametrize("done", [0, PORTION])
async def test_who_is_revoked_after_it_was_woken_begins_no_message(done: int) -> None:
    tty = NarrowTty(done, RATE)
    turns, writer = Arbiter(tty.as_uart, Bus("P0")), Writer()

    async def fail() -> None:
        with pytest.raises(Unwanted):
            await transfer(turns, bytes(PORTION * 3), writer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await blocked()
        tty.make_room(PORTION * 3)  # it is woken
        writer.revoked = True  # and runs only now
    assert len(tty.taken) == writer.written == done


async def test_who_is_revoked_in_the_middle_has_the_portion_begun_finished_and_no_more() -> None:
    tty = NarrowTty(PORTION + 1, RATE)
    turns, writer = Arbiter(tty.as_uart, Bus("P0")), Writer()

    async def fail() -> None:
        with pytest.raises(Unwanted):
            await transfer(turns, bytes(PORTION * 3), writer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        nursery.start_soon(fail)
        await blocked()
        tty.make_room(PORTION * 3)
        writer.revoked = True
        await blocked()
        turns.end("over")
    assert len(tty.taken) == writer.written == PORTION * 2


async def test_a_command_that_a_stuck_line_kept_waiting_does_not_fire_when_it_moves_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tty = NarrowTty()
    turns = Arbiter(tty.as_uart, Bus("P0"))

    async def fail() -> None:
        with pytest.raises(PortDown, match="stale"):
            await write(turns, b"pan left", Writer(age_limit=2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(fail)
        await trio.sleep(60)
        tty.make_room(100)
    assert tty.taken == b""


async def test_a_message_begun_is_finished_however_long_the_line_was_stuck(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tty = NarrowTty(3)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, turns, b"pan left", Writer(age_limit=2))
        await trio.sleep(60)
        tty.make_room(100)
    assert tty.taken == b"pan left"


# Cancelled --------------------------------------------------------------------------------------------------


async def test_a_message_whose_writer_is_cancelled_in_its_middle_is_finished_before_the_next() -> None:
    tty = NarrowTty(3)
    turns, writer = Arbiter(tty.as_uart, Bus("P0")), Writer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await write(turns, b"pan left", writer)
        assert turns.begun(writer) == turns.unfinished == 5
        assert turns.begun(Writer()) == 0
        nursery.start_soon(write, turns, b"|next")
        await blocked()
        assert tty.taken == b"pan"
        tty.make_room(2)
        await blocked()
        assert turns.unfinished == 3
        tty.make_room(100)
        await blocked()
        turns.end("over")
    assert tty.taken == b"pan left|next"
    assert writer.written == 8
    assert turns.unfinished == turns.begun(writer) == 0


@pytest.mark.parametrize("send", [write, transfer])
async def test_a_message_that_is_not_wanted_is_not_written_to_a_free_line_either(
    send: Callable[[Arbiter, bytes, Writer], Awaitable[None]],
) -> None:
    tty = NarrowTty(100)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    with pytest.raises(Unwanted):
        await send(turns, b"evil", Writer(revoked=True))
    await write(turns, b"next")
    assert tty.taken == b"next"


async def test_a_line_whose_writer_left_before_it_began_is_free_at_once_and_needs_no_finisher() -> None:
    tty = NarrowTty()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    with trio.fail_after(5):
        await cancelled_when_blocked(Arbiter.write, turns)
        tty.make_room(100)
        await write(turns, b"next")
        await turns.idle()
    assert tty.taken == b"next"


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await blocked()
    scope.cancel()


@pytest.mark.parametrize("method", [Arbiter.write, Arbiter.transfer])
async def test_a_message_not_begun_goes_with_its_writer(
    method: Callable[[Arbiter, bytes, Writer, float], Awaitable[None]],
) -> None:
    tty = NarrowTty()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        for _ in range(2):  # one that has the turn, one that waits for it
            nursery.start_soon(cancelled_when_blocked, method, turns)
        await blocked()
        await blocked()
        tty.make_room(100)
        await write(turns, b"next")
        turns.end("over")
    assert tty.taken == b"next"
    assert turns.unfinished == 0


async def cancelled_when_blocked(
    method: Callable[[Arbiter, bytes, Writer, float], Awaitable[None]], turns: Arbiter
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_blocked, nursery.cancel_scope)
        await method(turns, b"gone", Writer(), 0)


async def test_a_transfer_that_is_cancelled_finishes_its_portion_only() -> None:
    tty = NarrowTty(PORTION + 10, RATE)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await transfer(turns, bytes(PORTION * 5))
        tty.make_room(PORTION * 5)
        await blocked()
        turns.end("over")
    assert len(tty.taken) == PORTION * 2


async def test_a_stuck_line_keeps_an_abandoned_message_for_its_time_and_then_lets_the_next_try(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tty = NarrowTty(3)
    turns, writer = Arbiter(tty.as_uart, Bus("P0")), Writer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.move_on_after(1):
            await write(turns, b"pan left", writer)
        nursery.start_soon(write, turns, b"next")
        await trio.sleep(1.9)
        tty.make_room(1)  # it moves: patience begins anew
        await trio.sleep(1.9)
        assert not caplog.records
        await trio.sleep(0.2)
        assert "4 bytes of a message begun were not written: the line takes nothing" in caplog.text
        tty.make_room(10)
        await blocked()
        turns.end("over")
    assert tty.taken == b"pan next"
    assert (turns.unfinished, writer.written, turns.written) == (4, 4, 8)


# Claims that fail -------------------------------------------------------------------------------------------


class Fault(Exception):
    """A bug in a claim."""


@dataclass(eq=False)
class FaultyWriter(Writer):
    """A claim that raises wherever ``at`` says."""

    at: frozenset[str] = frozenset()

    def check(self, accepted: float, ahead: float = 0.0) -> None:
        super().check(accepted)
        if "check" in self.at and self.written:
            raise Fault

    def wrote(self, count: int) -> None:
        super().wrote(count)
        if "wrote" in self.at:
            raise Fault

    def lost(self, count: int, reason: Reason) -> None:
        super().lost(count, reason)
        if "lost" in self.at:
            raise Fault


@pytest.mark.parametrize("room", [0, 3, 100])
@pytest.mark.parametrize("at", [("check",), ("wrote",), ("lost",), ("check", "wrote", "lost")], ids="+".join)
async def test_a_claim_that_raises_costs_nobody_else_a_byte_or_the_turn(room: int, at: tuple[str, ...]) -> None:
    tty = NarrowTty(room)
    turns, faulty, good = Arbiter(tty.as_uart, Bus("P0")), FaultyWriter(at=frozenset(at)), Writer()

    async def stumble() -> None:
        with contextlib.suppress(Fault):
            await write(turns, b"pan left", faulty)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            nursery.start_soon(stumble)
            await blocked()
            nursery.start_soon(write, turns, b"|next", good)
            for _ in range(20):
                tty.make_room(1)
                await blocked()
            turns.end("over")
    assert tty.taken == b"pan left|next"
    assert (faulty.written, good.written, turns.written, turns.unfinished) == (8, 5, 13, 0)


@pytest.mark.parametrize("at", [("wrote",), ("lost",), ("wrote", "lost")], ids="+".join)
async def test_a_claim_that_raises_while_its_message_is_given_up_leaves_the_finisher_at_work(
    at: tuple[str, ...], autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tty = NarrowTty(3)
    turns, faulty = Arbiter(tty.as_uart, Bus("P0")), FaultyWriter(at=frozenset(at))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.move_on_after(1):
            await write(turns, b"pan left", faulty)
        await trio.sleep(1)
        tty.make_room(1)
        await trio.sleep(5)
        assert faulty.outcomes == [(4, Reason.INCOMPLETE)]
        assert ("a bug: a writer cannot be told what is written" in caplog.text) == ("wrote" in at)
        assert ("a bug: a writer cannot be told what is lost" in caplog.text) == ("lost" in at)
        with trio.move_on_after(1):
            await write(turns, b"abandoned too")
        tty.make_room(100)
        await turns.idle()
        turns.end("over")
    assert turns.unfinished == 4


async def test_a_message_that_is_unwanted_once_it_has_begun_is_finished_all_the_same() -> None:
    class Fickle(Writer):
        def wrote(self, count: int) -> None:
            super().wrote(count)
            self.revoked = True

    tty = NarrowTty(3)
    turns = Arbiter(tty.as_uart, Bus("P0"))

    async def unwanted() -> None:
        with pytest.raises(Unwanted):
            await write(turns, b"pan left", Fickle())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            nursery.start_soon(unwanted)
            await blocked()
            tty.make_room(2)
            await blocked()
            tty.make_room(100)
            await write(turns, b"|next")
            turns.end("over")
    assert tty.taken == b"pan left|next"


async def test_a_driver_with_a_bug_ends_the_message_and_not_the_finisher(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(NarrowTty):
        faults = 0

        def send_nowait(self, data: memoryview) -> int:
            if self.faults:
                self.faults -= 1
                raise Fault
            return super().send_nowait(data)

    tty = Faulty(3)
    turns, writer = Arbiter(tty.as_uart, Bus("P0")), Writer()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when_blocked, scope)
                await write(turns, b"pan left", writer)
            tty.faults = 1
            tty.make_room(100)
            await turns.idle()
            await write(turns, b"|next")
            turns.end("over")
    assert tty.taken == b"pan|next"
    assert writer.outcomes == [(5, Reason.INCOMPLETE)]
    assert "5 bytes of a message begun were not written: a bug ended it" in caplog.text
    assert "a bug ended a message that was begun" in caplog.text


# The end ----------------------------------------------------------------------------------------------------


async def test_who_waits_and_who_comes_is_refused_at_the_end_and_who_writes_may_finish() -> None:
    tty = NarrowTty(2)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    refused: list[str] = []

    async def fail() -> None:
        with pytest.raises(PortDown, match="the cable is out") as caught:
            await write(turns, b"late")
        refused.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        nursery.start_soon(write, turns, b"begun")
        await blocked()
        nursery.start_soon(fail)
        nursery.start_soon(fail)
        await blocked()
        turns.end("the cable is out")
        await blocked()
        assert len(refused) == 2
        await fail()
        tty.make_room(100)
        with trio.fail_after(5):
            await turns.idle()
    assert tty.taken == b"begun"


async def test_a_turn_handed_over_just_before_the_end_is_used_or_given_back() -> None:
    tty = NarrowTty(10)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            turn = await turns.turn(Writer(), trio.current_time())
            nursery.start_soon(write, turns, b"heir")
            await blocked()
            turn.close()
            turns.end("closing")
            await turns.idle()
    assert tty.taken == b"heir"


async def test_who_was_handed_the_turn_once_is_refused_at_the_end_like_anybody_else() -> None:
    tty = NarrowTty(100)
    turns = Arbiter(tty.as_uart, Bus("P0"))

    async def come_again() -> None:
        await write(turns, b"first")
        turn = await turns.turn(Writer(), trio.current_time())
        with pytest.raises(PortDown, match="over"):
            await write(turns, b"second")
        turn.close()

    with trio.fail_after(5):
        holder = await turns.turn(Writer(), trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_again)
            await blocked()
            holder.close()
            await blocked()
            turns.end("over")
    assert tty.taken == b"first"


async def test_a_message_that_is_cancelled_after_the_end_is_finished_too() -> None:
    tty = NarrowTty(2)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as writers:
                    writers.start_soon(write, turns, b"begun")
                    await blocked()
                    turns.end("closing")
                    await blocked()
                    scope.cancel()
            tty.make_room(100)
            await turns.idle()
    assert tty.taken == b"begun"


async def test_a_device_lost_in_mid_write_is_told_to_the_writer() -> None:
    tty = NarrowTty(2)
    turns, writer = Arbiter(tty.as_uart, Bus("P0")), Writer()

    async def fail() -> None:
        with pytest.raises(PortDown, match="the cable is out"):
            await write(turns, b"begun", writer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        nursery.start_soon(fail)
        await blocked()
        turns.end("the cable is out")
        tty.close()
    assert writer.written == 2
    assert turns.unfinished == 0


async def test_a_device_closed_before_its_bus_knows_is_told_as_closed() -> None:
    tty = NarrowTty()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocked_then_close, tty)
        with pytest.raises(PortDown, match="the device was closed"):
            await write(turns, b"x")


async def blocked_then_close(tty: NarrowTty) -> None:
    await blocked()
    tty.close()


async def test_a_real_device_that_hangs_up_refuses_the_next_message() -> None:
    async with serial_line() as line:
        await closed(line.uart)
        with pytest.raises(PortDown, match="gone"):
            await write(line.turns, b"x")


async def test_a_device_lost_between_the_writers_end_and_the_finisher_is_counted_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tty = NarrowTty(2)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await write(turns, b"begun")
        turns.end("the cable is out")  # the finisher has not run yet
        tty.close()
        assert turns.unfinished == 3
    assert turns.unfinished == 3
    assert "3 bytes of a message begun were not written: the cable is out" in caplog.text


async def test_a_real_tty_closed_under_the_finisher_is_counted_too() -> None:
    async with serial_line() as line:
        with trio.fail_after(5):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_when_blocked, scope)
                    await write(line.turns, bytes(1 << 20))
            before = line.turns.unfinished
            assert before == (1 << 20) - line.turns.written
            await line.unplug()
            await line.turns.idle()
            assert line.turns.unfinished == before


async def test_a_long_rest_has_the_time_that_the_line_needs_for_it_besides(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns, writer = Arbiter(NarrowTty(1).as_uart, Bus("P0")), Writer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.move_on_after(1):
            await write(turns, bytes(4801), writer)  # at 9600 8N1 the rest lasts for five seconds
        start = trio.current_time()
        await turns.idle()
        assert trio.current_time() - start == pytest.approx(7)
        turns.end("over")
    assert writer.outcomes == [(4800, Reason.INCOMPLETE)]


async def test_the_line_is_free_as_soon_as_the_tty_has_the_last_byte_of_a_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tty = NarrowTty(3)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.move_on_after(1):
            await write(turns, b"pan left")
        start = trio.current_time()
        tty.make_room(5)  # and for nothing behind it
        await turns.idle()
        assert trio.current_time() == start
        turns.end("over")


@pytest.mark.parametrize("takes", [True, False])
async def test_nothing_of_a_message_is_on_its_way_once_it_is_finished_or_given_up(
    takes: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tty, writer = NarrowTty(3), Writer()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        async with trio.open_nursery() as client:
            client.start_soon(write, turns, b"pan left", writer)
            await blocked()
            client.cancel_scope.cancel()
        assert turns.begun(writer) == 5
        if takes:
            tty.make_room(100)
        await turns.idle()
        assert turns.begun(writer) == 0
        turns.end("over")
    assert writer.outcomes == ([] if takes else [(5, Reason.INCOMPLETE)])
    assert len(caplog.records) == len(writer.outcomes)


async def test_the_finisher_that_is_cancelled_says_what_it_left(caplog: pytest.LogCaptureFixture) -> None:
    tty = NarrowTty(2)
    turns = Arbiter(tty.as_uart, Bus("P0"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await write(turns, b"begun")
        await blocked()
        nursery.cancel_scope.cancel()
    assert turns.unfinished == 3
    assert "3 bytes of a message begun were not written: the port closes" in caplog.text


# Every schedule ---------------------------------------------------------------------------------------------


class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` when ``task`` is about to take its ``step``-th step."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


@pytest.mark.parametrize("kind", ["write", "transfer"])
async def test_cancelled_at_any_step_a_message_is_whole_or_absent_and_the_line_is_free(kind: str) -> None:
    data = b"<" + bytes(PORTION - 2) + b">"
    for step in range(1, 100):
        tty = NarrowTty(0, RATE)
        turns, writer = Arbiter(tty.as_uart, Bus("P0")), Writer()
        instrument = CancelAtStep(step)

        async def victim(
            instrument: CancelAtStep = instrument, turns: Arbiter = turns, writer: Writer = writer
        ) -> None:
            instrument.task = trio.lowlevel.current_task()
            with instrument.scope:
                await trio.lowlevel.checkpoint()
                for _ in range(2):
                    if kind == "write":
                        await write(turns, data, writer)
                    else:
                        await transfer(turns, data, writer)

        trio.lowlevel.add_instrument(instrument)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turns.run)
                nursery.start_soon(victim)
                nursery.start_soon(write, turns, b"*")
                for _ in range(12):
                    await blocked()
                    tty.make_room(100)
                tty.make_room(1000)
                await write(turns, b"!")
                turns.end("over")
        trio.lowlevel.remove_instrument(instrument)
        whole = tty.taken.count(data)
        assert tty.taken.replace(data, b"").replace(b"*", b"") == b"!"
        assert writer.written == whole * len(data)
        assert (turns.written, turns.unfinished) == (len(tty.taken), 0)
        if not instrument.scope.cancelled_caught:
            assert whole == 2
            return
    pytest.fail("the writer takes more steps than that?")


@st.composite
def schedules(draw: st.DrawFn) -> list[tuple[int, int]]:
    """What happens in turn: (writer, length) or (-1, room) or (-2, writer to cancel)."""
    event = st.one_of(
        st.tuples(st.integers(0, 3), st.integers(1, 1400)),
        st.tuples(st.just(-1), st.integers(1, 900)),
        st.tuples(st.just(-2), st.integers(0, 3)),
    )
    return draw(st.lists(event, max_size=25))


def frame(writer: int, number: int, length: int) -> bytes:
    """A message that can be told apart: its length, who wrote it, its number, and filling."""
    return bytes([0xF0 | writer, number, length >> 8, length & 0xFF]) + bytes([writer]) * length


def frames(wire: bytes) -> list[tuple[int, int]]:
    """Read messages off the wire; fails where one is cut or mixed with another."""
    read = []
    while wire:
        writer, number, length = wire[0] & 0x0F, wire[1], wire[2] << 8 | wire[3]
        assert wire[: 4 + length] == frame(writer, number, length)
        read.append((writer, number))
        wire = wire[4 + length :]
    return read


@given(schedules())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_schedule_every_message_on_the_line_is_whole_in_order_and_counted(
    schedule: Sequence[tuple[int, int]],
) -> None:
    trio.run(run_schedule, schedule)


async def run_schedule(schedule: Sequence[tuple[int, int]]) -> None:
    tty = NarrowTty()
    turns = Arbiter(tty.as_uart, Bus("P0"))
    writers = [Writer() for _ in range(4)]
    scopes: list[trio.CancelScope | None] = [None] * 4
    numbers: Counter[int] = Counter()

    async def message(index: int, data: bytes, scope: trio.CancelScope) -> None:
        with scope:
            await write(turns, data, writers[index])
        scopes[index] = None

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            for who, number in schedule:
                if who == -1:
                    tty.make_room(number)
                elif who == -2:
                    if (scope := scopes[number]) is not None:
                        scope.cancel()
                elif scopes[who] is None:
                    scope = scopes[who] = trio.CancelScope()
                    nursery.start_soon(message, who, frame(who, numbers[who], number), scope)
                    numbers[who] += 1
                if number % 3:
                    await blocked()
            tty.make_room(1 << 20)
            await blocked()
            turns.end("over")
    seen = frames(tty.taken)
    for index, writer in enumerate(writers):
        mine = [number for who, number in seen if who == index]
        assert mine == sorted(set(mine))
        assert writer.written == sum(len(data) for data in split(tty.taken) if data[0] & 0x0F == index)
    assert (turns.written, turns.unfinished) == (len(tty.taken), 0)


def split(wire: bytes) -> list[bytes]:
    """Cut the wire into its messages."""
    parts = []
    while wire:
        length = 4 + (wire[2] << 8 | wire[3])
        parts.append(wire[:length])
        wire = wire[length:]
    return parts


async def test_many_writers_on_a_real_line_with_random_cancels_lose_no_byte_of_a_message_begun() -> None:
    chance = random.Random(20)
    async with serial_line() as line:
        writers = [Writer() for _ in range(6)]

        async def chatter(index: int) -> None:
            for number in range(40):
                data = frame(index, number, chance.randrange(1, 3000))
                with trio.CancelScope() as scope:
                    if chance.random() < 0.3:
                        scope.deadline = trio.current_time() + chance.random() / 1000
                    await write(line.turns, data, writers[index])

        wire = b""

        async def listen() -> None:
            nonlocal wire
            while True:
                wire += await line.hear(1)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                async with trio.open_nursery() as chatters:
                    for index in range(len(writers)):
                        chatters.start_soon(chatter, index)
                await line.turns.idle()
                while len(wire) < line.turns.written:
                    await blocked()
                nursery.cancel_scope.cancel()
        for index in range(len(writers)):
            mine = [number for who, number in frames(wire) if who == index]
            assert mine == sorted(set(mine))
        assert sum(writer.written for writer in writers) == line.turns.written == len(wire)
