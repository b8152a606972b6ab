"""What the gateway says of itself at ``/daisyport/status``: plain dictionaries, made when somebody asks.

Everything that is promised to be counted is here. Nothing secret is: no key, no password, no bytes of the line.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING

from gateway.line_settings import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config import Config
    from gateway.device import SerialDevice
    from gateway.manager import Manager
    from gateway.plan import Service
    from gateway.router import Session
    from protocol.settings import SerialPort, Settings

__all__ = ["status"]


def status(config: Config, version: str, started: float, settings: Settings, managers: Sequence[Manager]) -> object:
    """Describe the node and all its ports; ``started`` is in seconds since 1970."""
    return {
        "product": "Daisyport",
        "version": version,
        "node": config.node_name,
        "chassis": config.chassis,
        "uptime_seconds": round(time.time() - started, 3),
        "ports": [_port(manager, settings) for manager in managers],
    }


def _port(manager: Manager, settings: Settings) -> dict[str, object]:
    own = settings.port_managers[manager.index]
    return {
        "name": manager.bus.name,
        "type": own.port_type.value,
        "enabled": own.port_enabled,
        "state": "up" if manager.bus.down is None else "down",
        "reason": manager.bus.down or "",
        "bytes_from_line": manager.bus.received,
        **_device(manager.device),
        "services": manager.leaves,
        "clients_turned_away": manager.turned_away,
        "seats": [_seat(service, session) for service, session in manager.sessions],
    }


def _device(device: SerialDevice | None) -> dict[str, object]:
    if device is None:
        return {}
    written, discarded = device.totals
    counters = device.counters
    return {
        "device": device.path,
        "settings_in_force": None if device.in_force is None else _line(device.in_force),
        "settings_refused": {refusal.name: refusal.why for refusal in device.refused},
        "bytes_to_line": written,
        "bytes_discarded": discarded,
        "driver_counters": None if counters is None else asdict(counters),
    }


def _line(line: SerialPort) -> dict[str, object]:
    return {name: _plain(getattr(line, attribute)) for attribute, name in NAMES.items()}


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _seat(service: Service, session: Session) -> dict[str, object]:
    reader = session.reader
    return {
        "door": service.value,
        "holder": session.holder,
        "since": round(session.since, 3),
        "bytes_in": session.received,
        "bytes_out": 0 if reader is None else reader.sent,
        "written": session.written,
        "dropped": session.dropped,
        "queue": 0 if reader is None else reader.size,
    }
