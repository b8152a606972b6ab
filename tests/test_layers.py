"""Who may know whom: the imports of each room, read from its source, type-checking ones included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imported(path: Path) -> set[str]:
    """Every module and name that a file imports, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def breaches(path: Path, banned: set[str]) -> set[str]:
    return {name for name in imported(path) if any(name == ban or name.startswith(f"{ban}.") for ban in banned)}


def rooms(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


OUTSIDE = {"trio", "serial", "gateway", "time", "random", "secrets", "socket", "logging", "select", "threading"}


@pytest.mark.parametrize("path", rooms("protocol"), ids=lambda path: path.stem)
def test_the_protocol_knows_no_sockets_clocks_tasks_or_logs(path: Path) -> None:
    assert not breaches(path, OUTSIDE)


PARAMETERS = {"protocol.parameters.settings", "protocol.parameters.catalogue", "protocol.parameters.declare"}
PORTS = {
    "gateway.port.bus",
    "gateway.manager",
    "gateway.port.plan",
    "gateway.serial_line.uart",
    "gateway.serial_line.device",
}
RULES = {
    "plan": {"trio", "gateway"},
    "config": {"trio"},
    "config_file": {"trio"},
    "watch": {"protocol", "gateway"},
    "supervise": {"protocol", "gateway"},
    "reconcile": {"protocol", "gateway"},
    "unread": {"protocol", "gateway"},
    "sdnotify": {"protocol", "gateway"},
    "relay": PARAMETERS | PORTS,
    "streams": PARAMETERS | PORTS | {"protocol"},
    "turns": PARAMETERS | {"gateway.port.bus", "gateway.manager", "gateway.port.plan"},
    "bus": {"gateway.manager", "gateway.port.plan", "gateway.clients.service"},
    "doors": {"gateway.port.bus", "gateway.manager", "gateway.port.router.Router"},
    "dial": {"gateway.port.bus", "gateway.port.router.Router"},
    "listeners": {"gateway.port.bus", "gateway.port.router.Router"},
    "serial_cgi": {"gateway.port.router.Router", "gateway.web.http"},
    "routes": {"gateway.port.bus", "gateway.port.router.Router", "gateway.manager"},
    "http": {"gateway.web.routes", "gateway.port.bus", "gateway.port.router"},
    "manager": {"gateway.web.http", "gateway.web.routes", "gateway.state.store.Store", "gateway.port.router.Router"},
    "link": {"gateway.port.bus", "gateway.port.router", "gateway.remote_port.server", "gateway.remote_port.client"},
    "remote_line": {"gateway.remote_port.link", "gateway.port.bus"},
    "remote_seat": {"gateway.port.bus", "gateway.port.router.Router", "socket"},
    "remote_door": {"gateway.port.bus", "gateway.port.router.Router", "gateway.clients.listeners"},
}
"""Room by room, what it must not know."""


@pytest.mark.parametrize("room", RULES)
def test_a_room_knows_no_more_than_it_should(room: str) -> None:
    assert not breaches(ROOT / "gateway" / f"{room}.py", RULES[room])


@pytest.mark.parametrize("path", rooms("gateway"), ids=lambda path: path.stem)
def test_only_the_composition_root_builds_the_router_the_store_and_the_buses(path: Path) -> None:
    built = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert path.stem == "app" or not built & {"Router", "Store", "Bus"}
