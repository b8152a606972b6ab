"""A driver that has RS-485: PL011 on arm64. Its control register shows when the line's driver is switched on.

The machine is another one too, so bytes pass the daemon here as they do on any.
"""

from __future__ import annotations

import fcntl
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.hardware import image
from tests.hardware.guest import ARM64, BREAK, Guest
from tests.hardware.rig import HTTP, TCP, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.hardware

DEVICE = "/dev/ttyAMA0"
SERIAL = f'device = "{DEVICE}"\nmodes = ["RS232", "RS485", "RS485_4", "RS422"]'
ROWS = ("net to line, 16 bytes", "line to net, 200 bytes", "echo", "bulk net to line", "bulk line to net")
"""Of the benchmark: those of one client, each way and both, in messages and in bulk. All take the emulator minutes."""
ENABLED = 1
DURING_TX = 16
"""Flags of Linux' struct serial_rs485: SER_RS485_ENABLED and SER_RS485_RX_DURING_TX."""
RECEIVER = 1 << 9
"""RXE in the control register of a PL011 (ARM DDI 0183), at 0x30."""

READ_CONTROL = f"""
import fcntl, os, struct
tty = os.open({DEVICE!r}, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
try:
    result = struct.unpack("8I", fcntl.ioctl(tty, 0x542E, bytes(32)))[0]
finally:
    os.close(tty)
"""


@pytest.fixture(scope="module")
def guest(project: Path, one_at_a_time: int) -> Iterator[Guest]:
    """Run an arm64 guest for the tests of this file."""
    fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
    with Guest(ARM64, image.built(ARM64), project, (HTTP, *TCP)) as running:
        yield running


@pytest.fixture
def rig(guest: Guest) -> Iterator[Rig]:
    with Rig(guest) as made:
        yield made


def flags(rig: Rig) -> int:
    """Return the driver's RS-485 flags, of those that are asked for here; root may open what is exclusive."""
    return int(rig.guest.call("python", READ_CONTROL)) & (ENABLED | DURING_TX)


def control_registers(rig: Rig, since: float) -> list[int]:
    """Return what was written to the control register, in order."""
    found = (re.match(r"pl011_write addr 0x0*30 value 0x(\w+)", line) for line in rig.guest.trace(since))
    return [int(each[1], 16) for each in found if each]


def test_bytes_and_frames_pass_the_daemon_on_arm64(rig: Rig) -> None:
    rig.start(SERIAL)
    line, client = rig.guest.lines[DEVICE], rig.client()
    for settings in ({"BaudRate": 19200}, {"DataBits": 7, "Parity": "Even"}, {"StopBits": 2, "Parity": "Mark"}):
        assert rig.set({f"Serial.Ser1.{name}": value for name, value in settings.items()}).text == "OK"
        in_force = rig.status()["settings_in_force"]
        assert {name: in_force[name] for name in settings} == settings
        client.say(b"there")
        assert line.hear(5) == b"there"
        line.say(b"back")
        assert client.hear(4) == b"back"


def test_the_benchmark_proves_every_byte_on_arm64(guest: Guest) -> None:
    """Its figures are the emulator's; that every byte arrives, in whatever pieces, is the truth."""
    command = ["python3", "-m", "tests.benchmarks", "--quick", "--cases", "direct", "--peers", "daisyport"]
    status, said = guest.call("run", [*command, "--rows", *ROWS], "daisyport", "", 300.0, seconds=600)
    assert status == 0, said
    assert "arrived whole and in order: daisyport" in said
    assert all(row in said for row in ROWS)


def test_a_break_at_a_pl011_is_counted_and_no_byte(rig: Rig) -> None:
    rig.start(SERIAL)
    line, client, websocket = rig.guest.lines[DEVICE], rig.client(), rig.websocket()
    before = rig.status()["driver_counters"]["breaks"]
    line.say(BREAK)
    assert websocket.told("break")["count"] == 1
    line.say(b"after")
    assert client.hear(5) == b"after"
    status = rig.status()
    assert (status["breaks"], status["driver_counters"]["breaks"] - before) == (1, 1)


def test_rs485_is_set_in_the_driver_and_is_back_after_a_restart(rig: Rig) -> None:
    rig.start(SERIAL)
    for mode, expected in (("RS485", ENABLED), ("RS232", 0), ("RS485_4", ENABLED | DURING_TX), ("RS485", ENABLED)):
        assert rig.update(Serial_Ser1_PortMode=mode).text == "OK"
        assert flags(rig) == expected
        status = rig.status()
        assert (status["settings_in_force"]["PortMode"], status["settings_refused"]) == (mode, {})
    assert rig.stop()[0] == 0
    rig.restart()
    assert flags(rig) == ENABLED
    assert rig.status()["settings_in_force"]["PortMode"] == "RS485"


def test_a_mode_that_the_driver_does_not_have_is_refused_and_put_back(rig: Rig) -> None:
    rig.start(SERIAL)
    for _ in range(2):  # asked for again, it is no more in force than before
        answer = rig.update(Serial_Ser1_PortMode="RS422")
        assert answer.text == "# Error: Error setting 'root.Serial.Ser1.PortMode' to 'RS422'!"
        assert rig.parameters()["PortMode"] == "RS232"
        status = rig.status()
        assert (status["settings_in_force"]["PortMode"], status["settings_refused"]) == ("RS232", {})
        assert flags(rig) == 0


def test_in_rs485_the_receiver_is_off_while_the_line_is_driven_and_on_again_after(rig: Rig) -> None:
    rig.start(SERIAL, Serial_Ser1_PortMode="RS485")
    line, client = rig.guest.lines[DEVICE], rig.client()
    since = time.time()
    client.say(b"half-duplex")
    assert line.hear(11) == b"half-duplex"
    line.say(b"answer")
    assert client.hear(6) == b"answer"
    written = control_registers(rig, since)
    receiving = [bool(control & RECEIVER) for control in written]
    assert False in receiving, rig.guest.trace(since)
    assert receiving[-1]
