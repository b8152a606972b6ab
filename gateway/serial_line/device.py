"""Run a serial port of this CPU as the device of a port manager: open it, keep it open, set it in place, close it.

A failure is a state that is reported and tried again, at least every two seconds. These are the tasks: ``run`` opens
and reads, ``_watch`` looks at the driver's queue and throws stale commands away, each ``Arbiter.run`` finishes what
cancelled writers began, and the writers write for themselves. This is the order at the end: the bus refuses new
writers, the turn under way and then the driver's queue may finish, both within 1.5 s, and the descriptor is closed
last, so that what a client was told is written has left.

A device on demand is closed and opened again by ``_live`` within one ``run``, by the same rules. ``Bus.sleep`` is
called before it drains, so that a writer that comes meanwhile waits for the next opening and is not refused. Settings
are brought into force by the task that asks for it, one request after the other. The wanted settings are ``_line``; for
those in force the driver is asked each time, and no copy is kept that could be outdated.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, final

import trio

from gateway.port.device import Refusal
from gateway.port.line import PortDown
from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.serial_line import settings as line_settings
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.beside import look_beside
from gateway.serial_line.controls import Controls
from gateway.serial_line.held_settings import HeldSettings
from gateway.serial_line.settings_in_force import SettingRefusal, SettingsRefused
from gateway.serial_line.sharing import Sharing
from gateway.serial_line.uart import DeviceGone, LineBusy, Uart, UartError
from gateway.tasks.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from gateway.host.config import SerialConfig
    from gateway.port.bus import Bus
    from gateway.port.line import Claim
    from gateway.serial_line.adapters import Identity
    from gateway.tasks.reconcile import Unit
    from protocol.link.reasons import Reason
    from protocol.parameters.settings import SerialPort, Settings
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["SerialDevice"]

logger = logging.getLogger(__name__)

_FIRST_RETRY = 0.1
_LAST_RETRY = 2.0
_SETTLE = 1.0
"""Seconds that new line settings wait for the present message."""
_CLOSE = 1.5
"""Seconds for the present message, and for what is in the driver, before the device is closed."""
_LOOK = 0.25
"""Seconds between looks at the driver's queue."""
_ASLEEP = "closed until somebody needs it"


@final
class _Housekeeping:
    """The claim for the turn of new settings: it is never stale, and writes nothing."""

    traffic = Right(0)
    holder = "the port's settings"
    party = None
    age_limit = math.inf
    is_mixed = False

    def check(self, accepted: float, ahead: float = 0.0) -> None:
        """See Claim."""

    def wrote(self, count: int) -> None:
        """See Claim."""

    def lost(self, count: int, reason: Reason) -> None:
        """See Claim."""


_HOUSEKEEPING = _Housekeeping()


@final
class SerialDevice:
    """Serial.Ser# ``number`` on its bus, while ``run()`` runs; ``node`` is the id of this node.

    ``rule`` is the rule of its turns, if its writers have to wait for replies; ``char_gap`` the seconds of quiet after
    each character.
    """

    def __init__(
        self,
        bus: Bus,
        number: int,
        config: SerialConfig,
        line: SerialPort,
        node: bytes = b"",
        rule: TurnRule | None = None,
        char_gap: float = 0.0,
    ) -> None:
        self._bus = bus
        self._number = number
        self._prefix = f"Serial.Ser{number}."
        self._config = config
        self._stored = line
        """The settings of Serial.Ser#."""
        self._held = HeldSettings(config.hardware)
        self._line = line
        """The wanted settings: the stored ones, with those that a session holds."""
        self._released = trio.Event()
        """Set when a session's hold of settings has ended."""
        self._node = node
        self._sharing = Sharing(rule, char_gap)
        self._logger = PortLogger(logger, bus.name)
        self._open: tuple[Uart, Arbiter] | None = None
        self._last: Uart | None = None
        """The one that was closed last, because its driver may not have let go of it yet."""
        self._adapter: Identity | None = None
        """The USB adapter that was there first after the port was enabled."""
        self._one_change = trio.Lock()
        self._tried: SerialPort | None = None
        """The last settings that were tried, and refused as a whole ..."""
        self._refusals: tuple[Refusal, ...] = ()
        """... and why."""
        # From earlier openings: see ``totals``.
        self._written = 0
        self._discarded = 0
        self._breaks = 0
        self._lines_rose = 0

    @property
    def path(self) -> str:
        """The device's name in the host's file system."""
        return self._config.device

    @property
    def in_force(self) -> SerialPort | None:
        """The line settings that the driver keeps; None while the device is away."""
        return None if self._open is None else self._open[0].settings.in_force

    @property
    def totals(self) -> tuple[int, int]:
        """Bytes that the tty took, and how many of them were thrown away later.

        Bytes missing at the end of a begun message are in neither: its writer's claim counts them as dropped.
        """
        if self._open is None:
            return self._written, self._discarded
        uart, turns = self._open
        return self._written + turns.written, self._discarded + uart.discarded

    async def adjust(self, settings: Settings) -> tuple[Refusal, ...]:
        """Set the line in place, after what was written. If the driver refuses anything, all stays as it was."""
        stored = settings.serial.ports[self._number - 1]
        self._held.forget({line_settings.NAMES[name] for name in line_settings.differing(self._stored, stored)})
        self._stored = stored
        self._line = self._held.over(stored)
        return await self._bring_into_force()

    async def insist(self, names: Collection[str]) -> None:
        """Try once more what the driver refused; ``not_in_force`` has the result.

        Every hold on these parameters (``Serial.Ser1.BaudRate``) ends.
        """
        self._held.forget({name.rpartition(".")[2] for name in names if name.startswith(self._prefix)})
        self._line = self._held.over(self._stored)
        await self._bring_into_force(again=True)

    async def _hold_settings(self, claim: Claim, values: Mapping[str, str]) -> None:
        """Hold those ``values`` that the rules and the driver accept, for a session that has the line."""
        before = self._held.values
        if not self._held.take(claim, values, self._stored):
            return
        self._line = self._held.over(self._stored)
        # The driver refuses a change as a whole. So leave out the settings that it named, and try the others again.
        while refusals := await self._bring_into_force(has_line=True):
            self._held.restore({refusal.name.removeprefix(self._prefix) for refusal in refusals}, before)
            self._line = self._held.over(self._stored)

    def _release_settings(self, claim: Claim) -> None:
        """End the hold of this session; a task of our own puts the settings back."""
        if self._held.holder is claim:
            self._held.forget(self._held.values.keys())
            self._line = self._held.over(self._stored)
            self._released.set()

    async def _put_back(self) -> None:
        """Bring the stored settings into force whenever a session's hold has ended."""
        while True:
            await self._released.wait()
            self._released = trio.Event()
            await self._bring_into_force()

    async def _bring_into_force(self, *, again: bool = False, has_line: bool = False) -> tuple[Refusal, ...]:
        async with self._one_change:
            if self._open is None:
                return ()
            uart, turns = self._open
            line = self._line
            # Another update may come before a refused one was put back, and its tree still has the refused values.
            if line == self._tried and not again:
                return self._refusals
            self._tried, self._refusals = None, ()
            try:
                if not uart.settings.wants(line, again=again):
                    return ()
                began = trio.current_time()
                async with contextlib.nullcontext() if has_line else self._hold(turns):
                    await uart.reconfigure(line, began)
            except SettingsRefused as exc:
                self._tried, self._refusals = line, self._named(exc.refusals)
            except LineBusy as busy:
                changed = [line_settings.NAMES[name] for name in line_settings.differing(uart.settings.wanted, line)]
                self._tried, self._refusals = line, self._named([SettingRefusal(name, busy.why) for name in changed])
            except UartError:
                return ()  # the device is gone, and takes up the settings when it is back
            finally:
                turns.update_rate()
                self._tell(uart)
            return self._refusals

    def not_in_force(self) -> tuple[Refusal, ...]:
        """See PortDevice: compare the wanted settings with what the driver says now."""
        uart = self._read_back()
        if uart is None:
            return ()
        stored = line_settings.by_name(self._stored)
        holder = "" if self._held.holder is None else self._held.holder.holder
        held = [
            SettingRefusal(name, f"{holder} holds it at {value}")
            for name, value in line_settings.by_name(self._line).items()
            if value != stored[name]
        ]
        return self._named((*uart.settings.refused, *held))

    def _read_back(self) -> Uart | None:
        """Read back the settings in force and return the open device; None while it is away."""
        if self._open is not None:
            with contextlib.suppress(UartError):
                self._open[0].settings.read_back(self._line)
                return self._open[0]
        return None

    def _named(self, refusals: Sequence[SettingRefusal]) -> tuple[Refusal, ...]:
        return tuple(Refusal(f"{self._prefix}{refusal.name}", refusal.why) for refusal in refusals)

    def status(self) -> dict[str, object]:
        """See PortDevice: what is in force, what was refused at open, and what was counted."""
        written, discarded = self.totals
        uart = self._read_back()
        counters = None
        with contextlib.suppress(UartError):
            if uart is not None:
                uart.queue.look()  # each look improves the estimate of what an unplugged device takes with it
                counters = uart.counters()
        return {
            "device": self.path,
            "adapter": None if uart is None or uart.adapter is None else str(uart.adapter),
            "settings_in_force": None if uart is None else uart.settings.by_name,
            "settings_held": self._held.status(),
            "settings_refused": {} if uart is None else dict(uart.settings.refused),
            "low_latency": None if uart is None else uart.low_latency,
            "bytes_to_line": written,
            "bytes_discarded": discarded,
            "breaks": self._breaks,
            "modem_lines_rose": self._lines_rose + (0 if uart is None else uart.lines_rose),
            "driver_counters": None if counters is None else asdict(counters),
            "sharing": self._sharing.status() | ({} if self._open is None else self._open[1].status()),
        }

    @contextlib.asynccontextmanager
    async def _hold(self, turns: Arbiter) -> AsyncIterator[None]:
        """Keep writers out, if that takes no longer than a second: the old settings may be why the line is stuck."""
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
        self._adapter = None  # an operator who enables the port accepts the adapter that is there
        self._bus.route(self._node)  # the way to the line ends here, whether or not its device is there

        def down(why: str) -> None:
            self._bus.disconnect(why)
            unit.failing(why)

        try:
            async with trio.open_nursery() as finishers:
                finishers.start_soon(self._put_back)
                with unit.scope:
                    live = functools.partial(self._live, unit, finishers, down)
                    await supervise(live, (UartError,), down, Backoff(_FIRST_RETRY, _LAST_RETRY))
                self._bus.disconnect(f"{self.path} is closing")
                await self._drain()
                finishers.cancel_scope.cancel()
        finally:
            await self._close()

    async def _live(
        self, unit: Unit, finishers: trio.Nursery, waiting: Callable[[str], None], backoff: Backoff
    ) -> None:
        """Carry what the line says until the device is gone, or nobody needs it. Raises UartError."""
        if self._config.on_demand:
            await self._needed(unit)
        if self._last is not None and not self._last.let_go():
            raise UartError(f"{self.path}: the driver has not closed it yet; it is opened again when it has")
        known = None if self._config.any_device else self._adapter
        uart = await Uart.open(self._config, self._line, self._logger, known=known, waiting=waiting)
        self._adapter = self._adapter or uart.adapter
        self._tried = None
        uart.heard_breaks = self._heard_breaks
        controls = Controls(uart, self._hold_settings, self._release_settings)
        turns = Arbiter(uart, self._bus, self._sharing, self._logger, controls)
        self._open = uart, turns
        watch, beside = trio.CancelScope(), trio.CancelScope()
        try:
            finishers.start_soon(turns.run)
            finishers.start_soon(self._watch, uart, turns)
            finishers.start_soon(controls.run)
            finishers.start_soon(look_beside, uart, self._bus, beside)
            # The settings may have changed while the driver opened it; ``not_in_force`` reports a refusal.
            if uart.settings.wanted != self._line:
                await self._bring_into_force()
            self._bus.connect(turns)
            self._tell(uart)
            unit.up()
            backoff.reset()
            with trio.CancelScope() as needed:
                if self._config.on_demand:
                    self._tell_of_sleep("opened")
                    finishers.start_soon(self._end_unneeded, turns, needed, watch)
                await uart.hear(turns.heard)
        except UartError:
            await self._close()
            raise
        finally:
            watch.cancel()
            beside.cancel()
        if needed.cancelled_caught:
            await self._drain()
        await self._close()
        if not needed.cancelled_caught:
            raise DeviceGone(f"{self.path}: the device hung up")

    async def _needed(self, unit: Unit) -> None:
        """Wait until a client needs the device. Meanwhile the unit is up, because closed is as wanted."""
        if not self._bus.needs.value:
            self._bus.sleep(_ASLEEP)
            self._tell_of_sleep(_ASLEEP)
            unit.up()
        await self._bus.needs.wait_for(bool)

    async def _end_unneeded(self, turns: Arbiter, needed: trio.CancelScope, watch: trio.CancelScope) -> None:
        """When nobody has needed the device for ``close_after`` seconds, put the port to sleep and cancel ``needed``.

        ``watch`` ends that, with the device.
        """
        with watch:
            while True:
                await self._bus.needs.wait_for(lambda needs: not needs)
                with trio.move_on_after(self._config.close_after):
                    await self._bus.needs.wait_for(bool)
                    continue
                await turns.idle()
                if not self._bus.needs.value:
                    self._bus.sleep(_ASLEEP)
                    needed.cancel()
                    return

    def _tell_of_sleep(self, what: str) -> None:
        """Log it as an event that clients can repeat at will."""
        self._bus.events.log(logging.INFO, "opened on demand", "%s: %s", self.path, what)

    async def _watch(self, uart: Uart, turns: Arbiter) -> None:
        """Look at the driver's queue while the device is open; a pty shows none."""
        while uart.queue.is_real and self._open is not None and self._open[0] is uart:
            with contextlib.suppress(UartError):  # the reading task meets it too
                uart.queue.look()
                if turns.has_stale_command():
                    await self._throw_away_commands(uart, turns)
            await trio.sleep(_LOOK)

    async def _throw_away_commands(self, uart: Uart, turns: Arbiter) -> None:
        """Purge a line that flow control has held for too long, so that no stale command fires when CTS rises.

        Everything that waits with the command goes too. Without a command all waits for as long as flow control
        demands, as a printer needs it. Raises UartError.
        """
        async with self._one_change, self._hold(turns):
            # A change of the settings may have purged it meanwhile, or closed it.
            if self._open is not None and self._open[0] is uart and turns.has_stale_command():
                self._logger.warning("flow control holds a PTZ command that is too old; what waits is thrown away")
                await uart.purge()
                turns.forget_commands()

    def _heard_breaks(self, count: int) -> None:
        self._breaks += count
        self._bus.broke(count)

    def _tell(self, uart: Uart) -> None:
        """Report the settings in force to the bus."""
        timing = uart.settings.timing
        self._bus.adjusted(timing.baud_rate, line_settings.in_words(timing), uart.settings.by_name)

    async def _drain(self) -> None:
        """Give messages that were begun the time to reach the line."""
        if self._open is None:
            return
        uart, turns = self._open
        with trio.move_on_after(_CLOSE):
            await turns.idle()
            try:
                await uart.queue.emptied(uart.queue.patience())
            except UartError as exc:
                self._logger.warning("%s", exc)

    async def _close(self) -> None:
        """Close the device, if it is open, and add up its counters, within a bounded time and without cancellation."""
        if self._open is None:
            return
        uart, turns = self._open
        turns.end(f"{self.path} is gone")
        await uart.close()
        self._written, self._discarded = self.totals
        self._lines_rose += uart.lines_rose
        self._open, self._last = None, uart
