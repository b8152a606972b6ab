"""A device that is open on demand: who has it opened, who does not, and what nobody notices of that."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.host.config import PortConfig, SerialConfig, TtyConfig
from gateway.port.bus import Bus
from gateway.port.control import Configure
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.device import SerialDevice
from gateway.tasks.reconcile import Unit
from protocol.parameters.settings import Serial, SerialPort, Settings
from tests.gateway.cli.test_operator_commands import config_of
from tests.gateway.line import ALL
from tests.helpers import FarEnd, lines, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.port.router import Session

AT_ONCE = 0.0


def is_open(end: FarEnd) -> bool:
    """Return whether anybody has the line's device open."""
    poll = select.poll()
    poll.register(end.master, 0)
    return not poll.poll(0)


async def becomes(predicate: Callable[[], bool]) -> None:
    while not predicate():  # noqa: ASYNC110 -- the kernel has no event for it
        await trio.sleep(0.001)


class Port:
    def __init__(self, bus: Bus, device: SerialDevice, end: FarEnd, unit: Unit) -> None:
        self.bus, self.device, self.end, self.unit = bus, device, end, unit
        self._handle = Router({"P0": bus}).grant("P0", ALL, "tests")

    def session(self, write: Right, *, needs: bool | None = None) -> Session:
        return self._handle.attenuate(ALL, "a client").open(write, needs=needs)


@contextlib.asynccontextmanager
async def sleeping(directory: Path, close_after: float) -> AsyncIterator[Port]:
    with lines(directory, 1) as (end,):
        bus = Bus("P0")
        config = SerialConfig(str(end.path), on_demand=True, close_after=close_after)
        port = Port(bus, SerialDevice(bus, 1, config, SerialPort()), end, Unit("P0 Ser1", lambda: None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.device.run, port.unit)
            await port.unit.settled.wait()
            yield port
            port.unit.scope.cancel()


async def test_it_is_closed_until_a_writer_comes_and_after_the_last_has_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with trio.fail_after(5):
        async with sleeping(tmp_path, AT_ONCE) as port:
            assert (port.unit.state, port.bus.state.value.word) == ("up", "closed")
            assert port.bus.down == "closed until somebody needs it"
            assert not is_open(port.end)
            first, second = port.session(Right.TCP), port.session(Right.PTZ)
            await first.woken()
            assert is_open(port.end)
            await first.write(b"one")
            first.close()
            await trio.testing.wait_all_tasks_blocked()
            assert port.bus.down is None
            await second.write(b"two")
            assert await port.end.hear(6) == b"onetwo"
            second.close()
            await becomes(lambda: not is_open(port.end))
            assert port.bus.state.value.word == "closed"
            assert port.device.totals == (6, 0)
            third = port.session(Right.CGI)
            await third.woken()
            await third.write(b"three")
            assert await port.end.hear(5) == b"three"
            assert port.device.totals == (11, 0)
            third.close()
    assert "tty1: closed until somebody needs it" in caplog.text
    assert "tty1: opened" in caplog.text


async def test_who_only_listens_does_not_open_it_but_a_link_does(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with sleeping(tmp_path, AT_ONCE) as port:
            monitor, buffer = port.session(Right(0)), port.session(Right.CGI, needs=False)
            await monitor.woken()
            await trio.testing.wait_all_tasks_blocked()
            assert not is_open(port.end)
            with pytest.raises(PortDown, match="closed until somebody needs it"):
                await buffer.write(b"x")
            link = port.session(Right(0), needs=True)
            await becomes(lambda: port.bus.down is None)
            link.end("it was revoked")
            await becomes(lambda: not is_open(port.end))
            link.close()
            assert port.bus.needs.value == 0


async def test_it_stays_open_for_as_long_as_the_host_says(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with sleeping(tmp_path, 3600) as port:
            session = port.session(Right.TCP)
            await session.woken()
            session.close()
            await trio.testing.wait_all_tasks_blocked()
            assert port.bus.down is None
            again = port.session(Right.TCP)
            await again.write(b"at once")
            assert await port.end.hear(7) == b"at once"


async def test_who_comes_while_it_is_being_closed_waits_for_the_next_opening(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with sleeping(tmp_path, AT_ONCE) as port:
            for number in range(20):
                session = port.session(Right.TCP)
                await session.woken()
                await session.write(b"%02d" % number)
                assert await port.end.hear(2) == b"%02d" % number
                session.close()
                await becomes(lambda: port.bus.down is not None)
            assert port.device.totals == (40, 0)


async def test_a_device_that_is_not_there_is_known_when_somebody_needs_it_and_found_when_it_is_back(
    tmp_path: Path,
) -> None:
    with trio.fail_after(10):
        async with sleeping(tmp_path, AT_ONCE) as port:
            port.end.unplug()
            session = port.session(Right.TCP)
            await session.woken()
            assert port.bus.state.value.word == "down"
            assert "no such device" in (port.bus.down or "")
            session.close()
            # Nobody needs it any more, and so nobody looks for it.
            await becomes(lambda: port.bus.state.value.word == "closed")
            port.end.plug()
            session = port.session(Right.TCP)
            await session.woken()
            await becomes(lambda: port.bus.down is None)
            session.close()


async def test_settings_that_come_while_it_is_closed_are_in_force_when_it_is_open(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with sleeping(tmp_path, AT_ONCE) as port:
            faster = SerialPort(baud_rate=19200)
            assert await port.device.adjust(Settings(serial=Serial(ports=(faster,)))) == ()
            assert port.device.in_force is None
            session = port.session(Right.TCP)
            await session.woken()
            assert port.device.in_force == faster
            session.close()


async def test_a_port_that_ends_while_it_is_closed_keeps_nobody_waiting(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with sleeping(tmp_path, AT_ONCE) as port:
            port.unit.scope.cancel()
            await becomes(lambda: not port.bus.state.value.asleep)
            session = port.session(Right.TCP)
            await session.woken()
            assert "is closing" in (port.bus.down or "")


async def test_a_gateway_opens_it_for_clients_whose_first_bytes_wait_for_that(tmp_path: Path) -> None:
    serial = (SerialConfig(str(tmp_path / "tty1"), on_demand=True, close_after=AT_ONCE),)
    with trio.fail_after(20):
        async with running_gateway(tmp_path, serial=serial) as gateway:
            tcp, (end,) = await gateway.open_tcp(SerialCGI_Enabled="yes"), gateway.lines
            status = await gateway.status()
            assert (status["state"], status["reason"]) == ("closed", "closed until somebody needs it")
            assert set(status["services"].values()) == {"up"}
            assert await gateway.curl("/daisyport/health/P0") == "ok\n"
            assert 'daisyport_port_up{port="P0"} 1\n' in await gateway.curl("/metrics")
            assert "closed until somebody needs it" in await gateway.curl("/axis-cgi/com/serial.cgi?read=1&timeout=1")
            assert not is_open(end)
            async with await trio.open_tcp_stream("127.0.0.1", tcp) as client:
                await client.send_all(b"AT\r")
                assert await end.hear(3) == b"AT\r"
                assert (await gateway.status())["state"] == "up"
            await becomes(lambda: not is_open(end))
            await gateway.curl("/axis-cgi/com/serial.cgi?write=42540D")
            assert await end.hear(3) == b"BT\r"
            await becomes(lambda: not is_open(end))
            # Nobody has it then: a local program may have it for itself.
            stty = await trio.run_process(["stty", "-F", str(end.path)], capture_stdout=True)
            assert b"speed 9600 baud" in stty.stdout


async def test_what_a_session_held_is_put_back_when_it_is_closed_and_not_found_at_the_next_opening(
    tmp_path: Path,
) -> None:
    with trio.fail_after(5):
        async with sleeping(tmp_path, AT_ONCE) as port:
            for _ in range(3):
                session = port.session(Right.TCP)
                await session.woken()
                assert port.device.in_force == SerialPort()
                await session.control(Configure((("BaudRate", "19200"),)))
                assert port.device.in_force == SerialPort(baud_rate=19200)
                session.close()
                await becomes(lambda: not is_open(port.end))


async def test_a_program_at_the_tty_of_the_port_opens_it_and_a_watcher_of_the_port_does_not(short_path: Path) -> None:
    serial = (SerialConfig(str(short_path / "tty1"), on_demand=True, close_after=AT_ONCE),)
    path = short_path / "tty-P0"
    with trio.fail_after(20):
        async with running_gateway(short_path, serial=serial, sharing=(PortConfig(tty=TtyConfig((str(path),))),)) as at:
            (end,) = at.lines
            await becomes(path.exists)
            monitor = await trio.lowlevel.open_process(
                [sys.executable, "-m", "gateway", "connect", "P0", "--monitor", "--config", str(config_of(at))],
                stdin=-3,
            )
            await at.until(lambda status: len(status["clients"]) == 1)
            assert not is_open(end)
            program = os.open(path, os.O_RDWR | os.O_NOCTTY)
            os.write(program, b"AT\r")
            assert await end.hear(3) == b"AT\r"
            os.close(program)
            await becomes(lambda: not is_open(end))
            monitor.terminate()
            await monitor.wait()
