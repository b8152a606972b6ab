"""Settings change beside writers on a slow line: refused while it is busy, or in force, and no byte is thrown away."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.port.bus import Bus
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.device import SerialDevice
from gateway.tasks.reconcile import Unit
from protocol.parameters.settings import Serial, SerialPort, Settings
from tests.gateway.line import ALL, real_time
from tests.sharing.driver import ftdi_sio, plugged, serial_core

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from tests.sharing.driver import Driver


async def _keep(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


@pytest.mark.parametrize("made", [serial_core, ftdi_sio], ids=lambda made: str(made.__name__))
@pytest.mark.parametrize("size", [40, 1100, 4096])
async def test_a_change_beside_whole_messages_on_a_line_that_moves_throws_nothing_away(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, made: Callable[[], Driver], size: int
) -> None:
    driver, line, bus = made(), SerialPort(), Bus("P0")
    device, unit = SerialDevice(bus, 1, driver.config, line), Unit("P0 Ser1", lambda: None)
    async with plugged(monkeypatch, driver), trio.open_nursery() as nursery:
        with real_time():
            nursery.start_soon(device.run, unit)
            await unit.settled.wait()
        handle = Router({"P0": bus}).grant("P0", ALL, "service")

        async def write(name: str) -> None:
            session = handle.attenuate(Right.READ | Right.TCP, name).open(Right.TCP)
            while True:
                with contextlib.suppress(PortDown):
                    await session.write(bytes(size))

        writers: trio.Nursery = await nursery.start(_keep)
        writers.start_soon(write, "first")
        writers.start_soon(write, "second")
        for change in range(8):
            await trio.sleep(1.37)
            changed = replace(line, stop_bits=1 + change % 2)
            began = trio.current_time()
            refused = await device.adjust(Settings(serial=Serial(ports=(changed,))))
            assert trio.current_time() - began < 2.0
            assert all("busy" in str(refusal.why) for refusal in refused)
            assert device.totals[1] == 0, "the line moved all the while"
        writers.cancel_scope.cancel()
        await trio.sleep(30)
        driver.advance()
        with real_time():
            unit.scope.cancel()
    assert driver.taken == len(driver.sent)
