"""The services of one port: each kind runs while its parameter says so, with a handle on the port's bus.

The clients are tasks of a nursery outside the units (``clients``), so that they survive when a listener or a device
comes and goes. ``update_policies`` hands on the settings that a service takes up in place.
"""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast, final

import trio

from gateway.clients.relay import Manner
from gateway.clients.roster import Roster
from gateway.clients.serial_cgi import SerialCgi
from gateway.clients.service import Service
from gateway.port.plan import Listen, ProgramTty, Serve, ServiceKind
from gateway.port.rights import Right
from gateway.tasks.load import load
from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from gateway.clients.connections import Connections
    from gateway.clients.drivers import Drivers
    from gateway.discovery.bonjour import Bonjour
    from gateway.host.config import ChainedConfig, Config, PortConfig, Rfc2217Config
    from gateway.host.descriptor_store import DescriptorStore
    from gateway.port.history import History
    from gateway.port.plan import Spec
    from gateway.port.router import Handle, Session
    from gateway.remote_port.chain import Chain
    from gateway.remote_port.server import RemotePortService
    from gateway.state.old_keys import OldKeys
    from gateway.tasks.reconcile import Unit
    from gateway.tasks.watch import Cell
    from gateway.tls_logins import TlsLogins
    from protocol.link.guesses import GuessLimit
    from protocol.link.identity import NodeKey
    from protocol.link.key_frames import Rekey, Told, ToldCpu
    from protocol.parameters.settings import PortManager

__all__ = ["Host", "Services", "specs_of_the_host"]

_RIGHTS: Final = {
    ServiceKind.GENERIC_TCP: Right.READ | Right.TCP,
    ServiceKind.PTZ: Right.READ | Right.PTZ,
    ServiceKind.SERIAL_CGI: Right.READ | Right.CGI,
    ServiceKind.TTY: Right.READ | Right.TCP | Right.LINES | Right.CONFIGURE,
    ServiceKind.LISTEN_ONLY: Right.READ,
    ServiceKind.MODBUS_TCP: Right.READ | Right.TCP,
    ServiceKind.RFC2217: Right.READ | Right.TCP | Right.LINES | Right.CONFIGURE,
    ServiceKind.TLS: Right.READ | Right.TCP,
    ServiceKind.WEB_SOCKET: Right.READ | Right.TCP | Right.WATCH | Right.LINES | Right.CONFIGURE,
    ServiceKind.REMOTE_PORT: Right.READ | Right.PTZ | Right.TCP | Right.CGI | Right.LINES | Right.CONFIGURE,
}
"""The rights of each kind of service; its clients get no more."""
_BESIDE: Final = Right.LINES | Right.CONFIGURE
"""The rights beside reading and writing."""

_TTY_LIMIT: Final = 65_536
"""Bytes of the line that are kept for a program that has a tty open and does not read."""

_FLUSH: Final = 1.6
"""Seconds for clients to take what waits for them when the gateway stops."""


@final
class Host(NamedTuple):
    """The parts of this host that all port managers share; ``node`` is its key pair."""

    config: Config
    node: NodeKey
    drivers: Drivers
    guesses: GuessLimit
    bonjour: Bonjour
    connections: Connections
    old_keys: OldKeys
    take_key: Callable[[int, int, Rekey], Awaitable[tuple[Told, Sequence[ToldCpu]]]]
    """Takes a key from the server of a remote port, given the indexes of both; see ``rekey.KeyChanges.take``."""
    descriptors: DescriptorStore
    tls_logins: Mapping[int, TlsLogins] = MappingProxyType({})
    """The logins of each port that is reached over TLS, by its index."""


class _PortService(Protocol):
    """A service of any kind, as it is run here."""

    async def run(self) -> None:
        """Serve until cancelled."""

    def revoke(self, why: str) -> None:
        """End all that its clients do."""


def specs_of_the_host(port: PortConfig) -> frozenset[Spec]:
    """Return what a port runs whatever its parameters say: WebSockets, and what the host's configuration opens."""
    own = {
        ServiceKind.MODBUS_TCP: port.modbus_tcp.listen,
        ServiceKind.RFC2217: port.rfc2217.listen,
        ServiceKind.TLS: port.tls.listen,
    }
    listeners = [Listen(*where, kind) for kind, listen in own.items() for where in listen]
    ttys = [ProgramTty(path, port.tty.mode, port.tty.group) for path in port.tty.paths]
    kinds = {ServiceKind.WEB_SOCKET, *(listener.kind for listener in listeners)} | (
        {ServiceKind.TTY} if ttys else set()
    )
    return frozenset((*map(Serve, kinds), *listeners, *ttys))


def _beside(may: Rfc2217Config | ChainedConfig) -> Right:
    """Return the rights beside reading and writing that the host's configuration gives."""
    return (Right.LINES if may.lines else Right(0)) | (Right.CONFIGURE if may.configure else Right(0))


def _names(holder: str) -> tuple[str, ...]:
    """Return the names by which an operator may call a holder: the whole text, its address and port, and its user.

    Holders are written ``anna at 192.0.2.7:40000``, or ``192.0.2.7:40000 (cpu2 64646464, R0)``.
    """
    user, _, where = holder.rpartition(" at ")
    return tuple(filter(None, (holder, user, where.partition(" ")[0] if ":" in where else "")))


async def _tell(trouble: Cell[str], unit: Unit) -> None:
    """Keep ``unit`` up while there is no trouble, and let it report trouble."""
    async for why in trouble.changes():
        if why:
            unit.failing(why)
        else:
            unit.up()


@final
class Services:
    """The services of port manager ``index``; ``grant`` makes the handle of each on the port's bus.

    ``history`` is what their clients hear first, where the port remembers anything; ``chain`` is what other CPUs are
    told of.
    """

    def __init__(
        self,
        index: int,
        host: Host,
        grant: Callable[[Right, str], Handle],
        chain: Callable[[], Chain],
        history: History | None = None,
    ) -> None:
        self._index = index
        self._host = host
        self._grant = grant
        self._chain = chain
        port = host.config.port(index)
        self._roster = Roster(port.writers, port.max_clients)
        self._manner = Manner(port.linger, port.slow_reader == "drop_oldest", history)
        self._services: dict[ServiceKind, _PortService] = {}
        self._handles: dict[ServiceKind, Handle] = {}
        self._watchers = grant(Right.READ | Right.WATCH, ServiceKind.TRACE.value)
        self.clients: trio.Nursery
        """All clients of the services that run; the port manager opens it anew whenever it starts its tree."""
        self.stopping = False
        """The gateway stops: no new clients, and nothing more is read from the present ones."""

    def __contains__(self, kind: ServiceKind) -> bool:
        return kind in self._services

    @property
    def sessions(self) -> tuple[tuple[ServiceKind, Session], ...]:
        """The sessions of this port's clients, except those of remote-port links, with their kind of service."""
        watched = ((ServiceKind.TRACE, session) for session in self._watchers.sessions)
        served = (
            (ServiceKind.TRACE if session.watches else kind, session)
            for kind, handle in self._handles.items()
            if kind is not ServiceKind.REMOTE_PORT
            for session in handle.sessions
        )
        return (*served, *watched)

    @property
    def traces(self) -> int:
        """The operators of this host who watch the port."""
        return len(self._watchers.children)

    def watched(self, holder: str) -> Session:
        """Return a session for one more operator; it goes on while the port manager restarts, and shows that."""
        return self._watchers.attenuate(Right.READ | Right.WATCH, holder).open(Right(0))

    @property
    def generic_tcp(self) -> Service | None:
        """The service of TCP clients, also of those that we dial; None while GenericTCPServer and -Client are off."""
        return cast("Service | None", self._services.get(ServiceKind.GENERIC_TCP))

    @property
    def listen_only(self) -> Service | None:
        """The service of TCP clients that may not write; None where the host has no listener for them."""
        return cast("Service | None", self._services.get(ServiceKind.LISTEN_ONLY))

    @property
    def tty(self) -> Service | None:
        """The service of programs that open a tty; None where the host names none."""
        return cast("Service | None", self._services.get(ServiceKind.TTY))

    @property
    def modbus_tcp(self) -> Service | None:
        """The service of masters by Modbus TCP; None where the host has no listener for them."""
        return cast("Service | None", self._services.get(ServiceKind.MODBUS_TCP))

    @property
    def rfc2217(self) -> Service | None:
        """The service of RFC 2217 clients; None where the host has no listener for them."""
        return cast("Service | None", self._services.get(ServiceKind.RFC2217))

    @property
    def tls(self) -> Service | None:
        """The service of users who come over TLS; None where the host has no listener for them."""
        return cast("Service | None", self._services.get(ServiceKind.TLS))

    @property
    def tls_status(self) -> dict[str, object] | None:
        """The certificates of that service, for the status."""
        logins = self._host.tls_logins.get(self._index)
        return None if logins is None else logins.tls.status

    @property
    def serial_cgi(self) -> SerialCgi | None:
        """The server behind serial.cgi; None while SerialCGI.Enabled is no."""
        return cast("SerialCgi | None", self._services.get(ServiceKind.SERIAL_CGI))

    @property
    def web_socket(self) -> Service | None:
        """The service of WebSockets; None while the port manager is being restarted."""
        return cast("Service | None", self._services.get(ServiceKind.WEB_SOCKET))

    @property
    def remote_port(self) -> RemotePortService | None:
        """The remote port server; None while RemotePortServer.Enabled is no."""
        return cast("RemotePortService | None", self._services.get(ServiceKind.REMOTE_PORT))

    @property
    def clients_refused(self) -> int:
        """The number of clients that the running services have refused, without the remote port server's."""
        return sum(self.refused.values())

    @property
    def refused(self) -> dict[str, int]:
        """The same by the kind of service, each since its start."""
        return {kind.value: service.refused for kind, service in self._services.items() if isinstance(service, Service)}

    def listened(self, kind: ServiceKind) -> Service | RemotePortService:
        """Return the service that listeners of this kind bring clients to. Raises KeyError where it does not run."""
        return cast("Service | RemotePortService", self._services[kind])

    def welcome_driver(self, sock: socket.socket, _: object) -> None:
        """Take a PTZ driver that a PTZ socket accepted."""
        self._host.drivers.welcome(cast("Service", self._services[ServiceKind.PTZ]), sock)

    async def run(self, kind: ServiceKind, unit: Unit, settings: Callable[[], PortManager]) -> None:
        """Run the service of one kind in ``unit`` until cancelled; ``settings`` are the newest of this port."""
        if kind is ServiceKind.REMOTE_PORT:
            await load("gateway.remote_port.server")
        handle = self._grant(self._rights(kind), kind.value)
        service = self._services[kind] = self._made(kind, handle)
        self._handles[kind] = handle
        self.update_policies(settings())
        unit.began()
        try:
            with unit.scope:
                async with trio.open_nursery() as beside:
                    if kind is ServiceKind.TLS:
                        beside.start_soon(_tell, self._host.tls_logins[self._index].trouble, unit)
                    else:
                        unit.up()
                    await service.run()
        finally:
            del self._services[kind], self._handles[kind]
            why = f"PortManager.P{self._index}.{kind.value}.Enabled is no"
            service.revoke("the gateway stops" if self.stopping else why)

    def _rights(self, kind: ServiceKind) -> Right:
        """Return the rights of a kind of service at this port."""
        rights, port = _RIGHTS[kind], self._host.config.port(self._index)
        if kind is ServiceKind.RFC2217:
            rights = rights & ~_BESIDE | _beside(port.rfc2217)
        elif kind is ServiceKind.TTY and not port.tty.configure:
            rights &= ~Right.CONFIGURE  # LINES stays for a flush, which is a purge; a pty can use nothing else of it
        return rights

    def _made(self, kind: ServiceKind, handle: Handle) -> _PortService:
        """Make the service of one kind. Modules that few ports need are loaded here, because they cost a start."""
        host, port = self._host, self._host.config.port(self._index)
        share = host.config.tcp.max_clients
        write = _RIGHTS[kind] & (Right.PTZ | Right.TCP)
        made = functools.partial(Service, f"P{self._index}", handle, write, self.clients, host.connections)
        match kind:
            case ServiceKind.SERIAL_CGI:
                return SerialCgi(handle)
            case ServiceKind.REMOTE_PORT:
                from gateway.remote_port.server import RemotePortService

                return RemotePortService(
                    self._index,
                    host.node,
                    host.config.chassis,
                    handle,
                    self.clients,
                    host.guesses,
                    host.connections,
                    chain=self._chain,
                    keyless=host.config.remote_port.keyless,
                    old_key=functools.partial(host.old_keys.of, self._index),
                )
            case ServiceKind.MODBUS_TCP:
                from gateway.clients.modbus_tcp import converse

                return made(share, carry=functools.partial(converse, units=port.modbus_tcp.units))
            case ServiceKind.RFC2217:
                from gateway.clients.rfc2217 import serve

                signature = f"Daisyport P{self._index}"
                carry = functools.partial(serve, manner=self._manner, signature=signature)
                return made(share, self._roster, carry=carry)
            case ServiceKind.TTY:
                from gateway.clients.tty_stream import serve as serve_program

                return made(carry=functools.partial(serve_program, manner=Manner(drop_oldest=True, limit=_TTY_LIMIT)))
            case ServiceKind.TLS:
                from gateway.clients.tls import TlsHandshakes

                handshakes = TlsHandshakes(host.tls_logins[self._index], self._manner)
                return made(share, self._roster, carry=handshakes.carry, handshakes=handshakes)
            case ServiceKind.PTZ:
                # Drivers take turns whoever else is connected, and their answers are never from before they came.
                return made(share)
            case _:
                return made(share, self._roster, self._manner)

    def update_policies(self, manager: PortManager) -> None:
        """Hand on what the services take up in place: allowed addresses, idle limits, the key."""
        tcp = manager.generic_tcp_server
        for service in (self.generic_tcp, self.listen_only, self.modbus_tcp, self.rfc2217, self.tls):
            if service is not None:
                service.update_policy(tcp.allowed_ip_addresses, tcp.timeout)
        if self.remote_port is not None:
            server = manager.remote_port_server
            remote = manager.port_type is PortType.REMOTE
            # On a line of another CPU, that CPU decides whether PTZ commands may be written ...
            ptz = manager.ptz_server.enabled or remote
            # ... and what chained clients may do beside writing.
            controls = _BESIDE if remote else _beside(self._host.config.port(self._index).remote)
            self.remote_port.update_policy(server.allowed_ip_addresses, server.authentication_key, ptz, controls)

    def kick(self, who: str, why: str) -> list[str]:
        """End each client called ``who``, and each link of a CPU with that name; return their holders."""
        kicked = []
        for _, session in self.sessions:
            if who in _names(session.holder):
                session.end(why)
                kicked.append(session.holder)
        if (server := self.remote_port) is not None:
            for link in server.sessions:
                if who == link.name or who in _names(link.handle.holder):
                    server.kick(link)
                    kicked.append(link.handle.holder)
        return kicked

    def send_away(self) -> None:
        """Read no more from clients, and let each take what waits for it: the gateway stops."""
        for _, session in self.sessions:
            session.pumping.cancel()
        if self.remote_port is not None:
            self.clients.start_soon(self.remote_port.retire)
        self.clients.cancel_scope.deadline = trio.current_time() + _FLUSH
