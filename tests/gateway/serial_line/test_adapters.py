"""Adapters in trees of sysfs and udev as real machines have them."""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gateway.serial_line.adapters import Identity, advice, group_of, identity, usb_adapters

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Machine:
    root: Path

    def plug(self, name: str, serial: str, socket: str, *, by_id: str = "", by_path: str = "") -> None:
        usb = self.root / f"sys/devices/pci0000:00/usb1/{socket}"
        interface = usb / f"{socket}:1.0"
        place = interface / name if name.startswith("ttyUSB") else interface
        (place / "tty" / name).mkdir(parents=True)
        (usb / "idVendor").write_text("0403\n")
        (usb / "idProduct").write_text("6001\n")
        if serial:
            (usb / "serial").write_text(f"{serial}\n")
        (interface / "bInterfaceNumber").write_text("00\n")
        (place / "tty" / name / "device").symlink_to(place)
        of_class = self.root / "sys/class/tty"
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / name).symlink_to(place / "tty" / name)
        (self.root / "dev/serial").mkdir(parents=True, exist_ok=True)
        (self.root / "dev" / name).touch()
        for kind, link in (("by-id", by_id), ("by-path", by_path)):
            if link:
                path = self.root / "dev/serial" / kind / link
                path.parent.mkdir(exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to(self.root / "dev" / name)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def names(machine: Machine) -> list[str]:
    return [name.removeprefix(f"{machine.root}/dev/") for name in usb_adapters(machine.root)]


def test_adapters_have_the_names_that_stay(machine: Machine) -> None:
    machine.plug("ttyUSB0", "B", "1-2", by_id="usb-FTDI_B", by_path="pci-2")
    machine.plug("ttyACM0", "A", "1-1", by_id="usb-CDC_A", by_path="pci-1")
    assert names(machine) == ["serial/by-id/usb-CDC_A", "serial/by-id/usb-FTDI_B"]


def test_two_adapters_with_one_serial_number_are_told_apart_by_their_sockets(machine: Machine) -> None:
    machine.plug("ttyUSB0", "A", "1-1", by_id="usb-FTDI_A", by_path="pci-1")
    machine.plug("ttyUSB1", "A", "1-2", by_id="usb-FTDI_A", by_path="pci-2")
    machine.plug("ttyUSB2", "B", "1-3", by_id="usb-FTDI_B", by_path="pci-3")
    assert names(machine) == ["serial/by-id/usb-FTDI_B", "serial/by-path/pci-1", "serial/by-path/pci-2"]


def test_without_udev_they_are_found_in_sysfs(machine: Machine) -> None:
    machine.plug("ttyUSB0", "A", "1-1")
    machine.plug("ttyACM0", "", "1-2")
    (machine.root / "sys/class/tty/ttyS0").mkdir()
    assert names(machine) == ["ttyACM0", "ttyUSB0"]


def test_one_that_a_container_cannot_open_is_left_out(machine: Machine) -> None:
    machine.plug("ttyUSB0", "A", "1-1")
    (machine.root / "dev/ttyUSB0").unlink()
    assert names(machine) == []


def test_a_machine_without_adapters_has_none(tmp_path: Path) -> None:
    assert usb_adapters(tmp_path / "nothing") == ()


def test_what_is_behind_a_name_is_told_by_its_number(machine: Machine) -> None:
    machine.plug("ttyUSB0", "A", "1-1")
    of_number = machine.root / "sys/dev/char"
    of_number.mkdir(parents=True)
    (of_number / "0:0").symlink_to(machine.root / "sys/class/tty/ttyUSB0")  # a plain file's number
    known = identity(str(machine.root / "dev/ttyUSB0"), machine.root / "sys")
    assert known == Identity("0403", "6001", "A", "00", "")
    assert str(known) == "USB 0403:6001, serial number A, interface 00"
    assert str(Identity("1a86", "7523", "", "00", "")) == "USB 1a86:7523, no serial number, interface 00"


def test_what_is_no_adapter_has_no_identity() -> None:
    master, slave = os.openpty()
    assert identity(os.ttyname(slave)) is None
    assert identity("/dev/nowhere") is None
    os.close(slave)
    os.close(master)


def test_advice_names_what_may_not_stay_and_what_is_double(tmp_path: Path) -> None:
    (tmp_path / "usb-FTDI").symlink_to("/dev/ttyUSB3")
    assert advice((str(tmp_path / "usb-FTDI"), "/dev/ttyS0")) == ()
    plain, double = advice((str(tmp_path / "usb-FTDI"), "/dev/ttyUSB3"))
    assert plain.startswith("Ser2: /dev/ttyUSB3 is whichever adapter was plugged in first; name it by its link in")
    assert double == f"Ser1 and Ser2 are one device: {tmp_path}/usb-FTDI and /dev/ttyUSB3"


@pytest.mark.parametrize(
    ("mode", "group", "said"),
    [
        (0o660, "plugdev", "the group plugdev, and the daemon's user must be in it: SupplementaryGroups=plugdev"),
        (0o660, "", "the group {gid},"),
        (0o600, "root", "its mode 600 lets nobody but its owner write"),
    ],
)
def test_who_may_not_open_it_is_told_the_group_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, group: str, said: str
) -> None:
    def named(number: int) -> grp.struct_group:
        if not group:
            raise KeyError(number)
        return grp.struct_group((group, "x", number, []))

    device = tmp_path / "ttyUSB0"
    device.touch()
    device.chmod(mode)
    monkeypatch.setattr(grp, "getgrgid", named)
    assert said.format(gid=device.stat().st_gid) in group_of(str(device))


def test_of_what_is_gone_no_group_is_known() -> None:
    assert group_of("/dev/nowhere") == "the daemon's user must be in the device's group"
