"""Other programs on the same machine: they do not get in, and where root does, nothing false is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hardware.ftdi import Ftdi
from tests.hardware.rig import SETTLED, STOPPED

if TYPE_CHECKING:
    from tests.hardware.adapter import Adapter
    from tests.hardware.rig import Rig

pytestmark = pytest.mark.hardware

WRITE_AND_CLOSE = """
import os, sys
tty = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
os.write(tty, b"x" * 4000)
print("closing", flush=True)
os.close(tty)
"""


def being_closed_by_another(rig: Rig, chip: Ftdi) -> Adapter:
    """Plug in an adapter that another program has written to and waits to close, for its line is held."""
    adapter = rig.plug(chip)
    rig.until_named(chip.by_id)
    adapter.set_hold(True)
    log = "/tmp/closing"
    rig.guest.call("write", log, "")
    rig.guest.call("start", ["python3", "-c", WRITE_AND_CLOSE, chip.by_id], log)
    rig.until(lambda: "closing" in rig.guest.call("read", log))
    return adapter


@pytest.mark.parametrize("device", ["/dev/ttyS1", "ftdi"])
def test_another_user_can_neither_set_nor_read_nor_write_the_line(rig: Rig, device: str) -> None:
    if device == "ftdi":
        chip = Ftdi("F1")
        rig.plug(chip)
        device = chip.by_id
        rig.until_named(device)
    assert rig.guest.sh(f"stty -F {device} 9600", user="anna") == ""  # she may, while nobody has it
    rig.start(f'device = "{device}"')
    for script in (f"stty -F {device} 300", f"head -c 1 {device}", f"echo x > {device}"):
        status, said = rig.guest.call("run", ["sh", "-c", script], "anna")
        assert status != 0
        assert "busy" in said
    assert rig.stop()[0] == 0
    assert rig.guest.sh(f"stty -F {device} 9600", user="anna") == ""


def test_what_root_changes_behind_our_back_is_seen_and_set_right_when_asked_for(rig: Rig) -> None:
    chip = Ftdi("F2")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"')
    assert rig.update(Serial_Ser1_BaudRate=9600).text == "OK"
    rig.guest.sh(f"stty -F {chip.by_id} 300")
    assert adapter.uart.baud == 300
    status = rig.status()
    assert status["settings_in_force"]["BaudRate"] == 300
    assert "BaudRate" in status["settings_refused"]
    assert rig.update(Serial_Ser1_BaudRate=9600).text == "OK"
    assert adapter.uart.baud == pytest.approx(9600, rel=0.002)
    status = rig.status()
    assert (status["settings_in_force"]["BaudRate"], status["settings_refused"]) == (9600, {})


def test_an_open_that_waits_for_another_programs_close_holds_up_nobody(rig: Rig) -> None:
    chip = Ftdi("F3")
    adapter = being_closed_by_another(rig, chip)
    rig.start(f'device = "{chip.by_id}"', 'device = "/dev/ttyS4"', up=False)
    rig.until_status(lambda status: status["state"] == "up", port=1)
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        assert rig.status()["state"] == "down"
        assert rig.update(PortManager_P1_PortEnabled="yes").seconds < SETTLED
        rig.until_status(lambda status: "another program may be closing it" in status["reason"])
        adapter.set_hold(False)
        rig.until_status(lambda status: status["state"] == "up")
    client = rig.client()
    client.say(b"ours")
    assert adapter.hear(4004)[-4:] == b"ours"


def test_the_daemon_stops_while_an_open_waits(rig: Rig) -> None:
    chip = Ftdi("F4")
    adapter = being_closed_by_another(rig, chip)
    rig.start(f'device = "{chip.by_id}"', up=False)
    status, seconds = rig.stop()
    adapter.set_hold(False)
    assert (status, seconds < STOPPED) == (0, True)
