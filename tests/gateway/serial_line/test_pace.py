"""A line is paced by what was written, and by what the driver says where flow control may hold it."""

from __future__ import annotations

import errno
import itertools
import math
import termios
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.port.bus import Bus
from gateway.serial_line.arbiter import Arbiter
from protocol.parameters.settings import SerialPort
from tests.gateway.line import Writer, closed, opened, serial_line
from tests.sharing.driver import cdc_acm, ftdi_sio, plugged, serial_core

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from tests.sharing.driver import Driver

MODELS = pytest.mark.parametrize("made", [serial_core, ftdi_sio, cdc_acm], ids=lambda made: str(made.__name__))


@asynccontextmanager
async def line(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, rate: int, *, paced: bool = True
) -> AsyncIterator[Arbiter]:
    """Open ``driver`` at ``rate``; all that was written is on the wire when the block has ended."""
    async with plugged(monkeypatch, driver):
        uart = await opened(replace(driver.config, paced=paced), SerialPort(baud_rate=rate))
        turns = Arbiter(uart, Bus("P0"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            yield turns
            turns.end("over")
        await trio.sleep(len(driver.queue) / driver.rate)
        driver.advance()
        await closed(uart)


@MODELS
@pytest.mark.parametrize(("rate", "portion"), [(1200, 16), (9600, 96), (115200, 1152)])
async def test_a_transfer_goes_in_portions_of_a_tenth_of_a_second_though_nobody_waits_and_the_wire_is_never_idle(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, made: Callable[[], Driver], rate: int, portion: int
) -> None:
    driver, data = made(), bytes(portion * 12)
    async with line(monkeypatch, driver, rate) as turns:
        await turns.transfer(data, Writer(), trio.current_time())
    assert [len(each) for _, each in driver.writes] == [portion] * 12
    assert [each for _, each in driver.wire] == [data]
    assert driver.most <= portion + 0.02 * driver.rate + 1, "no more than 20 ms of line waits before a write"


@MODELS
@pytest.mark.parametrize("rate", [1200, 9600])
async def test_a_message_goes_to_the_kernel_in_one_write_and_over_the_wire_without_a_gap(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, made: Callable[[], Driver], rate: int
) -> None:
    driver, messages = made(), [bytes([letter]) * 600 for letter in b"abc"]
    async with line(monkeypatch, driver, rate) as turns, trio.open_nursery() as nursery:
        for message in messages:
            nursery.start_soon(turns.write, message, Writer(age_limit=math.inf), trio.current_time())
            await trio.testing.wait_all_tasks_blocked()
    assert [each for _, each in driver.writes] == messages
    assert driver.sent == b"".join(messages)
    for message in messages:
        times = [time for time, byte in zip(driver.times, driver.sent, strict=True) if byte == message[0]]
        assert times[-1] - times[0] == pytest.approx(599 / driver.rate)


async def test_what_is_no_uart_goes_at_full_speed_where_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver, data = cdc_acm(), bytes(20_000)
    async with line(monkeypatch, driver, 9600, paced=False) as turns:
        began = trio.current_time()
        await turns.transfer(data, Writer(), began)
        assert trio.current_time() == began
    assert [len(each) for _, each in driver.writes] == [20_000]


async def test_a_pty_goes_at_full_speed_whatever_its_rate() -> None:
    async with serial_line() as port:
        assert not port.uart.is_paced


async def test_a_driver_that_fails_to_tell_what_waits_keeps_nobody_from_writing_and_the_count_alone_paces(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver, asked = serial_core(), []
    ioctl = driver.ioctl

    def fail(request: int, argument: Any) -> Any:
        if request == termios.TIOCOUTQ:
            asked.append(request)
            raise OSError(errno.EIO, "Input/output error")
        return ioctl(request, argument)

    async with plugged(monkeypatch, driver):
        uart = await opened(driver.config, SerialPort(baud_rate=9600, flow_control_rtscts=True))
        turns, writer = Arbiter(uart, Bus("P0")), Writer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            monkeypatch.setattr(driver, "ioctl", fail)
            for number in range(4):
                await turns.write(b"%d" % number * 48, writer, trio.current_time())
            turns.end("over")
        monkeypatch.setattr(driver, "ioctl", ioctl)
        await trio.sleep(1)
        driver.advance()
        await closed(uart)
    assert asked, "flow control may hold the line, which only the driver can tell"
    assert driver.sent == b"0" * 48 + b"1" * 48 + b"2" * 48 + b"3" * 48
    begun = [time for time, _ in driver.writes]
    assert [after - before for before, after in itertools.pairwise(begun)] == pytest.approx([0.03, 0.05, 0.05])
