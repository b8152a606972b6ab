"""Which folder may import which: a table, held against the imports of every file, type-checking ones included."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT: dict[str, set[str]] = {
    folder: set(needs.split())
    for folder, needs in {
        "protocol": "",
        "protocol.parameters": "",
        "protocol.http": "protocol.parameters",
        "protocol.link": "protocol.sharing",
        "protocol.session": "protocol.link",
        "protocol.sharing": "",
        "protocol.telnet": "",
        "gateway.tasks": "",
        "gateway.host": "gateway gateway.tasks protocol.parameters protocol.http protocol.link protocol.sharing",
        "gateway.state": "gateway.tasks protocol.parameters protocol.http protocol.link",
        "gateway.port": "gateway.tasks protocol.parameters protocol.link protocol.sharing",
        "gateway.discovery": "gateway.tasks protocol.link",
        "gateway.serial_line": (
            "gateway.port gateway.tasks gateway.host protocol.parameters protocol.link protocol.sharing"
        ),
        "gateway.clients": (
            "gateway.port gateway.tasks protocol.parameters protocol.http protocol.link protocol.sharing"
            " protocol.telnet"
        ),
        "gateway.remote_port": (
            "gateway.port gateway.tasks gateway.clients gateway.discovery protocol.parameters protocol.link"
            " protocol.session protocol.sharing"
        ),
        "gateway.web": (
            "gateway.port gateway.tasks gateway.clients gateway.state protocol.parameters protocol.http protocol.link"
        ),
        "gateway": (
            "gateway.cli gateway.port gateway.tasks gateway.clients gateway.serial_line gateway.remote_port gateway.web"
            " gateway.discovery gateway.host gateway.state protocol.parameters protocol.link"
        ),
        "gateway.demo.camera": "",
        "gateway.demo": (
            "gateway gateway.demo.camera gateway.host gateway.remote_port gateway.state protocol.parameters"
        ),
        "gateway.cli": (
            "gateway gateway.demo gateway.discovery gateway.host gateway.remote_port gateway.serial_line gateway.state"
            " gateway.tasks gateway.web protocol.parameters protocol.link"
        ),
    }.items()
}
"""Folder by folder, what its files may import beside each other, and beside the few files on top of ``protocol``.

``gateway`` stands for the files on top of it.
"""

UPWARD = {("gateway.host", "gateway"), ("gateway", "gateway.cli")}
"""The imports from a lower floor: the version in ``gateway/__init__.py``, and ``gateway/__main__.py``'s of ``cli``."""

PAGE = ROOT / "docs" / "architecture.md"

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


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_folder_may_import_only_what_one_of_its_files_needs(name: str) -> None:
    needed = {folder(each) for path in EVERY_FILE if folder(module(path)) == name for each in ours(imported(path))}
    assert MAY_IMPORT[name] <= needed


def floors() -> dict[str, int]:
    """The floor of each folder: one above the highest that it imports. Fails where a folder leads back to itself."""
    found: dict[str, int] = {}
    left = {name: {need for need in needs if (name, need) not in UPWARD} for name, needs in MAY_IMPORT.items()}
    while left:
        ready = {name for name, needs in left.items() if needs <= found.keys()}
        assert ready, f"a circle among {sorted(left)}"
        found |= {name: 1 + max((found[need] for need in left[name]), default=0) for name in ready}
        left = {name: needs for name, needs in left.items() if name not in ready}
    return found


def test_the_picture_on_the_page_is_this_table() -> None:
    picture = re.findall(r"(?m)^ +(\d+) +(\S+) +→ *(.*)$", PAGE.read_text())
    names = {name.rpartition(".")[2]: name for name in MAY_IMPORT} | {
        "top": "gateway",
        "demo.camera": "gateway.demo.camera",
    }
    shown = {names.get(name, name): {names[need] for need in needs.split()} for _, name, needs in picture}
    assert shown | {"protocol": set()} == MAY_IMPORT
    assert {names.get(name, name): int(floor) for floor, name, _ in picture} == {
        name: floor for name, floor in floors().items() if name != "protocol"
    }


def test_every_file_that_the_page_names_is_there_or_new() -> None:
    text = PAGE.read_text()
    named = {
        name for name in re.findall(r"`([a-z_0-9/]+/[a-z_0-9]+\.(?:py|md))`", text) if f"`{name}`, new" not in text
    }
    assert len(named) > 25
    assert not {name for name in named if not (ROOT / name).is_file()}


def test_no_answer_on_the_page_names_more_than_five_files() -> None:
    answers = re.split(r"(?m)^\*\*", PAGE.read_text().partition("## Where a change goes")[2])[1:]
    assert len(answers) == 6
    assert all(1 <= answer.count("\n- ") <= 5 for answer in answers)


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
    assert path.stem == "composition" or not built & {"Router", "Store", "Bus"}


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
