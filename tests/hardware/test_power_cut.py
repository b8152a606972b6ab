"""The power goes between two instructions: what was answered with OK is there afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hardware.rig import Rig

if TYPE_CHECKING:
    from tests.hardware.guest import Guest

pytestmark = pytest.mark.hardware

RATES = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)


def test_after_a_power_cut_the_last_acknowledged_settings_are_in_force(guest: Guest) -> None:
    acknowledged = {}
    guest.sh("mount /dev/vda /var/lib")
    with Rig(guest) as rig:
        rig.start('device = "/dev/ttyS1"')
        guest.sh("sync")  # what was laid out for the test; the updates are the daemon's own to keep
        for number, rate in enumerate(RATES):
            answer = rig.update(Serial_Ser1_BaudRate=rate, Serial_Ser1_StopBits=1 + number % 2)
            assert answer.text == "OK"
            acknowledged = {"BaudRate": str(rate), "StopBits": str(1 + number % 2)}
        rig.cut_power()
    guest.sh("mount /dev/vda /var/lib")
    with Rig(guest, fresh=False) as rig:
        rig.configure('device = "/dev/ttyS1"')
        rig.restart()
        found = rig.parameters()
        assert {name: found[name] for name in acknowledged} == acknowledged
        in_force = rig.status()["settings_in_force"]
        assert {name: str(in_force[name]) for name in acknowledged} == acknowledged
    guest.sh("umount /var/lib")
