"""The UART over real ptys; only calls that a pty does not have are answered by a fake driver, at the ioctl.

Waiting is for a state or by the mock clock, and that only while no byte is on its way.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import struct
import termios
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from gateway.host.config import SerialConfig
from gateway.port.line import ModemLines
from gateway.serial_line import bias, tty
from gateway.serial_line.uart import Counters, DeviceGone, SettingRefusal, SettingsRefused, Uart, UartError
from protocol.parameters.hardware import PortMode
from protocol.parameters.settings import Parity, SerialPort
from tests.gateway.line import closed, opened, received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from trio.testing import MockClock

TIOCGRS485, TIOCSRS485, TIOCSBRK, TIOCCBRK = 0x542E, 0x542F, 0x5427, 0x5428
LINE = SerialPort()
RS485 = SerialPort(port_mode=PortMode.RS485)


@dataclass
class Pty:
    """The far end of a line."""

    master: int
    path: str

    def say(self, data: bytes) -> None:
        os.write(self.master, data)

    async def hear(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            await trio.lowlevel.wait_readable(self.master)
            heard += os.read(self.master, 65536)
        return heard

    @property
    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.master)

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1


@pytest.fixture
def pty() -> Iterator[Pty]:
    master, slave = os.openpty()
    far = Pty(master, os.ttyname(slave))
    yield far
    os.close(slave)
    if far.master >= 0:
        far.hang_up()


@dataclass
class Driver:
    """A driver with what a pty lacks. ``log`` is what it was told, in order; each list is told from its front."""

    offers: set[int] = field(default_factory=set)
    control: tuple[int, ...] = (0,) * 8
    supported: int = 0b11111 | 32 | 512
    queue: list[int] = field(default_factory=list)
    busy: int = 0
    lines: int = 0
    log: list[Any] = field(default_factory=list)

    def ioctl(self, request: int, argument: Any) -> Any:
        if request == TIOCGRS485:
            argument[:] = struct.pack("8I", *self.control)
        elif request == TIOCSRS485:
            flags, *rest = struct.unpack("8I", argument)
            self.log.append(("rs485", flags, *rest[:2]))
            self.control = (flags & self.supported, *rest) if flags & 1 else (0,) * 8
        elif request == termios.TIOCOUTQ:
            return struct.pack("i", self.queue.pop(0) if len(self.queue) > 1 else self.queue[0])
        elif request == termios.TIOCSERGETLSR:
            self.log.append("lsr")
            self.busy -= 1
            return struct.pack("i", self.busy < 0)
        elif request == termios.TIOCGICOUNT:
            argument[:] = struct.pack("20i", *range(1, 21))
        elif request == termios.TIOCMGET:
            return struct.pack("i", self.lines)
        elif request in (termios.TIOCMBIS, termios.TIOCMBIC):
            self.log.append((request, *struct.unpack("I", argument)))
        else:
            self.log.append(request)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    fake, real = Driver(), fcntl.ioctl

    def ioctl(fd: int, request: int, argument: Any = 0, mutate: bool = True) -> Any:
        if request in fake.offers:
            return fake.ioctl(request, argument)
        return real(fd, request, argument, mutate)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return fake


@pytest.fixture
def no_pty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every pty pass for a UART."""
    monkeypatch.setattr(tty, "_PTYS", ())


@asynccontextmanager
async def closing(port: Uart, within: float = math.inf) -> AsyncIterator[Uart]:
    try:
        with trio.fail_after(within):
            yield port
    finally:
        await closed(port)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def names(refusals: tuple[SettingRefusal, ...]) -> list[str]:
    return [refusal.name for refusal in refusals]


# Opening


async def test_an_open_port_waits_for_a_byte_and_leaves_dtr_alone_when_it_closes(pty: Pty) -> None:
    attributes = pty.attributes
    attributes[0] |= termios.BRKINT | termios.IGNPAR | termios.IXANY
    attributes[2] |= termios.HUPCL
    termios.tcsetattr(pty.master, termios.TCSANOW, attributes)
    async with closing(await opened(pty.path, SerialPort(flow_control_xonxoff=True))):
        iflag, _, cflag, _, _, _, characters = pty.attributes
        assert not cflag & termios.HUPCL
        assert not iflag & (termios.BRKINT | termios.IGNPAR | termios.IXANY)
        assert (characters[termios.VMIN], characters[termios.VTIME]) in {(1, 0), (b"\x01", b"\x00")}


async def test_opening_applies_the_line(pty: Pty) -> None:
    line = SerialPort(baud_rate=460800, stop_bits=2, flow_control_xonxoff=True, flow_control_rtscts=True)
    async with closing(await opened(pty.path, line)) as port:
        iflag, _, cflag, _, _, ospeed, _ = pty.attributes
        assert ospeed == termios.B460800
        assert cflag & termios.CSTOPB
        assert cflag & termios.CRTSCTS
        assert iflag & termios.IXON
        assert iflag & termios.IXOFF
        assert port.in_force == port.line == line
        assert port.refused == ()


async def test_a_port_that_cannot_take_all_settings_opens_and_says_which(pty: Pty) -> None:
    line = SerialPort(baud_rate=19200, data_bits=7, parity=Parity.EVEN, stop_bits=2)
    async with closing(await opened(pty.path, line), within=5) as port:
        assert names(port.refused) == ["DataBits", "Parity"]
        assert port.refused[1].why == "asked for Even, the device keeps None"
        assert port.in_force == replace(line, data_bits=8, parity=Parity.NONE)
        pty.say(b"still a line")
        assert await received(port) == b"still a line"


@pytest.mark.parametrize("parity", Parity)
@pytest.mark.parametrize("data_bits", [7, 8])
@pytest.mark.parametrize("stop_bits", [1, 2])
async def test_a_refused_setting_takes_no_other_with_it(
    pty: Pty, parity: Parity, data_bits: int, stop_bits: int
) -> None:
    line = SerialPort(
        baud_rate=57600, data_bits=data_bits, parity=parity, stop_bits=stop_bits, flow_control_rtscts=True
    )
    async with closing(await opened(pty.path, line)) as port:
        assert port.in_force == replace(line, data_bits=8, parity=Parity.NONE)


async def test_what_came_in_at_the_wrong_rate_is_not_read(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = tty.Tty._apply

    def apply_late(port: tty.Tty, line: SerialPort, before: list[Any]) -> None:
        pty.say(b"noise\n")  # a line: the tty is not raw yet
        while not fcntl.ioctl(port.fd, termios.FIONREAD, bytes(4))[0]:
            pass  # the kernel hands it over on a thread of its own
        apply(port, line, before)

    monkeypatch.setattr(tty.Tty, "_apply", apply_late)
    async with closing(await opened(pty.path, LINE), within=5) as port:
        pty.say(b"signal")
        assert await received(port) == b"signal"


async def test_a_port_is_opened_by_one_process_only(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE)):
        with pytest.raises(UartError, match="another program holds it"):
            await opened(pty.path, LINE)
    await closed(await opened(pty.path, LINE))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/dev/nowhere", "there is no such device"),
        ("/dev/null", "this is not a serial device"),
        ("/dev", "directory"),
        ("/dev/tty\0S0", "null byte"),
    ],
)
async def test_what_cannot_be_opened_is_told_in_a_sentence_and_leaks_nothing(path: str, sentence: str) -> None:
    before = descriptors()
    with pytest.raises(UartError, match=f"^{path}: .*{sentence}"):
        await opened(path, LINE)
    assert descriptors() == before


@pytest.mark.parametrize("step", ["_rs485", "_counted", "_apply", "found"])
async def test_a_device_lost_while_it_is_opened_leaks_nothing(
    pty: Pty, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise DeviceGone("lost")

    before = descriptors()
    monkeypatch.setattr(tty.Tty, step, lost)
    with pytest.raises(DeviceGone) as kept:  # what the error refers to is not collected before the look below
        await opened(pty.path, LINE)
    assert descriptors() == before
    assert str(kept.value) == "lost"


async def test_an_opening_that_is_cancelled_leaks_nothing(pty: Pty, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    before = descriptors()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened, pty.path, LINE, ("/bin/sh", "-c", f"read line < {gate}"))
            with await trio.to_thread.run_sync(gate.open, "wb"):
                nursery.cancel_scope.cancel()
    assert descriptors() == before


# Bytes


async def test_bytes_pass_both_ways_unchanged(pty: Pty) -> None:
    every = bytes(range(256)) * 4
    async with closing(await opened(pty.path, LINE), within=5) as port:
        assert port.send_nowait(every) == len(every)
        assert await pty.hear(len(every)) == every
        pty.say(every)
        heard = b""
        while len(heard) < len(every):
            heard += await received(port)
        assert heard == every


async def test_a_full_line_takes_nothing_until_there_is_room(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        written = 0
        while taken := port.send_nowait(bytes(4096)):  # ends with the 0 of a full pty
            written += taken
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pty.hear, written)
            await port.writable()
        assert port.send_nowait(b"x") == 1


async def test_a_hang_up_ends_reading_and_fails_writing(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        pty.hang_up()
        assert await received(port) == b""
        await port.writable()
        with pytest.raises(DeviceGone, match="gone"):
            port.send_nowait(b"x")
        with pytest.raises(DeviceGone):
            port.queue.waiting()
        with pytest.raises(DeviceGone):
            await port.reconfigure(SerialPort(baud_rate=300))


@pytest.mark.parametrize(("number", "raised"), [(errno.EIO, None), (errno.ENODEV, DeviceGone)])
async def test_a_read_that_fails_is_a_hang_up_or_a_loss(
    pty: Pty, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[UartError] | None
) -> None:
    errors: list[OSError] = [BlockingIOError(), OSError(number, os.strerror(number))]

    def read(_fd: int, _count: int) -> bytes:
        raise errors.pop(0)

    async with closing(await opened(pty.path, LINE), within=5) as port:
        pty.say(b"x")
        monkeypatch.setattr(os, "read", read)
        if raised is None:
            assert await received(port) == b""
        else:
            with pytest.raises(raised):
                await received(port)


async def test_closing_wakes_who_waits_and_happens_once(pty: Pty) -> None:
    before = descriptors()
    with trio.fail_after(5):
        port = await opened(pty.path, LINE)
        with pytest.RaisesGroup(trio.ClosedResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(received, port)
                await trio.testing.wait_all_tasks_blocked()
                await port.close()
        await port.close()
        with pytest.raises(DeviceGone):
            port.send_nowait(b"x")
        with pytest.raises(trio.ClosedResourceError, match="was closed"):
            await received(port)
        with pytest.raises(trio.ClosedResourceError, match="was closed"):
            await port.writable()
    assert descriptors() == before


async def test_closing_leaves_the_far_end_what_was_written(pty: Pty) -> None:
    with trio.fail_after(5):
        port = await opened(pty.path, LINE)
        port.send_nowait(b"last words")
        await port.close()
        assert await pty.hear(10) == b"last words"


# Draining


async def test_a_line_that_moves_drains_and_loses_nothing(pty: Pty, driver: Driver, autojump_clock: MockClock) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        driver.offers, driver.queue = {termios.TIOCOUTQ}, [500, 200, 1, 0]
        port.send_nowait(bytes(500))
        assert await port.queue.emptied(2)
        assert port.discarded == 0
        assert driver.queue == [0]


async def test_a_stuck_line_is_waited_for_until_the_deadline(
    pty: Pty, driver: Driver, autojump_clock: MockClock
) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        driver.offers, driver.queue = {termios.TIOCOUTQ}, [40]
        port.send_nowait(bytes(40))
        begun = trio.current_time()
        assert not await port.queue.emptied(1)
        assert trio.current_time() - begun == pytest.approx(1)
        assert port.queue.waiting() == 40


async def test_a_pty_has_no_fifo_to_wait_for(pty: Pty, autojump_clock: MockClock) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        port.send_nowait(b"x")
        begun = trio.current_time()
        assert await port.queue.emptied(5)
        assert trio.current_time() == begun


async def test_without_word_from_the_driver_the_fifo_gets_seventy_characters_of_time(
    no_pty: None, pty: Pty, autojump_clock: MockClock
) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        port.send_nowait(b"x")
        begun = trio.current_time()
        assert await port.queue.emptied(5)
        assert trio.current_time() - begun == pytest.approx(70 / 960)
        assert await port.queue.emptied(5)
        assert trio.current_time() - begun == pytest.approx(70 / 960)


async def test_where_the_driver_knows_the_fifo_it_is_asked(
    no_pty: None, pty: Pty, driver: Driver, autojump_clock: MockClock
) -> None:
    driver.offers, driver.busy = {termios.TIOCSERGETLSR}, 3
    async with closing(await opened(pty.path, LINE)) as port:
        port.send_nowait(b"x")
        begun = trio.current_time()
        await port.queue.emptied(5)
        assert driver.log == ["lsr"] * 4
        assert trio.current_time() - begun == pytest.approx(3 / 960)


# Changing settings


async def test_settings_change_under_a_waiting_reader(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        heard: list[bytes] = []

        async def read() -> None:
            heard.append(await received(port))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await port.reconfigure(SerialPort(baud_rate=115200, stop_bits=2))
            assert pty.attributes[5] == termios.B115200
            pty.say(b"after")
        assert heard == [b"after"]
        assert port.in_force == port.line == SerialPort(baud_rate=115200, stop_bits=2)


async def test_what_was_received_before_a_change_is_still_read(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        pty.say(b"before")
        await port.reconfigure(SerialPort(baud_rate=300))
        assert await received(port) == b"before"


async def test_the_old_rate_stays_until_the_driver_has_nothing_left(
    pty: Pty, driver: Driver, autojump_clock: MockClock
) -> None:
    seen: list[int] = []

    class Queue(list[int]):
        def pop(self, index: Any = -1) -> int:
            seen.append(pty.attributes[5])
            return super().pop(index)

    async with closing(await opened(pty.path, LINE)) as port:
        driver.offers, driver.queue = {termios.TIOCOUTQ}, Queue([900, 900, 400, 10, 0])
        port.send_nowait(bytes(900))
        await port.reconfigure(SerialPort(baud_rate=300))
        assert set(seen[:-1]) == {termios.B9600}
        assert pty.attributes[5] == termios.B300
        assert port.discarded == 0


async def test_a_device_sees_no_change_where_there_is_none(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        attributes = pty.attributes
        attributes[3] |= 0o200000  # EXTPROC: the master is told of every tcsetattr
        termios.tcsetattr(pty.master, termios.TCSANOW, attributes)
        fcntl.ioctl(pty.master, 0x5420, struct.pack("i", 1))  # TIOCPKT
        os.set_blocking(pty.master, False)
        await port.reconfigure(LINE)
        with pytest.raises(BlockingIOError):
            os.read(pty.master, 1)
        await port.reconfigure(SerialPort(stop_bits=2))
        assert os.read(pty.master, 1)[0] & 0x40  # TIOCPKT_IOCTL


async def test_a_setting_that_the_device_does_not_take_is_refused_and_all_is_as_it_was(pty: Pty) -> None:
    line = SerialPort(baud_rate=1200, flow_control_xonxoff=True)
    async with closing(await opened(pty.path, line), within=5) as port:
        before = pty.attributes
        with pytest.raises(SettingsRefused) as refused:
            await port.reconfigure(SerialPort(baud_rate=19200, data_bits=7, parity=Parity.EVEN, stop_bits=2))
        assert names(refused.value.refusals) == ["DataBits", "Parity"]
        assert str(refused.value) == (
            f"{pty.path}: DataBits: asked for 7, the device keeps 8; Parity: asked for Even, the device keeps None"
        )
        assert pty.attributes == before
        assert port.in_force == port.line == line
        assert port.refused == ()


class SlowPart:
    """A UART that takes every rate without an error, and keeps the old one where it is above 115200."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.best = termios.B115200
        self._get = termios.tcgetattr
        monkeypatch.setattr(termios, "tcgetattr", self.tcgetattr)

    def tcgetattr(self, fd: int) -> list[Any]:
        attributes = self._get(fd)
        attributes[4:6] = [min(attributes[4], self.best), min(attributes[5], self.best)]
        return attributes


async def test_a_rate_taken_without_an_error_but_not_applied_is_refused(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        SlowPart(monkeypatch)
        with pytest.raises(SettingsRefused, match="BaudRate: asked for 230400, the device keeps 9600") as refused:
            await port.reconfigure(SerialPort(baud_rate=230400, stop_bits=2))
        assert names(refused.value.refusals) == ["BaudRate"]
        assert port.in_force == LINE
        assert pty.attributes[5] == termios.B9600
        assert not pty.attributes[2] & termios.CSTOPB
        await port.reconfigure(SerialPort(baud_rate=115200))


async def test_what_was_not_in_force_before_is_no_reason_to_refuse_another_change(pty: Pty) -> None:
    line = SerialPort(parity=Parity.ODD)
    async with closing(await opened(pty.path, line), within=5) as port:
        await port.reconfigure(replace(line, baud_rate=2400))
        assert port.in_force == SerialPort(baud_rate=2400)
        assert names(port.refused) == ["Parity"]
        with pytest.raises(SettingsRefused) as refused:
            await port.reconfigure(replace(line, parity=Parity.MARK))
        assert names(refused.value.refusals) == ["Parity"]
        assert port.in_force == SerialPort(baud_rate=2400)
        assert names(port.refused) == ["Parity"]
        await port.reconfigure(LINE)
        assert port.refused == ()


async def test_the_same_settings_again_try_what_was_refused_once_more(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = SlowPart(monkeypatch)
    line = SerialPort(baud_rate=460800)
    async with closing(await opened(pty.path, line), within=5) as port:
        assert names(port.refused) == ["BaudRate"]
        await port.reconfigure(line)
        assert names(port.refused) == ["BaudRate"]
        part.best = termios.B460800
        await port.reconfigure(line)
        assert port.refused == ()
        assert pty.attributes[5] == termios.B460800


async def test_a_way_between_two_good_formats_that_leads_over_a_bad_one_is_found(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on STM32: seven bits only with parity. A pty has neither, so this driver keeps the two flags itself."""
    real_get, real_set, held = termios.tcgetattr, termios.tcsetattr, {"bits": termios.CS8}
    ours = termios.CSIZE | termios.PARENB

    def get(fd: int) -> list[Any]:
        attributes = real_get(fd)
        attributes[2] = attributes[2] & ~ours | held["bits"]
        return attributes

    def put(fd: int, when: int, attributes: list[Any]) -> None:
        if attributes[2] & ours == termios.CS7:
            raise termios.error(errno.EINVAL, "Invalid argument")
        held["bits"] = attributes[2] & ours
        plain = attributes[2] & ~ours | termios.CS8
        real_set(fd, when, [*attributes[:2], plain, *attributes[3:]])

    monkeypatch.setattr(termios, "tcgetattr", get)
    monkeypatch.setattr(termios, "tcsetattr", put)
    seven = SerialPort(data_bits=7, parity=Parity.EVEN)
    async with closing(await opened(pty.path, seven), within=5) as port:
        assert port.refused == ()
        await port.reconfigure(LINE)
        assert port.in_force == LINE
        await port.reconfigure(seven)
        assert port.in_force == seven


def rate_of(fd: int) -> int:
    """Ask the kernel for the rate as a number (TCGETS2)."""
    return int(struct.unpack("4IB19s2I", fcntl.ioctl(fd, 0x802C542A, bytes(44)))[-1])


@pytest.mark.parametrize("rate", [250000, 12345, 74880, 3000001])
async def test_a_rate_without_a_name_is_set_read_back_and_left_again(pty: Pty, rate: int) -> None:
    custom = SerialPort(baud_rate=rate, data_bits=7, stop_bits=2, flow_control_xonxoff=True)
    async with closing(await opened(pty.path, custom), within=5) as port:
        assert rate_of(pty.master) == rate
        assert port.in_force.baud_rate == rate
        assert "BaudRate" not in names(port.refused)
        assert pty.attributes[0] & termios.IXON
        assert pty.attributes[2] & termios.CSTOPB
        assert not port.wants(custom)
        await port.reconfigure(LINE)
        assert (rate_of(pty.master), pty.attributes[5]) == (9600, termios.B9600)
        await port.reconfigure(replace(LINE, baud_rate=rate))
        assert rate_of(pty.master) == rate
        await port.reconfigure(replace(LINE, baud_rate=rate + 100_000))
        assert rate_of(pty.master) == rate + 100_000


async def test_a_rate_that_the_driver_meets_within_its_tolerance_is_in_force(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tty.Tty, "_rate", lambda _: 255_000)
    async with closing(await opened(pty.path, SerialPort(baud_rate=250_000)), within=5) as port:
        assert port.in_force.baud_rate == 250_000
        monkeypatch.setattr(tty.Tty, "_rate", lambda _: 255_001)
        port.read_back(SerialPort(baud_rate=250_000))
        assert port.in_force.baud_rate == 255_001
        assert names(port.refused) == ["BaudRate"]


async def test_a_rate_that_another_program_set_is_shown_as_it_is(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        known = list(struct.unpack("4IB19s2I", fcntl.ioctl(pty.master, 0x802C542A, bytes(44))))
        known[2], known[6], known[7] = known[2] & ~0o010017 | 0o010000, 31_250, 31_250
        fcntl.ioctl(pty.master, 0x402C542B, struct.pack("4IB19s2I", *known))
        assert port.wants(LINE)
        assert port.in_force.baud_rate == 31_250
        assert names(port.refused) == ["BaudRate"]


async def test_a_line_that_is_hung_up_has_no_rate_to_wait_by(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    real = termios.tcgetattr
    monkeypatch.setattr(termios, "tcgetattr", lambda fd: [*real(fd)[:4], termios.B0, termios.B0, real(fd)[6]])
    async with closing(await opened(pty.path, LINE), within=5) as port:
        assert port.in_force.baud_rate == 0
        assert port.timing == LINE
        assert names(port.refused) == ["BaudRate"]
        with pytest.raises(SettingsRefused):
            await port.reconfigure(SerialPort(baud_rate=300))


# RS-485


@pytest.mark.parametrize("mode", PortMode)
@pytest.mark.parametrize("termination", [False, True])
async def test_each_mode_is_set_in_the_driver_and_read_back(
    pty: Pty, driver: Driver, mode: PortMode, termination: bool
) -> None:
    driver.offers, driver.control = {TIOCGRS485, TIOCSRS485}, (0b100, 7, 8, 0, 0, 0, 0, 0)
    line = SerialPort(port_mode=mode, termination=termination)
    async with closing(await opened(pty.path, line)) as port:
        assert port.refused == ()
        assert port.in_force.port_mode is mode
        assert all(told[2:] == (7, 8) and told[1] & 0b100 for told in driver.log)


async def test_changing_the_mode_back_and_forth_keeps_the_boards_delays(pty: Pty, driver: Driver) -> None:
    driver.offers, driver.control = {TIOCGRS485, TIOCSRS485}, (0b101, 7, 8, 0, 0, 0, 0, 0)
    async with closing(await opened(pty.path, LINE), within=5) as port:
        await port.reconfigure(replace(RS485, termination=True))
        await port.reconfigure(replace(RS485, termination=True, baud_rate=230400))
        assert driver.log == [("rs485", 0b100, 7, 8), ("rs485", 0b100101, 7, 8)]


@pytest.mark.parametrize(
    ("line", "lacking", "name"),
    [
        (SerialPort(port_mode=PortMode.RS422), 512, "PortMode"),
        (SerialPort(port_mode=PortMode.RS485_4), 16, "PortMode"),
        (SerialPort(port_mode=PortMode.RS485, termination=True), 32, "Termination"),
    ],
)
async def test_a_flag_that_the_driver_drops_is_refused_and_rolled_back(
    pty: Pty, driver: Driver, line: SerialPort, lacking: int, name: str
) -> None:
    driver.offers = {TIOCGRS485, TIOCSRS485}
    driver.supported &= ~lacking
    async with closing(await opened(pty.path, LINE), within=5) as port:
        with pytest.raises(SettingsRefused) as refused:
            await port.reconfigure(replace(line, baud_rate=300))
        assert names(refused.value.refusals) == [name]
        assert driver.control[0] == 0
        assert pty.attributes[5] == termios.B9600


async def test_a_driver_that_shows_rs485_but_cannot_set_it_keeps_rs232(pty: Pty, driver: Driver) -> None:
    driver.offers = {TIOCGRS485}
    async with closing(await opened(pty.path, RS485)) as port:
        assert port.refused == (SettingRefusal("PortMode", "asked for RS485, the device keeps RS232"),)


async def test_an_rs485_call_that_fails_for_another_reason_is_an_error(
    pty: Pty, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: int, argument: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    driver.offers = {TIOCGRS485}
    monkeypatch.setattr(driver, "ioctl", fail)
    with pytest.raises(DeviceGone):
        await opened(pty.path, RS485)


async def test_an_adapter_that_switches_by_itself_is_in_the_mode_of_its_wiring(pty: Pty, driver: Driver) -> None:
    driver.offers = {TIOCGRS485, TIOCSRS485}
    config = SerialConfig(pty.path, rs485_automatic=True)
    async with closing(await opened(config, replace(RS485, baud_rate=230400)), within=5) as port:
        assert port.refused == ()
        assert port.in_force.port_mode is PortMode.RS485
        assert driver.log == []
        await port.reconfigure(SerialPort(port_mode=PortMode.RS422))
        assert port.in_force == SerialPort(port_mode=PortMode.RS422)
        assert driver.log == []


# Bias


@pytest.fixture
def switch(tmp_path: Path) -> tuple[tuple[str, ...], Path]:
    """A bias command, and the file that it keeps the state in."""
    state = tmp_path / "states"
    return (
        "/bin/sh",
        "-c",
        f'echo "$0" >> {state}; test ! -e {tmp_path}/broken || {{ echo no gpio >&2; exit 3; }}',
        "{state}",
    ), state


def states(path: Path) -> list[str]:
    return path.read_text().split()


@pytest.fixture
def balanced(driver: Driver) -> Driver:
    driver.offers = {TIOCGRS485, TIOCSRS485}
    return driver


@pytest.mark.usefixtures("balanced")
async def test_bias_is_switched_by_the_hosts_command_when_it_changes(
    pty: Pty, switch: tuple[tuple[str, ...], Path]
) -> None:
    command, path = switch
    async with closing(await opened(pty.path, RS485, command), within=5) as port:
        await port.reconfigure(replace(RS485, bias=True))
        await port.reconfigure(replace(RS485, bias=True, baud_rate=300))
        assert port.in_force.bias
        await port.reconfigure(LINE)
        assert states(path) == ["off", "on", "off"]
        assert port.refused == ()


@pytest.mark.usefixtures("balanced")
async def test_bias_without_a_command_is_refused(pty: Pty) -> None:
    async with closing(await opened(pty.path, RS485), within=5) as port:
        assert port.refused == ()
        with pytest.raises(SettingsRefused, match="Bias: the host configuration gives no bias command"):
            await port.reconfigure(replace(RS485, bias=True))


@pytest.mark.usefixtures("balanced")
async def test_a_bias_that_no_command_has_confirmed_is_unknown_and_not_on(pty: Pty) -> None:
    async with closing(await opened(pty.path, RS485)) as port:
        assert port.settings_in_force["Bias"] is None
        assert not port.in_force.bias
        assert port.refused == ()
    broken = ("/nowhere/bias", "{state}")
    async with closing(await opened(pty.path, RS485, broken)) as port:
        assert port.settings_in_force["Bias"] is None
        assert not port.in_force.bias
        assert names(port.refused) == ["Bias"]


async def test_a_bias_command_that_fails_rolls_everything_back(
    pty: Pty, balanced: Driver, switch: tuple[tuple[str, ...], Path]
) -> None:
    command, path = switch
    async with closing(await opened(pty.path, LINE, command), within=5) as port:
        (path.parent / "broken").touch()
        with pytest.raises(SettingsRefused, match="/bin/sh ended with 3 and said 'no gpio") as refused:
            await port.reconfigure(replace(RS485, bias=True, baud_rate=300))
        assert names(refused.value.refusals) == ["Bias"]
        assert balanced.control[0] == 0
        assert pty.attributes[5] == termios.B9600
        assert states(path) == ["off", "on", "off"]
        (path.parent / "broken").unlink()
        await port.reconfigure(RS485)
        assert port.refused == ()
        assert states(path) == ["off", "on", "off", "off"]


async def test_a_setting_refused_beside_a_new_bias_switches_the_bias_back(
    pty: Pty, balanced: Driver, switch: tuple[tuple[str, ...], Path]
) -> None:
    command, path = switch
    async with closing(await opened(pty.path, RS485, command), within=5) as port:
        with pytest.raises(SettingsRefused):
            await port.reconfigure(replace(RS485, bias=True, parity=Parity.EVEN))
        assert states(path) == ["off", "on", "off"]
        assert port.in_force == RS485


@pytest.mark.usefixtures("balanced")
async def test_a_bias_command_that_is_not_there_leaves_the_port_open(pty: Pty) -> None:
    line = replace(RS485, bias=True)
    async with closing(await opened(pty.path, line, ("/nowhere/bias", "{state}"))) as port:
        assert port.refused == (
            SettingRefusal("Bias", "the bias command /nowhere/bias could not be run: No such file or directory"),
        )


@pytest.mark.usefixtures("balanced")
async def test_a_bias_command_that_hangs_is_stopped(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias, "_DEADLINE", 0.05)
    stubborn = ("/bin/sh", "-c", "trap '' TERM; exec sleep 60")
    async with closing(await opened(pty.path, RS485, stubborn)) as port:
        assert port.refused == (
            SettingRefusal("Bias", "the bias command /bin/sh took longer than 0.05 s and was stopped"),
        )


async def test_a_change_that_is_cancelled_leaves_the_settings_as_they_were(
    pty: Pty, balanced: Driver, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    path = tmp_path / "states"
    script = f'echo "$0" >> {path}; test "$0" = off || read line < {tmp_path}/gate'
    command = ("/bin/sh", "-c", script, "{state}")
    async with closing(await opened(pty.path, LINE, command), within=5) as port:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.reconfigure, replace(RS485, bias=True, baud_rate=300))
            while states(path) != ["off", "on"]:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert pty.attributes[5] == termios.B9600
        assert balanced.control[0] == 0
        assert port.line == port.in_force == LINE
        await port.reconfigure(SerialPort(stop_bits=2))
        assert states(path) == ["off", "on", "off"]  # nobody knew how far the command had come


async def test_a_device_lost_in_the_middle_of_a_change_is_a_loss_not_a_refusal(
    pty: Pty, balanced: Driver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = ("/bin/sh", "-c", f'test "$0" = off || read line < {gate}', "{state}")
    async with closing(await opened(pty.path, LINE, command), within=5) as port:
        lost: list[UartError] = []

        async def change() -> None:
            with pytest.raises(DeviceGone) as gone:
                await port.reconfigure(replace(RS485, bias=True))
            lost.append(gone.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            with await trio.to_thread.run_sync(gate.open, "wb") as opening:
                pty.hang_up()
                opening.write(b"\n")
        assert len(lost) == 1
        assert port.line == LINE
        assert "could not be put back" in caplog.text


# Beside the data


async def test_what_the_driver_counts_is_told(pty: Pty, driver: Driver) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        assert port.counters() is None
        driver.offers = {termios.TIOCGICOUNT}
        assert port.counters() == Counters(
            received=5, sent=6, framing=7, overrun=8, parity=9, breaks=10, buffer_overrun=11
        )


async def test_a_pty_says_that_it_has_no_modem_lines_nor_a_break(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        sentence = f"{pty.path}: this device has no modem lines"
        with pytest.raises(UartError, match=sentence):
            port.modem_lines()
        with pytest.raises(UartError, match=sentence):
            port.set_modem_lines(False, None)
        with pytest.raises(UartError, match=sentence):
            port.set_modem_lines(None, True)
        with pytest.raises(UartError, match=sentence):
            await port.send_break(0.1)


async def test_modem_lines_of_a_device_that_is_gone_are_a_loss_not_a_lack(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        pty.hang_up()
        with pytest.raises(DeviceGone):
            port.modem_lines()


async def test_modem_lines_are_read_and_set_one_by_one(pty: Pty, driver: Driver) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        driver.offers = {termios.TIOCMGET, termios.TIOCMBIS, termios.TIOCMBIC}
        driver.lines = termios.TIOCM_DTR | termios.TIOCM_CTS | termios.TIOCM_RI
        assert port.modem_lines() == ModemLines(dtr=True, rts=False, cts=True, dsr=False, ri=True, dcd=False)
        port.set_modem_lines(False, None)
        port.set_modem_lines(None, True)
        assert driver.log == [(termios.TIOCMBIC, termios.TIOCM_DTR), (termios.TIOCMBIS, termios.TIOCM_RTS)]


async def test_a_break_lasts_as_long_as_it_was_asked_for_and_ends_when_cancelled(
    pty: Pty, driver: Driver, autojump_clock: MockClock
) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        driver.offers = {termios.TIOCMGET, TIOCSBRK, TIOCCBRK}
        begun = trio.current_time()
        await port.send_break(0.25)
        assert trio.current_time() - begun == pytest.approx(0.25)
        with trio.move_on_after(1):
            await port.send_break(60)
        assert driver.log == [TIOCSBRK, TIOCCBRK] * 2


async def test_a_break_waits_for_what_was_written_and_is_not_sent_into_a_stuck_line(
    pty: Pty, driver: Driver, autojump_clock: MockClock
) -> None:
    async with closing(await opened(pty.path, LINE)) as port:
        driver.offers, driver.queue = {termios.TIOCMGET, TIOCSBRK, TIOCCBRK, termios.TIOCOUTQ}, [10]
        port.send_nowait(bytes(10))
        with pytest.raises(UartError, match="no break was sent"):
            await port.send_break(0.25)
        assert driver.log == []
        assert port.discarded == 0
