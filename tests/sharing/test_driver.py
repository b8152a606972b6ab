"""The models of drivers behave as was measured on the real ones, and tell when each byte was on the wire."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from protocol.parameters.settings import SerialPort
from tests.gateway.line import closed, opened, received
from tests.sharing.driver import cdc_acm, ftdi_sio, plugged, serial_core

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from gateway.serial_line.uart import Uart
    from tests.sharing.driver import Driver

MANY = bytes(20_000)


@asynccontextmanager
async def opened_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver, rate: int = 9600) -> AsyncIterator[Uart]:
    async with plugged(monkeypatch, driver):
        uart = await opened(driver.config, SerialPort(baud_rate=rate))
        try:
            yield uart
        finally:
            await closed(uart)


async def test_serial_core_takes_4095_bytes_and_is_writable_when_255_of_them_wait(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with opened_driver(monkeypatch, driver) as uart:
        began = trio.current_time()
        assert (uart.send_nowait(MANY), uart.send_nowait(MANY)) == (4095, 0)
        assert uart.queue.waiting() == 4095
        await uart.writable()
        assert trio.current_time() - began == pytest.approx((4095 - 255) / 960)
        assert uart.queue.waiting() == 255
        await trio.sleep(100 / 960)
        assert uart.queue.waiting() == 155
        assert driver.most == 4095


async def test_serial_core_takes_more_while_it_is_not_writable(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with opened_driver(monkeypatch, serial_core()) as uart:
        began = trio.current_time()
        assert uart.send_nowait(bytes(256)) == 256
        await uart.writable()
        assert trio.current_time() - began == pytest.approx(1 / 960)
        assert uart.send_nowait(bytes(100)) == 100


async def test_ftdi_sio_takes_4608_bytes_and_counts_a_block_until_all_of_it_is_carried(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with opened_driver(monkeypatch, ftdi_sio()) as uart:
        began = trio.current_time()
        assert (uart.send_nowait(MANY), uart.send_nowait(MANY)) == (4608, 0)
        await trio.sleep(255 / 960 + 0.0001)
        assert uart.queue.waiting() == 4608
        await trio.sleep(1 / 960)
        assert uart.queue.waiting() == 4608 - 256
        await uart.writable()
        assert trio.current_time() - began == pytest.approx(4.8)
        assert uart.queue.waiting() == 0


async def test_a_driver_that_tells_of_nothing_takes_twenty_seconds_of_line(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = cdc_acm()
    async with opened_driver(monkeypatch, driver) as uart:
        assert uart.send_nowait(MANY) == 20_000
        assert uart.queue.waiting() == 0
        await uart.writable()
        await trio.sleep(20)
        assert uart.send_nowait(b"!") == 1
        assert len(driver.sent) == 20 * 960
        await trio.sleep(1)


@pytest.mark.parametrize(("rate", "seconds"), [(1200, 8 / 120), (9600, 8 / 960), (115200, 8 / 11520)])
async def test_the_wire_shows_when_each_message_had_left_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, rate: int, seconds: float
) -> None:
    driver = serial_core()
    async with opened_driver(monkeypatch, driver, rate) as uart:
        began = trio.current_time()
        uart.send_nowait(b"pan left")
        uart.send_nowait(b"tilt now")
        await trio.sleep(5)
        uart.send_nowait(b"stop it!")
        await trio.sleep(5)
        driver.advance()
        assert driver.left(b"pan left") - began == pytest.approx(seconds)
        assert driver.left(b"tilt now") - began == pytest.approx(2 * seconds)
        (first, both), (second, alone) = driver.wire
        assert (both, alone) == (b"pan lefttilt now", b"stop it!")
        assert (first - began, second - began) == pytest.approx((2 * seconds, 5 + seconds))


async def test_a_line_that_is_held_carries_nothing_and_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with opened_driver(monkeypatch, driver) as uart:
        began = trio.current_time()
        uart.send_nowait(bytes(960))
        await trio.sleep(0.5)
        driver.hold(True)
        await trio.sleep(10)
        assert uart.queue.waiting() == 480
        driver.hold(False)
        await uart.writable()
        assert trio.current_time() - began == pytest.approx(10 + (960 - 255) / 960)


async def test_another_rate_is_that_of_what_waits_too(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with opened_driver(monkeypatch, driver, 1200) as uart:
        began = trio.current_time()
        uart.send_nowait(bytes(360))
        await trio.sleep(1)
        assert uart.queue.waiting() == 240
        attributes = driver.tcgetattr()
        attributes[5] = 13  # B9600
        driver.tcsetattr(attributes)
        await trio.sleep(240 / 960)
        assert uart.queue.waiting() == 0
        assert driver.times[-1] - began == pytest.approx(1.25)


async def test_every_byte_that_the_line_says_is_heard_as_it_is(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with opened_driver(monkeypatch, driver) as uart:
        driver.say(bytes(range(256)))
        assert await received(uart) == bytes(range(256))
