"""Tell how much still waits for the wire, and when the next write to a device may begin.

The kernel takes 4095 bytes before a writer has to wait, and an adapter's driver takes more: seconds of line that no
command can overtake. So what is written is counted at the line's rate, and nothing is written while more than ``AHEAD``
of it is still to be carried. A write to an idle line costs no extra system call: TIOCOUTQ is asked only if the count
says that something waits, or if flow control may hold the line, which no count can know.

A pty has no rate and takes what its reader takes. A device that is no UART has none either (``paced = false``).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, final

from gateway.serial_line.settings import bytes_per_second
from gateway.serial_line.tty import UartError
from gateway.tasks.ready import run_clock

if TYPE_CHECKING:
    from gateway.serial_line.uart import Uart

__all__ = ["AHEAD", "Pace"]

AHEAD: Final = 0.02
"""Seconds of line that may wait when a write begins: enough to keep the wire busy while the next writer is woken."""
_HELD_LOOK: Final = 0.1
"""Seconds between two looks at a line that flow control holds, at most."""
_SHORTEST: Final = 0.001


@final
class Pace:
    """The bytes of one open device on their way to the wire."""

    def __init__(self, uart: Uart) -> None:
        self._uart = uart
        self.is_paced = uart.is_paced
        self._now = run_clock()
        self._busy_until = self._now()
        """When everything that was written will have left the wire, by the line's rate."""
        self._unproved = False
        """Something was written since the driver was last known to be empty."""
        self._written = 0
        self._commands: deque[tuple[int, float]] = deque()
        """For each command that the driver may still have: where it ends among all written bytes, and its time."""
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
        """Note that what waited was thrown away."""
        self._busy_until = self._now()
        self._unproved = False
        self._commands.clear()

    def wrote(self, count: int) -> None:
        """Count bytes that the driver took just now."""
        self._busy_until = max(self._busy_until, self._now()) + count / self.bytes_per_second
        self._unproved = True
        self._written += count

    def wrote_command(self, accepted: float) -> None:
        """Note that the bytes just counted belong to a command of this time."""
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
        """Return when everything that was written has left the wire, by the line's rate; ``now`` if that is past."""
        return max(self._busy_until, now)

    def ahead(self, now: float) -> float:
        """Return the seconds of line that are still to be carried."""
        return max(self._busy_until - now, 0.0) if self.is_paced else 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until a write may begin, or until this should be called again; 0 if it may begin now."""
        if not self.is_paced:
            return 0.0
        ahead = self._busy_until - now
        if ahead > AHEAD:
            return ahead - AHEAD
        if not self._unproved or not self._flow_control:
            return 0.0
        # By the count the wire is free. But a line that flow control holds has not moved, and nothing may pile up
        # there.
        try:
            waiting = self._uart.queue.waiting() / self.bytes_per_second
        except UartError:
            return 0.0  # the write meets it
        if ahead <= 0 and not waiting:
            self._unproved = False
        if waiting <= 2 * AHEAD:
            return 0.0
        return min(max(waiting - AHEAD, _SHORTEST), _HELD_LOOK)

    def room_in(self, count: int) -> float:
        """Return the seconds after which a full driver may take ``count`` bytes more of a message.

        Waiting until it is writable would leave the line idle in mid-message, because that is only when it is nearly
        empty.
        """
        return min(max(count / self.bytes_per_second, _SHORTEST), _HELD_LOOK)
