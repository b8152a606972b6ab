"""Settings over real ptys: what was asked for is in force, or the reason is told and all is as it was."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from gateway.host.config import SerialConfig
from gateway.serial_line import bias, tty
from gateway.serial_line.settings_in_force import SettingRefusal, SettingsRefused
from gateway.serial_line.uart import DeviceGone, UartError
from protocol.parameters.hardware import PortMode
from protocol.parameters.settings import Parity, SerialPort
from tests.gateway.line import opened, received
from tests.gateway.serial_line.pty_line import LINE, TIOCGRS485, TIOCSRS485, Driver, Pty, closing, driver, names, pty

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

__all__ = ["driver", "pty"]

RS485 = SerialPort(port_mode=PortMode.RS485)


# Changing them


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
        assert port.settings.in_force == port.settings.wanted == SerialPort(baud_rate=115200, stop_bits=2)


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
        assert port.settings.in_force == port.settings.wanted == line
        assert port.settings.refused == ()


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
        assert port.settings.in_force == LINE
        assert pty.attributes[5] == termios.B9600
        assert not pty.attributes[2] & termios.CSTOPB
        await port.reconfigure(SerialPort(baud_rate=115200))


async def test_what_was_not_in_force_before_is_no_reason_to_refuse_another_change(pty: Pty) -> None:
    line = SerialPort(parity=Parity.ODD)
    async with closing(await opened(pty.path, line), within=5) as port:
        await port.reconfigure(replace(line, baud_rate=2400))
        assert port.settings.in_force == SerialPort(baud_rate=2400)
        assert names(port.settings.refused) == ["Parity"]
        with pytest.raises(SettingsRefused) as refused:
            await port.reconfigure(replace(line, parity=Parity.MARK))
        assert names(refused.value.refusals) == ["Parity"]
        assert port.settings.in_force == SerialPort(baud_rate=2400)
        assert names(port.settings.refused) == ["Parity"]
        await port.reconfigure(LINE)
        assert port.settings.refused == ()


async def test_the_same_settings_again_try_what_was_refused_once_more(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = SlowPart(monkeypatch)
    line = SerialPort(baud_rate=460800)
    async with closing(await opened(pty.path, line), within=5) as port:
        assert names(port.settings.refused) == ["BaudRate"]
        await port.reconfigure(line)
        assert names(port.settings.refused) == ["BaudRate"]
        part.best = termios.B460800
        await port.reconfigure(line)
        assert port.settings.refused == ()
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
        assert port.settings.refused == ()
        await port.reconfigure(LINE)
        assert port.settings.in_force == LINE
        await port.reconfigure(seven)
        assert port.settings.in_force == seven


def rate_of(fd: int) -> int:
    """Ask the kernel for the rate as a number (TCGETS2)."""
    return int(struct.unpack("4IB19s2I", fcntl.ioctl(fd, 0x802C542A, bytes(44)))[-1])


@pytest.mark.parametrize("rate", [250000, 12345, 74880, 3000001])
async def test_a_rate_without_a_name_is_set_read_back_and_left_again(pty: Pty, rate: int) -> None:
    custom = SerialPort(baud_rate=rate, data_bits=7, stop_bits=2, flow_control_xonxoff=True)
    async with closing(await opened(pty.path, custom), within=5) as port:
        assert rate_of(pty.master) == rate
        assert port.settings.in_force.baud_rate == rate
        assert "BaudRate" not in names(port.settings.refused)
        assert pty.attributes[0] & termios.IXON
        assert pty.attributes[2] & termios.CSTOPB
        assert not port.settings.wants(custom)
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
        assert port.settings.in_force.baud_rate == 250_000
        monkeypatch.setattr(tty.Tty, "_rate", lambda _: 255_001)
        port.settings.read_back(SerialPort(baud_rate=250_000))
        assert port.settings.in_force.baud_rate == 255_001
        assert names(port.settings.refused) == ["BaudRate"]


async def test_a_rate_that_another_program_set_is_shown_as_it_is(pty: Pty) -> None:
    async with closing(await opened(pty.path, LINE), within=5) as port:
        known = list(struct.unpack("4IB19s2I", fcntl.ioctl(pty.master, 0x802C542A, bytes(44))))
        known[2], known[6], known[7] = known[2] & ~0o010017 | 0o010000, 31_250, 31_250
        fcntl.ioctl(pty.master, 0x402C542B, struct.pack("4IB19s2I", *known))
        assert port.settings.wants(LINE)
        assert port.settings.in_force.baud_rate == 31_250
        assert names(port.settings.refused) == ["BaudRate"]


async def test_a_line_that_is_hung_up_has_no_rate_to_wait_by(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    real = termios.tcgetattr
    monkeypatch.setattr(termios, "tcgetattr", lambda fd: [*real(fd)[:4], termios.B0, termios.B0, real(fd)[6]])
    async with closing(await opened(pty.path, LINE), within=5) as port:
        assert port.settings.in_force.baud_rate == 0
        assert port.settings.timing == LINE
        assert names(port.settings.refused) == ["BaudRate"]
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
        assert port.settings.refused == ()
        assert port.settings.in_force.port_mode is mode
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
        assert port.settings.refused == (SettingRefusal("PortMode", "asked for RS485, the device keeps RS232"),)


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
        assert port.settings.refused == ()
        assert port.settings.in_force.port_mode is PortMode.RS485
        assert driver.log == []
        await port.reconfigure(SerialPort(port_mode=PortMode.RS422))
        assert port.settings.in_force == SerialPort(port_mode=PortMode.RS422)
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
        assert port.settings.in_force.bias
        await port.reconfigure(LINE)
        assert states(path) == ["off", "on", "off"]
        assert port.settings.refused == ()


@pytest.mark.usefixtures("balanced")
async def test_bias_without_a_command_is_refused(pty: Pty) -> None:
    async with closing(await opened(pty.path, RS485), within=5) as port:
        assert port.settings.refused == ()
        with pytest.raises(SettingsRefused, match="Bias: the host configuration gives no bias command"):
            await port.reconfigure(replace(RS485, bias=True))


@pytest.mark.usefixtures("balanced")
async def test_a_bias_that_no_command_has_confirmed_is_unknown_and_not_on(pty: Pty) -> None:
    async with closing(await opened(pty.path, RS485)) as port:
        assert port.settings.by_name["Bias"] is None
        assert not port.settings.in_force.bias
        assert port.settings.refused == ()
    broken = ("/nowhere/bias", "{state}")
    async with closing(await opened(pty.path, RS485, broken)) as port:
        assert port.settings.by_name["Bias"] is None
        assert not port.settings.in_force.bias
        assert names(port.settings.refused) == ["Bias"]


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
        assert port.settings.refused == ()
        assert states(path) == ["off", "on", "off", "off"]


async def test_a_setting_refused_beside_a_new_bias_switches_the_bias_back(
    pty: Pty, balanced: Driver, switch: tuple[tuple[str, ...], Path]
) -> None:
    command, path = switch
    async with closing(await opened(pty.path, RS485, command), within=5) as port:
        with pytest.raises(SettingsRefused):
            await port.reconfigure(replace(RS485, bias=True, parity=Parity.EVEN))
        assert states(path) == ["off", "on", "off"]
        assert port.settings.in_force == RS485


@pytest.mark.usefixtures("balanced")
async def test_a_bias_command_that_is_not_there_leaves_the_port_open(pty: Pty) -> None:
    line = replace(RS485, bias=True)
    async with closing(await opened(pty.path, line, ("/nowhere/bias", "{state}"))) as port:
        assert port.settings.refused == (
            SettingRefusal("Bias", "the bias command /nowhere/bias could not be run: No such file or directory"),
        )


@pytest.mark.usefixtures("balanced")
async def test_a_bias_command_that_hangs_is_stopped(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias, "_DEADLINE", 0.05)
    stubborn = ("/bin/sh", "-c", "trap '' TERM; exec sleep 60")
    async with closing(await opened(pty.path, RS485, stubborn)) as port:
        assert port.settings.refused == (
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
        assert port.settings.wanted == port.settings.in_force == LINE
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
        assert port.settings.wanted == LINE
        assert "could not be put back" in caplog.text
