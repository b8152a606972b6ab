"""Bytes pass through the real drivers, both ways and whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hardware.cdc_acm import CdcAcm
from tests.hardware.ftdi import Ftdi

if TYPE_CHECKING:
    from tests.hardware.rig import Rig

pytestmark = pytest.mark.hardware

ALL_BYTES = bytes(range(256))


def test_every_byte_passes_a_16550a_both_ways(rig: Rig) -> None:
    rig.start('device = "/dev/ttyS1"')
    line, client = rig.guest.lines["/dev/ttyS1"], rig.client()
    client.say(ALL_BYTES)
    assert line.hear(256) == ALL_BYTES
    line.say(ALL_BYTES)
    assert client.hear(256) == ALL_BYTES


@pytest.mark.parametrize("chip", [Ftdi(), CdcAcm()], ids=["ftdi_sio", "cdc_acm"])
def test_every_byte_passes_a_usb_adapter_both_ways(rig: Rig, chip: Ftdi | CdcAcm) -> None:
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.name}0"')
    client = rig.client()
    client.say(ALL_BYTES)
    assert adapter.hear(256) == ALL_BYTES
    adapter.say(ALL_BYTES)
    assert client.hear(256) == ALL_BYTES
