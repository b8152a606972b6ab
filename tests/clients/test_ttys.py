"""Programs that can open nothing but a tty, unmodified, at the owner's and two links away."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, final

import pytest
import trio

from tests.clients.test_tools import MODBUS, ran, said, with_crc, xor
from tests.hostile.siege import connected
from tests.test_chain import chain, tty_of, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.helpers import FarEnd

PROGRAMS = ("stty", "picocom", "minicom", "mbpoll", "gpsd", "curl")

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(any(shutil.which(name) is None for name in PROGRAMS), reason=f"requires {', '.join(PROGRAMS)}"),
]

NMEA = b"GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W"
PYSERIAL = """
import serial, sys
with serial.Serial(sys.argv[1], 19200, timeout=30) as line:
    print("open", flush=True)
    for asked in sys.stdin:
        line.write(asked.strip().encode())
        print(line.read(6).decode(), flush=True)
"""


async def stty_sets_it_and_shows_it(tty: Path, _: FarEnd) -> None:
    await said("stty", "-F", tty, "9600", "raw", "-echo")
    assert "speed 9600 baud" in await said("stty", "-F", tty)


async def picocom_sends_and_ends(tty: Path, line: FarEnd) -> None:
    await said("picocom", "-qrx", "100", "-b", "9600", "-t", "picocom\r", tty)
    assert await line.hear(8) == b"picocom\r"


async def mbpoll_reads_a_register(tty: Path, line: FarEnd) -> None:
    found: list[str] = []

    async def poll() -> None:
        slow = ("-o", "10")  # seconds, of which this machine may need some
        found.append(
            await said("mbpoll", "-m", "rtu", "-a", "1", "-r", "1", "-1", "-b", "9600", "-P", "none", *slow, tty)
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        assert await line.hear(8) == with_crc(bytes.fromhex("010300000001"))
        await line.say(with_crc(MODBUS))
    assert "[1]: \t42" in found[0]


async def minicom_sends_what_is_typed_and_shows_the_line(tty: Path, line: FarEnd) -> None:
    async with minicom(tty) as running:
        await running.writes(b"typed")
        assert await line.hear(5) == b"typed"
        await line.say(b"\r\nthe line\r\n")
        await running.reads(b"the line")


async def gpsd_has_its_fix(tty: Path, line: FarEnd) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        control = sock.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ran, ["gpsd", "-N", "-n", "-b", "-s", "9600", "-S", control, tty])

        async def speak() -> None:
            while True:
                await line.say(b"$%b*%02X\r\n" % (NMEA, xor(NMEA)))
                await trio.sleep(0.1)

        nursery.start_soon(speak)
        async with await connected(control) as watcher:
            await watcher.send_all(b'?WATCH={"enable":true,"json":true}\n')
            shown = b""
            while b'"class":"TPV"' not in shown or b'"lat":48.117' not in shown:
                shown += await watcher.receive_some(4096)
        nursery.cancel_scope.cancel()
    while True:  # what it probed the line with, until it was silent
        with trio.move_on_after(0.1) as silent:
            await line.hear_some()
        if silent.cancelled_caught:
            return


async def test_programs_use_a_tty_at_the_owner_and_two_links_away(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with chain(tmp_path, 2) as (gateways, _):
            for gateway, tty in ((gateways[0], tty_of(tmp_path, -1)), (gateways[2], tty_of(tmp_path, 1))):
                for program in (
                    stty_sets_it_and_shows_it,
                    picocom_sends_and_ends,
                    mbpoll_reads_a_register,
                    minicom_sends_what_is_typed_and_shows_the_line,
                    gpsd_has_its_fix,
                ):
                    await program(tty, gateways[0].lines[0])
                    await gateway.until(
                        lambda status: not any(client["service"] == "Tty" for client in status["clients"])
                    )


class Program(Protocol):
    """A program that has the tty open once, and goes on with it."""

    async def writes(self, word: bytes) -> None:
        """Have it write six bytes to its tty."""

    async def reads(self, word: bytes) -> None:
        """Wait until it has read these six."""


@final
class Asking:
    """A program of pyserial's, which writes what it is told and reads six bytes."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._asked, self._said = process.stdin, process.stdout

    async def writes(self, word: bytes) -> None:
        await self._asked.send_all(word + b"\n")

    async def reads(self, word: bytes) -> None:
        heard = b""
        while len(heard) < len(word) + 1:
            piece = await self._said.receive_some(len(word) + 1 - len(heard))
            assert piece, f"the program ended after {heard!r}"
            heard += piece
        assert heard == word + b"\n"


@final
class Terminal:
    """A terminal program, whose keyboard and screen are a pty's master ``near``."""

    def __init__(self, near: int) -> None:
        self._near = near

    async def writes(self, word: bytes) -> None:
        await trio.lowlevel.checkpoint()
        os.write(self._near, word)

    async def reads(self, word: bytes) -> None:
        shown = b""
        while word not in shown:
            await trio.lowlevel.wait_readable(self._near)
            shown += os.read(self._near, 65536)  # EIO where the program has ended


@asynccontextmanager
async def pyserial(tty: Path) -> AsyncIterator[Program]:
    async with trio.open_nursery() as nursery:
        command = [sys.executable, "-c", PYSERIAL, str(tty)]
        start = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process: trio.Process = await nursery.start(partial(start, check=False))
        assert process.stdout is not None
        assert await process.stdout.receive_some(5) == b"open\n"
        yield Asking(process)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def terminal(command: list[object], ready: bytes) -> AsyncIterator[Program]:
    near, far = os.openpty()
    os.set_blocking(near, False)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ran, command, far)
            program = Terminal(near)
            await program.reads(ready)
            yield program
            nursery.cancel_scope.cancel()
    finally:
        os.close(near)
        os.close(far)


def picocom(tty: Path) -> AbstractAsyncContextManager[Program]:
    return terminal(["picocom", "-r", "-b", "9600", tty], b"Terminal ready")


def minicom(tty: Path) -> AbstractAsyncContextManager[Program]:
    command = ["env", "TERM=vt100", "HOME=/nonexistent", "minicom", "-o", "-D", tty, "-b", "9600", "-8"]
    return terminal(command, b"Welcome to minicom")


@pytest.mark.parametrize("program", [pyserial, picocom, minicom], ids=lambda each: each.__name__)
async def test_a_program_goes_on_while_a_link_is_cut_and_the_device_is_unplugged(
    tmp_path: Path, program: Callable[[Path], AbstractAsyncContextManager[Program]]
) -> None:
    async def asks(running: Program, word: bytes) -> None:
        """Have six bytes go to the line, and six come back."""
        await running.writes(word)
        assert await line.hear(6) == word
        await line.say(word[::-1])
        await running.reads(word[::-1])

    async def dropped() -> int:
        return int((await owner.status())["bytes_dropped"] + (await far.status())["bytes_dropped"])

    with trio.fail_after(60):
        async with chain(tmp_path, 2) as (gateways, cables):
            owner, far, line = gateways[0], gateways[2], gateways[0].lines[0]
            for tty in (tty_of(tmp_path, -1), tty_of(tmp_path, 1)):
                async with program(tty) as running:
                    await asks(running, b"before")
                    for cable in cables:
                        cable.cut()
                        await asks(running, b"relink")
                    line.unplug()
                    for gateway in (owner, far):
                        await gateway.until(lambda status: status["state"] == "down")
                    before = await dropped()
                    await running.writes(b"staled")
                    while await dropped() != before + 6:
                        pass
                    line.plug()
                    for gateway in (owner, far):
                        await up(gateway)
                    await line.say(b"listen")  # as the answer to what was dropped, which the program waits for
                    await running.reads(b"listen")
                    await asks(running, b"behind")
