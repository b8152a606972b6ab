"""Tell how many bytes wait in the driver of one open tty, wait for them, and estimate them after the device has gone.

A wait has to poll: the kernel has no event for an empty queue, and ``tcdrain`` would wait for ever while flow control
holds the line. Beyond the queue is a FIFO, which some drivers report and others do not.

``Tty.unsent`` counts what was written since the driver was last seen empty. That is the most that can be waiting. With
the last look at the queue, it is all that is known of a device that was unplugged.
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
    """An answer of the driver about its queue, with the time."""

    time: float
    waiting: int
    unsent: int
    """Of the bytes that were unsent then, ``waiting`` were queued; of those written since, all may be."""
    moving: bool
    """True if the line carried any byte since the look before."""


@final
class DriverQueue:
    """The queue of ``tty``, whose line has the settings that ``timing`` returns. Methods raise UartError."""

    def __init__(self, tty: Tty, timing: Callable[[], SerialPort]) -> None:
        self._tty = tty
        self._timing = timing
        self._seen = _Look(trio.current_time(), 0, 0, moving=True)
        self.still_since = trio.current_time()
        """When the queue was last seen empty or moving, or was filled: it may have stood still since then."""

    @property
    def is_real(self) -> bool:
        """True where the driver reports its queue; a pty never shows what waits."""
        return not self._tty.is_pty

    def waiting(self) -> int:
        """Return how many bytes wait in the driver (TIOCOUTQ); a pty never shows any."""
        return self._tty.queued()

    def patience(self) -> float:
        """Return the most seconds that a moving line needs for what waits."""
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
        """Wait until the driver reports an empty FIFO, or the time for a full FIFO is over. A pty has none."""
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
        """Ask how much waits. Call it a few times a second, for the estimate when the device is gone."""
        unsent = self._tty.unsent
        if not unsent:
            self._sent(0)
            return
        before, now, waiting = self._seen, trio.current_time(), self._tty.queued()
        written = unsent - before.unsent
        if waiting or before.waiting or written:
            # Unknown for a queue that is seen for the first time: what was written before may be what moved.
            moving = not waiting or (before.waiting > 0 and waiting < before.waiting + written)
            self._seen = _Look(now, waiting, unsent, moving)
            if moving or not before.waiting:
                self.still_since = now
        elif now - before.time >= line_time(self._timing(), _FIFO_CHARACTERS):
            self._sent(unsent)  # the queue has been empty for longer than the FIFO takes

    def _sent(self, unsent: int) -> None:
        """Note that the bytes unsent at that look are on the line; more may have been written since."""
        self._tty.unsent -= unsent
        self.still_since = trio.current_time()
        self._seen = _Look(self.still_since, 0, 0, moving=True)

    def left_behind(self) -> int:
        """Return how many bytes waited when the device went: those seen last, minus what the line carried since.

        It is exact if the line stood still; a pty never shows what waits.
        """
        if self._tty.is_pty:
            return 0
        seen = self._seen
        waiting = seen.waiting + self._tty.unsent - seen.unsent
        if seen.moving:
            waiting -= int((trio.current_time() - seen.time) * bytes_per_second(self._timing()))
        return min(max(waiting, 0), self._tty.unsent)
