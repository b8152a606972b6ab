"""The UART over real ptys: open it, pass bytes, let them drain, and what is beside the data.

Waiting is for a state or by the mock clock, and that only while no byte is on its way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import termios
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from gateway.port.line import ModemLines
from gateway.serial_line import tty
from gateway.serial_line.uart import Counters, DeviceGone, UartError
from protocol.parameters.settings import Parity, SerialPort
from tests.gateway.line import closed, opened, received
from tests.gateway.serial_line.pty_line import LINE, TIOCCBRK, TIOCSBRK, Driver, Pty, closing, driver, names, pty

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

__all__ = ["driver", "pty"]


@pytest.fixture
def no_pty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every pty pass for a UART."""
    monkeypatch.setattr(tty, "_PTYS", ())


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


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
        assert port.settings.in_force == port.settings.wanted == line
        assert port.settings.refused == ()


async def test_a_port_that_cannot_take_all_settings_opens_and_says_which(pty: Pty) -> None:
    line = SerialPort(baud_rate=19200, data_bits=7, parity=Parity.EVEN, stop_bits=2)
    async with closing(await opened(pty.path, line), within=5) as port:
        assert names(port.settings.refused) == ["DataBits", "Parity"]
        assert port.settings.refused[1].why == "asked for Even, the device keeps None"
        assert port.settings.in_force == replace(line, data_bits=8, parity=Parity.NONE)
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
        assert port.settings.in_force == replace(line, data_bits=8, parity=Parity.NONE)


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


@pytest.mark.parametrize(
    ("reads", "pieces"),
    [
        ([10, 20], [10, 20]),
        ([4095, 20, 30], [4115, 30]),
        ([4095, None, 30], [4095, 30]),
        ([4095, 4095, 4095, 4095, 1], [12285, 4096]),
        ([12285, 7], [12285, 7]),
        ([4095, errno.EIO], [4095]),
        ([4095, errno.ENODEV], [4095]),
    ],
)
async def test_what_fills_the_drivers_buffer_is_read_on_and_handed_over_once(
    pty: Pty, monkeypatch: pytest.MonkeyPatch, reads: list[int | None], pieces: list[int]
) -> None:
    heard, read = list[int](), os.read

    def scripted(fd: int, most: int) -> bytes:
        if fd != port._tty.fd:
            return read(fd, most)
        count = reads.pop(0) if reads else errno.EIO
        if count is None:
            raise BlockingIOError
        if count in (errno.EIO, errno.ENODEV):
            reads.insert(0, count)
            raise OSError(count, "gone")
        return bytes(count)

    with trio.fail_after(5):
        async with closing(await opened(pty.path)) as port:
            monkeypatch.setattr(os, "read", scripted)
            os.write(pty.master, b"it is readable")
            ended = pytest.raises(DeviceGone) if errno.ENODEV in reads else contextlib.nullcontext()
            with ended:
                await port.hear(lambda data: heard.append(len(data)))
            monkeypatch.undo()
    assert heard == pieces


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
