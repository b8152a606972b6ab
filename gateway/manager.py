"""One port manager (PortManager.P#): its device, its services and its clients.

It follows the settings: it plans what they call for, starts and stops what differs, and hands new values to what stays.
The clients of services live in a nursery outside the units, so that they survive when a listener or a device comes and
goes.

A bug ends the whole tree of one port, and of no other. The tree is started again, first at once and then after growing
pauses. A port that goes on failing is *parked*: it is down, with the reason in the status and in the answers of
param.cgi, and it is tried again each minute, and whenever a parameter changes, because that may mend it.
"""

from __future__ import annotations

import functools
import logging
import operator
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.clients.dial import dial
from gateway.clients.listeners import listen_tcp, listen_unix
from gateway.devices import make_device
from gateway.host.descriptor_store import tty_name
from gateway.host.upgrade import UPGRADE_WAITS, UpgradeWaits
from gateway.port.device import Refusal
from gateway.port.history import History
from gateway.port.log import PortLogger
from gateway.port.plan import (
    Announce,
    Device,
    Dial,
    Listen,
    ProgramTty,
    PtzSocket,
    Serve,
    ServiceKind,
    order,
    plan,
    responsible,
)
from gateway.port.rights import Right
from gateway.services import Services, specs_of_the_host
from gateway.tasks.load import load
from gateway.tasks.reconcile import Unit, Units
from gateway.tasks.root_cause import root_cause
from gateway.tasks.watch import Cell
from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from gateway.clients.line_log import LineLog
    from gateway.port.bus import Bus
    from gateway.port.device import PortDevice
    from gateway.port.plan import Spec
    from gateway.port.router import Handle
    from gateway.remote_port.chain import Chain
    from gateway.services import Host
    from gateway.state.store import Published
    from protocol.parameters.settings import PortManager, Settings

__all__ = ["Manager", "NoAnswer"]

_PACKAGE: Final = f"{Path(__file__).parent}/"
_PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each restart after a bug; a port that fails once more is parked."""
_BEAT: Final = 1.0
"""Seconds between two heartbeats."""
_PARKED: Final = 60.0
"""Seconds after which a parked port is tried again. A port that has run for this time has recovered."""


@final
class NoAnswer(Exception):
    """The port manager did not answer any more, and was ended for that; the message says where it waited."""


@final
class Manager:
    """Port manager ``index`` of the host; ``grant`` makes a service's handle on its bus."""

    def __init__(
        self,
        index: int,
        host: Host,
        bus: Bus,
        grant: Callable[[Right, str], Handle],
        published: Cell[Published],
    ) -> None:
        self.index = index
        self.bus = bus
        self.devices: dict[PortType, PortDevice] = {}
        """The serial port, if this manager has one, also while it is closed, because its counters go on; and the remote
        port client while PortType is RemotePort."""
        self.failure = ""
        """Why the port manager is down or parked, while a bug keeps it so; else empty."""
        self.beats = 0
        """The heartbeats so far: about one a second, as long as the manager follows the settings or waits to."""
        self._host = host
        self._port = host.config.port(index)
        history = History(self._port.history_bytes) if self._port.history_bytes else None
        if history is not None:
            bus.attach(history.deliver, party=history)  # a party that never asks, so it keeps only what everybody hears
        self.services = Services(index, host, grant, lambda: self.chain, history)
        self.log: LineLog | None = None
        """The log of what the line says; None where the host has none."""
        if (file := self._port.log.file) is not None:
            # Loaded only where it is used.
            from gateway.clients.line_log import LineLog

            self.log = LineLog(file, self._port.log.rotate, functools.partial(grant, Right.READ, "log"))
        self._always = specs_of_the_host(self._port)
        self._published = published
        self._followed = Cell(-1)
        """The version of the settings whose units run ..."""
        self._adjusted = Cell(-1)
        """... and the version that the devices have taken up, or refused: they may have to wait for their line."""
        self._units: Units[Spec] | None = None
        self._refused: tuple[Refusal, ...] = ()
        self._tree = trio.CancelScope()
        self._no_answer: NoAnswer | None = None
        self._log = PortLogger(logging.getLogger(__name__), bus.name)
        if (number := self._numbers[0]) is not None:
            self.devices[PortType.SERIAL] = self._make_device(Device(PortType.SERIAL, number))

    # -- what others see

    @functools.cached_property
    def chain(self) -> Chain:
        """The CPUs that share this port's line. Made at the first request."""
        from gateway.chain import chain_of

        return chain_of(self.index, self.bus, self.devices, self.services, self._host.node)

    @property
    def units(self) -> dict[str, str]:
        """The specs that run, and the state of each, for the status."""
        return {str(spec): unit.state for spec, unit in self._running}

    async def settled(self, version: int, changed: Sequence[str] = ()) -> None:
        """Wait until the port does what version ``version`` of the settings says, or is known not to.

        If one of its devices depends on the ``changed`` parameters, wait for the device too. The caller bounds the
        wait; ``responsible`` tells the outcome.
        """
        await self._followed.wait_for(lambda followed: followed >= version)
        if self._units is not None:
            await self._units.settled()
        if any(name.startswith(self._device_prefixes) for name in changed):
            await self._adjusted.wait_for(lambda adjusted: adjusted >= version)

    async def insist(self, names: Collection[str]) -> None:
        """Try once more to bring the wanted settings into force; end every hold of clients on these parameters."""
        for device in tuple(self.devices.values()):
            await device.insist(names)

    def not_in_force(self) -> dict[str, str]:
        """Return the parameters whose value is not in force on a device that is there, and why."""
        return {
            refusal.name: refusal.why for device in tuple(self.devices.values()) for refusal in device.not_in_force()
        }

    def responsible(self, changed: Sequence[str], version: int = -1) -> tuple[Refusal, ...]:
        """Return which of the ``changed`` parameters are to blame for what the port cannot do, and why it cannot.

        What it has not done of ``version`` by now counts as impossible.
        """
        if self.failure:
            return tuple(Refusal(name, self.failure) for name in changed if name.startswith(self._prefixes))
        late: tuple[str, ...] = ()
        if self._followed.value < version:
            late = self._prefixes
        elif self._adjusted.value < version:
            late = self._device_prefixes
        if names := [name for name in changed if name.startswith(late)]:
            return tuple(Refusal(name, "the port did not take it up in time") for name in names)
        listeners = tuple(
            Refusal(name, f"{spec}: {unit.refusal}")
            for spec, unit in self._running
            if unit.refusal is not None
            for name in responsible(spec, self.index, changed)
        )
        return listeners + tuple(refusal for refusal in self._refused if refusal.name in changed)

    # -- the tree and its restarts

    async def run(self, stop: trio.Event) -> None:
        """Keep the port as the settings say until ``stop`` is set, then end everything in its order. Never raises."""
        self._task: trio.lowlevel.Task = trio.lowlevel.current_task()
        failures = 0
        while not stop.is_set():
            started = trio.current_time()
            self._no_answer = None
            try:
                with trio.CancelScope() as self._tree:
                    await self._run_tree(stop)
                if self._no_answer is not None and not stop.is_set():
                    raise self._no_answer
            except Exception as exc:  # noqa: BLE001 -- whatever it was, the tree is gone and has to be started again
                self._log.exception("a bug ended the port manager")
                failures = 1 if trio.current_time() - started >= _PARKED else failures + 1
                await self._recover(exc, failures, stop)

    def restart(self, why: str) -> None:
        """End the tree and start it again, as after a bug. Returns at once; a tree may ignore its cancellation."""
        self._no_answer = NoAnswer(f"{why}, waiting in {_waits_in(self._task)}")
        self._tree.cancel()

    async def _recover(self, bug: Exception, failures: int, stop: trio.Event) -> None:
        """Say that the port is down for a bug, and wait until it may be started again."""
        pause = _PAUSES[failures - 1] if failures <= len(_PAUSES) else _PARKED
        state = "parked" if failures > len(_PAUSES) else "down"
        kind = type(root_cause(bug)).__name__
        self.failure = f"the port manager is {state} after a bug ({kind}, see the log); next try within {pause:g} s"
        self._log.error("%s", self.failure)
        self.bus.route()
        self.bus.disconnect(self.failure)
        # An update that waits for these settings learns now that they are not in force.
        seen = self._published.value.version
        self._followed.set(seen)
        self._adjusted.set(seen)
        with trio.move_on_after(pause):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_at, stop, nursery.cancel_scope)
                nursery.start_soon(self._beat_on)
                await self._published.wait_for(lambda published: published.version != seen)
                nursery.cancel_scope.cancel()

    async def _beat_on(self) -> None:
        """Count heartbeats: a port that waits for its restart is down, but does not hang."""
        while True:
            self.beats += 1
            await trio.sleep(_BEAT)

    async def _run_tree(self, stop: trio.Event) -> None:
        async with trio.open_nursery() as running:
            self._units = Units(running, self._run, order, self._log)
            async with trio.open_nursery() as self.services.clients:
                with trio.CancelScope() as following:
                    running.start_soon(_cancel_at, stop, following)
                    async with trio.open_nursery() as beside:
                        beside.start_soon(self._adjust_devices)
                        changes = self._published.changes()
                        while True:
                            self.beats += 1
                            published = None
                            with trio.move_on_after(_BEAT):
                                published = await anext(changes)
                            self.bus.events.tell()
                            if published is not None:
                                await self._follow(published, self._units)
                await self._send_away(self._units)
            await self._units.apply(frozenset())

    async def _follow(self, published: Published, units: Units[Spec]) -> None:
        settings = published.settings
        self.services.update_policies(settings.port_managers[self.index])
        bind, listen_only = self._host.config.tcp.bind, self._port.listen_only
        wanted = plan(settings, self.index, self._numbers, bind, listen_only) | self._always
        await units.apply(wanted)
        if not any(isinstance(spec, Device) for spec in wanted):
            self.bus.route()
            self.bus.disconnect(self._why_no_device(settings))
        self.failure = ""
        self._followed.set(published.version)

    async def _adjust_devices(self) -> None:
        """Keep the devices as the settings say, in its own task, because a device may have to wait for its line."""
        async for published in self._published.changes():
            # By then a device that this version calls for has been started, and is open or known not to be. The serial
            # port takes up its settings also while the port is closed, or uses another CPU's line.
            await self._followed.wait_for(functools.partial(operator.le, published.version))
            for spec, unit in self._running:
                if isinstance(spec, Device):
                    await unit.settled.wait()
            refused = [await device.adjust(published.settings) for device in tuple(self.devices.values())]
            self._refused = tuple(refusal for refusals in refused for refusal in refusals)
            self._adjusted.set(published.version)

    async def _send_away(self, units: Units[Spec]) -> None:
        """Close the listeners, read no more from clients, and let each take what waits for it."""
        self.services.stopping = True
        await units.apply(frozenset(spec for spec, _ in units if isinstance(spec, Device | Serve | ProgramTty)))
        self.services.send_away()

    # -- the units

    async def _run(self, spec: Spec, unit: Unit) -> None:
        """Run a unit. One that would have to load files of another version waits for a restart; the others go on."""
        try:
            await self._run_spec(spec, unit)
        except UpgradeWaits as exc:
            unit.began()
            unit.refused(str(exc))
            with unit.scope:
                await trio.sleep_forever()

    async def _run_spec(self, spec: Spec, unit: Unit) -> None:
        match spec:
            case Device():
                await self._run_device(spec, unit)
            case Serve(kind):
                await self.services.run(kind, unit, self._newest)
            case Listen():
                # Services start before their listeners, so a missing one waits for a restart.
                if spec.kind not in self.services:
                    raise UpgradeWaits(f"{spec.kind.value}: {UPGRADE_WAITS}")
                with unit.scope:
                    await listen_tcp(spec.address, spec.port, self.services.listened(spec.kind).welcome, unit)
            case PtzSocket(packets):
                socket_kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
                path = self._host.config.runtime_dir / f"ptz-{self.bus.name}.{'seq' if packets else 'sock'}"
                with unit.scope:
                    await listen_unix(path, socket_kind, self._host.drivers.mode, self.services.welcome_driver, unit)
            case ProgramTty():
                # Loaded only where it is used, for its ctypes.
                from gateway.clients.tty import serve_programs

                programs = self.services.tty
                assert programs is not None, "the service stands beside each tty"
                with unit.scope:
                    name, descriptors = tty_name(self.bus.name, spec.path), self._host.descriptors
                    await serve_programs(spec, programs, unit, lambda: self.services.stopping, descriptors, name)
            case Announce():
                await self._run_announce(spec, unit)
            case Dial():
                service = self.services.generic_tcp
                assert service is not None, "plan() dials only where the service runs"
                with unit.scope:
                    await dial(spec, service, unit, lambda: self.services.stopping)

    def _make_device(self, spec: Device) -> PortDevice:
        host = self._host
        settings = self._published.value.settings
        take_key = functools.partial(host.take_key, self.index, spec.number)
        return make_device(
            spec, self.bus, settings, host.config, host.node, host.bonjour, self._port, lambda: self.chain, take_key
        )

    async def _run_device(self, spec: Device, unit: Unit) -> None:
        if spec.type is PortType.SERIAL:
            self.bus.share(self._port.turn, self._port.message)  # for another CPU's line, that CPU sends the rules
            await self.devices[spec.type].run(unit)
            return
        await load("gateway.remote_port.client")
        device = self.devices[spec.type] = self._make_device(spec)
        try:
            await device.run(unit)
        finally:
            del self.devices[spec.type]

    async def _run_announce(self, spec: Announce, unit: Unit) -> None:
        """Announce the remote port server to the neighbours, once it listens."""
        await load("gateway.remote_port.announce")
        from gateway.remote_port.announce import announce

        unit.began()
        unit.up()
        host = self._host
        listeners = [
            other for spec, other in self._running if isinstance(spec, Listen) and spec.kind is ServiceKind.REMOTE_PORT
        ]
        with unit.scope:
            await _first_up(listeners)
            name = host.node.name if host.config.bonjour.name else ""
            chassis = host.config.chassis
            await announce(host.bonjour, self.bus.state, self.index, chassis, name, spec.keyed, spec.port)

    # -- what it is made of

    def _newest(self) -> PortManager:
        """Return the newest settings of this port."""
        return self._published.value.settings.port_managers[self.index]

    @property
    def _running(self) -> Iterator[tuple[Spec, Unit]]:
        return iter(()) if self._units is None else iter(self._units)

    @property
    def _numbers(self) -> tuple[int | None, int | None]:
        hardware = self._host.config.managers[self.index]
        return hardware.serial, hardware.remote_port

    @property
    def _prefixes(self) -> tuple[str, ...]:
        """The beginnings of the names of this port's own parameters."""
        return f"PortManager.{self.bus.name}.", *self._device_prefixes

    @property
    def _device_prefixes(self) -> tuple[str, ...]:
        """The beginnings of the names of its devices' parameters."""
        serial, remote_port = self._numbers
        return f"Serial.Ser{serial}.", f"RemotePort.R{remote_port}."

    def _why_no_device(self, settings: Settings) -> str:
        if settings.port_managers[self.index].port_enabled:
            return f"PortManager.{self.bus.name} has no device of type {PortType.REMOTE.value}"
        return f"the port is disabled; PortManager.{self.bus.name}.PortEnabled=yes opens it"


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _waits_in(task: trio.lowlevel.Task) -> str:
    """Return the innermost function of this package in which a task waits, with its file and line."""
    frames = [(frame.f_code, line) for frame, line in task.iter_await_frames()]
    code, line = [each for each in frames if each[0].co_filename.startswith(_PACKAGE)][-1]
    return f"{code.co_qualname} ({code.co_filename.removeprefix(_PACKAGE)}, line {line})"


async def _first_up(units: Sequence[Unit]) -> None:
    """Wait until one of ``units`` is up."""
    async with trio.open_nursery() as nursery:

        async def wait(unit: Unit) -> None:
            await unit.is_up.wait()
            nursery.cancel_scope.cancel()

        for unit in units:
            nursery.start_soon(wait, unit)
