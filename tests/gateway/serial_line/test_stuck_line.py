"""Lines that stand still or crawl, behind drivers that do not flush: nobody waits, and nothing is lost uncounted."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing

from gateway.port.bus import Bus
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.serial_line.device import SerialDevice
from gateway.serial_line.driver_call import DriverCall
from gateway.serial_line.uart import DeviceGone, LineBusy, Uart, UartError
from gateway.tasks.reconcile import Unit
from protocol.parameters.settings import Serial, SerialPort, Settings
from tests.gateway.line import Writer, closed, opened, real_time, received
from tests.gateway.serial_line.adapter import FTDI, Adapter, plug

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from gateway.serial_line.adapters import Identity

LINE = SerialPort()
CTS = SerialPort(flow_control_rtscts=True)
XOFF = SerialPort(flow_control_xonxoff=True)


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
    fake = Adapter()
    plug(monkeypatch, fake)
    yield fake
    fake.put_away()


@asynccontextmanager
async def port(adapter: Adapter, line: SerialPort = LINE) -> AsyncIterator[Uart]:
    uart = await opened(adapter.config, line)
    try:
        yield uart
    finally:
        await closed(uart)


@asynccontextmanager
async def running(adapter: Adapter, line: SerialPort = LINE) -> AsyncIterator[tuple[SerialDevice, Unit]]:
    """A device on its bus."""
    device = SerialDevice(Bus("P0"), 1, adapter.config, line)
    unit = Unit("P0 Ser1", lambda: None)
    async with trio.open_nursery() as nursery:
        with real_time():
            nursery.start_soon(device.run, unit)
            await unit.settled.wait()
        yield device, unit
        with real_time():
            unit.scope.cancel()


def settings_of(line: SerialPort) -> Settings:
    return Settings(serial=Serial(ports=(line,)))


# The thread


@pytest.fixture
def lingering() -> Iterator[int]:
    """A descriptor whose close waits in this kernel: unread data, and a linger of half a minute."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(bytes(65536))
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
        near.setblocking(True)
        yield near.detach()
        far.close()


async def test_a_close_that_waits_in_the_kernel_is_ended_by_a_signal_while_the_loop_goes_on(lingering: int) -> None:
    began = time.monotonic()
    call = DriverCall(lambda: os.close(lingering))
    for _ in range(5):
        await trio.lowlevel.checkpoint()
    assert not call.ended
    with trio.fail_after(5):
        await call.interrupted()
    assert time.monotonic() - began < 2
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lingering)


async def test_a_signal_to_a_call_that_has_ended_goes_nowhere() -> None:
    call = DriverCall(lambda: 7)
    with trio.fail_after(5):
        assert await call.result() == 7
        await call.interrupted()
    call.interrupt()


async def test_an_open_that_waits_in_the_kernel_is_abandoned_and_undone_when_it_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    undone = threading.Event()

    def undo(fd: int) -> None:
        os.close(fd)
        undone.set()

    call = DriverCall(lambda: os.open(tmp_path / "fifo", os.O_WRONLY))
    with trio.move_on_after(0.01) as patience:
        await call.result()
    assert patience.cancelled_caught
    call.interrupt()  # CPython opens again
    call.abandon(undo)
    reader = os.open(tmp_path / "fifo", os.O_RDONLY)
    assert undone.wait(5)
    os.close(reader)


async def test_what_is_abandoned_late_is_undone_at_once() -> None:
    call = DriverCall(lambda: 7)
    await call.result()
    undone: list[int] = []
    call.abandon(undone.append)
    assert undone == [7]


# Closing


async def test_a_device_that_does_not_flush_is_closed_at_once_and_nothing_of_it_is_sent_later(adapter: Adapter) -> None:
    adapter.cts = False
    async with port(adapter, CTS) as uart:
        assert uart.send_nowait(bytes(5000)) == 4608
        began = time.monotonic()
        await uart.close()
        assert time.monotonic() - began < 2.5  # the adapter would wait for 3 s, and fail
        assert uart.discarded == 4608
    adapter.cts = True
    adapter.advance()
    assert (adapter.queue, adapter.sent) == (b"", b"")
    assert threading.main_thread() not in adapter.threads


async def test_the_watch_is_gone_before_the_descriptor_is_closed(adapter: Adapter) -> None:
    async with port(adapter) as uart:
        with pytest.RaisesGroup(trio.ClosedResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(received, uart)
                await trio.testing.wait_all_tasks_blocked()
                await uart.close()


async def test_a_device_that_cannot_be_closed_in_time_is_given_up_and_let_go_of_later(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.closing = threading.Event()
    uart = await opened(adapter.config)
    with trio.fail_after(5):
        await uart.close()
        assert "the driver does not close it" in caplog.text
        assert not uart.let_go()
        adapter.closing.set()
        while not uart.let_go():
            await trio.lowlevel.checkpoint()


async def test_a_device_that_was_given_up_is_opened_again_when_the_driver_has_let_go(adapter: Adapter) -> None:
    adapter.closing = threading.Event()
    with trio.fail_after(10):
        async with running(adapter) as (_, unit):
            adapter.unplug()
            while "the driver has not closed it yet" not in unit.state:
                await trio.lowlevel.checkpoint()
            adapter.present = True
            adapter.closing.set()
            adapter.closing = None
            while unit.state != "up":
                await trio.lowlevel.checkpoint()


async def test_an_open_that_waits_for_another_programs_close_is_told_and_ends_up_open(adapter: Adapter) -> None:
    adapter.opening = threading.Event()
    with trio.fail_after(10):
        async with running(adapter) as (device, unit):
            assert "another program may be closing it" in unit.state
            assert device.in_force is None
            adapter.opening.set()
            while unit.state != "up":
                await trio.lowlevel.checkpoint()


async def test_an_open_that_waits_holds_up_no_stop_and_closes_what_it_gets(adapter: Adapter) -> None:
    adapter.opening = threading.Event()
    with trio.fail_after(10):
        async with running(adapter) as (_, unit):
            assert unit.settled.is_set()
        began = time.monotonic()
    assert time.monotonic() - began < 1
    adapter.opening.set()
    while adapter.log[-1] != "close":
        await trio.lowlevel.checkpoint()


async def test_a_device_on_a_stuck_line_is_closed_within_two_seconds_and_all_is_counted(
    adapter: Adapter,
) -> None:
    adapter.cts = False
    with trio.fail_after(10):
        async with running(adapter, CTS) as (device, unit):
            writer = Writer()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(device._bus.line.write, bytes(6000), writer, trio.current_time())
                while not writer.written:
                    await trio.lowlevel.checkpoint()
                began = trio.current_time()
                unit.scope.cancel()
                while device._bus.down is None:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            while device.in_force is not None:
                await trio.lowlevel.checkpoint()
            assert trio.current_time() - began < 2
    assert device.totals == (4608, 4608)  # never more discarded than written
    assert [count for count, _ in writer.outcomes] == [6000 - 4608]


# Changing settings


async def test_what_flow_control_holds_is_purged_counted_and_the_change_goes_on(adapter: Adapter) -> None:
    adapter.cts = False
    async with port(adapter, CTS) as uart:
        uart.send_nowait(bytes(700))
        began = time.monotonic()
        await uart.reconfigure(replace(CTS, baud_rate=19200))
        assert time.monotonic() - began < 2
        assert uart.discarded == 700
        assert uart.settings.in_force == replace(CTS, baud_rate=19200)
        adapter.cts = True
        adapter.advance()
        assert adapter.sent == b""
        assert uart.send_nowait(b"new") == 3


async def test_a_line_behind_a_driver_that_counts_transfers_is_slow_while_it_moves(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.packet = 64
    slow = SerialPort(baud_rate=2400)
    async with port(adapter, slow) as uart:
        assert uart.send_nowait(bytes(700)) == 700
        assert uart.queue.waiting() == 700
        with pytest.raises(LineBusy):
            await uart.reconfigure(replace(slow, stop_bits=2))
        assert uart.discarded == 0
        assert await uart.queue.emptied(uart.queue.patience() + 3)
        assert len(adapter.sent) == 700


@pytest.mark.parametrize(("packet", "rate"), [(64, 2400), (512, 9600)], ids=["full speed", "high speed"])
async def test_a_line_behind_a_driver_that_counts_transfers_is_held_where_it_had_time_for_one(
    adapter: Adapter, autojump_clock: MockClock, packet: int, rate: int
) -> None:
    adapter.packet, adapter.stopped, adapter.flushes = packet, True, True
    line = SerialPort(baud_rate=rate)
    async with port(adapter, line) as uart:
        assert uart.send_nowait(bytes(3000)) == 3000
        await uart.reconfigure(replace(line, stop_bits=2))
        assert (uart.discarded, adapter.sent) == (3000, b"")


async def test_a_queue_that_has_stood_still_for_long_is_held_however_late_the_change_has_its_turn(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.stopped, adapter.flushes = True, True
    slow = SerialPort(baud_rate=2400)
    async with port(adapter, slow) as uart:
        uart.send_nowait(bytes(700))
        for _ in range(8):
            uart.queue.look()
            await trio.sleep(0.25)
        await uart.reconfigure(replace(slow, stop_bits=2), began=trio.current_time() - 1)
        assert uart.discarded == 700


async def test_a_line_that_moves_again_after_a_purge_is_slow_and_not_held(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.flushes, adapter.stopped, adapter.block = True, True, 256
    slow = replace(XOFF, baud_rate=300)
    async with port(adapter, slow) as uart:
        uart.send_nowait(bytes(100))
        for _ in range(60):
            uart.queue.look()
            await trio.sleep(0.25)
        await uart.reconfigure(replace(slow, stop_bits=2))
        assert uart.discarded == 100
        adapter.stopped = False
        uart.send_nowait(bytes(300))
        with pytest.raises(LineBusy):
            await uart.reconfigure(slow)
        assert uart.discarded == 100
        adapter.queue = b""


@pytest.mark.parametrize("identity", [FTDI, None], ids=["an adapter", "a UART"])
async def test_a_low_cts_holds_even_what_a_slow_line_could_not_have_carried_yet(
    adapter: Adapter, autojump_clock: MockClock, identity: Identity | None
) -> None:
    adapter.cts, adapter.flushes, adapter.identity = False, True, identity
    slow = replace(CTS, baud_rate=300)
    async with port(adapter, slow) as uart:
        uart.send_nowait(bytes(700))
        await uart.reconfigure(replace(slow, stop_bits=2))
        assert (uart.discarded, uart.settings.in_force.stop_bits) == (700, 2)


async def test_a_driver_that_flushes_is_not_closed_for_a_purge(adapter: Adapter, autojump_clock: MockClock) -> None:
    adapter.flushes, adapter.stopped = True, True
    async with port(adapter, XOFF) as uart:
        uart.send_nowait(bytes(700))
        await uart.reconfigure(replace(XOFF, stop_bits=2))
        assert uart.discarded == 700
        assert adapter.log.count("close") == 0


async def test_a_purge_puts_the_modem_lines_back_and_says_that_they_rose(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.stopped = True
    async with port(adapter, XOFF) as uart:
        uart.set_modem_lines(False, False)
        uart.send_nowait(bytes(700))
        assert await uart.purge() == 700
        assert not adapter.lines
        assert uart.lines_rose == 1
        assert "DTR and RTS rose for a moment" in caplog.text


async def test_a_reader_goes_on_after_a_purge_and_a_writer_is_told(adapter: Adapter) -> None:
    adapter.stopped = True
    heard: list[bytes] = []
    async with port(adapter, XOFF) as uart:

        async def read() -> None:
            heard.append(await received(uart))

        async def write() -> None:
            assert uart.send_nowait(bytes(5000)) == 4608
            assert uart.send_nowait(b"x") == 0
            with pytest.raises(trio.ClosedResourceError):
                await uart.writable()

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(write)
                await trio.testing.wait_all_tasks_blocked()
                await uart.purge()
                adapter.say(b"still here")
    assert heard == [b"still here"]


async def test_a_device_that_does_not_come_back_after_a_purge_is_lost_to_its_reader(adapter: Adapter) -> None:
    adapter.stopped = True
    async with port(adapter, XOFF) as uart:
        lost: list[UartError] = []

        async def read() -> None:
            with pytest.raises(UartError) as error:
                await received(uart)
            lost.append(error.value)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                uart.send_nowait(bytes(10))
                adapter.opening = threading.Event()
                with pytest.raises(UartError, match="could not be opened again within"):
                    await uart.purge()
                adapter.opening.set()
                while adapter.log[-1] != "close":
                    await trio.lowlevel.checkpoint()
    assert [str(error) for error in lost] == ["/dev/ttyUSB7: it could not be opened again within 0.5 s"]
    assert uart.discarded == 10


async def purging(adapter: Adapter, uart: Uart, nursery: trio.Nursery) -> None:
    """Begin to purge a driver that does not flush, and stop where a thread opens the device again."""
    uart.send_nowait(bytes(10))
    adapter.opening = threading.Event()
    nursery.start_soon(uart.purge)
    while adapter.log.count("open") < 2:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("cancelled", [False, True], ids=["", "though it is cancelled"])
async def test_a_close_during_a_purge_waits_for_the_device_that_comes_back_and_closes_that(
    adapter: Adapter, cancelled: bool
) -> None:
    adapter.stopped = True
    async with port(adapter, XOFF) as uart:
        ended: list[str] = []

        async def close() -> None:
            with trio.CancelScope() as scope:
                if cancelled:
                    scope.cancel()
                await uart.close()
                ended.append("close")

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                await purging(adapter, uart, nursery)
                nursery.start_soon(close)
                await trio.testing.wait_all_tasks_blocked()
                assert (ended, adapter.fds, adapter.log.count("close")) == ([], set(), 1)
                assert adapter.opening is not None
                adapter.opening.set()
        assert ended == ["close"]
        assert (adapter.fds, adapter.log.count("close"), adapter.exclusive) == (set(), 2, False)
        assert uart.let_go()
        assert uart.discarded == 10  # what the purge threw away is not counted again


async def test_a_close_during_a_purge_after_which_the_device_is_not_there_has_nothing_to_close(
    adapter: Adapter,
) -> None:
    adapter.stopped = True
    async with port(adapter, XOFF) as uart:
        with trio.fail_after(5), pytest.RaisesGroup(UartError):
            async with trio.open_nursery() as nursery:
                await purging(adapter, uart, nursery)
                nursery.start_soon(uart.close)
                await trio.testing.wait_all_tasks_blocked()
                adapter.unplug()
                assert adapter.opening is not None
                adapter.opening.set()
        assert (adapter.fds, adapter.log.count("close")) == (set(), 1)
        assert uart.let_go()


async def test_a_purge_that_is_cancelled_leaves_the_device_lost_and_closes_what_its_thread_gets(
    adapter: Adapter,
) -> None:
    adapter.stopped = True
    async with port(adapter, XOFF) as uart:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                await purging(adapter, uart, nursery)
                nursery.cancel_scope.cancel()
            with pytest.raises(UartError, match="was closed"):
                await received(uart)
            await uart.close()
            assert adapter.opening is not None
            adapter.opening.set()
            while adapter.log.count("close") < 2:
                await trio.lowlevel.checkpoint()
    assert (adapter.fds, uart.discarded) == (set(), 10)


async def test_a_device_that_a_purge_cannot_close_is_given_up_and_let_go_of_later(adapter: Adapter) -> None:
    adapter.stopped, adapter.closing = True, threading.Event()
    async with port(adapter, XOFF) as uart:
        uart.send_nowait(bytes(10))
        with trio.fail_after(5):
            with pytest.raises(UartError, match="the driver does not close it"):
                await uart.purge()
            with pytest.raises(UartError, match="the driver does not close it"):
                await received(uart)
            await uart.close()
            assert not uart.let_go()
            assert adapter.log.count("open") == 1
            adapter.closing.set()
            while not uart.let_go():
                await trio.lowlevel.checkpoint()
    assert uart.discarded == 10


async def test_a_line_that_is_merely_slow_refuses_the_change_and_loses_nothing(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.block = 256
    slow = SerialPort(baud_rate=300)
    async with port(adapter, slow) as uart:
        uart.send_nowait(bytes(1000))
        began = trio.current_time()
        with pytest.raises(LineBusy, match=r"line busy: 1000 bytes"):
            await uart.reconfigure(replace(slow, stop_bits=2))
        assert trio.current_time() - began <= 1.6
        assert uart.discarded == 0
        assert uart.settings.wanted == uart.settings.in_force == slow
        await trio.sleep(40)
        adapter.advance()
        assert len(adapter.sent) == 1000


async def test_a_change_waits_for_what_the_line_carries_in_time(adapter: Adapter, autojump_clock: MockClock) -> None:
    async with port(adapter) as uart:
        uart.send_nowait(bytes(900))
        await uart.reconfigure(replace(LINE, stop_bits=2))
        assert len(adapter.sent) == 900
        assert uart.discarded == 0
        assert uart.settings.in_force.stop_bits == 2


async def test_no_more_is_discarded_than_was_written_where_the_driver_counts_too_much(adapter: Adapter) -> None:
    adapter.overcount, adapter.stopped = 8192, True
    async with port(adapter, XOFF) as uart:
        uart.send_nowait(bytes(10))
        assert uart.queue.waiting() == 10
    assert uart.discarded == 10


async def test_a_device_says_busy_for_each_setting_that_was_to_change(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.block = 256
    slow = SerialPort(baud_rate=300)
    async with running(adapter, slow) as (device, _):
        assert device._open is not None
        device._open[0].send_nowait(bytes(1000))
        refusals = await device.adjust(settings_of(replace(slow, stop_bits=2, flow_control_xonxoff=True)))
        assert [(refusal.name, refusal.why) for refusal in refusals] == [
            ("Serial.Ser1.StopBits", "line busy: 1000 bytes"),
            ("Serial.Ser1.FlowControlXONXOFF", "line busy: 1000 bytes"),
        ]
        assert device.status()["settings_refused"] == {
            "StopBits": "asked for 2, the device keeps 1",
            "FlowControlXONXOFF": "asked for yes, the device keeps no",
        }
        device._open[0]._tty.unsent = 0
        adapter.queue = b""


async def test_a_message_whose_beginning_is_purged_is_not_finished(adapter: Adapter) -> None:
    adapter.cts = False
    with trio.fail_after(10):
        async with running(adapter, CTS) as (device, _):
            writer = Writer()
            async with trio.open_nursery() as nursery:

                async def write() -> None:
                    with pytest.raises(PortDown):
                        await device._bus.line.write(bytes(6000), writer, trio.current_time())

                nursery.start_soon(write)
                while not writer.written:
                    await trio.lowlevel.checkpoint()
                began = trio.current_time()
                assert await device.adjust(settings_of(replace(CTS, stop_bits=2))) == ()
                assert trio.current_time() - began < 2
            assert device.totals == (4608, 4608)
            adapter.cts = True
            await device._bus.line.write(b"fresh", Writer(), trio.current_time())
            assert device._open is not None
            assert await device._open[0].queue.emptied(2)
            assert adapter.sent == b"fresh"


async def test_a_message_that_its_writer_left_is_not_finished_after_a_purge_either(adapter: Adapter) -> None:
    adapter.cts, adapter.flushes = False, True
    with trio.fail_after(10):
        async with running(adapter, CTS) as (device, _):
            writer = Writer()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(device._bus.line.write, bytes(6000), writer, trio.current_time())
                while not writer.written:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert await device.adjust(settings_of(replace(CTS, stop_bits=2))) == ()
            while not writer.outcomes:
                await trio.lowlevel.checkpoint()
            assert [count for count, _ in writer.outcomes] == [6000 - 4608]
            assert device.totals == (4608, 4608)
            assert adapter.log.count("close") == 0


async def test_a_message_that_waits_for_room_in_the_driver_ends_where_its_beginning_is_purged(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.cts, adapter.flushes, adapter.room = False, True, 100
    with trio.fail_after(10):
        async with running(adapter, CTS) as (device, _):
            writer = Writer()
            async with trio.open_nursery() as nursery:

                async def write() -> None:
                    with pytest.raises(PortDown):
                        await device._bus.line.write(bytes(300), writer, trio.current_time())

                nursery.start_soon(write)
                while not writer.written:
                    await trio.lowlevel.checkpoint()
                assert device._open is not None
                assert await device._open[0].purge() == 100
                adapter.cts = True
            adapter.advance()
            assert (device.totals, adapter.sent) == ((100, 100), b"")


# Unplugged


async def test_what_waited_on_a_stuck_line_when_it_was_unplugged_is_counted(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.cts = False
    async with port(adapter, CTS) as uart:
        uart.send_nowait(bytes(4608))
        for _ in range(3):
            uart.queue.look()
            await trio.sleep(0.25)
        adapter.unplug()
        with pytest.raises(DeviceGone):
            uart.queue.waiting()
    assert uart.discarded == 4608


async def test_what_waited_on_a_line_that_was_stopped_just_now_is_counted_to_the_byte(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    async with port(adapter) as uart:
        uart.send_nowait(b"before")
        await trio.sleep(0.1)
        adapter.advance()
        adapter.stopped = True
        uart.send_nowait(bytes(4096))
        uart.queue.look()
        await trio.sleep(0.05)
        adapter.unplug()
    assert adapter.sent == b"before"
    assert uart.discarded == 4096


async def test_what_a_moving_line_carried_before_it_was_unplugged_is_not_counted(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    async with port(adapter) as uart:
        uart.send_nowait(bytes(4608))
        for _ in range(4):
            uart.queue.look()
            await trio.sleep(0.25)
        adapter.advance()
        adapter.unplug()
    assert uart.discarded == pytest.approx(4608 - len(adapter.sent), abs=2)


@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.0, 2.3])
async def test_of_a_driver_that_counts_transfers_no_more_is_unknown_at_an_unplug_than_the_one_on_its_way(
    adapter: Adapter, autojump_clock: MockClock, seconds: float
) -> None:
    adapter.packet = 64
    async with port(adapter) as uart:
        assert uart.send_nowait(bytes(3900)) == 3900
        for _ in range(round(seconds * 10)):
            uart.queue.look()
            await trio.sleep(0.1)
        adapter.advance()
        adapter.unplug()
    assert uart.discarded == pytest.approx(3900 - len(adapter.sent), abs=256)


async def test_what_waited_in_transfers_when_the_line_was_stopped_is_counted_to_the_byte(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.packet = 64
    async with port(adapter) as uart:
        uart.send_nowait(bytes(3000))
        await trio.sleep(1.0)
        uart.queue.look()
        adapter.stopped = True
        waited = len(adapter.queue)
        assert uart.queue.waiting() == waited
        await trio.sleep(0.3)
        uart.queue.look()
        adapter.unplug()
    assert uart.discarded == waited


async def test_a_device_that_is_lost_in_the_middle_of_a_write_says_first_what_it_took(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter.packet = 64
    async with port(adapter) as uart:
        write, writes = adapter.write, []

        def first_three(data: bytes | memoryview) -> int:
            writes.append(len(data))
            if len(writes) == 4:
                adapter.unplug()
            return write(data)

        monkeypatch.setattr(adapter, "write", first_three)
        assert uart.send_nowait(bytes(1000)) == sum(writes[:3])
        with pytest.raises(DeviceGone):
            uart.send_nowait(b"more")


async def test_what_was_sent_long_ago_is_not_counted_when_it_is_unplugged(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    async with port(adapter) as uart:
        uart.send_nowait(bytes(100))
        for _ in range(4):
            await trio.sleep(0.25)
            uart.queue.look()
        adapter.unplug()
    assert uart.discarded == 0


# Commands that are too old


async def test_a_command_in_a_held_driver_is_thrown_away_when_it_is_stale_and_does_not_fire_later(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.cts, adapter.flushes = False, True
    with trio.fail_after(60):
        async with running(adapter, CTS) as (device, _):
            await device._bus.line.write(b"turn left", Writer(Right.PTZ), trio.current_time())
            await trio.sleep(1.5)
            assert device.totals == (9, 0)
            await trio.sleep(1)
            assert device.totals == (9, 9)
            adapter.cts = True
            await device._bus.line.write(b"stop", Writer(Right.PTZ), trio.current_time())
            await trio.sleep(1)
            assert (device.totals, adapter.sent) == ((13, 9), b"stop")


async def test_a_driver_that_does_not_flush_is_closed_and_opened_for_a_stale_command(adapter: Adapter) -> None:
    adapter.cts = False
    with trio.fail_after(10):
        async with running(adapter, CTS) as (device, _):
            await device._bus.line.write(b"turn left", Writer(Right.PTZ), trio.current_time() - 2)
            while device.totals != (9, 9):
                await trio.lowlevel.checkpoint()
            adapter.cts = True
            await device._bus.line.write(b"stop", Writer(Right.PTZ), trio.current_time())
            while adapter.sent != b"stop":
                await trio.lowlevel.checkpoint()
                adapter.advance()


@pytest.mark.parametrize(("traffic", "cts"), [(Right.TCP, False), (Right.PTZ, True)])
async def test_a_printers_bytes_wait_for_cts_and_commands_that_the_line_carried_are_no_more_to_do(
    adapter: Adapter, autojump_clock: MockClock, traffic: Right, cts: bool
) -> None:
    adapter.cts, adapter.flushes = cts, True
    with trio.fail_after(120):
        async with running(adapter, CTS) as (device, _):
            await device._bus.line.write(b"some line", Writer(traffic), trio.current_time())
            await trio.sleep(60)
            adapter.cts = True
            await trio.sleep(1)
            adapter.advance()
            assert (device.totals, adapter.sent) == ((9, 0), b"some line")


async def test_a_command_that_the_line_has_carried_costs_nobody_behind_it_a_byte(
    adapter: Adapter, autojump_clock: MockClock
) -> None:
    adapter.flushes = True
    with trio.fail_after(120):
        async with running(adapter, CTS) as (device, _):
            write = device._bus.line.write
            await write(b"turn left", Writer(Right.PTZ), trio.current_time())
            for _ in range(30):  # something always waits in the driver
                await write(bytes(100), Writer(), trio.current_time())
                await trio.sleep(0.1)
            adapter.cts = False
            await write(bytes(100), Writer(), trio.current_time())
            await trio.sleep(1)
            adapter.cts = True
            await trio.sleep(1)
            adapter.advance()
            assert device.totals == (3109, 0)
            assert len(adapter.sent) == 3109


# The line is ours


async def test_a_device_is_shut_to_other_programs_while_it_is_open(adapter: Adapter) -> None:
    async with port(adapter):
        assert adapter.exclusive
        with pytest.raises(UartError, match="another program holds it"):
            await opened(adapter.config)
    assert not adapter.exclusive


async def test_all_settings_are_set_at_once(adapter: Adapter) -> None:
    line = SerialPort(baud_rate=19200, stop_bits=2, flow_control_rtscts=True)
    async with port(adapter, line) as uart:
        assert adapter.log == ["open", "set"]
        assert uart.settings.in_force == line
        await uart.reconfigure(LINE)
        assert adapter.log == ["open", "set", "set"]
    async with port(adapter, LINE):
        assert adapter.log[4:] == ["open"]


async def test_what_another_program_set_is_seen_at_the_next_update_and_put_right(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(adapter) as (device, _):
        import termios

        adapter.attributes[4:6] = [termios.B300, termios.B300]
        assert device.status()["settings_refused"] == {"BaudRate": "asked for 9600, the device keeps 300"}
        assert [refusal.name for refusal in device.not_in_force()] == ["Serial.Ser1.BaudRate"]
        assert await device.adjust(settings_of(LINE)) == ()
        assert adapter.attributes[5] == termios.B9600
        assert "another program changed the line" in caplog.text


async def test_low_latency_is_asked_for_where_it_is_offered_and_may_be_left(adapter: Adapter) -> None:
    async with port(adapter) as uart:
        assert uart.low_latency
        assert adapter.flags == 1 << 13
    adapter.flags = 0
    uart = await opened(replace(adapter.config, low_latency=False))
    assert uart.low_latency is None
    assert adapter.flags == 0
    await uart.close()
    adapter.latency = False
    async with port(adapter) as uart:
        assert uart.low_latency is None


# What comes with the bytes


async def test_a_break_is_an_event_and_no_byte(adapter: Adapter) -> None:
    async with running(adapter) as (device, _):
        heard = bytearray()
        device._bus.attach(heard.extend)
        adapter.say(b"one\xff\x00\x00two\xff\xff")
        adapter.say(b"\xff\x00\x00")
        with trio.fail_after(5):
            while device._bus.state.value.breaks < 2:
                await trio.lowlevel.checkpoint()
        assert bytes(heard) == b"onetwo\xff"
        assert device.status()["breaks"] == 2


async def test_a_driver_that_does_not_count_is_not_asked_for_marks(adapter: Adapter) -> None:
    adapter.counts = False
    async with port(adapter) as uart:
        adapter.say(b"\xff\x00\x00")
        assert await received(uart) == b"\xff\x00\x00"


# Which adapter


async def test_another_adapter_is_refused_before_a_byte_reaches_it(adapter: Adapter) -> None:
    other = replace(FTDI, serial="OTHER")
    async with running(adapter) as (_, unit):
        opens = adapter.log.count("open")
        with trio.fail_after(10):
            adapter.unplug()
            while unit.state == "up":
                await trio.lowlevel.checkpoint()
            adapter.identity, adapter.present = other, True
            while "another adapter is there" not in unit.state:
                await trio.lowlevel.checkpoint()
            assert adapter.log.count("open") <= opens + 1  # while it was away
            assert "any_device = true" in unit.state
            adapter.identity = FTDI
            while unit.state != "up":
                await trio.lowlevel.checkpoint()


async def test_who_enables_the_port_anew_takes_the_adapter_that_is_there(adapter: Adapter) -> None:
    device = SerialDevice(Bus("P0"), 1, adapter.config, LINE)
    with trio.fail_after(10):
        for there in (FTDI, replace(FTDI, serial="OTHER")):
            adapter.identity = there
            unit = Unit("P0 Ser1", lambda: None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(device.run, unit)
                await unit.settled.wait()
                assert unit.state == "up"
                unit.scope.cancel()


async def test_any_adapter_is_taken_where_the_host_says_so(adapter: Adapter) -> None:
    config = replace(adapter.config, any_device=True)
    other = replace(FTDI, serial="OTHER")
    uart = await Uart.open(config, LINE, known=other)
    assert uart.adapter == FTDI
    await uart.close()


async def test_a_device_that_has_no_identity_any_more_is_taken(adapter: Adapter) -> None:
    adapter.identity = None
    uart = await Uart.open(adapter.config, LINE, known=FTDI)
    assert uart.adapter is None
    await uart.close()
