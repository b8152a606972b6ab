"""What a program does to its tty beside writing: it sets the line where it may, and its flushes are purges."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.clients.pty import PtySettings
from gateway.host.config import PortConfig, SerialConfig, TtyConfig
from gateway.port.bus import Bus
from gateway.port.control import Configure
from gateway.port.plan import ProgramTty
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.controls import Controls
from gateway.serial_line.device import SerialDevice
from gateway.tasks.reconcile import Unit
from protocol.parameters.hardware import SerialHardware
from protocol.parameters.settings import SerialPort
from tests.gateway.clients.test_tty import EXTPROC, Served, read, served
from tests.gateway.line import Line, serial_line
from tests.gateway.serial_line.test_controls import Modem, session, tree
from tests.helpers import FarEnd, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from gateway.port.line import Claim

RIGHTS = Right.READ | Right.TCP | Right.LINES | Right.CONFIGURE
TCGETS2, TCSETS2 = 0x802C542A, 0x402C542B
BOTHER = 0o010000


class Port:
    """A line of our own with a tty for programs, whose settings may be made there."""

    def __init__(self, device: SerialDevice, bus: Bus, end: FarEnd, tty: Served) -> None:
        self.device = device
        self.bus = bus
        self.end = end
        self.tty = tty

    def in_force(self, name: str = "BaudRate") -> object:
        return self.bus.state.value.known_settings.get(name)

    async def until(self, name: str, value: object) -> None:
        with trio.fail_after(5):
            await self.bus.state.wait_for(lambda state: state.known_settings.get(name) == value)


@contextlib.asynccontextmanager
async def port(folder: Path, rights: Right = RIGHTS, **hardware: object) -> AsyncIterator[Port]:
    bus, end = Bus("P0"), FarEnd(folder / "tty1")
    config = SerialConfig(str(end.path), SerialHardware(**hardware))  # type: ignore[arg-type]
    device, unit = SerialDevice(bus, 1, config, SerialPort()), Unit("P0 Ser1", lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, unit)
        await bus.state.wait_for(lambda state: state.down is None)
        async with served(bus, ProgramTty(str(folder / "tty-P0")), rights=rights) as tty:
            yield Port(device, bus, end, tty)
        unit.scope.cancel()
    end.unplug()


def set_rate(fd: int, speed: int, when: int = termios.TCSANOW) -> None:
    attributes = termios.tcgetattr(fd)
    attributes[4] = attributes[5] = speed
    termios.tcsetattr(fd, when, attributes)


async def shown(fd: int, speed: int) -> None:
    """Wait until the tty shows this rate."""
    with trio.fail_after(5):
        while termios.tcgetattr(fd)[5] != speed:
            await trio.lowlevel.checkpoint()


async def test_what_a_program_sets_is_in_force_while_it_has_the_tty_open_and_is_put_back_then(tmp_path: Path) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            attributes = termios.tcgetattr(fd)
            assert attributes[5] == termios.B9600, "it shows what is in force to whoever opens it"
            attributes[4] = attributes[5] = termios.B19200
            attributes[2] |= termios.CSTOPB
            attributes[0] |= termios.IXON | termios.IXOFF
            termios.tcsetattr(fd, termios.TCSANOW, attributes)
            for name, value in (("BaudRate", 19200), ("StopBits", 2), ("FlowControlXONXOFF", True)):
                await here.until(name, value)
            held = here.device.status()["settings_held"]
            assert held == {
                "holder": f"tty {here.tty.path}",
                "values": {"BaudRate": "19200", "StopBits": "2", "FlowControlXONXOFF": "yes"},
            }
        await here.until("BaudRate", 9600)
        await here.until("StopBits", 1)
        await here.tty.settled(clients=0)
        with here.tty.opened() as fd:
            await shown(fd, termios.B9600)


async def test_settings_that_a_program_reads_and_writes_back_are_no_wish(tmp_path: Path) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            await here.tty.settled(clients=1)
            termios.tcsetattr(fd, termios.TCSAFLUSH, termios.tcgetattr(fd))
            os.write(fd, b"x")
            assert await here.end.hear(1) == b"x"
            assert here.device.status()["settings_held"] == {"holder": None, "values": {}}


async def test_a_rate_without_a_name_is_carried_and_shown(tmp_path: Path) -> None:
    layout = struct.Struct("4IB19s2I")
    async with port(tmp_path, rates=(250_000,)) as here:
        with here.tty.opened() as fd:
            known = list(layout.unpack(fcntl.ioctl(fd, TCGETS2, bytes(44))))
            known[2] = known[2] & ~0o010017 | BOTHER
            known[6] = known[7] = 250_000
            fcntl.ioctl(fd, TCSETS2, layout.pack(*known))
            await here.until("BaudRate", 250_000)
        await here.until("BaudRate", 9600)
        await here.tty.settled(clients=0)
        with here.tty.opened() as fd:
            other = session(Router({"P0": here.bus}), "other")
            await other.control(Configure((("BaudRate", "250000"),)))
            with trio.fail_after(5):
                while layout.unpack(fcntl.ioctl(fd, TCGETS2, bytes(44)))[-1] != 250_000:
                    await trio.lowlevel.checkpoint()
            other.close()


async def test_a_rate_that_the_line_does_not_have_is_put_back_before_the_programs_eyes_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            set_rate(fd, termios.B4000000)
            await shown(fd, termios.B9600)
            set_rate(fd, termios.B0)  # it hangs up, and no pty does
            await shown(fd, termios.B9600)
            assert here.in_force() == 9600
    assert "what it set is not in force: BaudRate 4000000 (it is 9600)" in caplog.text


async def test_a_program_sees_what_is_in_force_where_another_holds_the_line(tmp_path: Path) -> None:
    async with port(tmp_path) as here:
        other = session(Router({"P0": here.bus}), "other")
        await other.control(Configure((("BaudRate", "38400"),)))
        with here.tty.opened() as fd:
            await shown(fd, termios.B38400)
            set_rate(fd, termios.B19200)
            await shown(fd, termios.B38400)
            other.close()
            await shown(fd, termios.B9600)
            set_rate(fd, termios.B19200)
            await here.until("BaudRate", 19200)


async def test_an_admins_update_ends_the_hold_and_the_program_sees_it(tmp_path: Path) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            set_rate(fd, termios.B19200)
            await here.until("BaudRate", 19200)
            assert await here.device.adjust(tree(baud_rate=4800)) == ()
            await shown(fd, termios.B4800)


async def test_extproc_is_put_back_so_that_the_next_change_is_heard_of_too(tmp_path: Path) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            for speed, value in ((termios.B19200, 19200), (termios.B38400, 38400)):
                attributes = termios.tcgetattr(fd)
                attributes[3] = termios.ICANON | termios.ECHO
                attributes[4] = attributes[5] = speed
                termios.tcsetattr(fd, termios.TCSANOW, attributes)
                await here.until("BaudRate", value)
                assert termios.tcgetattr(fd)[3] & EXTPROC


async def test_seven_bits_with_parity_never_reach_the_line_and_the_rest_of_what_was_set_with_them_does(
    tmp_path: Path,
) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            attributes = termios.tcgetattr(fd)
            attributes[2] = attributes[2] & ~termios.CSIZE | termios.CS7 | termios.PARENB
            attributes[4] = attributes[5] = termios.B19200
            termios.tcsetattr(fd, termios.TCSANOW, attributes)
            await here.until("BaudRate", 19200)
            assert (here.in_force("DataBits"), here.in_force("Parity")) == (8, "None")


async def test_where_the_host_does_not_say_so_the_line_stays_and_the_tty_takes_and_shows_whatever_is_set(
    tmp_path: Path,
) -> None:
    async with port(tmp_path, RIGHTS & ~Right.CONFIGURE) as here:
        with here.tty.opened() as fd:
            await here.tty.settled(clients=1)
            set_rate(fd, termios.B19200)
            os.write(fd, b"x")
            assert await here.end.hear(1) == b"x"
            assert (here.in_force(), termios.tcgetattr(fd)[5]) == (9600, termios.B19200)
            assert await here.device.adjust(tree(baud_rate=4800)) == ()
            assert termios.tcgetattr(fd)[5] == termios.B19200


@pytest.mark.parametrize("writes", [False, True])
async def test_what_a_program_sets_while_the_device_is_away_is_in_force_when_it_is_back(
    tmp_path: Path, *, writes: bool
) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            await here.tty.settled(clients=1)
            here.end.unplug()
            await here.bus.state.wait_for(lambda state: state.down is not None)
            set_rate(fd, termios.B19200)
            if writes:
                os.write(fd, b"stale")
                counters = here.tty.clients[0].session
                assert counters is not None
                with trio.fail_after(5):
                    while counters.counters.dropped != 5:
                        await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert termios.tcgetattr(fd)[5] == termios.B19200, "nobody has refused it"
            here.end.plug()
            await here.until("BaudRate", 19200)
            os.write(fd, b"fresh")
            assert await here.end.hear(5) == b"fresh"


async def test_what_the_last_program_was_refused_is_not_asked_for_the_next(tmp_path: Path) -> None:
    async with port(tmp_path) as here:
        with here.tty.opened() as fd:
            await here.tty.settled(clients=1)
            here.tty.clients[0].revoke("an admin ended it")
            await here.tty.settled(clients=0)
            set_rate(fd, termios.B19200)
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked(0.02)
        with here.tty.opened() as fd:
            await shown(fd, termios.B9600)
            await here.tty.settled(clients=1)
            os.write(fd, b"x")
            assert await here.end.hear(1) == b"x"
            assert here.in_force() == 9600


async def test_a_line_whose_settings_nobody_knows_leaves_the_tty_as_it_is_set(tmp_path: Path) -> None:
    async with serial_line() as line, served(line.bus, ProgramTty(str(tmp_path / "t")), rights=RIGHTS) as tty:
        with tty.opened() as fd:
            await tty.settled(clients=1)
            set_rate(fd, termios.B19200)
            os.write(fd, b"x")
            assert await line.hear(1) == b"x"
            assert termios.tcgetattr(fd)[5] == termios.B19200


def test_the_texts_are_those_of_the_contract() -> None:
    plain = PtySettings(9600, 1, FlowControlXONXOFF=False, FlowControlRTSCTS=False)
    assert plain.since(plain) == {}
    assert PtySettings(0, 2, FlowControlXONXOFF=False, FlowControlRTSCTS=True).since(plain) == {
        "StopBits": "2",
        "FlowControlRTSCTS": "yes",
    }
    assert PtySettings.of({}) is None


@needs_curl
@pytest.mark.parametrize("configure", [False, True])
async def test_the_hosts_configuration_says_whether_a_program_sets_the_line_and_the_status_what_it_never_can(
    tmp_path: Path, *, configure: bool
) -> None:
    path = tmp_path / "tty-P0"
    sharing = PortConfig(tty=TtyConfig((str(path),), configure=configure))
    with trio.fail_after(20):
        async with running_gateway(tmp_path, sharing=(sharing,)) as gateway:
            found = await gateway.until(lambda status: status["services"].get(f"tty {path}") == "up")
            carries = ["BaudRate", "StopBits", "FlowControlXONXOFF", "FlowControlRTSCTS"] if configure else []
            never = ["modem lines", "breaks", "5 to 7 data bits", "parity"]
            assert found["ttys"] == [{"path": str(path), "carries": carries, "never": never}]
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            set_rate(fd, termios.B19200)
            os.write(fd, b"x")
            assert await gateway.lines[0].hear(1) == b"x"
            assert (await gateway.status())["settings_in_force"]["BaudRate"] == (19200 if configure else 9600)
            os.close(fd)


# -- the order


class Stuck(Modem):
    """A tty that takes nothing until it is told to, and notes what it is asked for in its place among the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 0
        self.answers = trio.Event()
        self.answers.set()

    async def configure(self, _claim: Claim, values: Mapping[str, str]) -> None:
        await self.answers.wait()
        self.taken += f"<{values['BaudRate']}>".encode()

    async def purge(self) -> int:
        await trio.lowlevel.checkpoint()
        self.taken += b"<purge>"
        return 0


@contextlib.asynccontextmanager
async def stuck(folder: Path) -> AsyncIterator[tuple[Stuck, Served]]:
    tty, bus = Stuck(), Bus("P0")
    controls = Controls(tty.as_uart, tty.configure)
    turns = Arbiter(tty.as_uart, bus, controls=controls)
    bus.connect(turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        nursery.start_soon(controls.run)
        async with served(bus, ProgramTty(str(folder / "t")), rights=RIGHTS) as tty_:
            yield tty, tty_
        nursery.cancel_scope.cancel()


async def taken(tty: Stuck, wanted: bytes) -> None:
    with trio.fail_after(5):
        while tty.taken != wanted:
            assert len(tty.taken) <= len(wanted), tty.taken
            await trio.lowlevel.checkpoint()


async def received(served_: Served, count: int) -> None:
    """Wait until so many bytes were received of the program."""
    client = served_.clients[0].session
    assert client is not None
    with trio.fail_after(5):
        while client.counters.received < count:
            await trio.lowlevel.checkpoint()


async def test_a_change_keeps_its_place_behind_what_was_written_before_though_the_line_is_stuck(
    tmp_path: Path,
) -> None:
    async with stuck(tmp_path) as (tty, tty_):
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            os.write(fd, b"first ")
            await received(tty_, 6)
            os.write(fd, b"second ")  # the pump is at work, and reads nothing
            set_rate(fd, termios.B19200, termios.TCSADRAIN)
            await trio.testing.wait_all_tasks_blocked(0.01)
            os.write(fd, b"third")
            set_rate(fd, termios.B38400)
            await trio.testing.wait_all_tasks_blocked(0.01)
            tty.make_room(1000)
            await taken(tty, b"first second <19200>third<38400>")


async def test_a_change_goes_ahead_of_what_is_written_at_once_behind_it(tmp_path: Path) -> None:
    async with stuck(tmp_path) as (tty, tty_):
        tty.make_room(1000)
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            set_rate(fd, termios.B19200)
            os.write(fd, b"AT")
            await taken(tty, b"<19200>AT")


async def test_what_comes_while_the_line_is_asked_for_something_keeps_its_order(tmp_path: Path) -> None:
    async with stuck(tmp_path) as (tty, tty_):
        tty.make_room(1000)
        tty.answers = trio.Event()
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            set_rate(fd, termios.B4800)
            await trio.testing.wait_all_tasks_blocked(0.01)
            os.write(fd, b"break ")
            await trio.testing.wait_all_tasks_blocked(0.01)
            set_rate(fd, termios.B19200)
            os.write(fd, b"frame")
            await trio.testing.wait_all_tasks_blocked(0.01)
            tty.answers.set()
            await taken(tty, b"<4800>break <19200>frame")
        await tty_.settled(clients=0)


async def test_a_program_that_leaves_while_the_line_is_asked_for_something_has_its_bytes_written(
    tmp_path: Path,
) -> None:
    async with stuck(tmp_path) as (tty, tty_):
        tty.make_room(1000)
        tty.answers = trio.Event()
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            set_rate(fd, termios.B4800)
            os.write(fd, b"last words")
        await trio.testing.wait_all_tasks_blocked(0.01)
        tty.answers.set()
        await taken(tty, b"<4800>last words")
        await tty_.settled(clients=0)


async def test_what_is_written_without_end_does_not_grow_here_behind_a_change(tmp_path: Path) -> None:
    async with stuck(tmp_path) as (_, tty_):
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            os.write(fd, b"first ")
            await received(tty_, 6)
            written = 0
            for number in range(200):
                with contextlib.suppress(BlockingIOError):
                    written += os.write(fd, bytes(4096))
                set_rate(fd, (termios.B19200, termios.B38400)[number % 2])
                await trio.testing.wait_all_tasks_blocked()
            assert written < 300_000


async def test_what_is_set_again_and_again_while_the_line_is_stuck_is_asked_of_it_once(tmp_path: Path) -> None:
    async with stuck(tmp_path) as (tty, tty_):
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            os.write(fd, b"first ")
            await received(tty_, 6)
            for speed in (termios.B19200, termios.B38400) * 20:
                set_rate(fd, speed)
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(20):
                termios.tcflush(fd, termios.TCOFLUSH)
                await trio.testing.wait_all_tasks_blocked()
            tty.make_room(1000)
            os.write(fd, b"last")
            await taken(tty, b"first <38400><purge>last")


# -- flushes


async def test_a_flush_of_its_output_throws_away_what_the_line_has_not_and_nothing_that_comes_after(
    tmp_path: Path,
) -> None:
    async with stuck(tmp_path) as (tty, tty_):
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            os.write(fd, b"first ")
            await received(tty_, 6)
            os.write(fd, b"second ")
            set_rate(fd, termios.B19200)  # and so it is read already
            await trio.testing.wait_all_tasks_blocked(0.01)
            termios.tcflush(fd, termios.TCOFLUSH)
            os.write(fd, b"third")
            await trio.testing.wait_all_tasks_blocked(0.01)
            tty.make_room(1000)
            await taken(tty, b"first <19200><purge>third")
            client = tty_.clients[0].session
            assert client is not None
            assert client.counters.dropped == 7


async def test_a_flush_of_its_input_throws_away_what_waits_for_it_and_the_reply_to_what_it_writes_next_comes(
    tmp_path: Path,
) -> None:
    async def waiting(line: Line, tty_: Served) -> None:
        client = tty_.clients[0].session
        assert client is not None
        assert client.reader is not None
        while not client.reader.size:
            line.bus.deliver(b"old " * 1024)
            await trio.lowlevel.checkpoint()

    async with serial_line() as line, served(line.bus, ProgramTty(str(tmp_path / "t"))) as tty_:
        with tty_.opened() as fd:
            await tty_.settled(clients=1)
            await waiting(line, tty_)
            termios.tcflush(fd, termios.TCIOFLUSH)
            os.write(fd, b"ask")
            assert await line.hear(3) == b"ask"
            line.say(b"answer")
            heard = b""
            with trio.fail_after(5):
                while not heard.endswith(b"answer"):
                    heard += await read(fd, 1)
            # What the kernel held between the two ends when it was flushed cannot be taken back.
            assert len(heard) < 65536
