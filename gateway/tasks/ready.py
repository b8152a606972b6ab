"""Move bytes as soon as a descriptor is readable, without a pass of trio's scheduler for each message.

``when_readable`` calls a *step* whenever its descriptor is readable. A step reads once and hands over what it read.
What it cannot do at once it returns, and the calling task goes on with that. There are two drivers:

    the task       wait_readable, step, wait_readable ...: four system calls a message and one pass of the scheduler,
                   which is half of all that a message costs. Everything works with it, a mock clock too.
    ReadyClock     trio asks its clock how long it may sleep, right before it blocks. This one waits there itself, in an
                   epoll set that holds the descriptors and trio's own epoll, and calls the steps in between. Three
                   system calls a message; trio wakes up where there is work for a task.

What must hold
    1. A step belongs to the calling task: what it raises is raised there, so that the rings of containment hold. When
       that task is cancelled the step is not called again, because the cancellation takes its descriptor out of the set
       synchronously: a revoked client's bytes go nowhere. If a step itself ends its task's wait, what it returns or
       raises still counts, because it may have begun what the task must finish.
    2. A step never waits, starts no task and sets no deadline. It may set events and cancel scopes; then trio is woken
       at once, which is noticed by the instrument ``task_scheduled``. A step that closes its own descriptor returns
       something.
    3. Neither side starves. Trio's epoll is in the set; and where trio has work and does not ask its clock, the set is
       served once a pass (``before_io_wait``).
    4. The set is level-triggered, and a descriptor that nobody reads is taken out: with an empty mask it would still
       wake us for a hang-up, again and again. So a broken descriptor costs nothing while nobody reads it.
    5. A descriptor is always taken out before it is closed (``closing``): the kernel forgets it only with its last
       duplicate, and by then its number may belong to another file.
    6. An event may be for a descriptor that an earlier step of the same round has closed, and whose number is in use
       again. So a step must cope with nothing to read.

Trio's epoll is found among the descriptors that its run opens, and is used only to wait for it. If it is not found, or
does not wake as it should, the task drives, and one line of the log says so. Tests that use ``wait_all_tasks_blocked``
need the task driver, because a clock does not learn of that idle time.
"""

from __future__ import annotations

import logging
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast, final

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ReadyClock", "closing", "run_clock", "when_readable"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PROMPT: Final = 0.2
"""Seconds within which a wake from a thread, and a deadline, must arrive in the self-test."""
_TRIES: Final = 3
"""Self-tests before the clock is given up: a machine that starts everything at once may be slow."""
_SHORT: Final = 0.01
"""Seconds below which epoll's whole milliseconds are too coarse: a line's quiet may be 1.75 ms."""
_SELECTABLE: Final = 1024
"""The first descriptor number that is too high for ``select``, which waits to the microsecond."""
_FAR: Final = 3600.0
"""The longest single wait in seconds; epoll takes no infinity."""
_FDS: Final = Path("/proc/self/fd")

_serving: trio.lowlevel.RunVar[ReadyClock] = trio.lowlevel.RunVar("ready")


async def when_readable(fd: int, step: Callable[[], T | None]) -> T:
    """Call ``step`` whenever ``fd`` is readable or has hung up, until it returns something; return that.

    Raises what ``step`` raises, and ClosedResourceError after ``closing(fd)``. Only one task at a time may wait for a
    descriptor.
    """
    try:
        clock = _serving.get()
    except LookupError:
        while True:
            await trio.lowlevel.wait_readable(fd)
            await trio.lowlevel.checkpoint_if_cancelled()  # it may have been cancelled since it was woken
            if (result := step()) is not None:
                return result
    return await clock.serve(fd, step)


def run_clock() -> Callable[[], float]:
    """Return what tells the time of this run, for those who ask with each message.

    It tells what ``trio.current_time`` tells, which finds the run and its clock anew each time.
    """
    return trio.lowlevel.current_clock().current_time


def closing(fd: int) -> None:
    """Raise ClosedResourceError in the task that waits for ``fd``. Call this right before ``fd`` is closed."""
    try:
        clock = _serving.get()
    except LookupError:
        pass
    else:
        clock.forget(fd)
    trio.lowlevel.notify_closing(fd)


@final
class _Watch:
    """A descriptor in the set: its step, and the task that waits for what the step returns.

    ``ending`` is how the wait ends if the step itself has ended it, and returns nothing.
    """

    __slots__ = ("ending", "is_stepping", "step", "task")

    def __init__(self, step: Callable[[], object], task: trio.lowlevel.Task) -> None:
        self.step = step
        self.task = task
        self.is_stepping = False
        self.ending: outcome.Outcome[Any] | None = None


@final
class ReadyClock(trio.abc.Clock, trio.abc.Instrument):
    """The clock and instrument of one ``trio.run``, made right before it; it serves from ``begin`` on.

    ``close()`` it when the run is over.
    """

    def __init__(self) -> None:
        self._set = select.epoll()
        self._short = _SHORT if self._set.fileno() < _SELECTABLE else 0.0
        self._watches: dict[int, _Watch] = {}
        self._before = _epolls()
        self._trio: int | None = None
        """Trio's epoll, if it was found."""
        self._scheduled = False
        """A task was made runnable since the wait began."""
        self._served = False
        """The set was served in this pass of trio's loop."""

    def close(self) -> None:
        """Close the set. Idempotent."""
        self._set.close()

    # -- as a clock, and an instrument

    def start_clock(self) -> None:
        """Find trio's epoll: the one that was opened after this clock was made. No other thread runs yet."""
        opened = _epolls() - self._before
        self._trio = opened.pop() if len(opened) == 1 else None

    current_time = staticmethod(time.perf_counter)
    """Return the seconds since an arbitrary time; asked several times a message, so without a frame of Python's."""

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Serve the set until trio has something to do; return the seconds that trio itself still has to wait."""
        left = deadline - self.current_time()
        if not self._watches or left <= 0:
            return left
        self._served = True
        self._scheduled = False
        while left > 0:
            if self._serve(min(left, _FAR)) or self._scheduled:
                return 0
            left = deadline - self.current_time()
        return 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Note that trio has work."""
        self._scheduled = True

    def before_io_wait(self, timeout: float) -> None:
        """Serve the set once, in a pass in which trio had too much work to ask its clock."""
        if self._watches and not self._served:
            self._serve(0)
        self._served = False

    # -- the set

    async def begin(self) -> None:
        """Serve ``when_readable`` in this run from now on, if the self-test passes; otherwise tasks go on driving."""
        why = "its epoll was not found among the descriptors"
        for _ in range(_TRIES):
            if self._trio is None:
                break
            try:
                self._set.register(self._trio, select.EPOLLIN)
                why = await self._disproof()
            except OSError as exc:
                why = f"its epoll cannot be waited for: {exc.strerror}"
            finally:
                if why:
                    self._drop(self._trio)
            if not why:
                _serving.set(self)
                return
        logger.warning("trio is not driven by descriptors (%s): each message takes a pass of its scheduler", why)

    async def _disproof(self) -> str:
        """Return why the set must not be used; empty if a thread's wake and a deadline arrive in time."""
        idle, far = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            async with trio.open_nursery() as nursery:
                # With a descriptor in the set, this clock does the waiting from here on.
                nursery.start_soon(self.serve, idle, lambda: None)
                await trio.lowlevel.checkpoint()
                began = self.current_time()
                with trio.move_on_after(2 * _PROMPT):
                    await trio.to_thread.run_sync(time.perf_counter)
                woken = self.current_time()
                await trio.sleep(_PROMPT / 20)
                slept = self.current_time()
                nursery.cancel_scope.cancel()
        finally:
            os.close(idle)
            os.close(far)
        if woken - began > _PROMPT:
            return "a wake from a thread does not arrive"
        return "" if slept - woken <= _PROMPT else "a deadline does not arrive"

    async def serve(self, fd: int, step: Callable[[], T | None]) -> T:
        """See ``when_readable``."""
        if fd in self._watches:
            raise trio.BusyResourceError("another task waits for this descriptor")
        watch = self._watches[fd] = _Watch(step, trio.lowlevel.current_task())
        try:
            self._set.register(fd, select.EPOLLIN)
        except BaseException:
            del self._watches[fd]
            raise

        def leave(raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            if watch.ending is None:
                self._take_out(fd)
            if not watch.is_stepping:
                return trio.lowlevel.Abort.SUCCEEDED
            watch.ending = outcome.capture(raise_cancel)
            return trio.lowlevel.Abort.FAILED

        return cast("T", await trio.lowlevel.wait_task_rescheduled(leave))

    def forget(self, fd: int) -> None:
        """Take ``fd`` out, and raise ClosedResourceError in the task that waits for it."""
        if fd in self._watches:
            watch = self._take_out(fd)
            watch.ending = outcome.Error(trio.ClosedResourceError("another task closed this descriptor"))
            if not watch.is_stepping:
                trio.lowlevel.reschedule(watch.task, watch.ending)

    def _serve(self, timeout: float) -> bool:
        """Wait for the set, and call the steps of what is readable; return whether trio's own epoll is."""
        for_trio = False
        if 0 < timeout < self._short:
            select.select((self._set,), (), (), timeout)
            timeout = 0
        for fd, _ in self._set.poll(timeout):
            if fd == self._trio:
                for_trio = True
            elif (watch := self._watches.get(fd)) is not None:  # an earlier step may have taken it out
                self._call(fd, watch)
        return for_trio

    def _call(self, fd: int, watch: _Watch) -> None:
        """Call a step, and wake its task if that ends the wait."""
        result: outcome.Outcome[Any] | None
        watch.is_stepping = True
        try:
            value = watch.step()
        except BaseException as exc:  # noqa: BLE001  # it is raised in the task that the step belongs to
            result = outcome.Error(exc)
        else:
            result = watch.ending if value is None else outcome.Value(value)
        watch.is_stepping = False
        if result is not None:
            if watch.ending is None:
                self._take_out(fd)
            trio.lowlevel.reschedule(watch.task, result)

    def _take_out(self, fd: int) -> _Watch:
        self._drop(fd)
        return self._watches.pop(fd)

    def _drop(self, fd: int) -> None:
        try:
            self._set.unregister(fd)
        except OSError:
            logger.debug("descriptor %d was closed before it was taken out", fd)


def _epolls() -> set[int]:
    """Return the epolls among the descriptors of this process."""
    found = set[int]()
    for entry in _FDS.iterdir():
        try:
            if os.readlink(entry) == "anon_inode:[eventpoll]":
                found.add(int(entry.name))
        except OSError:  # the descriptor of this listing itself is closed by now
            continue
    return found
