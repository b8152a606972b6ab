"""Know what waits in the driver of one open tty: wait for it, and guess it when nobody can be asked any more.

Waiting is looking again and again: the kernel has no event for an empty queue, and ``tcdrain`` would wait for ever
where flow control holds the line. Beyond the queue is a FIFO, which some drivers tell of and others do not.

``Tty.unsent`` counts what was written since the driver was last seen empty. That is the most that can be waiting, and
with the last look at the queue all that is known of a device that was unplugged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio

from gateway.serial_line.settings import bytes_per_second, line_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.serial_line.tty import Tty
    from protocol.parameters.settings import SerialPort

__all__ = ["DriverQueue"]

_FIFO_CHARACTERS: Final = 70  # the 64 of a 16750, what is in the shift register, and some
_GRACE: Final = 1.0  # seconds beyond the line time that a drain may take
_SHORTEST_LOOK: Final = 0.001
_LONGEST_LOOK: Final = 0.1


@final
class _Look(NamedTuple):
    """An answer of the driver about its queue, with its time."""

    time: float
    waiting: int
    unsent: int
    """Of the bytes that were unsent then, ``waiting`` were queued; of those written since, all may be."""
    moving: bool
    """Whether the line carried any since the look before."""


@final
class DriverQueue:
    """The queue of ``tty``, whose line has the settings that ``timing`` returns. Methods raise UartError."""

    def __init__(self, tty: Tty, timing: Callable[[], SerialPort]) -> None:
        self._tty = tty
        self._timing = timing
        self._seen = _Look(trio.current_time(), 0, 0, moving=True)
        self.still_since = trio.current_time()
        """When the queue was last seen empty, moving, or filled: it has stood still since, if it did not for longer."""

    @property
    def is_real(self) -> bool:
        """True where the driver tells of its queue: a pty never shows what waits."""
        return not self._tty.is_pty

    def waiting(self) -> int:
        """Return how many bytes wait in the driver (TIOCOUTQ); a pty never shows any."""
        return self._tty.queued()

    def patience(self) -> float:
        """Return how many seconds what waits may take to be on the line, where the line moves."""
        return line_time(self._timing(), self._tty.queued() + _FIFO_CHARACTERS) + _GRACE

    async def emptied(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all that was written is on the line, and return whether it is."""
        with trio.move_on_after(seconds):
            while waiting := self._tty.queued():  # noqa: ASYNC110 -- the kernel has no event for an empty queue
                await trio.sleep(self._pause(waiting))
            await self._shifted_out()
            return True
        return False

    async def _shifted_out(self) -> None:
        """Wait for the FIFO: until the driver says it is empty, or as long as that can take. A pty has none."""
        await trio.lowlevel.checkpoint()
        if not (unsent := self._tty.unsent):
            return
        if self.is_real:
            with trio.move_on_after(line_time(self._timing(), _FIFO_CHARACTERS)):
                while not self._tty.transmitter_empty():  # noqa: ASYNC110 -- nor for an empty FIFO
                    await trio.sleep(self._pause(1))
        self._sent(unsent)

    def _pause(self, characters: int) -> float:
        return min(max(line_time(self._timing(), characters), _SHORTEST_LOOK), _LONGEST_LOOK)

    def look(self) -> None:
        """Ask how much waits. To be called a few times a second, for the time when the device is gone."""
        unsent = self._tty.unsent
        if not unsent:
            self._sent(0)
            return
        before, now, waiting = self._seen, trio.current_time(), self._tty.queued()
        written = unsent - before.unsent
        if waiting or before.waiting or written:
            # Of a queue that is seen for the first time nobody knows; what was written before it may be what moved.
            moving = not waiting or (before.waiting > 0 and waiting < before.waiting + written)
            self._seen = _Look(now, waiting, unsent, moving)
            if moving or not before.waiting:
                self.still_since = now
        elif now - before.time >= line_time(self._timing(), _FIFO_CHARACTERS):
            self._sent(unsent)  # the queue has been empty for longer than the FIFO takes

    def _sent(self, unsent: int) -> None:
        """Take note that what was unsent then is on the line; more may have been written since."""
        self._tty.unsent -= unsent
        self.still_since = trio.current_time()
        self._seen = _Look(self.still_since, 0, 0, moving=True)

    def left_behind(self) -> int:
        """Return how many bytes waited when the device went: those seen last, less what the line carried since.

        Exact where the line stood still; a pty never shows what waits.
        """
        if self._tty.is_pty:
            return 0
        seen = self._seen
        waiting = seen.waiting + self._tty.unsent - seen.unsent
        if seen.moving:
            waiting -= int((trio.current_time() - seen.time) * bytes_per_second(self._timing()))
        return min(max(waiting, 0), self._tty.unsent)
