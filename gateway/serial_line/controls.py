"""Carry out what clients ask of one open device beside their bytes.

The caller has the line already (``Arbiter.control``). What a session holds ends with the session: its settings are put
back after what it wrote, and its break ends at once. Any break ends after LONGEST_BREAK.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, final

import trio

from gateway.port.control import LONGEST_BREAK, Break, Configure, HoldBreak, Pause, Purge, SetLines
from gateway.port.line import LineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.port.control import Step
    from gateway.port.line import Claim
    from gateway.serial_line.uart import Uart

__all__ = ["Controls"]


async def _nothing(_claim: Claim, _values: Mapping[str, str]) -> None:
    """Hold nothing, for a line without stored settings."""
    await trio.lowlevel.checkpoint()


@final
class Controls:
    """Requests to the open ``uart``; ``configure`` holds settings, and ``put_back`` ends the hold of a session."""

    def __init__(
        self,
        uart: Uart,
        configure: Callable[[Claim, Mapping[str, str]], Awaitable[None]] = _nothing,
        put_back: Callable[[Claim], None] = lambda _claim: None,
    ) -> None:
        self._uart = uart
        self._configure = configure
        self._put_back = put_back
        self._breaker: Claim | None = None
        """The session that holds the line in break."""
        self._break_ends = math.inf
        self._ended = False
        self._changed = trio.Event()

    async def carry_out(self, step: Step, claim: Claim) -> None:
        """Do one step, by a caller who has the line. Raises UartError."""
        match step:
            case Configure():
                await self._configure(claim, dict(step.values))
            case SetLines():
                self._uart.set_modem_lines(step.dtr, step.rts)
            case Break():
                await self._uart.send_break(step.seconds)
            case HoldBreak(on=True):
                await self._uart.begin_break()
                self._breaker, self._break_ends = claim, trio.current_time() + LONGEST_BREAK
                self._changed.set()
            case HoldBreak():
                self._end_break()
            case Purge():
                await self._uart.purge()
            case Pause():
                await trio.sleep(step.seconds)

    def let_go(self, claim: Claim) -> None:
        """End what this session holds."""
        if self._breaker is claim:
            with contextlib.suppress(LineError):  # the device is gone, and its break with it
                self._end_break()
        self._put_back(claim)

    def _end_break(self) -> None:
        self._breaker, self._break_ends = None, math.inf
        self._uart.end_break()

    def end(self) -> None:
        """End ``run``: the device is gone."""
        self._ended = True
        self._changed.set()

    async def run(self) -> None:
        """End a break that lasts too long, until ``end``."""
        while not self._ended:
            self._changed = trio.Event()
            with trio.move_on_at(self._break_ends):
                await self._changed.wait()
            if trio.current_time() >= self._break_ends:
                with contextlib.suppress(LineError):
                    self._end_break()
