"""The rules across parameters: values that are allowed alone but not together.

A rule looks at a whole tree and yields the conflicts in it. Which side of a conflict has to give way depends on the
request, so the catalogue decides that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from protocol.frozen import frozen
from protocol.parameters.settings import FAST_RATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from protocol.parameters.declare import Path
    from protocol.parameters.hardware import SerialHardware
    from protocol.parameters.settings import GenericTCPServer, RemotePortServer, SerialPort, Settings

__all__ = ["Conflict", "conflicts"]


@final
@frozen
class Conflict:
    """Of the ``sides`` of a conflict, each a set of parameters, only one can keep its values; ``why`` is the rule."""

    sides: tuple[tuple[Path, ...], ...]
    why: str


def conflicts(settings: Settings, lines: Sequence[SerialHardware] = ()) -> Iterator[Conflict]:
    """Yield every conflict in these settings, always in the same order.

    ``lines`` are the hardware of Ser1, Ser2, ..., which may have rates beyond the contract's.
    """
    for index, port in enumerate(settings.serial.ports):
        yield from _line_conflicts(("serial", "ports", index), port, lines[index].rates if lines else ())
    yield from _listener_conflicts(settings)


def _line_conflicts(path: Path, port: SerialPort, rates: Sequence[int]) -> Iterator[Conflict]:
    """Check Serial.Ser# against the Serial port API's notes to BaudRate, FlowControlXONXOFF and FlowControlRTSCTS.

    ``rates`` are those that the host's configuration vouches for, in any mode.
    """
    mode = port.port_mode
    too_fast = port.baud_rate in FAST_RATES and not mode.fast and port.baud_rate not in rates
    rules = (
        (too_fast, "baud_rate", f"{port.baud_rate} requires RS485 or RS485_4"),
        (port.flow_control_xonxoff and not mode.full_duplex, "flow_control_xonxoff", "XON/XOFF requires full duplex"),
        (port.flow_control_rtscts and mode.balanced, "flow_control_rtscts", "RTS/CTS requires RS232"),
    )
    for broken, attribute, requires in rules:
        if broken:
            sides = (((*path, "port_mode"),), ((*path, attribute),))
            yield Conflict(sides, f"{requires}, and the port's mode is {mode.value}")


def _listener_conflicts(settings: Settings) -> Iterator[Conflict]:
    """Check that no two servers listen on one TCP port, whichever port managers they belong to."""
    listeners: dict[int, list[tuple[str, Path]]] = {}
    for index, manager in enumerate(settings.port_managers):
        for attribute in ("remote_port_server", "generic_tcp_server"):
            server: RemotePortServer | GenericTCPServer = getattr(manager, attribute)
            if server.enabled and server.listener.enabled:
                name = f"PortManager.P{index}.{type(server).__name__}"
                listeners.setdefault(server.listener.port, []).append((name, ("port_managers", index, attribute)))
    for tcp_port, sharers in listeners.items():
        if len(sharers) > 1:
            # A reason goes into logs and headers: of 64 servers on one port it names three.
            names = ", ".join(name for name, _ in sharers[:3])
            more = f" and {len(sharers) - 3} more" if len(sharers) > 3 else ""
            why = f"only one server can listen on TCP port {tcp_port}; enabled there: {names}{more}"
            yield Conflict(tuple(_side(path) for _, path in sharers), why)


def _side(server: Path) -> tuple[Path, ...]:
    # The three are one side: with the port alone put back, a listener would open where nobody asked for one.
    return (*server, "enabled"), (*server, "listener", "enabled"), (*server, "listener", "port")
