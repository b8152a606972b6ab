"""One port manager (PortManager.P#): its device, its doors and its clients under one roof.

It follows the settings: what is wanted is planned, what differs starts or stops, what stands takes up the new values.
It must not know HTTP, storage, or what other ports do.
"""

from __future__ import annotations

import functools
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from gateway.clients.dial import dial
from gateway.clients.listeners import listen_tcp, listen_unix
from gateway.clients.serial_cgi import SerialCgi
from gateway.clients.service import Service
from gateway.devices import make_device
from gateway.port.device import Refusal
from gateway.port.plan import Announce, Device, Dial, Listen, PtzSocket, Serve, ServiceKind, order, plan, responsible
from gateway.port.rights import Right
from gateway.tasks.reconcile import Unit, Units
from gateway.tasks.watch import Cell
from protocol.parameters.addresses import AddressList
from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.clients.drivers import Drivers
    from gateway.discovery.bonjour import Bonjour
    from gateway.host.config import Config
    from gateway.port.bus import Bus
    from gateway.port.device import PortDevice
    from gateway.port.plan import Spec
    from gateway.port.router import Handle, Session
    from gateway.remote_port.server import RemotePortService
    from gateway.state.store import Published
    from protocol.link.guesses import GuessLimit
    from protocol.parameters.settings import Settings

__all__ = ["Host", "Manager"]

_RIGHTS = {
    ServiceKind.GENERIC_TCP: Right.READ | Right.TCP,
    ServiceKind.PTZ: Right.READ | Right.PTZ,
    ServiceKind.SERIAL_CGI: Right.READ | Right.CGI,
    ServiceKind.WEB_SOCKET: Right.READ | Right.TCP,
    ServiceKind.REMOTE_PORT: Right.READ | Right.PTZ | Right.TCP | Right.CGI,
}
_FLUSH = 1.6
"""Seconds that clients have to take what waits for them when the gateway stops."""


@final
@dataclass(frozen=True, slots=True)
class Host:
    """What all port managers of this host have in common; ``node`` is its node id."""

    config: Config
    node: bytes
    drivers: Drivers
    guesses: GuessLimit
    bonjour: Bonjour


@final
class Manager:
    """Port manager ``index`` of the host; ``grant`` makes a door's handle on its bus."""

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
        """The serial port where this manager has one, for its counters outlive the times that it is open; and the
        remote port client while PortType is RemotePort."""
        self.remote_service: RemotePortService | None = None
        """The remote port server; None while RemotePortServer.Enabled is no."""
        self.serial_cgi: SerialCgi | None = None
        """The server behind serial.cgi; None while SerialCGI.Enabled is no."""
        self._host = host
        self._grant = grant
        self._published = published
        self._followed = Cell(-1)
        self._refused: tuple[Refusal, ...] = ()
        self._services: dict[ServiceKind, Service] = {}
        self._handles: dict[ServiceKind, Handle] = {}
        self._stopping = False
        if (number := self._numbers[0]) is not None:
            self.devices[PortType.SERIAL] = self._make_device(Device(PortType.SERIAL, number))

    async def run(self, stop: trio.Event) -> None:
        """Do what the settings say until ``stop`` is set, then end everything in its order."""
        async with trio.open_nursery() as roof:
            self._units: Units[Spec] = Units(roof, self._run, order, self.bus.name)
            async with trio.open_nursery() as self._clients:
                with trio.CancelScope() as following:
                    roof.start_soon(_cancel_at, stop, following)
                    async for published in self._published.changes():
                        await self._follow(published)
                await self._send_away()
            await self._units.apply(frozenset())

    async def settled(self, version: int) -> tuple[Refusal, ...]:
        """Wait until the port does what version ``version`` of the settings says, or is known not to.

        Returns what its device or the host refused; the caller bounds the wait.
        """
        await self._followed.wait_for(lambda followed: followed >= version)
        await self._units.settled()
        return self._refused

    def blamed(self, changed: Sequence[str]) -> tuple[Refusal, ...]:
        """Say which of the parameters that a request changed brought about what the port cannot do."""
        listeners = tuple(
            Refusal(name, f"{spec}: {unit.refusal}")
            for spec, unit in self._units
            if unit.refusal is not None
            for name in responsible(spec, self.index, changed)
        )
        return listeners + tuple(refusal for refusal in self._refused if refusal.name in changed)

    @property
    def units(self) -> dict[str, str]:
        """What runs, and how it is, for the status."""
        return {str(spec): unit.state for spec, unit in self._units}

    @property
    def sessions(self) -> tuple[tuple[ServiceKind, Session], ...]:
        """Who sits at the line, by the door that they came through."""
        return tuple((kind, session) for kind, handle in self._handles.items() for session in handle.sessions)

    @property
    def web_socket(self) -> Service | None:
        """The door that WebSockets come in by; None while the port manager is being restarted."""
        return self._services.get(ServiceKind.WEB_SOCKET)

    @property
    def turned_away(self) -> int:
        """Clients that the open doors did not let in."""
        return sum(service.refused for service in self._services.values())

    async def _follow(self, published: Published) -> None:
        settings = published.settings
        for kind, service in self._services.items():
            service.update_policy(*self._policy(kind, settings))
        if self.remote_service is not None:
            self.remote_service.update_policy(*self._remote_policy(settings))
        wanted = plan(settings, self.index, self._numbers, self._host.config.tcp.bind) | {Serve(ServiceKind.WEB_SOCKET)}
        await self._units.apply(wanted)
        if not any(isinstance(spec, Device) for spec in wanted):
            self.bus.route()
            self.bus.disconnect(self._why_no_device(settings))
        # The serial port takes up its settings while the line is one of another CPU too, or the port is closed.
        refused = [await device.adjust(settings) for device in tuple(self.devices.values())]
        self._refused = tuple(refusal for refusals in refused for refusal in refusals)
        self._followed.set(published.version)

    async def _send_away(self) -> None:
        """Close the listeners, read no more from clients, and let each take what waits for it."""
        self._stopping = True
        standing = frozenset(spec for spec, _ in self._units if isinstance(spec, Device | Serve))
        await self._units.apply(standing)
        for _, session in self.sessions:
            session.pumping.cancel()
        if self.remote_service is not None:
            self._clients.start_soon(self.remote_service.retire)
        self._clients.cancel_scope.deadline = trio.current_time() + _FLUSH

    async def _run(self, spec: Spec, unit: Unit) -> None:
        match spec:
            case Device():
                await self._run_device(spec, unit)
            case Serve(ServiceKind.REMOTE_PORT):
                await self._run_remote_service(unit)
            case Serve(kind):
                runs = {ServiceKind.SERIAL_CGI: self._run_serial_cgi, ServiceKind.REMOTE_PORT: self._run_remote_service}
                await runs.get(kind, functools.partial(self._run_service, kind))(unit)
            case Listen():
                with unit.scope:
                    await self._listen(spec, unit)
            case PtzSocket(packets):
                socket_kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
                path = self._host.config.runtime_dir / f"ptz-{self.bus.name}.{'seq' if packets else 'sock'}"
                with unit.scope:
                    await listen_unix(path, socket_kind, self._host.drivers.mode, self._welcome_driver, unit)
            case Announce():
                await self._run_announce(spec, unit)
            case Dial():
                with unit.scope:
                    await dial(spec, self._services[ServiceKind.GENERIC_TCP], unit, lambda: self._stopping)

    async def _listen(self, spec: Listen, unit: Unit) -> None:
        if spec.kind is ServiceKind.REMOTE_PORT:
            assert self.remote_service is not None, "services start before their listeners"
            await listen_tcp(spec.address, spec.port, self.remote_service.welcome, unit)
        else:
            await listen_tcp(spec.address, spec.port, self._services[spec.kind].welcome, unit)

    def _welcome_driver(self, sock: socket.socket, _: object) -> None:
        self._host.drivers.welcome(self._services[ServiceKind.PTZ], sock)

    async def _run_service(self, kind: ServiceKind, unit: Unit) -> None:
        handle = self._handles[kind] = self._grant(_RIGHTS[kind], kind.value)
        service = self._services[kind] = Service(self.bus.name, handle, _RIGHTS[kind] & ~Right.READ, self._clients)
        service.update_policy(*self._policy(kind, self._published.value.settings))
        unit.began()
        unit.up()
        try:
            with unit.scope:
                await trio.sleep_forever()
        finally:
            del self._services[kind], self._handles[kind]
            handle.revoke(self._closed(kind))

    async def _run_serial_cgi(self, unit: Unit) -> None:
        kind = ServiceKind.SERIAL_CGI
        handle = self._handles[kind] = self._grant(_RIGHTS[kind], kind.value)
        self.serial_cgi = SerialCgi(handle)
        unit.began()
        unit.up()
        try:
            with unit.scope:
                await self.serial_cgi.serve()
        finally:
            self.serial_cgi = None
            del self._handles[kind]
            handle.revoke(self._closed(kind))

    def _make_device(self, spec: Device) -> PortDevice:
        host = self._host
        return make_device(spec, self.bus, self._published.value.settings, host.config, host.node, host.bonjour)

    async def _run_device(self, spec: Device, unit: Unit) -> None:
        if spec.type is PortType.SERIAL:
            await self.devices[spec.type].run(unit)
            return
        device = self.devices[spec.type] = self._make_device(spec)
        try:
            await device.run(unit)
        finally:
            del self.devices[spec.type]

    async def _run_remote_service(self, unit: Unit) -> None:
        from gateway.remote_port.server import RemotePortService

        kind = ServiceKind.REMOTE_PORT
        handle = self._grant(_RIGHTS[kind], kind.value)
        host = self._host
        service = RemotePortService(self.index, host.node, host.config.chassis, handle, self._clients, host.guesses)
        service.update_policy(*self._remote_policy(self._published.value.settings))
        self.remote_service = service
        unit.began()
        unit.up()
        try:
            with unit.scope:
                await service.run()
        finally:
            self.remote_service = None
            service.revoke(self._closed(kind))

    async def _run_announce(self, spec: Announce, unit: Unit) -> None:
        """Tell the neighbours of the remote port server, once it listens."""
        from gateway.remote_port.announce import announce

        unit.began()
        unit.up()
        host = self._host
        listeners = [
            other for spec, other in self._units if isinstance(spec, Listen) and spec.kind is ServiceKind.REMOTE_PORT
        ]
        with unit.scope:
            await _first_up(listeners)
            chassis = host.config.chassis
            await announce(host.bonjour, self.bus.state, self.index, chassis, spec.keyed, spec.port)

    def _remote_policy(self, settings: Settings) -> tuple[AddressList, str, bool]:
        """Say who may chain to this port: which addresses, with which key, and whether for PTZ commands too."""
        manager = settings.port_managers[self.index]
        server = manager.remote_port_server
        # Of a line that another CPU owns, that one says whether PTZ commands may be written.
        ptz = manager.ptz_server.enabled or manager.port_type is PortType.REMOTE
        return server.allowed_ip_addresses, server.authentication_key, ptz

    def _closed(self, kind: ServiceKind) -> str:
        return "the gateway stops" if self._stopping else f"PortManager.{self.bus.name}.{kind.value}.Enabled is no"

    def _policy(self, kind: ServiceKind, settings: Settings) -> tuple[AddressList, int]:
        """Say who may come through a door, and how many seconds a client may be idle (0: for ever)."""
        if kind is not ServiceKind.GENERIC_TCP:
            return AddressList(), 0
        tcp = settings.port_managers[self.index].generic_tcp_server
        return tcp.allowed_ip_addresses, tcp.timeout

    @property
    def _numbers(self) -> tuple[int | None, int | None]:
        hardware = self._host.config.managers[self.index]
        return hardware.serial, hardware.remote_port

    def _why_no_device(self, settings: Settings) -> str:
        if settings.port_managers[self.index].port_enabled:
            return f"PortManager.{self.bus.name} has no device of type {PortType.REMOTE.value}"
        return f"the port is disabled; PortManager.{self.bus.name}.PortEnabled=yes opens it"


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _first_up(units: Sequence[Unit]) -> None:
    """Wait until one of them is up."""
    async with trio.open_nursery() as nursery:

        async def rise(unit: Unit) -> None:
            await unit.is_up.wait()
            nursery.cancel_scope.cancel()

        for unit in units:
            nursery.start_soon(rise, unit)
