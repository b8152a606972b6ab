"""Know how much is ahead of the wire, and when the next write to a device may begin.

A kernel takes 4095 bytes before it lets anybody wait, an adapter's driver more: seconds of line that no command can
overtake. So what is written is counted at the line's rate, and nothing is written while more than ``AHEAD`` of it is
still to be carried. With nobody before it a write costs no system call more: TIOCOUTQ is asked only where the count
says that something waits, or where flow control may hold the line, which no count can know.

A pty has no rate, and takes what its reader takes; neither has a device that is no UART (``paced = false``).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.serial_line.settings import bytes_per_second
from gateway.serial_line.tty import UartError

if TYPE_CHECKING:
    from gateway.serial_line.uart import Uart

__all__ = ["AHEAD", "Pace"]

AHEAD: Final = 0.02
"""Seconds of line that may wait before a write: enough to keep the wire busy while the next writer is woken."""
_HELD_LOOK: Final = 0.1
"""Seconds between two looks at a line that flow control holds, at most."""
_SHORTEST: Final = 0.001


@final
class Pace:
    """The way to the wire of one open device."""

    def __init__(self, uart: Uart) -> None:
        self._uart = uart
        self.is_paced = uart.is_paced
        self._busy_until = trio.current_time()
        """When all that was written will have been carried, as the line's rate has it."""
        self._unproved = False
        """Something was written since the driver was last known to have carried all."""
        self._written = 0
        self._commands: deque[tuple[int, float]] = deque()
        """Of each command that the driver may still have: where it ends in all that was written, and its time."""
        self.update_rate()

    def update_rate(self) -> None:
        """Take up the line's rate and flow control, when its settings have changed."""
        timing = self._uart.settings.timing
        self.bytes_per_second = bytes_per_second(timing)
        self._flow_control = timing.flow_control_rtscts or timing.flow_control_xonxoff

    @property
    def character(self) -> float:
        """The line time of one character, in seconds."""
        return 1 / self.bytes_per_second

    def forget(self) -> None:
        """Take note that what waited was thrown away."""
        self._busy_until = trio.current_time()
        self._unproved = False
        self._commands.clear()

    def wrote(self, count: int) -> None:
        """Count bytes that the driver took just now."""
        self._busy_until = max(self._busy_until, trio.current_time()) + count / self.bytes_per_second
        self._unproved = True
        self._written += count

    def wrote_command(self, accepted: float) -> None:
        """Take note that what was just counted belongs to a command of this time."""
        self._commands.append((self._written, accepted))

    def oldest_command(self) -> float:
        """Return the time of the oldest command that the driver still has; infinite for none. Raises UartError."""
        if not self._commands:
            return math.inf
        carried = self._written - self._uart.queue.waiting()
        while self._commands and self._commands[0][0] <= carried:
            self._commands.popleft()
        return min((accepted for _, accepted in self._commands), default=math.inf)

    def clear_at(self, now: float) -> float:
        """Return when all that was written has left the wire, at the line's rate; ``now`` where that is past."""
        return max(self._busy_until, now)

    def ahead(self, now: float) -> float:
        """Return the seconds of line that are still to be carried."""
        return max(self._busy_until - now, 0.0) if self.is_paced else 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until a write may begin, or until this should be asked again; 0 where it may now."""
        if not self.is_paced:
            return 0.0
        ahead = self._busy_until - now
        if ahead > AHEAD:
            return ahead - AHEAD
        if not self._unproved or not self._flow_control:
            return 0.0
        # By the count it is carried; a line that is held has not moved, and nothing may pile up behind it.
        try:
            waiting = self._uart.queue.waiting() / self.bytes_per_second
        except UartError:
            return 0.0  # whoever writes meets it
        if ahead <= 0 and not waiting:
            self._unproved = False
        if waiting <= 2 * AHEAD:
            return 0.0
        return min(max(waiting - AHEAD, _SHORTEST), _HELD_LOOK)

    def room_in(self, count: int) -> float:
        """Return the seconds after which a driver that is full may take ``count`` bytes more of a message.

        To wait until it says that it is writable would leave the line idle in mid-message: it says so when it is
        nearly empty.
        """
        return min(max(count / self.bytes_per_second, _SHORTEST), _HELD_LOOK)
