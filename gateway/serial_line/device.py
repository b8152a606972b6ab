"""Run a serial port of this CPU as the device of a port manager: open it, keep it open, set it in place, close it.

Whatever fails is a state that is reported and tried again, at least every two seconds. The tasks are these: ``run``
opens and reads, each ``Arbiter.run`` finishes what cancelled writers began, and the writers write for themselves.
They end in this order: the bus refuses who comes, the turn under way is waited for, then the driver's queue, and the
descriptor is closed last, so that what a client was told is written has left.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, final

import trio

from gateway.port.device import Refusal
from gateway.port.line import PortDown
from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.serial_line import settings as line_settings
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.uart import DeviceGone, SettingsRefused, Uart, UartError
from gateway.tasks.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.host.config import SerialConfig
    from gateway.port.bus import Bus
    from gateway.tasks.reconcile import Unit
    from protocol.link.reasons import Reason
    from protocol.parameters.settings import SerialPort, Settings

__all__ = ["SerialDevice"]

logger = logging.getLogger(__name__)

_FIRST_RETRY = 0.1
_LAST_RETRY = 2.0
_SETTLE = 1.0
"""Seconds that new line settings wait for the message under way."""
_CLOSE = 1.5
"""Seconds that a message under way, and then what is in the driver, have before the device is closed."""


@final
class _Housekeeping:
    """The claim with which new settings take their turn: it is never stale, and writes nothing."""

    traffic = Right(0)

    def check(self, accepted: float) -> None:
        """See Claim."""

    def wrote(self, count: int) -> None:
        """See Claim."""

    def lost(self, count: int, reason: Reason) -> None:
        """See Claim."""


_HOUSEKEEPING = _Housekeeping()


@final
class SerialDevice:
    """Serial.Ser# ``number`` on its bus, while ``run()`` runs; ``node`` is the id of this node."""

    def __init__(self, bus: Bus, number: int, config: SerialConfig, line: SerialPort, node: bytes = b"") -> None:
        self._bus = bus
        self._number = number
        self._config = config
        self._line = line
        self._node = node
        self._logger = PortLogger(logger, bus.name)
        self._open: tuple[Uart, Arbiter] | None = None
        # Of the times that it was open before: see ``totals``.
        self._written = 0
        self._discarded = 0

    @property
    def path(self) -> str:
        """The device's name in the host's file system."""
        return self._config.device

    @property
    def in_force(self) -> SerialPort | None:
        """The line settings that the driver keeps; None while the device is away."""
        return None if self._open is None else self._open[0].in_force

    @property
    def totals(self) -> tuple[int, int]:
        """Bytes that the tty took, and bytes that were thrown away since or are missing in a message begun."""
        if self._open is None:
            return self._written, self._discarded
        uart, turns = self._open
        return self._written + turns.written, self._discarded + uart.discarded + turns.unfinished

    async def adjust(self, settings: Settings) -> tuple[Refusal, ...]:
        """Set the line in place, after what was written; where the driver refuses anything, all stays as it was."""
        line = self._line = settings.serial.ports[self._number - 1]
        if self._open is None:
            return ()
        uart, turns = self._open
        async with self._hold(turns):
            try:
                await uart.reconfigure(line)
            except SettingsRefused as exc:
                name = f"Serial.Ser{self._number}"
                return tuple(Refusal(f"{name}.{refusal.name}", refusal.why) for refusal in exc.refusals)
            except UartError:
                return ()  # it is gone; the settings are taken up when it is back
            finally:
                turns.update_rate()
                self._tell(uart)
        return ()

    def status(self) -> dict[str, object]:
        """See PortDevice: what is in force, what was refused at open, and what was counted."""
        written, discarded = self.totals
        uart = None if self._open is None else self._open[0]
        counters = None
        with contextlib.suppress(UartError):
            counters = None if uart is None else uart.counters()
        return {
            "device": self.path,
            "settings_in_force": None if uart is None else line_settings.by_name(uart.in_force),
            "settings_refused": {} if uart is None else {refusal.name: refusal.why for refusal in uart.refused},
            "bytes_to_line": written,
            "bytes_discarded": discarded,
            "driver_counters": None if counters is None else asdict(counters),
        }

    @contextlib.asynccontextmanager
    async def _hold(self, turns: Arbiter) -> AsyncIterator[None]:
        """Keep writers out, if the line can be had within a second; the old settings may be why it is stuck."""
        turn = None
        with trio.move_on_after(_SETTLE), contextlib.suppress(PortDown):
            turn = await turns.turn(_HOUSEKEEPING, trio.current_time())
        try:
            yield
        finally:
            if turn is not None:
                turn.close()

    async def run(self, unit: Unit) -> None:
        """Open the device, and again whenever it is lost, until the unit's scope is cancelled; then let it drain."""
        unit.began()
        self._bus.route(self._node)  # the way to the line ends here, whether or not its device is there

        def down(why: str) -> None:
            self._bus.disconnect(why)
            unit.failing(why)

        try:
            async with trio.open_nursery() as finishers:
                with unit.scope:
                    live = functools.partial(self._live, unit, finishers)
                    await supervise(live, (UartError,), down, Backoff(_FIRST_RETRY, _LAST_RETRY))
                await self._retire()
                finishers.cancel_scope.cancel()
        finally:
            self._close()

    async def _live(self, unit: Unit, finishers: trio.Nursery, backoff: Backoff) -> None:
        """Carry what the line says until the device is gone. Raises UartError."""
        uart = await Uart.open(self.path, self._line, self._config.bias, self._logger)
        turns = Arbiter(uart, self._logger)
        self._open = uart, turns
        finishers.start_soon(turns.run)
        self._bus.connect(turns)
        self._tell(uart)
        unit.up()
        backoff.reset()
        try:
            while data := await uart.receive():
                self._bus.deliver(data)
        except UartError:
            self._close()
            raise
        self._close()
        raise DeviceGone(f"{self.path}: the device hung up")

    def _tell(self, uart: Uart) -> None:
        """Tell the bus which settings are in force."""
        self._bus.adjusted(uart.timing.baud_rate, line_settings.in_words(uart.timing), uart.in_force)

    async def _retire(self) -> None:
        """Refuse who comes, and give what was begun the time to reach the line."""
        if self._open is None:
            return
        uart, turns = self._open
        self._bus.disconnect(f"{self.path} is closing")
        with trio.move_on_after(_CLOSE):
            await turns.idle()
        with trio.move_on_after(_CLOSE):
            try:
                await uart.drain(min(_CLOSE, line_settings.line_time(uart.timing, uart.queued()) + 1.0))
            except UartError as exc:
                self._logger.warning("%s", exc)

    def _close(self) -> None:
        """Close it without waiting, if it is open, and keep what was counted."""
        if self._open is None:
            return
        uart, turns = self._open
        turns.end(f"{self.path} is gone")
        uart.close()
        self._written, self._discarded = self.totals
        self._open = None
