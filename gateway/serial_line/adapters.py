"""Find the USB serial adapters of this machine, tell them apart, and give each the name that stays its own.

``/dev/ttyUSB0`` is whichever adapter came first. udev adds stable names: by-id from vendor, product and serial number,
by-path from the socket. Two adapters with the same serial number share one by-id name, which leads to the one that was
plugged in last. A container, or a system with mdev, has neither; sysfs knows the adapters there too.
"""

from __future__ import annotations

import grp
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Identity", "advice", "group_of", "identity", "identity_of", "links", "usb_adapters"]

_USB_TTY: Final = re.compile(r"tty(USB|ACM)[0-9]+")


@final
@frozen
class Identity:
    """The facts in sysfs about a USB adapter, and about the one of its ports that a tty is."""

    vendor: str
    product: str
    serial: str
    interface: str
    port: str

    def __str__(self) -> str:
        number = f"serial number {self.serial}" if self.serial else "no serial number"
        return f"USB {self.vendor}:{self.product}, {number}, interface {self.interface or '-'}"


def identity(device: str, sys: Path = Path("/sys")) -> Identity | None:
    """Return the adapter behind the name ``device`` now; None where it is no USB adapter, or nothing is there."""
    try:
        number = os.stat(device).st_rdev
    except (OSError, ValueError):
        return None
    return identity_of(sys / f"dev/char/{os.major(number)}:{os.minor(number)}")


def identity_of(tty: Path) -> Identity | None:
    """Return the adapter behind a tty's folder in sysfs; None where it is no USB adapter."""
    place = (tty / "device").resolve()
    # The tty's device is its interface (ttyACM), or a port below that (ttyUSB); the adapter is above.
    interface = ""
    for folder in (place, *place.parents):
        interface = interface or _read(folder / "bInterfaceNumber")
        if vendor := _read(folder / "idVendor"):
            product, serial = _read(folder / "idProduct"), _read(folder / "serial")
            return Identity(vendor, product, serial, interface, _read(place / "port_number"))
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def usb_adapters(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the USB serial adapters, each by its best name: by-id, by-path if by-id is not unique, or ttyUSB0.

    Only these may be opened without being named: opening any other port raises DTR on an unknown device. ``root`` has
    ``sys`` and ``dev`` in it.
    """
    try:
        names = sorted(name for name in os.listdir(root / "sys/class/tty") if _USB_TTY.fullmatch(name))
    except OSError:
        return ()
    found = {name: identity_of(root / "sys/class/tty" / name) for name in names if (root / "dev" / name).exists()}
    often = Counter(found.values())
    by_id, by_path = (dict(links(root / "dev/serial" / kind)) for kind in ("by-id", "by-path"))
    adapters = []
    for name, known in found.items():
        plain = root / "dev" / name
        stays = by_path.get(name) if often[known] > 1 else by_id.get(name) or by_path.get(name)
        adapters.append(str(stays or plain))
    return tuple(sorted(adapters))


def links(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the tty (``ttyUSB0``) and the name of each link in ``directory`` that leads to an existing tty."""
    try:
        links = sorted(directory.iterdir())
    except OSError:
        return
    yield from ((link.resolve().name, link) for link in links if link.exists())


def advice(devices: Sequence[str]) -> tuple[str, ...]:
    """Return a warning for each device whose name is not stable, and for each name that several adapters share.

    ``devices`` are those of Ser1, Ser2, ...
    """
    said = []
    first: dict[str, int] = {}
    for number, device in enumerate(devices, start=1):
        if _USB_TTY.fullmatch(Path(device).name) and Path(device).parent == Path("/dev"):
            said.append(
                f"Ser{number}: {device} is whichever adapter was plugged in first; "
                "name it by its link in /dev/serial/by-id, or in /dev/serial/by-path"
            )
        same = first.setdefault(os.path.realpath(device), number)
        if same != number:
            said.append(f"Ser{same} and Ser{number} are one device: {devices[same - 1]} and {device}")
    return tuple(said)


def group_of(device: str) -> str:
    """Say how this process could be allowed to open ``device``, which was refused."""
    try:
        found = os.stat(device)
    except (OSError, ValueError):
        return "the daemon's user must be in the device's group"
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    if found.st_mode & 0o060 != 0o060:
        return f"its mode {found.st_mode & 0o777:o} lets nobody but its owner write; a udev rule can give it a group"
    return (
        f"it belongs to the group {group}, and the daemon's user must be in it: "
        f"SupplementaryGroups={group} in a drop-in of the unit"
    )
