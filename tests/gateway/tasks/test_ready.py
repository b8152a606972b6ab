from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest
import trio

from gateway.tasks import ready
from gateway.tasks.ready import ReadyClock, closing, when_readable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")


def by_tasks(main: Callable[[], Awaitable[T]]) -> T:
    return trio.run(main)


def by_the_clock(main: Callable[[], Awaitable[T]]) -> T:
    async def begun(clock: ReadyClock) -> T:
        await clock.begin()
        return await main()

    with contextlib.closing(ReadyClock()) as clock:
        return trio.run(begun, clock, clock=clock, instruments=[clock])


DRIVERS = pytest.mark.parametrize("drive", [by_tasks, by_the_clock])


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


class Steps:
    """A step that notes what it reads, and returns ``result`` at the ``last`` piece."""

    def __init__(self, sock: socket.socket, last: bytes = b"") -> None:
        self.sock, self.last, self.pieces = sock, last, list[bytes]()

    def __call__(self) -> bytes | None:
        try:
            piece = self.sock.recv(100)
        except BlockingIOError:
            return None
        self.pieces.append(piece)
        return piece if piece == self.last else None


@DRIVERS
def test_a_step_is_called_for_each_piece_and_what_it_returns_ends_the_wait(
    drive: Callable[[Callable[[], Awaitable[bytes]]], bytes], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    step = Steps(ours, b"last")

    async def speak() -> None:
        for piece in (b"one", b"two", b"last", b"beyond"):
            theirs.send(piece)
            await trio.sleep(0.01)

    async def main() -> bytes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            return await when_readable(ours.fileno(), step)

    assert drive(main) == b"last"
    assert step.pieces == [b"one", b"two", b"last"]
    assert ours.recv(100) == b"beyond"


@DRIVERS
def test_the_end_of_a_stream_calls_the_step_and_costs_nothing_afterwards(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair

    async def main() -> None:
        theirs.close()
        assert await when_readable(ours.fileno(), Steps(ours)) == b""
        used = time.process_time()
        await trio.sleep(0.3)
        assert time.process_time() - used < 0.1

    drive(main)


@DRIVERS
def test_what_a_step_raises_is_raised_in_the_task_that_it_belongs_to(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    other, beyond = socket.socketpair()
    other.setblocking(False)

    def fail() -> None:
        raise RuntimeError("a bug in one step")

    async def main() -> None:
        neighbour = Steps(other, b"end")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(when_readable, other.fileno(), neighbour)
            theirs.send(b"x")
            with pytest.raises(RuntimeError, match="a bug in one step"):
                await when_readable(ours.fileno(), fail)
            beyond.send(b"end")
        assert neighbour.pieces == [b"end"]

    with other, beyond:
        drive(main)


@DRIVERS
def test_a_cancelled_wait_calls_its_step_no_more_from_that_instant(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    step = Steps(ours)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(end, scope)
                await when_readable(ours.fileno(), step)
            await trio.sleep(0.02)
        assert step.pieces == []
        assert ours.recv(100) == b"too late"

    async def end(scope: trio.CancelScope) -> None:
        await trio.sleep(0.02)
        scope.cancel()
        theirs.send(b"too late")

    drive(main)


@DRIVERS
def test_a_step_may_cancel_the_wait_of_another_that_is_readable_in_the_same_round(
    drive: Callable[[Callable[[], Awaitable[None]]], None],
) -> None:
    pairs = [socket.socketpair() for _ in range(8)]
    moved = list[int]()
    scopes = [trio.CancelScope() for _ in pairs]

    async def main() -> None:
        async def wait(index: int) -> None:
            def step() -> None:
                pairs[index][0].recv(100)
                moved.append(index)
                for other, scope in enumerate(scopes):
                    if other != index:
                        scope.cancel()

            with scopes[index]:
                await when_readable(pairs[index][0].fileno(), step)

        with trio.move_on_after(0.2):
            async with trio.open_nursery() as nursery:
                for index in range(len(pairs)):
                    nursery.start_soon(wait, index)
                await trio.sleep(0.02)
                for _, theirs in pairs:
                    theirs.send(b"x")

    drive(main)
    assert len(moved) == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@DRIVERS
def test_who_waits_for_a_descriptor_that_is_closed_is_told(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, _ = pair

    async def close() -> None:
        await trio.sleep(0.01)
        closing(ours.fileno())
        ours.close()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            with pytest.raises(trio.ClosedResourceError):
                await when_readable(ours.fileno(), Steps(ours))

    drive(main)


@DRIVERS
def test_a_number_that_is_used_again_serves_its_new_owner(
    drive: Callable[[Callable[[], Awaitable[None]]], None],
) -> None:
    async def main() -> None:
        numbers = set[int]()
        for _ in range(3):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            numbers.add(ours.fileno())
            theirs.send(b"last")
            assert await when_readable(ours.fileno(), Steps(ours, b"last")) == b"last"
            closing(ours.fileno())
            ours.close()
            theirs.close()
        assert len(numbers) == 1

    drive(main)


@DRIVERS
@pytest.mark.parametrize("how", ["cancelled", "closed", "closed and cancelled"])
def test_what_a_step_returns_is_not_lost_where_it_ends_its_own_tasks_wait(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket], how: str
) -> None:
    ours, theirs = pair
    seen = list[str]()

    async def main() -> None:
        with trio.CancelScope() as scope:

            def step() -> str:
                assert ours.recv(100) == b"x"
                if "closed" in how:
                    closing(ours.fileno())
                    ours.close()
                if "cancelled" in how:
                    scope.cancel()
                return "half of a message is written"

            theirs.send(b"x")
            seen.append(await when_readable(ours.fileno(), step))
            await trio.lowlevel.checkpoint()
            seen.append("it runs on")
        assert scope.cancelled_caught == ("cancelled" in how)

    drive(main)
    assert seen[0] == "half of a message is written"
    assert ("it runs on" in seen) == ("cancelled" not in how)


@DRIVERS
def test_a_step_that_cancels_its_own_tasks_wait_and_returns_nothing_is_called_no_more(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    calls = 0

    async def main() -> None:
        with trio.fail_after(5), trio.CancelScope() as scope:

            def step() -> None:
                nonlocal calls
                calls += 1
                scope.cancel()

            theirs.send(b"it stays readable")
            await when_readable(ours.fileno(), step)
        assert scope.cancelled_caught

    drive(main)
    assert calls == 1


@DRIVERS
def test_what_a_step_raises_comes_before_the_cancellation_that_it_brought_about(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair

    async def main() -> None:
        with trio.CancelScope() as scope:

            def fail() -> None:
                scope.cancel()
                raise RuntimeError("a bug in one step")

            theirs.send(b"x")
            with pytest.raises(RuntimeError, match="a bug in one step"):
                await when_readable(ours.fileno(), fail)

    drive(main)


def test_a_number_that_a_step_closes_and_opens_again_is_not_read_by_the_step_that_had_it() -> None:
    """An event of the same round names the number, and that is another's by then."""
    pairs = [socket.socketpair() for _ in range(8)]
    read, ended, served = list[bytes](), list[int](), list[bytes]()

    def renew(index: int) -> None:
        number = pairs[index][0].fileno()
        closing(number)
        for each in pairs[index]:
            each.close()
        pairs[index] = socket.socketpair()
        assert number in [each.fileno() for each in pairs[index]]
        for each in pairs[index]:
            each.send(b"a new owner's")

    async def main() -> None:
        async def wait(index: int) -> None:
            def step() -> None:
                read.append(pairs[index][0].recv(100))
                for other in range(len(pairs)):
                    if other != index:
                        renew(other)

            with contextlib.suppress(trio.ClosedResourceError):
                await when_readable(pairs[index][0].fileno(), step)
            ended.append(index)

        async with trio.open_nursery() as nursery:
            for index in range(len(pairs)):
                nursery.start_soon(wait, index)
            await trio.sleep(0.01)
            for _, theirs in pairs:
                theirs.send(b"the one before's")
            with trio.fail_after(5):
                while len(ended) < 7:
                    await trio.lowlevel.checkpoint()
                for index in ended:
                    ours = pairs[index][0]
                    served.append(await when_readable(ours.fileno(), functools.partial(ours.recv, 100)))
            nursery.cancel_scope.cancel()

    by_the_clock(main)
    for pair in pairs:
        for each in pair:
            each.close()
    assert read == [b"the one before's"]
    assert served == [b"a new owner's"] * 7


@DRIVERS
def test_two_tasks_cannot_wait_for_one_descriptor(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, _ = pair

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(when_readable, ours.fileno(), Steps(ours))
            await trio.sleep(0.01)
            with pytest.raises(trio.BusyResourceError):
                await when_readable(ours.fileno(), Steps(ours))
            nursery.cancel_scope.cancel()

    drive(main)


@DRIVERS
def test_one_that_never_rests_starves_neither_its_neighbours_nor_trio_nor_a_deadline(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    busy, full = socket.socketpair()
    full.send(b"always readable")
    ours, theirs = pair
    calls = 0

    def never_reads() -> None:
        nonlocal calls
        calls += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(when_readable, busy.fileno(), never_reads)
            with trio.fail_after(5):
                await trio.sleep(0.01)
                await trio.to_thread.run_sync(time.perf_counter)
                theirs.send(b"last")
                assert await when_readable(ours.fileno(), Steps(ours, b"last")) == b"last"
            nursery.cancel_scope.cancel()

    with busy, full:
        drive(main)
    assert calls > 10


@DRIVERS
def test_trio_that_never_rests_does_not_starve_a_step(
    drive: Callable[[Callable[[], Awaitable[None]]], None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair

    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spin)
            theirs.send(b"last")
            with trio.fail_after(5):
                assert await when_readable(ours.fileno(), Steps(ours, b"last")) == b"last"
            nursery.cancel_scope.cancel()

    drive(main)


@DRIVERS
def test_a_task_that_a_step_wakes_runs_at_once(
    drive: Callable[[Callable[[], Awaitable[float]]], float], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    event = trio.Event()

    def step() -> None:
        ours.recv(100)
        event.set()

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(when_readable, ours.fileno(), step)
            threading.Timer(0.05, theirs.send, (b"x",)).start()
            began = trio.current_time()
            with trio.fail_after(10):
                await event.wait()
            nursery.cancel_scope.cancel()
            return trio.current_time() - began

    assert drive(main) < 5


def test_a_short_wait_beside_descriptors_is_not_rounded_up_to_whole_milliseconds(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert least_late(pair) < 0.0005


def test_where_the_set_has_a_number_too_high_for_select_a_short_wait_ends_all_the_same(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_SELECTABLE", 0)
    monkeypatch.setattr(select, "select", too_high)
    assert 0 <= least_late(pair) < 5


def too_high(*_: object) -> NoReturn:
    raise ValueError("filedescriptor out of range in select()")


def least_late(pair: tuple[socket.socket, socket.socket]) -> float:
    """Return how late a wait of 1.2 ms ends, the best of many: a busy machine may be late at any of them."""
    ours, _ = pair

    async def main() -> float:
        late = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(when_readable, ours.fileno(), Steps(ours))
            for _ in range(100):
                deadline = trio.current_time() + 0.0012
                await trio.sleep_until(deadline)
                late.append(trio.current_time() - deadline)
            nursery.cancel_scope.cancel()
        return min(late)

    return by_the_clock(main)


# -- the proof, and what happens without it


def fallback(clock: ReadyClock, caplog: pytest.LogCaptureFixture) -> str:
    """Begin with this clock, show that waits work all the same, and return what the log says."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def main() -> None:
        await clock.begin()
        theirs.send(b"last")
        with trio.fail_after(5):
            assert await when_readable(ours.fileno(), Steps(ours, b"last")) == b"last"

    with ours, theirs, contextlib.closing(clock), caplog.at_level(logging.WARNING):
        trio.run(main, clock=clock, instruments=[clock])
    (record,) = caplog.records
    return record.getMessage()


def test_where_trio_opens_no_epoll_tasks_drive(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ReadyClock()
    monkeypatch.setattr("gateway.tasks.ready._epolls", lambda: clock._before)
    assert "its epoll was not found" in fallback(clock, caplog)


def test_where_the_epoll_is_another_ones_tasks_drive(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ReadyClock()
    with contextlib.closing(select.epoll()) as other:
        monkeypatch.setattr("gateway.tasks.ready._epolls", lambda: clock._before | {other.fileno()})
        assert "a wake from a thread does not arrive" in fallback(clock, caplog)


def test_where_the_epoll_is_closed_tasks_drive(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ReadyClock()
    closed = fcntl.fcntl(0, fcntl.F_DUPFD, 900)  # beyond all that are opened meanwhile
    os.close(closed)
    monkeypatch.setattr("gateway.tasks.ready._epolls", lambda: clock._before | {closed})
    assert "its epoll cannot be waited for" in fallback(clock, caplog)


def test_a_clock_that_serves_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    by_the_clock(functools.partial(trio.sleep, 0.01))
    assert not caplog.records


def test_the_clock_works_while_other_epolls_are_open() -> None:
    with contextlib.closing(select.epoll()):
        by_the_clock(functools.partial(trio.sleep, 0.01))
