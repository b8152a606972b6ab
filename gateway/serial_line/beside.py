"""Look at a line's modem lines and at the errors that its driver counts, while a client wants to know of them.

A driver can report changes only to a thread that stays in it, so they are polled; and only while a client wants to
know, or a port would wake ten times a second in vain.
"""

from __future__ import annotations

import contextlib
import operator
from typing import TYPE_CHECKING, Final

import trio

from gateway.serial_line.uart import UartError
from protocol.link.control_frames import LineErrors

if TYPE_CHECKING:
    from gateway.port.bus import Bus
    from gateway.serial_line.uart import Uart

__all__ = ["look_beside"]

_PAUSE: Final = 0.1
"""Seconds between two looks."""


async def look_beside(uart: Uart, bus: Bus, scope: trio.CancelScope) -> None:
    """Report the modem lines and errors of ``uart`` to the bus, until ``scope`` is cancelled when it is closed."""
    try:
        with scope:
            while True:
                await bus.lookers.wait_for(bool)
                lines = errors = None
                with contextlib.suppress(UartError):
                    lines = uart.modem_lines()
                with contextlib.suppress(UartError):
                    if (counted := uart.counters()) is not None:
                        overrun = (counted.overrun + counted.buffer_overrun) % 2**32
                        errors = LineErrors(overrun, counted.parity % 2**32, counted.framing % 2**32)
                bus.beside(lines, errors)
                with trio.move_on_after(_PAUSE):
                    await bus.lookers.wait_for(operator.not_)
                    bus.beside(None, None)
    finally:
        bus.beside(None, None)
