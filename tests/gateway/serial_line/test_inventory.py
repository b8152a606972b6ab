"""The serial devices of a machine whose sysfs, dev and proc the test has written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gateway.serial_line.inventory import serial_devices

if TYPE_CHECKING:
    from pathlib import Path


def tty(root: Path, name: str, driver: str, **files: str) -> Path:
    """A tty with a device of this driver; returns the device's folder."""
    device = root / "sys/devices" / name
    (root / "sys/drivers" / driver).mkdir(parents=True, exist_ok=True)
    folder = root / "sys/class/tty" / name
    folder.mkdir(parents=True)
    device.mkdir(parents=True)
    (folder / "device").symlink_to(device)
    (device / "driver").symlink_to(root / "sys/drivers" / driver)
    for file, content in files.items():
        (folder / file).write_text(content)
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / name).touch()
    return device


def test_each_device_is_told_with_its_names_driver_adapter_and_users(tmp_path: Path) -> None:
    usb = tty(tmp_path, "ttyUSB0", "ftdi_sio")
    for file, content in {"idVendor": "0403", "idProduct": "6001", "serial": "A502", "bInterfaceNumber": "00"}.items():
        (usb / file).write_text(content)
    for kind, name in (("by-id", "usb-FTDI_A502-if00-port0"), ("by-path", "pci-0000:00:14.0-usb-0:2:1.0-port0")):
        (tmp_path / "dev/serial" / kind).mkdir(parents=True)
        (tmp_path / "dev/serial" / kind / name).symlink_to(tmp_path / "dev/ttyUSB0")
    process = tmp_path / "proc/812"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("minicom\n")
    for number in (3, 4):
        (process / "fd" / str(number)).symlink_to(tmp_path / "dev/ttyUSB0")
    (tmp_path / "proc/self").mkdir()
    (found,) = serial_devices(tmp_path)
    assert (found.path, found.driver) == (str(tmp_path / "dev/ttyUSB0"), "ftdi_sio")
    assert str(found.adapter) == "USB 0403:6001, serial number A502, interface 00"
    assert found.name == found.by_id == str(tmp_path / "dev/serial/by-id/usb-FTDI_A502-if00-port0")
    assert found.by_path.endswith("/by-path/pci-0000:00:14.0-usb-0:2:1.0-port0")
    assert found.users == ("minicom (812)",)
    assert not found.console
    assert found.mode.endswith(f" {os.stat(found.path).st_mode & 0o777:o}")


def test_only_what_has_hardware_and_a_node_is_told_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (10, 9):
        tty(tmp_path, f"ttyS{number}", "serial8250", type="4")
    tty(tmp_path, "ttyS0", "serial8250", type="0")
    tty(tmp_path, "ttyAMA0", "uart-pl011", type="3")
    (tmp_path / "dev/ttyUSB7").touch()
    tty(tmp_path, "ttyUSB8", "cp210x")
    (tmp_path / "dev/ttyUSB8").unlink()
    (tmp_path / "sys/class/tty/tty1").mkdir()
    (tmp_path / "sys/class/tty/console").mkdir()
    (tmp_path / "sys/class/tty/console/active").write_text("tty0 ttyS9\n")
    found = serial_devices(tmp_path)
    assert [device.path.rpartition("/")[2] for device in found] == ["ttyAMA0", "ttyS9", "ttyS10"]
    assert [device.console for device in found] == [False, True, False]
    assert [device.name for device in found] == [device.path for device in found]


def test_a_machine_without_sysfs_has_none(tmp_path: Path) -> None:
    assert serial_devices(tmp_path) == ()


def test_the_driver_is_the_hardware_s_and_not_the_serial_core_s(tmp_path: Path) -> None:
    tty(tmp_path, "ttyS1", "port", type="4")
    (tmp_path / "sys/drivers/serial8250").mkdir()
    (tmp_path / "sys/devices/driver").symlink_to(tmp_path / "sys/drivers/serial8250")
    tty(tmp_path / "other", "ttyS2", "ctrl", type="4")
    assert [device.driver for device in serial_devices(tmp_path)] == ["serial8250"]
    assert serial_devices(tmp_path / "other") == ()
