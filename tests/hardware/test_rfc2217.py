"""RFC 2217 in front of real drivers, with pyserial as its client, which believes no answer that is not right."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from serial import rfc2217

from tests.hardware.ftdi import Ftdi
from tests.hardware.rig import RFC2217
from tests.hardware.test_settings import frame_of_16550a

if TYPE_CHECKING:
    from tests.hardware.rig import Rig

pytestmark = [
    pytest.mark.hardware,
    pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning"),  # of pyserial's own thread
]

SERVICE = f'[[port_manager]]\nserial = 1\n[port_manager.rfc2217]\nlisten = ["0.0.0.0:{RFC2217}"]\nconfigure = true\n'
PATIENCE = 60
"""Seconds for an answer: an emulated machine on a busy one takes its time."""


def opened(rig: Rig, rate: int) -> rfc2217.Serial:
    """Return the line as pyserial finds it at the service: 7E1, at this rate."""
    url = f"rfc2217://127.0.0.1:{rig.guest.ports[RFC2217]}?timeout={PATIENCE}"
    return rfc2217.Serial(url, baudrate=rate, bytesize=7, parity="E", timeout=PATIENCE)


def test_a_16550a_is_what_pyserial_asks_for_and_again_what_it_was_when_it_has_left(rig: Rig) -> None:
    rig.start(f'device = "/dev/ttyS1"\n{SERVICE}')
    line, since = rig.guest.lines["/dev/ttyS1"], time.time()
    with opened(rig, 19200) as port:
        assert frame_of_16550a(rig.guest, since) == "19200 7E1"
        port.write(b"up")
        assert line.hear(2) == b"up"
        line.say(b"down")
        assert port.read(4) == b"down"
        port.baudrate = 57600
        assert frame_of_16550a(rig.guest, since) == "57600 7E1"
    rig.until(lambda: frame_of_16550a(rig.guest, since) == "9600 8N1")


def test_an_adapters_lines_follow_pyserial_and_pyserial_sees_those_of_the_far_end(rig: Rig) -> None:
    chip = Ftdi("R1")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"\n{SERVICE}')
    with opened(rig, 115200) as port:
        told = adapter.uart
        assert (told.bits, told.parity, told.stop) == (7, "E", 1)
        assert told.baud == pytest.approx(115200, rel=0.002)  # the divisor has steps
        for dtr, rts in ((False, True), (True, False), (True, True)):
            port.dtr, port.rts = dtr, rts
            assert (told.dtr, told.rts) == (dtr, rts)
        adapter.set_lines(cts=False, dsr=False, ri=True, dcd=False)
        rig.until(lambda: port.ri)
        assert (port.cts, port.dsr, port.cd) == (False, False, False)
        port.send_break(0.1)
        rig.until(lambda: len(told.edges("brk")) == 2)
