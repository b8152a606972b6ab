"""An adapter is pulled out at the worst moments, and comes back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.hardware.cdc_acm import CdcAcm
from tests.hardware.ftdi import Ftdi
from tests.hardware.rig import SETTLED

if TYPE_CHECKING:
    from tests.hardware.rig import Answer, Rig

pytestmark = pytest.mark.hardware

OTHER = 'device = "/dev/ttyS4"'
UNKNOWN = 150
"""Bytes at 9600 that may be off: a portion of a transfer, and the 20 ms before it."""
CHIPS = pytest.mark.parametrize("kind", [Ftdi, CdcAcm], ids=["ftdi_sio", "cdc_acm"])


@CHIPS
def test_unplugged_in_the_middle_of_reading_it_is_down_and_comes_back(rig: Rig, kind: type[Ftdi | CdcAcm]) -> None:
    chip = kind("U1")
    adapter = rig.plug(chip, paced=True)
    rig.start(f'device = "{chip.by_id}"', OTHER)
    client = rig.client()
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        adapter.say(b"-" * 4000)
        assert client.hear(100)
        adapter.unplug()
        down = rig.until_status(lambda status: status["state"] == "down")
        assert chip.by_id in down["reason"]
        adapter.plug()
        rig.until_status(lambda status: status["state"] == "up")
        client.say(b"again")  # the client is still connected
        assert adapter.hear(5) == b"again"


@CHIPS
def test_bytes_that_were_queued_at_an_unplug_are_counted(rig: Rig, kind: type[Ftdi | CdcAcm]) -> None:
    chip = kind("U2")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"\npaced = false', OTHER)  # the driver is to have all of it
    client = rig.client()
    much = 2500  # cdc_acm takes 16 pieces, and the end of each segment of TCP is one
    client.say(b"before")
    assert adapter.hear(6) == b"before"
    rig.pass_time(1)  # the daemon looks at the queue now and then: of the time since the last look, it can only assume
    adapter.set_hold(True)
    client.say(b"-" * much)
    rig.until_status(lambda status: status["bytes_to_line"] == 6 + much)
    rig.pass_time(1)
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        adapter.unplug()
        rig.until_status(lambda status: status["state"] == "down")
        adapter.set_hold(False)
        adapter.plug()
        status = rig.until_status(lambda status: status["state"] == "up")
    assert (status["bytes_to_line"], status["bytes_discarded"]) == (6 + much, much)
    client.say(b"after")
    assert adapter.hear(5) == b"after"


@CHIPS
def test_unplugged_in_mid_transfer_each_byte_is_sent_discarded_or_dropped(rig: Rig, kind: type[Ftdi | CdcAcm]) -> None:
    chip = kind("U4")
    adapter = rig.plug(chip, paced=True, guests_time=True)
    rig.start(f'device = "{chip.by_id}"', OTHER)
    client = rig.client()
    much = 4000
    client.say(b"-" * much)
    rig.until(lambda: len(adapter.heard) > 500)
    adapter.unplug()
    heard = len(adapter.heard)
    rig.until_status(lambda status: status["state"] == "down")
    adapter.plug()
    status = rig.until_status(lambda status: status["state"] == "up")
    taken, discarded = status["bytes_to_line"], status["bytes_discarded"]
    assert taken + status["bytes_dropped"] == much
    assert 0 <= discarded <= taken
    # Of a line that moved nobody can say to the byte what it carried.
    assert heard + discarded == pytest.approx(taken, abs=UNKNOWN)
    client.say(b"after")
    rig.until(lambda: adapter.heard.endswith(b"after"))


def test_unplugged_while_settings_wait_the_answer_comes_and_the_chip_has_what_the_parameters_say(rig: Rig) -> None:
    chip = Ftdi("U3")
    adapter = rig.plug(chip, paced=True)
    rig.start(f'device = "{chip.by_id}"\npaced = false', OTHER, Serial_Ser1_BaudRate=300)  # the driver is to be full
    rig.client().say(b"-" * 300)
    rig.until_status(lambda status: status["bytes_to_line"] == 300)
    answers: list[Answer] = []
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        asker = threading.Thread(target=lambda: answers.append(rig.update(Serial_Ser1_BaudRate=19200)))
        asker.start()
        time.sleep(0.3)  # it is waiting for the line, which needs ten seconds
        adapter.unplug()
        asker.join()
        assert answers[0].seconds < SETTLED
        adapter.plug()
        rig.until_status(lambda status: status["state"] == "up")
    in_force = rig.status()["settings_in_force"]["BaudRate"]
    assert str(in_force) == rig.parameters()["BaudRate"]
    assert adapter.uart.baud == pytest.approx(in_force, rel=0.002)
    assert in_force == (19200 if answers[0].text == "OK" else 300)


def test_another_adapter_under_the_same_name_is_refused_before_it_is_touched(rig: Rig) -> None:
    camera, printer = Ftdi("CAMERA"), Ftdi("PRINTER")
    first = rig.plug(camera)
    rig.start('device = "/dev/ttyUSB0"', OTHER)
    first.unplug()
    rig.until_status(lambda status: status["state"] == "down")
    second = rig.plug(printer)
    down = rig.until_status(lambda status: "PRINTER" in status["reason"])
    assert down["state"] == "down"
    assert printer.uart.edges("dtr") == []
    second.unplug()
    first.plug()
    rig.until_status(lambda status: status["state"] == "up")
