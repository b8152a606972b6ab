"""The power goes between two instructions: what was answered with OK is there afterwards."""

from __future__ import annotations

import fcntl
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.hardware import image
from tests.hardware.guest import AMD64, Guest
from tests.hardware.rig import HTTP, TCP, Rig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hardware

RATES = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)


def test_after_a_power_cut_the_last_acknowledged_settings_are_in_force(
    project: Path, one_at_a_time: int, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk), "64M"], check=True)
    fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
    try:
        acknowledged = {}
        with Guest(AMD64, image.built(AMD64), project, (HTTP, *TCP), disk) as guest:
            guest.sh("mount /dev/vda /var/lib")
            with Rig(guest) as rig:
                rig.start('device = "/dev/ttyS1"')
                guest.sh("sync")  # what was laid out for the test; the updates are the daemon's own to keep
                for number, rate in enumerate(RATES):
                    answer = rig.update(Serial_Ser1_BaudRate=rate, Serial_Ser1_StopBits=1 + number % 2)
                    assert answer.text == "OK"
                    acknowledged = {"BaudRate": str(rate), "StopBits": str(1 + number % 2)}
                guest.cut_power()
        with Guest(AMD64, image.built(AMD64), project, (HTTP, *TCP), disk) as guest:
            guest.sh("mount /dev/vda /var/lib")
            with Rig(guest, fresh=False) as rig:
                rig.configure('device = "/dev/ttyS1"')
                rig.restart()
                found = rig.parameters()
                assert {name: found[name] for name in acknowledged} == acknowledged
                in_force = rig.status()["settings_in_force"]
                assert {name: str(in_force[name]) for name in acknowledged} == acknowledged
    finally:
        fcntl.flock(one_at_a_time, fcntl.LOCK_UN)
