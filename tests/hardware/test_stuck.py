"""A line that takes nothing: it holds up nobody, and of its bytes each is sent or counted, and none is sent late."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.hardware.cdc_acm import CdcAcm
from tests.hardware.ftdi import Ftdi
from tests.hardware.rig import SETTLED, STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hardware.line import Line
    from tests.hardware.rig import Client, Rig

pytestmark = pytest.mark.hardware

COMMAND = b"turn left, now\n" * 200
"""Less than each of the drivers takes at once: 4095 bytes (16550A), 4608 (ftdi_sio), 20 kB (cdc_acm)."""
OTHER = 'device = "/dev/ttyS4"'
"""The line that must not notice."""
XON, XOFF = b"\x11", b"\x13"


@dataclass
class Stuck:
    """One kind of line: how it is configured, how the far end stops and goes on, and what it heard."""

    serial: str
    parameters: dict[str, Any]
    stop: Callable[[Client], None]
    go_on: Callable[[], None]
    heard: Callable[[], bytes]


def ftdi(rig: Rig) -> Stuck:
    chip = Ftdi("H1")
    adapter = rig.plug(chip)
    return Stuck(
        f'device = "{chip.by_id}"\nrts_cts = true',
        {"Serial_Ser1_FlowControlRTSCTS": "yes"},
        lambda _client: adapter.set_lines(cts=False),
        lambda: adapter.set_lines(cts=True),
        lambda: adapter.heard,
    )


def cdc_acm(rig: Rig) -> Stuck:
    chip = CdcAcm("H1")
    adapter = rig.plug(chip)
    return Stuck(
        f'device = "{chip.by_id}"',
        {},
        lambda _client: adapter.set_hold(True),
        lambda: adapter.set_hold(False),
        lambda: adapter.heard,
    )


def uart_16550a(rig: Rig) -> Stuck:
    line: Line = rig.guest.lines["/dev/ttyS1"]
    line.say(XON)
    line.forget()

    def stop(client: Client) -> None:
        line.say(b"ok" + XOFF)
        assert client.hear(2) == b"ok"

    return Stuck(
        'device = "/dev/ttyS1"\nxon_xoff = true',
        {"Serial_Ser1_FlowControlXONXOFF": "yes"},
        stop,
        lambda: line.say(XON),
        lambda: line.heard,
    )


@pytest.fixture(params=[ftdi, cdc_acm, uart_16550a], ids=["ftdi_sio CTS low", "cdc_acm", "16550A XOFF"])
def stuck(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Stuck]:
    """A line of each kind, with the daemon on it; it is let go at the end, so that the guest is free for the next.

    It is not paced: the pace leaves next to nothing in a driver, and a full one is what these tests are about.
    """
    made: Stuck = request.param(rig)
    rig.start(f"{made.serial}\npaced = false", OTHER, **made.parameters)
    yield made
    made.go_on()


def fill(rig: Rig, stuck: Stuck) -> None:
    """Stop the line, and write what it would have carried."""
    client = rig.client()
    before = rig.status()["bytes_to_line"]
    stuck.stop(client)
    client.say(COMMAND)
    rig.until_status(lambda status: status["bytes_to_line"] - before == len(COMMAND))
    client.close()


def thrown_away(rig: Rig) -> int:
    """Return how many bytes the daemon says that it threw away, in all its log."""
    return sum(map(int, re.findall(r"threw away (\d+) bytes", rig.log())))


def test_the_daemon_stops_in_time_and_what_it_threw_away_is_never_sent(rig: Rig, stuck: Stuck) -> None:
    for times in (1, 2):
        fill(rig, stuck)
        status, seconds = rig.stop()
        assert status == 0
        assert seconds < STOPPED
        assert thrown_away(rig) == times * len(COMMAND)
        stuck.go_on()
        rig.restart()
        assert rig.status()["bytes_discarded"] == 0
    client = rig.client()
    client.say(b"fresh")
    rig.until(lambda: len(stuck.heard()) >= len(b"fresh"))
    assert stuck.heard() == b"fresh"


def test_a_restart_on_a_line_that_is_still_stuck_finds_it_and_stops_again(rig: Rig, stuck: Stuck) -> None:
    for _ in range(2):
        fill(rig, stuck)
        status, seconds = rig.stop()
        assert (status, seconds < STOPPED) == (0, True)
        rig.restart()
    assert stuck.heard() == b""


def test_disabling_the_port_twice_is_answered_and_no_other_port_notices(rig: Rig, stuck: Stuck) -> None:
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        for times in (1, 2):
            fill(rig, stuck)
            answer = rig.update(PortManager_P0_PortEnabled="no")
            assert (answer.text, answer.seconds < SETTLED) == ("OK", True)
            assert thrown_away(rig) == times * len(COMMAND)
            stuck.go_on()
            answer = rig.update(PortManager_P0_PortEnabled="yes")
            assert answer.text == "OK"
            rig.until_status(lambda status: status["state"] == "up")
        client = rig.client()
        client.say(b"fresh")
        rig.until(lambda: len(stuck.heard()) >= len(b"fresh"))
    assert stuck.heard() == b"fresh"


def test_a_change_of_the_settings_twice_is_final_and_every_byte_is_accounted_for(rig: Rig, stuck: Stuck) -> None:
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        for stop_bits in (2, 1):
            fill(rig, stuck)
            answer = rig.update(Serial_Ser1_StopBits=stop_bits)
            assert answer.seconds < SETTLED
            assert answer.text == "OK", answer  # flow control holds it: it was purged, and the change went on
            status = rig.status()
            assert status["settings_in_force"]["StopBits"] == stop_bits
            assert status["settings_refused"] == {}
            assert rig.parameters()["StopBits"] == str(stop_bits)
            assert status["bytes_discarded"] == status["bytes_to_line"]
            stuck.go_on()
        client = rig.client()
        client.say(b"fresh")
        rig.until(lambda: len(stuck.heard()) >= len(b"fresh"))
    assert stuck.heard() == b"fresh"
    status = rig.status()
    assert status["bytes_discarded"] + len(stuck.heard()) == status["bytes_to_line"]


def test_more_than_the_driver_takes_is_accounted_for_too(rig: Rig, stuck: Stuck) -> None:
    client = rig.client()
    stuck.stop(client)
    client.say(b"x" * 40_000)
    filled = rig.until_status(lambda status: status["bytes_to_line"] >= 4095)
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        assert rig.update(Serial_Ser1_StopBits=2).seconds < SETTLED
    status, seconds = rig.stop()
    assert (status, seconds < STOPPED) == (0, True)
    assert filled["bytes_discarded"] == 0
    assert stuck.heard() == b""
    assert thrown_away(rig) >= filled["bytes_to_line"]


def test_a_line_that_is_slow_and_not_stuck_keeps_its_settings_and_says_so(rig: Rig) -> None:
    chip = Ftdi("H2")
    adapter = rig.plug(chip, paced=True)
    rig.start(f'device = "{chip.by_id}"\npaced = false', OTHER, Serial_Ser1_BaudRate=300)  # the driver is to be full
    rig.client().say(COMMAND)
    rig.until_status(lambda status: status["bytes_to_line"] == len(COMMAND))
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        answer = rig.update(Serial_Ser1_StopBits=2)
        assert answer.text == "# Error: Error setting 'root.Serial.Ser1.StopBits' to '2'!"
        assert re.search(r"line busy: \d+ bytes", answer.refused)
        assert answer.seconds < SETTLED
        assert rig.parameters()["StopBits"] == "1"
        status = rig.status()
        assert (status["settings_in_force"]["StopBits"], status["settings_refused"]) == (1, {})
        # A change of something else waits for nobody.
        answer = rig.update(PortManager_P0_PTZServer_Enabled="yes")
        assert answer.text == "OK"
        assert rig.guest.sh("ls /run/daisyport/ptz-P0.sock")
    assert adapter.uart.stop == 1
    assert rig.status()["bytes_discarded"] == 0
    exit_status, seconds = rig.stop()
    assert (exit_status, seconds < STOPPED) == (0, True)
