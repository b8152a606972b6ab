"""Plan what a port manager should be running, given the settings: a pure function.

The plan is a set of Specs, each the whole description of one unit. ``tasks.reconcile`` compares it with what runs:
equal specs run on undisturbed, specs that are gone stop, new ones start. So what stands in a Spec decides what a
change of settings disturbs, and the rule is:

    A Spec holds exactly what its unit cannot change while it runs.

A listen address is in it, because a bound socket cannot move. Allowed addresses, idle limits and line settings are not:
a running service or device takes these up in place. A listener is a unit of its own beside the service whose clients it
accepts, so that moving the listener leaves the clients alone. Put a new parameter on the right side of that rule, and
nothing else has to be written.

Units start in the order of their kinds, and stop in the reverse order (``order``): a device before the services that
write to it, a service before its listeners, a listener before its announcement. So a client is never accepted for a
service that is not there, and none connects to a service that is about to stop.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, final

from protocol.endpoint import Endpoint
from protocol.frozen import frozen
from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from protocol.parameters.settings import PortManager, Settings

__all__ = [
    "Announce",
    "Device",
    "Dial",
    "Listen",
    "ProgramTty",
    "PtzSocket",
    "Serve",
    "ServiceKind",
    "Spec",
    "order",
    "plan",
    "responsible",
]


@final
class ServiceKind(enum.Enum):
    """The kind of a service, in the words of the VAPIX Serial port API."""

    GENERIC_TCP = "GenericTCPServer"
    PTZ = "PTZServer"
    SERIAL_CGI = "SerialCGI"
    REMOTE_PORT = "RemotePortServer"
    TTY = "Tty"
    """Ours, under no parameter: programs that open a tty which the host's configuration names."""
    LISTEN_ONLY = "ListenOnly"
    """Ours, under no parameter: TCP clients of the host's own listeners, which may not write."""
    RFC2217 = "RFC2217"
    """Ours, under no parameter: telnet clients that speak RFC 2217, at the host's own listeners."""
    TLS = "TLS"
    """Ours, under no parameter: TCP clients over TLS, as users, at the host's own listeners."""
    MODBUS_TCP = "ModbusTCP"
    """Ours, under no parameter: masters by Modbus TCP, at the host's own listeners."""
    TRACE = "Trace"
    """Ours, under no parameter: operators who watch a port, and write nothing."""
    WEB_SOCKET = "WebSocket"
    """Ours, under no parameter: it runs as long as the port manager, and its clients have logged in."""


@final
@frozen
class Device:
    """The device behind the port: Serial.Ser# or RemotePort.R#, by ``number``."""

    type: PortType
    number: int

    def __str__(self) -> str:
        return f"Ser{self.number}" if self.type is PortType.SERIAL else f"R{self.number}"


@final
@frozen
class Serve:
    """A service; its clients stay connected while it runs, whatever its listeners do."""

    kind: ServiceKind

    def __str__(self) -> str:
        return f"service {self.kind.value}"


_FOR = {
    ServiceKind.REMOTE_PORT: " for remote ports",
    ServiceKind.LISTEN_ONLY: " to listen only",
    ServiceKind.MODBUS_TCP: " for Modbus TCP",
    ServiceKind.RFC2217: " for RFC 2217",
    ServiceKind.TLS: " for TLS",
}


@final
@frozen
class Listen:
    """A TCP listener of one of the servers, on one address of the host."""

    address: str
    port: int
    kind: ServiceKind = ServiceKind.GENERIC_TCP

    def __str__(self) -> str:
        return f"listen {Endpoint(self.address, self.port)}{_FOR.get(self.kind, '')}"


@final
@frozen
class PtzSocket:
    """One of the two Unix sockets that PTZ drivers connect to."""

    packets: bool

    def __str__(self) -> str:
        return "PTZ packet socket" if self.packets else "PTZ stream socket"


@final
@frozen
class ProgramTty:
    """A tty for programs under the name ``path``, with the mode and, where it is named, the group of its device."""

    path: str
    mode: int = 0o600
    group: str | None = None

    def __str__(self) -> str:
        return f"tty {self.path}"


@final
@frozen
class Dial:
    """A generic TCP connection to another host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"connect to {Endpoint(self.host, self.port)}"


@final
@frozen
class Announce:
    """The announcement that the remote port server listens on a TCP port, with a key or without."""

    port: int
    keyed: bool

    def __str__(self) -> str:
        return f"announce port {self.port} by Bonjour"


Spec = Device | Serve | Listen | PtzSocket | ProgramTty | Dial | Announce

_ORDER = (Device, Serve, Listen, PtzSocket, ProgramTty, Dial, Announce)


def order(spec: Spec) -> int:
    """Return the rank of ``spec`` at the start; units stop in the reverse order."""
    return _ORDER.index(type(spec))


def plan(
    settings: Settings,
    port: int,
    numbers: tuple[int | None, int | None],
    bind: Sequence[str],
    listen_only: Sequence[tuple[str, int]] = (),
) -> frozenset[Spec]:
    """Return everything that port manager ``port`` should run.

    ``numbers`` are its Ser number and its R index, where it has them; ``bind`` the host's addresses to listen on, and
    ``listen_only`` those, with their TCP ports, whose clients may not write.
    """
    manager = settings.port_managers[port]
    serial, remote_port = numbers
    number = serial if manager.port_type is PortType.SERIAL else remote_port
    device = (Device(manager.port_type, number),) if manager.port_enabled and number is not None else ()
    listening = [Listen(address, number, ServiceKind.LISTEN_ONLY) for address, number in listen_only]
    listened = (Serve(ServiceKind.LISTEN_ONLY),) if listening else ()
    return frozenset((*device, *_services(manager), *_listeners(manager, bind), *listened, *listening))


def _services(manager: PortManager) -> Iterator[Spec]:
    enabled = {
        ServiceKind.GENERIC_TCP: manager.generic_tcp_server.enabled,
        ServiceKind.PTZ: manager.ptz_server.enabled,
        ServiceKind.SERIAL_CGI: manager.serial_cgi.enabled,
        ServiceKind.REMOTE_PORT: manager.remote_port_server.enabled,
    }
    yield from (Serve(kind) for kind, wanted in enabled.items() if wanted)


def _listeners(manager: PortManager, bind: Sequence[str]) -> Iterator[Spec]:
    tcp = manager.generic_tcp_server
    if tcp.enabled and tcp.listener.enabled:
        yield from (Listen(address, tcp.listener.port) for address in bind)
    if tcp.enabled and tcp.connect_to.enabled and tcp.connect_to.host:
        yield Dial(tcp.connect_to.host, tcp.connect_to.port)
    remote = manager.remote_port_server
    if remote.enabled and remote.listener.enabled:
        yield from (Listen(address, remote.listener.port, ServiceKind.REMOTE_PORT) for address in bind)
        yield Announce(remote.listener.port, bool(remote.authentication_key))
    if manager.ptz_server.enabled:
        yield from (PtzSocket(packets=False), PtzSocket(packets=True))


def responsible(spec: Spec, port: int, changed: Sequence[str]) -> tuple[str, ...]:
    """Return the parameters, among those that a request changed, that are to blame for a ``spec`` that cannot run.

    They are put back together: if only the number were put back, a listener that was just enabled would open a port
    that nobody asked for. If none of the listener's own parameters was changed, its server was just enabled.
    """
    if isinstance(spec, Device):
        device = (f"PortManager.P{port}.PortType", f"PortManager.P{port}.PortEnabled")
        return tuple(name for name in changed if name in device)
    kind = spec.kind if isinstance(spec, Listen | Serve) else ServiceKind.PTZ
    server = f"PortManager.P{port}.{kind.value}."
    for suspects in ((f"{server}Listener.Enabled", f"{server}Listener.Port"), (f"{server}Enabled",)):
        found = tuple(name for name in changed if name in suspects)
        if found:
            return found
    return ()
