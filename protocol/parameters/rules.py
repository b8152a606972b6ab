"""The rules across parameters: values that are right alone but cannot stand together.

A rule looks at a whole tree and says what is in conflict; who asked for it, and what becomes of the request,
is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from protocol.parameters.settings import FAST_RATES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol.parameters.declare import Path
    from protocol.parameters.settings import GenericTCPServer, RemotePortServer, SerialPort, Settings

__all__ = ["Conflict", "conflicts"]


@final
@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that cannot be: of its ``sides``, each a set of values, only one can stay as it is."""

    sides: tuple[tuple[Path, ...], ...]
    why: str


def conflicts(settings: Settings) -> Iterator[Conflict]:
    """Everything in these settings that cannot stand together, always in the same order."""
    for index, port in enumerate(settings.serial.ports):
        yield from _line_conflicts(("serial", "ports", index), port)
    yield from _listener_conflicts(settings)


def _line_conflicts(path: Path, port: SerialPort) -> Iterator[Conflict]:
    """Serial.Ser#: the notes to BaudRate and the flow controls."""
    mode = port.port_mode
    rules = (
        (port.baud_rate in FAST_RATES and not mode.fast, "baud_rate", f"{port.baud_rate} wants RS485 or RS485_4"),
        (port.flow_control_xonxoff and not mode.full_duplex, "flow_control_xonxoff", "XON/XOFF wants full duplex"),
        (port.flow_control_rtscts and mode.balanced, "flow_control_rtscts", "RTS/CTS wants RS232"),
    )
    for broken, attribute, wants in rules:
        if broken:
            sides = (((*path, "port_mode"),), ((*path, attribute),))
            yield Conflict(sides, f"{wants}, and the port's mode is {mode.value}")


def _listener_conflicts(settings: Settings) -> Iterator[Conflict]:
    """Two sockets cannot listen on one TCP port, whichever port managers and doors they belong to."""
    listeners: dict[int, list[tuple[str, Path]]] = {}
    for index, manager in enumerate(settings.port_managers):
        for attribute in ("remote_port_server", "generic_tcp_server"):
            door: RemotePortServer | GenericTCPServer = getattr(manager, attribute)
            if door.enabled and door.listener.enabled:
                name = f"PortManager.P{index}.{type(door).__name__}"
                listeners.setdefault(door.listener.port, []).append((name, ("port_managers", index, attribute)))
    for tcp_port, sharers in listeners.items():
        if len(sharers) > 1:
            yield Conflict(tuple(_listener(door) for _, door in sharers), _shared(tcp_port, [n for n, _ in sharers]))


def _shared(tcp_port: int, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"only one can listen on TCP port {tcp_port}, which {', '.join(names[:3])}{more} want"


def _listener(door: Path) -> tuple[Path, ...]:
    # The three are one side: with the port alone put back, a listener would open where nobody asked for one.
    return (*door, "enabled"), (*door, "listener", "enabled"), (*door, "listener", "port")
