"""What a port manager should be running, given the settings: a pure function.

A Spec holds only what needs a restart when it changes (a door, a listen address, a device, a dial target); that which
an open door or device takes up in place (allowed addresses, timeouts, line settings) is not in it. So "move the
listener without disturbing the clients" is nothing but equality of frozen dataclasses. No trio here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from protocol.parameters.settings import PortManager, Settings

__all__ = [
    "Announce",
    "Device",
    "Dial",
    "Listen",
    "PtzSocket",
    "Serve",
    "ServiceKind",
    "Spec",
    "blamed",
    "order",
    "plan",
]


@final
class ServiceKind(enum.Enum):
    """What a door serves, in the contract's words."""

    GENERIC_TCP = "GenericTCPServer"
    PTZ = "PTZServer"
    SERIAL_CGI = "SerialCGI"
    REMOTE_PORT = "RemotePortServer"
    WEB_SOCKET = "WebSocket"
    """Ours, and no parameter's: it stands as long as the port manager, and who comes has logged in."""


@final
@dataclass(frozen=True, slots=True)
class Device:
    """The device behind the port: Serial.Ser# or RemotePort.R#, by ``number``."""

    type: PortType
    number: int

    def __str__(self) -> str:
        return f"Ser{self.number}" if self.type is PortType.SERIAL else f"R{self.number}"


@final
@dataclass(frozen=True, slots=True)
class Serve:
    """A way in; while it stands, who came through it may stay."""

    kind: ServiceKind

    def __str__(self) -> str:
        return f"service {self.kind.value}"


@final
@dataclass(frozen=True, slots=True)
class Listen:
    """A TCP listener of one of the servers, on one address of the host."""

    address: str
    port: int
    kind: ServiceKind = ServiceKind.GENERIC_TCP

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"listen {host}:{self.port}" + (" for remote ports" if self.kind is ServiceKind.REMOTE_PORT else "")


@final
@dataclass(frozen=True, slots=True)
class PtzSocket:
    """One of the two Unix sockets that PTZ drivers connect to."""

    packets: bool

    def __str__(self) -> str:
        return "PTZ packet socket" if self.packets else "PTZ stream socket"


@final
@dataclass(frozen=True, slots=True)
class Dial:
    """A generic TCP connection to another host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"connect to {self.host}:{self.port}"


@final
@dataclass(frozen=True, slots=True)
class Announce:
    """The word to the neighbours that the remote port server listens on a TCP port, with a key or without."""

    port: int
    keyed: bool

    def __str__(self) -> str:
        return f"announce port {self.port} by Bonjour"


Spec = Device | Serve | Listen | PtzSocket | Dial | Announce

_ORDER = (Device, Serve, Listen, PtzSocket, Dial, Announce)


def order(spec: Spec) -> int:
    """Say where ``spec`` stands when things start; they stop the other way round, listeners before their doors."""
    return _ORDER.index(type(spec))


def plan(settings: Settings, port: int, numbers: tuple[int | None, int | None], bind: Sequence[str]) -> frozenset[Spec]:
    """Say all that port manager ``port`` should run.

    ``numbers`` are its Ser number and its R index, where it has them; ``bind`` the host's addresses to listen on.
    """
    manager = settings.port_managers[port]
    return frozenset((*_device(manager, *numbers), *_doors(manager), *_listeners(manager, bind)))


def _device(manager: PortManager, serial: int | None, remote_port: int | None) -> Iterator[Spec]:
    number = serial if manager.port_type is PortType.SERIAL else remote_port
    if manager.port_enabled and number is not None:
        yield Device(manager.port_type, number)


def _doors(manager: PortManager) -> Iterator[Spec]:
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


def blamed(spec: Spec, port: int, changed: Sequence[str]) -> tuple[str, ...]:
    """Name the parameters, among those that a request changed, that brought about a ``spec`` that cannot be.

    All of the listener's own are put back together: with only its number put back, a listener that was just enabled
    would open a port that nobody asked for.
    """
    kind = spec.kind if isinstance(spec, Listen) else ServiceKind.PTZ
    server = f"PortManager.P{port}.{kind.value}."
    for suspects in ((f"{server}Listener.Enabled", f"{server}Listener.Port"), (f"{server}Enabled",)):
        found = tuple(name for name in changed if name in suspects)
        if found:
            return found
    return ()
