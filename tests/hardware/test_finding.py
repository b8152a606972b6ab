"""A machine without a configuration: its adapters are found by names that stay, with udev and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hardware.cdc_acm import CdcAcm
from tests.hardware.ftdi import Ftdi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hardware.guest import Guest
    from tests.hardware.rig import Rig

pytestmark = pytest.mark.hardware


@pytest.fixture
def no_udev(guest: Guest) -> Iterator[None]:
    """A machine as a container or one with mdev is: nobody makes links."""
    guest.sh("udevadm control --exit; rm -rf /dev/serial")
    yield
    guest.sh("/lib/systemd/systemd-udevd --daemon")


def test_with_udev_each_adapter_is_found_by_id(rig: Rig) -> None:
    chips = (Ftdi("Z1"), CdcAcm("Z1"))
    for chip in chips:
        rig.plug(chip)
        rig.until_named(chip.by_id)
    rig.run_unconfigured()
    for chip in chips:
        rig.until_logged(f"{chip.by_id} open")


def test_two_adapters_with_one_serial_number_are_found_by_their_sockets(rig: Rig) -> None:
    for _ in range(2):
        rig.plug(Ftdi("SAME"))
    rig.until(lambda: len(rig.guest.call("names", "/dev/serial/by-path/*")) == 2)
    by_path = rig.guest.call("names", "/dev/serial/by-path/*")
    rig.run_unconfigured()
    for name in by_path:
        rig.until_logged(f"{name} open")


def test_without_udev_they_are_found_in_sysfs(rig: Rig, no_udev: None) -> None:
    rig.plug(Ftdi("Z3"))
    rig.plug(CdcAcm("Z3"))
    devices = rig.guest.call("names", "/dev/tty[UA][SC][BM]*")
    assert len(devices) == 2
    rig.guest.sh(f"chgrp dialout {' '.join(devices)}; chmod 660 {' '.join(devices)}")  # as mdev's rules say
    rig.run_unconfigured()
    for device in devices:
        rig.until_logged(f"{device} open")


def test_a_device_that_the_user_may_not_open_is_reported_with_its_group(rig: Rig) -> None:
    chip = Ftdi("Z4")
    rig.plug(chip)
    rig.until_named(chip.by_id)
    rig.guest.sh("chgrp tty /dev/ttyUSB*")
    rig.start(f'device = "{chip.by_id}"', up=False)
    status = rig.until_status(lambda status: "permission denied" in status["reason"])
    assert "tty" in status["reason"].split("permission denied")[1]
