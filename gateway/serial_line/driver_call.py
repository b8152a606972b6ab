"""Run a driver call that may wait (an open or a close) in a thread of its own, and end its wait by a signal.

If the line does not move, the close of a USB adapter waits 30 s in the kernel, and an open waits for another process's
close. Such a wait ends when the waiting thread has a signal to handle. Three facts decide how that is done:

- A signal without a handler is ignored and ends no wait. So there is a handler, which does nothing. Python installs it
  without SA_RESTART.
- CPython calls close(2) once, but open(2) again after each EINTR (PEP 475). So a close is interrupted, and an open is
  abandoned: its thread goes on, and itself undoes what it got.
- A signal that comes before the thread waits in the kernel has no effect. So it is sent repeatedly.

The threads are daemons: the interpreter does not wait for them at its end, and the exit of the process ends their
waits. They are not trio's own threads, because those are shared, and a signal could hit the next piece of work.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DriverCall"]

T = TypeVar("T")

_SIGNAL: Final = signal.SIGURG
"""Ignored by default, so that a signal too many does no harm, not even to a child process."""
_FIRST_SIGNALS: Final = (0.002, 0.005, 0.01, 0.02)
_NEXT_SIGNALS: Final = 0.05
"""Seconds between signals. The first come soon, because bytes in the queue are being sent meanwhile."""


@final
class DriverCall(Generic[T]):
    """``call``, started at once in a thread of its own. It must not touch what other threads use."""

    def __init__(self, call: Callable[[], T]) -> None:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(_SIGNAL) is not _ignore:
            signal.signal(_SIGNAL, _ignore)
        self._call = call
        self._trio = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._lock = threading.Lock()
        """Held while a signal is sent, so that the thread cannot end meanwhile and its number cannot be reused."""
        self._returned = False
        self._undo: Callable[[T], object] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="daisyport-driver")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 -- it is raised where the result is asked for
            self._error = error
        with self._lock:
            self._returned = True
            undo = self._undo if self._error is None else None
        if undo is not None:
            undo(self._value)
        with contextlib.suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(self._ended.set)

    @property
    def ended(self) -> bool:
        """Return whether the call has returned."""
        return self._returned

    async def result(self) -> T:
        """Wait until the call has ended; return its result, or raise its error. A cancellation leaves it running."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._value

    async def interrupted(self) -> None:
        """Interrupt the call by signals until it has returned; the caller bounds this."""
        pauses = iter(_FIRST_SIGNALS)
        while not self._ended.is_set():
            with trio.move_on_after(next(pauses, _NEXT_SIGNALS)):
                await self._ended.wait()
                return
            self.interrupt()

    def interrupt(self) -> None:
        """Send the signal once, if the call has not returned."""
        with self._lock:
            if not self._returned and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, _SIGNAL)

    def abandon(self, undo: Callable[[T], object]) -> None:
        """Undo the result by ``undo``, now, or in the thread when the call returns."""
        with self._lock:
            if not self._returned:
                self._undo = undo
                return
        if self._error is None:
            undo(self._value)


def _ignore(_number: int, _frame: object) -> None:
    """Handle the signal, which is all that a waiting call needs."""
