"""A line is paced by what was written, and by what the driver says where flow control may hold it."""

from __future__ import annotations

import errno
import itertools
import termios
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.port.bus import Bus
from gateway.serial_line.arbiter import Arbiter
from protocol.parameters.settings import SerialPort
from tests.gateway.line import Writer, closed, opened
from tests.sharing.driver import plugged, serial_core

if TYPE_CHECKING:
    from trio.testing import MockClock


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
