"""The status of the gateway, as ``/daisyport/status`` shows it: plain dictionaries, made on request.

It has everything that is counted and nothing that is secret: no key, no password, no byte of the line. A device
describes itself (``PortDevice.status``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.host.upgrade import UPGRADE_WAITS, installed_version
from gateway.serial_line import settings as line_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.clients.connections import Connections
    from gateway.host.config import Config, TtyConfig
    from gateway.manager import Manager
    from gateway.port.plan import ServiceKind
    from gateway.port.router import Session
    from gateway.remote_port.server import RemotePortService
    from gateway.remote_port.session import RemoteSession
    from gateway.tasks.reconcile import Unit
    from protocol.parameters.hardware import ManagerHardware
    from protocol.parameters.settings import Settings

__all__ = ["in_words", "status"]


def status(
    config: Config,
    version: str,
    started: float,
    settings: Settings,
    managers: Sequence[Manager],
    tls: Mapping[str, object],
    configuration: Mapping[str, object],
    connections: Connections,
) -> dict[str, object]:
    """Describe the node and all its ports; ``started`` is a time of the monotonic clock.

    ``tls`` is the certificate in force, ``configuration`` what a SIGHUP brought: see host.reload.
    """
    return {
        "product": "Daisyport",
        "version": version,
        "installed_version": installed_version(),
        "node": config.node_name,
        "chassis": config.chassis,
        "uptime_seconds": round(time.monotonic() - started, 3),
        "tls": tls,
        "configuration": configuration,
        "connections": {
            "open": connections.count,
            "clients_turned_away": connections.refused,
            "descriptors": connections.limit,
            "descriptors_reserved": connections.reserve,
        },
        "ports": [_port(manager, settings, config) for manager in managers],
    }


def in_words(node: str, managers: Sequence[Manager], listeners: Sequence[Unit]) -> str:
    """Describe the gateway in one line: how many ports are up, and what is wrong with the others and the servers."""
    down = [f"{manager.bus.name}: {manager.bus.down}" for manager in managers if manager.bus.down is not None]
    closed = [f"{unit.name}: {unit.state}" for unit in listeners if unit.state != "up"]
    installed = installed_version()
    upgraded = [f"{UPGRADE_WAITS} ({installed})"] if installed != __version__ else []
    up = f"{node}: {len(managers) - len(down)} of {len(managers)} ports up"
    return "; ".join([up, *upgraded, *down, *closed])


def _port(manager: Manager, settings: Settings, config: Config) -> dict[str, object]:
    own, hardware = settings.port_managers[manager.index], config.managers[manager.index]
    return {
        "name": manager.bus.name,
        "type": own.port_type.value,
        "serial_port": hardware.serial,
        "remote_port": hardware.remote_port,
        "enabled": own.port_enabled,
        **_configured(settings, hardware),
        "state": manager.bus.state.value.word,
        "reason": manager.bus.down or "",
        "bytes_from_line": manager.bus.received,
        "bytes_missed": manager.bus.missed,
        "gaps": manager.bus.gaps,
        "bytes_dropped": manager.bus.dropped,
        "bytes_rubbish": manager.bus.rubbish,
        "requests_superseded": manager.bus.superseded,
        "path": [node.hex() for node in manager.bus.state.value.path],
        **{key: value for device in manager.devices.values() for key, value in device.status().items()},
        **_remote_service(manager.services.remote_port),
        **({} if manager.services.tls_status is None else {"tls": manager.services.tls_status}),
        "services": manager.units,
        **_ttys(config.port(manager.index).tty),
        "clients_cut": manager.bus.state.value.cuts,
        "clients_turned_away": manager.services.clients_refused,
        "clients_turned_away_by_service": manager.services.refused,
        "clients": [_client(kind, session) for kind, session in manager.services.sessions],
    }


def _configured(settings: Settings, hardware: ManagerHardware) -> dict[str, object]:
    """Describe how the parameters set the line, if the port has a line of its own."""
    if hardware.serial is None:
        return {}
    return {"settings_configured": line_settings.in_words(settings.serial.ports[hardware.serial - 1])}


def _ttys(tty: TtyConfig) -> dict[str, object]:
    """Describe the ttys for programs, if there are any, and what a program can and cannot do through them."""
    if not tty.paths:
        return {}
    # Loaded only where it is used.
    from gateway.clients.pty import CARRIED, NEVER

    carries = list(CARRIED) if tty.configure else []
    return {"ttys": [{"path": path, "carries": carries, "never": list(NEVER)} for path in tty.paths]}


def _remote_service(service: RemotePortService | None) -> dict[str, object]:
    """Describe the remote port server and its links, where it is enabled."""
    if service is None:
        return {}
    return {
        "remote_port_server": {
            "clients_turned_away": service.refused,
            "wrong_keys": service.wrong_keys,
            "old_key_seconds": service.old_key_seconds,
            "links": [_link(session) | {"old_key": service.has_old_key(session)} for session in service.sessions],
            **({"warning": service.warning} if service.warning else {}),
            **({"duplicate_nodes": list(service.duplicates)} if service.duplicates else {}),
        }
    }


def _link(session: RemoteSession) -> dict[str, object]:
    node, index = session.session.key
    return {
        "holder": session.handle.holder,
        "node": node.hex(),
        "name": session.name,
        "remote_port": f"R{index}",
        "linked": session.link is not None,
        "round_trip_ms": session.session.round_trip,
        "resumes": session.session.resumes,
        "bytes_resent": session.session.resent,
        "bytes_in": session.received,
        "bytes_out": session.sent,
        "dropped": session.dropped,
        "bytes_never_sent": session.session.dropped,
        "given_up_by_client": session.gaps,
    }


def _client(kind: ServiceKind, session: Session) -> dict[str, object]:
    reader = session.reader
    return {
        "service": kind.value,
        "holder": session.holder,
        "since": round(session.since, 3),
        "writes": session.silent is None,
        "bytes_in": session.counters.received,
        "bytes_out": 0 if reader is None else reader.sent,
        "written": session.counters.written,
        "dropped": session.counters.dropped,
        "queue": 0 if reader is None else reader.size,
        "missed": session.missed,
    }
