"""A tty for programs over a restart of what serves it: the program's descriptor goes on, and nothing stale fires."""

from __future__ import annotations

import contextlib
import functools
import os
import termios
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.host.descriptor_store import DescriptorStore
from gateway.host.sdnotify import Notifier
from gateway.port.plan import ProgramTty
from tests.gateway.clients.test_tty import Served, read, served
from tests.gateway.clients.test_tty_settings import RIGHTS, port, set_rate, shown
from tests.gateway.line import serial_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.port.router import Session


@pytest.fixture
def kept() -> Iterator[DescriptorStore]:
    with contextlib.closing(DescriptorStore(Notifier(None))) as store:
        yield store


def client(tty: Served) -> Session:
    session = tty.clients[0].session
    assert session is not None
    return session


async def test_a_program_goes_on_and_what_it_wrote_meanwhile_is_dropped_and_counted(
    tmp_path: Path, kept: DescriptorStore, caplog: pytest.LogCaptureFixture
) -> None:
    spec = ProgramTty(str(tmp_path / "tty-P0"))
    async with serial_line() as line:
        async with served(line.bus, spec, kept=kept) as tty:
            fd = os.open(tty.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            await tty.settled(clients=1)
            slave = os.readlink(tty.path)
        assert not tty.path.is_symlink(), "nobody serves it, so nobody new is to find it"
        os.write(fd, b"stale")
        async with served(line.bus, spec, kept=kept) as tty:
            await tty.settled(clients=1)
            assert os.readlink(tty.path) == slave
            assert client(tty).counters.dropped == 5
            os.write(fd, b"fresh")
            assert await line.hear(5) == b"fresh"
            line.say(b"answer")
            assert await read(fd, 6) == b"answer"
            os.close(fd)
            await tty.settled(clients=0)
    assert "5 bytes that it wrote while nobody read them are dropped" in caplog.text


async def test_what_a_program_wrote_that_has_left_meanwhile_is_counted_too_and_the_next_is_served(
    tmp_path: Path, kept: DescriptorStore
) -> None:
    spec = ProgramTty(str(tmp_path / "tty-P0"))
    async with serial_line() as line:
        async with served(line.bus, spec, kept=kept) as tty:
            fd = os.open(tty.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            await tty.settled(clients=1)
        os.write(fd, b"stale")
        os.close(fd)
        async with served(line.bus, spec, kept=kept) as tty:
            with trio.fail_after(5):
                while line.bus.dropped != 5:
                    await trio.lowlevel.checkpoint()
            await tty.settled(clients=0)
            with tty.opened() as fd:
                os.write(fd, b"next")
                assert await line.hear(4) == b"next"


async def test_who_writes_on_and_on_holds_up_no_start(tmp_path: Path, kept: DescriptorStore) -> None:
    spec = ProgramTty(str(tmp_path / "tty-P0"))
    async with serial_line() as line:
        async with served(line.bus, spec, kept=kept) as tty:
            fd = os.open(tty.path, os.O_RDWR | os.O_NOCTTY)
            await tty.settled(clients=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(trio.run_process, ["cat", "/dev/zero"], stdout=fd, check=False))
            with trio.fail_after(10):
                async with served(line.bus, spec, kept=kept) as tty:
                    await tty.settled(clients=1)
                    assert len(await line.hear(100_000)) >= 100_000
            nursery.cancel_scope.cancel()
        os.close(fd)


@pytest.mark.parametrize("was_away", [False, True])
async def test_what_a_program_has_set_is_in_force_again(
    tmp_path: Path, kept: DescriptorStore, *, was_away: bool
) -> None:
    spec = ProgramTty(str(tmp_path / "another"))
    async with port(tmp_path) as here:
        async with served(here.bus, spec, rights=RIGHTS, kept=kept) as tty:
            fd = os.open(tty.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            set_rate(fd, termios.B19200)
            await here.until("BaudRate", 19200)
        await here.until("BaudRate", 9600)
        if was_away:
            here.end.unplug()
            await here.bus.state.wait_for(lambda state: state.down is not None)
        async with served(here.bus, spec, rights=RIGHTS, kept=kept) as tty:
            await tty.settled(clients=1)
            if was_away:
                here.end.plug()
            await here.until("BaudRate", 19200)
            assert termios.tcgetattr(fd)[5] == termios.B19200
            held = here.device.status()["settings_held"]
            assert held == {"holder": f"tty {tty.path}", "values": {"BaudRate": "19200"}}
            os.close(fd)
            await here.until("BaudRate", 9600)
            await tty.settled(clients=0)
            with tty.opened() as fd:
                await shown(fd, termios.B9600)


async def test_what_is_no_pty_is_closed_and_another_is_made(tmp_path: Path) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    async with serial_line() as line:
        with contextlib.closing(DescriptorStore(Notifier(None), {"tty": fd})) as store:
            async with served(line.bus, ProgramTty(str(tmp_path / "t")), kept=store) as tty:
                with tty.opened() as program:
                    os.write(program, b"x")
                    assert await line.hear(1) == b"x"
