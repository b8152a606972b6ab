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
"""Less than each of the drivers takes at once: 4095 bytes (16550A), 4608 (ftdi_sio), 16 pieces (cdc_acm)."""
OTHER = 'device = "/dev/ttyS4"'
"""The line that must not notice."""
XON, XOFF = b"\x11", b"\x13"
COUNT_QUEUED = """
import fcntl, os, struct, termios
tty = os.open({device!r}, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
try:
    result = struct.unpack("i", fcntl.ioctl(tty, termios.TIOCOUTQ, bytes(4)))[0]
finally:
    os.close(tty)
"""
"""Root may open what is exclusive; the daemon has it too, so this close waits for nothing."""


@dataclass
class Stuck:
    """One kind of line: how it is configured, how the far end stops and goes on, and what it heard.

    ``counts``: its driver tells to the byte what waits in it. ``takes``: it is full with so many bytes.
    """

    device: str
    option: str
    parameters: dict[str, Any]
    stop: Callable[[Client], None]
    go_on: Callable[[], None]
    heard: Callable[[], bytes]
    counts: bool = True
    takes: int = 4095

    def waiting(self, rig: Rig) -> int:
        """Return how many bytes its driver has and has not sent."""
        return int(rig.guest.call("python", COUNT_QUEUED.format(device=self.device)))


def ftdi(rig: Rig) -> Stuck:
    chip = Ftdi("H1")
    adapter = rig.plug(chip)
    return Stuck(
        chip.by_id,
        "rts_cts = true",
        {"Serial_Ser1_FlowControlRTSCTS": "yes"},
        lambda _client: adapter.set_lines(cts=False),
        lambda: adapter.set_lines(cts=True),
        lambda: adapter.heard,
    )


def ftdi_xoff(rig: Rig) -> Stuck:
    """The chip itself obeys XOFF, where its driver tells it to."""
    chip = Ftdi("H3")
    adapter = rig.plug(chip)

    def stop(_client: Client) -> None:
        assert chip.uart.xon_xoff
        adapter.set_hold(True)

    return Stuck(
        chip.by_id,
        "xon_xoff = true",
        {"Serial_Ser1_FlowControlXONXOFF": "yes"},
        stop,
        lambda: adapter.set_hold(False),
        lambda: adapter.heard,
    )


def cdc_acm(rig: Rig) -> Stuck:
    chip = CdcAcm("H1")
    adapter = rig.plug(chip)
    return Stuck(
        chip.by_id,
        "",
        {},
        lambda _client: adapter.set_hold(True),
        lambda: adapter.set_hold(False),
        lambda: adapter.heard,
        counts=False,
        takes=3000,
    )


def uart_16550a(rig: Rig) -> Stuck:
    line: Line = rig.guest.lines["/dev/ttyS1"]
    line.say(XON)
    line.forget()

    def stop(client: Client) -> None:
        line.say(b"ok" + XOFF)
        assert client.hear(2) == b"ok"

    return Stuck(
        "/dev/ttyS1",
        "xon_xoff = true",
        {"Serial_Ser1_FlowControlXONXOFF": "yes"},
        stop,
        lambda: line.say(XON),
        lambda: line.heard,
    )


KINDS = {"ftdi_sio CTS low": ftdi, "ftdi_sio XOFF": ftdi_xoff, "cdc_acm": cdc_acm, "16550A XOFF": uart_16550a}


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def stuck(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Stuck]:
    """A line of each kind, with the daemon on it; it is let go at the end, so that the guest is free for the next.

    It is not paced: the pace leaves next to nothing in a driver, and a full one is what these tests are about.
    """
    made: Stuck = request.param(rig)
    rig.start(f'device = "{made.device}"\n{made.option}\npaced = false', OTHER, **made.parameters)
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


def full(rig: Rig, stuck: Stuck) -> dict[str, Any]:
    """Wait until the driver of a line that stands takes no more; return the status, which must account for each byte.

    What was discarded, what was sent and what waits is what was written.
    """
    written = -1

    def stands(status: dict[str, Any]) -> bool:
        nonlocal written
        before, written = written, status["bytes_to_line"]
        return bool(written == before and status["bytes_to_line"] - status["bytes_discarded"] >= stuck.takes)

    status = rig.until_status(stands)
    if stuck.counts:
        assert status["bytes_discarded"] + len(stuck.heard()) + stuck.waiting(rig) == status["bytes_to_line"]
    return status


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
    much = 40_000
    client = rig.client()
    stuck.stop(client)
    client.say(b"x" * much)
    filled = full(rig, stuck)
    assert filled["bytes_discarded"] == 0
    with rig.no_silence(rig.guest.lines["/dev/ttyS4"]):
        assert rig.update(Serial_Ser1_StopBits=2).seconds < SETTLED
    # Of a transfer whose beginning is gone, the rest is dropped: so the client is told of each byte as well.
    rig.until_status(
        lambda status: status["bytes_discarded"] == status["bytes_to_line"] == much - status["bytes_dropped"]
    )
    stuck.go_on()
    client.say(b"between")
    rig.until(lambda: len(stuck.heard()) >= len(b"between"))
    assert stuck.heard() == b"between"
    stuck.stop(client)
    client.say(b"x" * much)
    before, heard = full(rig, stuck), len(stuck.heard())
    exit_status, seconds = rig.stop()
    assert (exit_status, seconds < STOPPED) == (0, True)
    assert len(stuck.heard()) == heard
    assert thrown_away(rig) + heard == before["bytes_to_line"]


def test_lines_that_a_client_released_are_put_back_when_the_driver_was_purged(rig: Rig) -> None:
    chip = Ftdi("H4")
    adapter = rig.plug(chip)
    rig.start(f'device = "{chip.by_id}"\nrts_cts = true', OTHER, Serial_Ser1_FlowControlRTSCTS="yes")
    assert not rig.websocket().ask(request="set", dtr=False)["lines"]["dtr"]
    adapter.set_lines(cts=False)
    rig.client().say(COMMAND)
    rig.until_status(lambda status: status["bytes_to_line"] > 0)
    assert rig.update(Serial_Ser1_StopBits=2).text == "OK"
    status = rig.status()
    assert (status["modem_lines_rose"], status["bytes_discarded"] > 0) == (1, True)
    assert not chip.uart.dtr
    assert [what for _, what in chip.uart.edges("dtr")] == ["dtr=True", "dtr=False", "dtr=True", "dtr=False"]
    rig.until_logged("DTR rose for a moment")


_PTZ = """
import socket
_command = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
_command.connect("/run/daisyport/ptz-P0.seq")
_command.send({message!r})
"""


def test_a_command_that_cts_holds_in_the_driver_does_not_fire_when_it_rises(rig: Rig) -> None:
    chip = Ftdi("H5")
    adapter = rig.plug(chip)
    rig.start(
        f'device = "{chip.by_id}"\nrts_cts = true',
        OTHER,
        Serial_Ser1_FlowControlRTSCTS="yes",
        PortManager_P0_PTZServer_Enabled="yes",
    )
    rig.until(lambda: rig.guest.call("names", "/run/daisyport/ptz-P0.seq"))
    adapter.set_lines(cts=False)
    rig.guest.call("python", _PTZ.format(message=b"turn left"))
    rig.until_status(lambda status: status["bytes_to_line"] == 9)
    rig.until_status(lambda status: status["bytes_discarded"] == 9)
    adapter.set_lines(cts=True)
    rig.guest.call("python", _PTZ.format(message=b"stop"))
    assert adapter.hear(4) == b"stop"
    rig.guest.call("python", "_command.close()")


def test_a_board_that_takes_a_block_at_a_time_loses_none_of_a_message_that_it_is_still_sending(rig: Rig) -> None:
    chip = CdcAcm("H6")
    adapter = rig.plug(chip, paced=True, guests_time=True)
    rig.start(f'device = "{chip.by_id}"\npaced = false', OTHER, Serial_Ser1_BaudRate=2400)
    message = COMMAND[:1200]
    """Five seconds of line, and fewer bytes than cdc_acm counts for a transfer."""
    rig.client().say(message)
    rig.until_status(lambda status: status["bytes_to_line"] == len(message))
    answer = rig.update(Serial_Ser1_StopBits=2)
    assert re.search(r"line busy: \d+ bytes", answer.refused), answer
    assert answer.seconds < SETTLED
    rig.until(lambda: len(adapter.heard) == len(message))
    assert adapter.heard == message
    assert rig.status()["bytes_discarded"] == 0


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
