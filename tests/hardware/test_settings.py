"""What the parameters say, what the status says is in force, and what the chip was told are one thing."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.hardware.cdc_acm import CdcAcm
from tests.hardware.ftdi import Ftdi
from tests.hardware.guest import BREAK
from tests.hardware.rig import SETTLED

if TYPE_CHECKING:
    from tests.hardware.guest import Guest
    from tests.hardware.rig import Rig

pytestmark = pytest.mark.hardware

FRAMES = [
    (300, 8, "None", 1),
    (1200, 7, "Even", 1),
    (2400, 7, "Odd", 2),
    (9600, 8, "Even", 1),
    (19200, 8, "None", 2),
    (57600, 7, "Mark", 1),
    (115200, 7, "Space", 1),
    (38400, 8, "None", 1),
]
"""Rate, data bits, parity and stop bits."""
PARITY = {"None": "N", "Odd": "O", "Even": "E", "Mark": "M", "Space": "S"}


OVERRUN = """
import os
_ports = os.open("/dev/port", os.O_RDWR)
def _get(register):
    return os.pread(_ports, 1, 0x2f8 + register)
def _put(register, value):
    os.pwrite(_ports, value, 0x2f8 + register)
_interrupts, _modem = _get(1), _get(4)
_put(1, bytes(1))
_put(4, bytes([_modem[0] | 0x10]))
for _byte in range(20):
    _put(0, bytes([_byte]))
_put(4, _modem)
_put(1, _interrupts)
os.close(_ports)
"""
"""Send 20 bytes through the loop in the 16550A of ttyS1 while its interrupts are off: its FIFO has room for 16.

From the far end of the cable it takes no more than that, for qemu loses nothing.
"""


def frame(rate: int, bits: int, parity: str, stop: int) -> str:
    return f"{rate} {bits}{PARITY[parity]}{stop}"


def set_frame(rig: Rig, rate: int, bits: int, parity: str, stop: int) -> None:
    """Set all four, and hold what the gateway says to it."""
    answer = rig.update(
        Serial_Ser1_BaudRate=rate, Serial_Ser1_DataBits=bits, Serial_Ser1_Parity=parity, Serial_Ser1_StopBits=stop
    )
    assert answer.text == "OK", answer
    assert answer.seconds < SETTLED
    expected = {"BaudRate": rate, "DataBits": bits, "Parity": parity, "StopBits": stop}
    assert {name: rig.parameters()[name] for name in expected} == {name: str(each) for name, each in expected.items()}
    status = rig.status()
    assert {name: status["settings_in_force"][name] for name in expected} == expected
    assert status["settings_refused"] == {}


def frame_of_16550a(guest: Guest, since: float) -> str:
    """Return the frame that a 16550A was last told."""
    trace = guest.trace(since)
    rate = [each[1] for line in trace if (each := re.match(r"serial_update_parameters baudrate=(\d+)", line))][-1]
    writes = [re.match(r"serial_write write addr 0x(\w+) val 0x(\w+)", line) for line in trace]
    controls = [int(each[2], 16) for each in writes if each and int(each[1], 16) == 3]
    control = next(each for each in reversed(controls) if not each & 0xC0)  # neither the divisor's door nor a break
    parity = "N" if not control & 8 else {0x08: "O", 0x18: "E", 0x28: "M", 0x38: "S"}[control & 0x38]
    return f"{rate} {5 + (control & 3)}{parity}{2 if control & 4 else 1}"


def test_a_16550a_is_told_every_frame(rig: Rig) -> None:
    rig.start('device = "/dev/ttyS1"')
    line, client = rig.guest.lines["/dev/ttyS1"], rig.client()
    for rate, bits, parity, stop in FRAMES:
        since = time.time()
        set_frame(rig, rate, bits, parity, stop)
        assert frame_of_16550a(rig.guest, since) == frame(rate, bits, parity, stop)
        client.say(b"*")
        assert line.hear(1) == b"*"


@pytest.mark.parametrize("chip", [Ftdi("S1"), CdcAcm("S1")], ids=["ftdi_sio", "cdc_acm"])
def test_a_usb_adapter_is_told_every_frame(rig: Rig, chip: Ftdi | CdcAcm) -> None:
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"')
    client = rig.client()
    for rate, bits, parity, stop in FRAMES:
        set_frame(rig, rate, bits, parity, stop)
        told = adapter.uart
        assert (told.bits, told.parity, told.stop) == (bits, PARITY[parity], stop)
        assert told.baud == pytest.approx(rate, rel=0.002)  # the divisor has steps
        client.say(b"*")
        assert adapter.hear(1) == b"*"


def test_a_rate_that_a_16550a_cannot_do_is_refused_and_the_old_one_stays(rig: Rig) -> None:
    rig.start('device = "/dev/ttyS1"\nmodes = ["RS232"]', Serial_Ser1_BaudRate=115200)
    assert rig.status()["settings_in_force"]["BaudRate"] == 115200
    answer = rig.update(Serial_Ser1_BaudRate=230400)
    if answer.text == "OK":  # where the rules of the mode allow it, the device must have done it
        assert rig.status()["settings_in_force"]["BaudRate"] == 230400
    assert str(rig.status()["settings_in_force"]["BaudRate"]) == rig.parameters()["BaudRate"]


def test_rts_cts_is_set_and_released_in_the_chip(rig: Rig) -> None:
    chip = Ftdi("S2")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"\nrts_cts = true')
    for value in (True, False):
        assert rig.update(Serial_Ser1_FlowControlRTSCTS="yes" if value else "no").text == "OK"
        assert adapter.uart.rts_cts is value
        assert rig.status()["settings_in_force"]["FlowControlRTSCTS"] is value


def test_no_byte_is_lost_while_the_settings_change(rig: Rig) -> None:
    chip = Ftdi("S3")
    adapter = rig.plug(chip, paced=True)
    rig.start(f'device = "{chip.by_id}"', Serial_Ser1_BaudRate=115200)
    client = rig.client()
    sent = b""
    for number, stop in enumerate((2, 1, 2, 1)):
        piece = f"{number} the settings change behind this, and not in it\n".encode() * 20
        client.say(piece)
        sent += piece
        assert rig.update(Serial_Ser1_StopBits=stop).text == "OK"
        assert adapter.uart.stop == stop
    assert adapter.hear(len(sent)) == sent
    assert rig.status()["bytes_discarded"] == 0


def test_dtr_and_rts_rise_once_and_never_fall(rig: Rig) -> None:
    chip = Ftdi("S4")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"')
    assert rig.update(Serial_Ser1_BaudRate=19200, Serial_Ser1_Parity="Even").text == "OK"
    assert rig.update(PortManager_P0_PortEnabled="no").text == "OK"
    assert rig.update(PortManager_P0_PortEnabled="yes").text == "OK"
    rig.until_status(lambda status: status["state"] == "up")
    assert rig.stop()[0] == 0
    rig.restart()
    rig.kill()
    rig.restart()
    for name in ("dtr", "rts"):
        assert [what for _, what in adapter.uart.edges(name)] == [f"{name}=True"]


def test_dtr_and_rts_are_set_and_modem_lines_read_over_a_websocket(rig: Rig) -> None:
    chip = Ftdi("S5")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"')
    websocket = rig.websocket()
    for dtr, rts in ((False, True), (True, False), (True, True)):
        lines = websocket.ask(request="set", dtr=dtr, rts=rts)["lines"]
        assert (lines["dtr"], lines["rts"]) == (dtr, rts) == (adapter.uart.dtr, adapter.uart.rts)
    adapter.set_lines(cts=False, dsr=False, ri=True, dcd=False)
    rig.until(lambda: websocket.ask(request="modem")["lines"]["ri"])
    lines = websocket.ask(request="modem")["lines"]
    assert (lines["cts"], lines["dsr"], lines["dcd"]) == (False, False, False)


@pytest.mark.parametrize("chip", [Ftdi("S6"), CdcAcm("S6")], ids=["ftdi_sio", "cdc_acm"])
def test_a_break_lasts_as_long_as_it_was_asked_for(rig: Rig, chip: Ftdi | CdcAcm) -> None:
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"')
    answer = rig.websocket().ask(request="break", milliseconds=400)
    assert answer["answer"] == "break"
    (began, on), (ended, off) = adapter.uart.edges("brk")
    assert (on, off) == ("brk=True", "brk=False")
    assert 0.35 < ended - began < 0.65


def test_what_was_wrong_on_the_line_is_counted_and_puts_nothing_into_the_bytes(rig: Rig) -> None:
    chip = Ftdi("S7")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"')
    client, websocket = rig.client(), rig.websocket()
    before = rig.status()["driver_counters"]
    adapter.say(b"p", parity=True)
    adapter.say(b"f", framing=True)
    adapter.say(b"f", framing=True)
    adapter.say(b"", brk=True)
    adapter.say(b"o", overrun=True)
    adapter.say(b"\0\xff.")
    assert client.hear(7) == b"pffo\0\xff."
    assert websocket.told("break")["count"] == 1
    status = rig.status()
    after = status["driver_counters"]
    counted = {name: after[name] - before[name] for name in ("parity", "framing", "breaks", "overrun")}
    assert counted == {"parity": 1, "framing": 2, "breaks": 1, "overrun": 1}
    assert status["breaks"] == 1


def test_a_restart_tells_the_chip_no_other_frame_on_the_way(rig: Rig) -> None:
    chip = Ftdi("S8")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"', Serial_Ser1_BaudRate=19200, Serial_Ser1_DataBits=7, Serial_Ser1_Parity="Odd")
    assert adapter.uart.frame == "19200 7O1"
    told = len(adapter.uart.log)
    assert rig.stop()[0] == 0
    rig.restart()
    assert [what for _, what in adapter.uart.log[told:] if not what.startswith("latency")] == []


@pytest.mark.parametrize(("option", "latency"), [("", 1), ("low_latency = false", 16)])
def test_the_latency_of_an_ftdi_is_lowered_unless_the_host_leaves_it(rig: Rig, option: str, latency: int) -> None:
    chip = Ftdi("S9")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"\n{option}')
    assert adapter.uart.latency == latency
    assert rig.status()["low_latency"] is (True if latency == 1 else None)


def test_rs485_is_the_wirings_word_where_the_cable_switches_by_itself_and_refused_where_nobody_does(rig: Rig) -> None:
    automatic, driver = Ftdi("SA"), Ftdi("SB")
    adapter = rig.plug(automatic)
    rig.plug(driver)
    modes = 'modes = ["RS232", "RS485"]'
    rig.start(f'device = "{automatic.by_id}"\n{modes}\nrs485 = "automatic"', f'device = "{driver.by_id}"\n{modes}')
    assert rig.update(Serial_Ser1_PortMode="RS485", Serial_Ser1_BaudRate=230400).text == "OK"
    assert rig.status(0)["settings_in_force"]["PortMode"] == "RS485"
    assert adapter.uart.baud == pytest.approx(230400, rel=0.002)
    for _ in range(2):
        answer = rig.update(Serial_Ser2_PortMode="RS485")
        assert answer.text == "# Error: Error setting 'root.Serial.Ser2.PortMode' to 'RS485'!"
        assert rig.status(1)["settings_in_force"]["PortMode"] == "RS232"


def test_a_parity_that_the_chip_stalls_costs_neither_an_answer_nor_the_line(rig: Rig) -> None:
    chip = Ftdi("SC", stalls="MS")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"')
    answer = rig.update(Serial_Ser1_Parity="Mark")
    assert (answer.text, answer.seconds < SETTLED) == ("OK", True)  # the driver hides it: see docs/hardware.md
    assert rig.status()["settings_in_force"]["Parity"] == "Mark"
    assert chip.uart.parity == "N"
    rig.client().say(b"on")
    assert adapter.hear(2) == b"on"
    assert rig.update(Serial_Ser1_Parity="Even").text == "OK"
    assert chip.uart.parity == "E"


def test_a_break_at_a_16550a_is_counted_and_no_byte(rig: Rig) -> None:
    device = rig.guest.machine.breaks
    rig.start(f'device = "{device}"')
    line, client, websocket = rig.guest.lines[device], rig.client(), rig.websocket()
    before = rig.status()["driver_counters"]
    line.say(b"before")
    assert client.hear(6) == b"before"
    line.say(BREAK)
    assert websocket.told("break")["count"] == 1
    line.say(b"\xff\0after")
    assert client.hear(7) == b"\xff\0after"
    status = rig.status()
    counted = {
        name: status["driver_counters"][name] - before[name] for name in ("parity", "framing", "breaks", "overrun")
    }
    assert counted == {"parity": 0, "framing": 0, "breaks": 1, "overrun": 0}
    assert status["breaks"] == 1


def test_an_overrun_at_a_16550a_is_counted_and_no_byte(rig: Rig) -> None:
    rig.start('device = "/dev/ttyS1"')
    line, client = rig.guest.lines["/dev/ttyS1"], rig.client()
    before = rig.status()["driver_counters"]
    rig.guest.call("python", OVERRUN)
    assert client.hear(16) == bytes(range(16))
    line.say(b"after")
    assert client.hear(5) == b"after"
    status = rig.status()
    counted = {
        name: status["driver_counters"][name] - before[name] for name in ("parity", "framing", "breaks", "overrun")
    }
    assert counted == {"parity": 0, "framing": 0, "breaks": 0, "overrun": 1}
    assert status["bytes_from_line"] == 16 + 5
