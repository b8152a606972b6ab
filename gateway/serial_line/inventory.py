"""Take stock of the serial devices of this machine from sysfs and proc, without opening any of them.

Opening a port raises its modem lines, which resets many boards. So nothing here asks a device itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, final

from gateway.serial_line.adapters import identity_of, links
from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.serial_line.adapters import Identity

__all__ = ["Found", "serial_devices"]


@final
@frozen
class Found:
    """A serial device: ``path`` is ``/dev/ttyUSB0``; names that it does not have are empty."""

    path: str
    driver: str
    adapter: Identity | None
    by_id: str
    by_path: str
    users: tuple[str, ...]
    """The processes that have it open, such as ``getty (812)``, as far as this process may see."""
    console: bool
    """The kernel writes its messages there."""
    mode: str
    """Its owner, group and mode: ``root:dialout 660``."""

    @property
    def name(self) -> str:
        """The name to put into a configuration: the most stable one."""
        return self.by_id or self.by_path or self.path


def serial_devices(root: Path = Path("/")) -> tuple[Found, ...]:
    """Return the serial devices that have hardware and a driver; ``root`` has ``sys``, ``dev`` and ``proc`` in it."""
    ttys = root / "sys/class/tty"
    try:
        names = sorted(os.listdir(ttys), key=_in_order)
    except OSError:
        return ()
    consoles = _read(ttys / "console/active").split()
    by_id, by_path = (_names(root / "dev/serial" / kind) for kind in ("by-id", "by-path"))
    users = dict(_users(root / "proc"))
    found = []
    for name in names:
        # A pty and a virtual terminal have no device behind them, and a UART without hardware has the type 0.
        driver = _driver(ttys / name / "device")
        path = root / "dev" / name
        if not driver or _read(ttys / name / "type") == "0" or not path.exists():
            continue
        # Two adapters with the same serial number share one by-id link, which leads to only one of them.
        found.append(
            Found(
                str(path),
                driver,
                identity_of(ttys / name),
                by_id.get(name, ""),
                by_path.get(name, ""),
                tuple(users.get(str(path), ())),
                name in consoles,
                _mode(path),
            )
        )
    return tuple(found)


def _driver(device: Path) -> str:
    """Return the driver of a tty's device. From Linux 6.5 on the serial core puts two devices of its own before it."""
    place = device.resolve()
    for folder in (place, *place.parents):
        if (link := folder / "driver").exists() and (name := link.resolve().name) not in ("port", "ctrl"):
            return name
    return ""


def _in_order(name: str) -> tuple[str, int]:
    """Return the key that sorts ttyUSB10 after ttyUSB9."""
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0)


def _names(folder: Path) -> dict[str, str]:
    return {tty: str(link) for tty, link in links(folder)}


def _users(proc: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each terminal that is open, with the processes that have it open."""
    found: dict[str, list[str]] = {}
    for process in proc.glob("[0-9]*"):
        who = f"{_read(process / 'comm') or '?'} ({process.name})"
        try:
            for descriptor in os.scandir(process / "fd"):
                target = os.readlink(descriptor.path)
                if "/dev/tty" in target and who not in found.setdefault(target, []):
                    found[target].append(who)
        except OSError:  # the process has ended, or may not be inspected by this user
            continue
    yield from found.items()


def _mode(path: Path) -> str:
    try:
        found = path.stat()
        return f"{path.owner()}:{path.group()} {found.st_mode & 0o777:o}"
    except (OSError, KeyError):
        return ""


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
