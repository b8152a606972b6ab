from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from gateway.host.config import SerialConfig
from gateway.port.bus import Bus
from gateway.port.line import PortDown
from gateway.serial_line.device import SerialDevice
from gateway.tasks.reconcile import Unit
from gateway.web.control import events
from protocol.parameters.hardware import PortMode
from protocol.parameters.settings import Parity, Serial, SerialPort, Settings
from tests.gateway.line import Writer
from tests.helpers import FarEnd, lines, no_descriptor_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LINE = SerialPort()


def settings_of(line: SerialPort) -> Settings:
    return Settings(serial=Serial(ports=(line,)))


@asynccontextmanager
async def running(
    directory: Path, line: SerialPort = LINE, **config: Any
) -> AsyncIterator[tuple[SerialDevice, Bus, FarEnd, Unit]]:
    with lines(directory, 1) as (end,):
        bus = Bus("P0")
        device = SerialDevice(bus, 1, SerialConfig(str(end.path), **config), line)
        unit = Unit("P0 Ser1", lambda: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run, unit)
            await unit.settled.wait()
            yield device, bus, end, unit
            unit.scope.cancel()


async def reconnected(bus: Bus, unit: Unit) -> None:
    while bus.down is not None or unit.state != "up":
        await trio.lowlevel.checkpoint()


async def test_what_the_line_says_goes_to_the_bus_and_what_is_written_to_the_line(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running(tmp_path) as (device, bus, end, _):
            heard = bytearray()
            bus.attach(heard.extend)
            await end.say(b"hello")
            while bytes(heard) != b"hello":
                await trio.lowlevel.checkpoint()
            await bus.line.write(b"answer", Writer(), trio.current_time())
            assert await end.hear(6) == b"answer"
            assert device.totals == (6, 0)


async def test_an_unplugged_device_is_down_at_once_and_opened_when_it_is_back(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with running(tmp_path) as (device, bus, end, unit):
            await bus.line.write(b"one", Writer(), trio.current_time())
            end.unplug()
            while bus.down is None:
                await trio.lowlevel.checkpoint()
            with pytest.raises(PortDown, match="tty1"):
                _ = bus.line
            assert device.in_force is None
            end.plug()
            await reconnected(bus, unit)
            await bus.line.write(b"two", Writer(), trio.current_time())
            assert await end.hear(3) == b"two"
            assert device.totals == (6, 0)


async def test_a_device_that_comes_and_goes_leaves_no_task_behind(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with running(tmp_path) as (_, bus, end, unit):
            await trio.testing.wait_all_tasks_blocked()
            before = trio.lowlevel.current_statistics().tasks_living
            for _ in range(3):
                end.unplug()
                await bus.state.wait_for(lambda state: state.down is not None)
                end.plug()
                await reconnected(bus, unit)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_device_that_is_not_there_yet_is_a_state(tmp_path: Path) -> None:
    with trio.fail_after(10):
        with lines(tmp_path, 1) as (end,):
            end.unplug()
            bus = Bus("P0")
            device = SerialDevice(bus, 1, SerialConfig(str(end.path)), SerialPort())
            unit = Unit("P0 Ser1", lambda: None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(device.run, unit)
                await unit.settled.wait()
                assert "no such device" in unit.state
                assert unit.refusal is None
                assert await device.adjust(settings_of(SerialPort(baud_rate=19200))) == ()
                end.plug()
                await reconnected(bus, unit)
                assert device.in_force == SerialPort(baud_rate=19200)
                unit.scope.cancel()


async def test_a_device_that_finds_no_descriptor_left_says_so_once_waits_and_opens_when_there_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(10), lines(tmp_path, 1) as (end,):
        bus = Bus("P0")
        device = SerialDevice(bus, 1, SerialConfig(str(end.path)), LINE)
        unit = Unit("P0 Ser1", lambda: None)
        async with trio.open_nursery() as nursery:
            with no_descriptor_left():
                nursery.start_soon(device.run, unit)
                await unit.settled.wait()
                used = time.process_time()
                await trio.sleep(0.5)
                assert time.process_time() - used < 0.25
                assert "Too many open files" in unit.state
                assert bus.down is not None
            await reconnected(bus, unit)
            unit.scope.cancel()
    assert len([record for record in caplog.records if "Too many" in record.message]) == 1


async def test_settings_change_in_place_and_a_refusal_leaves_them_as_they_were(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running(tmp_path) as (device, _, _end, _unit):
            faster = SerialPort(baud_rate=115200)
            assert await device.adjust(settings_of(faster)) == ()
            assert device.in_force == faster
            (refusal,) = await device.adjust(settings_of(replace(faster, parity=Parity.EVEN)))
            assert refusal.name == "Serial.Ser1.Parity"
            assert device.in_force == faster


async def test_new_settings_wait_for_the_turn_under_way_but_not_for_ever(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with running(tmp_path) as (device, bus, _, _unit):
            turn = await bus.line.turn(Writer(), trio.current_time(), b"", None)
            began = trio.current_time()
            assert await device.adjust(settings_of(SerialPort(baud_rate=19200))) == ()
            assert trio.current_time() - began >= 1
            turn.close()


async def test_a_device_lost_while_its_settings_change_is_no_refusal(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running(tmp_path) as (device, bus, end, _):
            turn = await bus.line.turn(Writer(), trio.current_time(), b"", None)
            end.unplug()
            assert await device.adjust(settings_of(SerialPort(baud_rate=19200))) == ()
            turn.close()


async def test_a_stuck_line_does_not_keep_the_device_from_closing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with trio.fail_after(10):
        async with running(tmp_path) as (_, bus, _end, unit):
            writer = Writer()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.line.write, bytes(1 << 20), writer, trio.current_time())
                while not writer.written:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            unit.scope.cancel()
    assert (
        "were not written: the port closes" in caplog.text or "were not written: the line takes nothing" in caplog.text
    )


async def test_a_bus_whose_device_is_closed_says_so(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running(tmp_path) as (device, bus, _, _unit):
            shown = device.status()
            assert shown["driver_counters"] is None  # a pty does not count
            sharing = cast("dict[str, object]", shown["sharing"])
            assert sharing["rule"] is sharing["holder"] is None
            assert (sharing["waiting"], sharing["turns"]) == (0, {})
            assert shown["settings_refused"] == {}
        assert bus.down is not None
        assert "closing" in bus.down


async def test_clients_are_told_that_nobody_knows_a_bias_which_no_command_has_switched(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running(tmp_path, SerialPort(port_mode=PortMode.RS485), rs485_automatic=True) as (
            _,
            bus,
            _end,
            _unit,
        ):
            (told,) = (event for event in events(None, bus.state.value, all_told=True) if event["event"] == "line")
            assert told["settings"]["PortMode"] == "RS485"
            assert told["settings"]["Bias"] is None
