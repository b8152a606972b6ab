"""Which folder may import which: a table, held against the imports of every file, type-checking ones included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

WIRE = {"protocol.link", "protocol.session"}
VAPIX = {"protocol.parameters", "protocol.http"}
PORT = {"gateway.tasks", "gateway.port"}

MAY_IMPORT: dict[str, set[str]] = {
    "protocol": set(),
    "protocol.parameters": set(),
    "protocol.http": {"protocol.parameters"},
    "protocol.link": set(),
    "protocol.session": {"protocol.link"},
    "gateway.tasks": set(),
    "gateway.host": {"gateway", "protocol.link", *VAPIX},
    "gateway.state": {"gateway.tasks", "protocol.link", *VAPIX},
    "gateway.port": {"gateway.tasks", "protocol.parameters", "protocol.link"},
    "gateway.serial_line": {*PORT, "gateway.host", "protocol.parameters", "protocol.link"},
    "gateway.clients": {*PORT, *VAPIX},
    "gateway.discovery": {"gateway.tasks", "protocol.link"},
    "gateway.remote_port": {
        *PORT,
        "gateway.clients",
        "gateway.discovery",
        "protocol.parameters",
        *WIRE,
    },
    "gateway.web": {*PORT, "gateway.clients", "gateway.serial_line", "gateway.state", *VAPIX},
    "gateway": {
        *PORT,
        "gateway.clients",
        "gateway.cli",
        "gateway.discovery",
        "gateway.host",
        "gateway.remote_port",
        "gateway.serial_line",
        "gateway.state",
        "gateway.web",
        "protocol.link",
        *VAPIX,
    },
    "gateway.demo.camera": set(),
    "gateway.demo": {"gateway", "gateway.demo.camera", "gateway.host", "gateway.remote_port", "gateway.state", *VAPIX},
    "gateway.cli": {
        "gateway",
        "gateway.demo",
        "gateway.host",
        "gateway.remote_port",
        "gateway.serial_line",
        "gateway.state",
        "gateway.tasks",
    },
}
"""Folder by folder, what its files may import beside each other, and beside the few files on top of ``protocol``.

``gateway`` stands for the files on top of it.
"""

OUTSIDE = {"trio", "serial", "gateway", "time", "random", "secrets", "socket", "logging", "select", "threading", "os"}
"""What a sans-IO file has no use for."""


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def folder(name: str) -> str:
    """The folder that a module, or what is imported from one, stands in."""
    while name not in MAY_IMPORT or not (ROOT / name.replace(".", "/")).is_dir():
        name = name.rpartition(".")[0]
    return name


def imported(path: Path) -> set[str]:
    """Every module that a file imports, as a dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").exists()
                names.add(inner if is_module or (ROOT / inner.replace(".", "/")).is_dir() else node.module)
    return names


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in {"gateway", "protocol"}}


EVERY_FILE = [*files("protocol"), *files("gateway")]


@pytest.mark.parametrize("path", EVERY_FILE, ids=module)
def test_a_file_imports_only_what_its_folder_may(path: Path) -> None:
    own = folder(module(path))
    assert {folder(name) for name in ours(imported(path))} <= MAY_IMPORT[own] | {own, "protocol"}


def test_no_folder_leads_back_to_itself() -> None:
    """``gateway`` stands for several files (app, status, the version), so its circle with cli and demo is no circle."""
    left = {name: needs - {"gateway", name} for name, needs in MAY_IMPORT.items()}
    while ready := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ready}
    assert not left


def test_no_file_leads_back_to_itself() -> None:
    left = {module(path): ours(imported(path)) for path in EVERY_FILE if path.name != "__init__.py"}
    while ready := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ready}
    assert not left


@pytest.mark.parametrize("path", files("protocol"), ids=module)
def test_the_protocol_knows_no_sockets_clocks_tasks_or_logs(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imported(path)} & OUTSIDE


@pytest.mark.parametrize("path", files("gateway"), ids=module)
def test_only_the_composition_root_builds_the_router_the_store_and_the_buses(path: Path) -> None:
    built = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert path.stem == "app" or not built & {"Router", "Store", "Bus"}


@pytest.mark.parametrize(
    "path",
    [
        "gateway/port/plan.py",
        "gateway/host/config.py",
        "gateway/host/config_file.py",
        "gateway/serial_line/settings.py",
    ],
)
def test_pure_functions_stay_without_trio(path: str) -> None:
    assert "trio" not in imported(ROOT / path)
