"""A tty for programs: who opens it has the line, through whatever happens to the line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import select
import shutil
import stat
import struct
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import serial
import trio
import trio.testing

from gateway.clients.relay import Manner
from gateway.clients.service import Service
from gateway.clients.tty import serve_programs
from gateway.clients.tty_stream import serve
from gateway.host.descriptor_store import DescriptorStore
from gateway.host.sdnotify import Notifier
from gateway.port.plan import ProgramTty
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.arbiter import Arbiter
from gateway.tasks.reconcile import Unit
from tests.gateway.line import Line, NarrowTty, narrow_port, serial_line

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Iterator

    from gateway.port.bus import Bus
    from gateway.port.router import Handle

EXTPROC = 0o200000
N_NULL = 27


@dataclass
class Served:
    """A port with a tty for programs."""

    service: Service
    unit: Unit
    path: Path

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Open it as a program does that never sets anything."""
        fd = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    @property
    def listening(self) -> int:
        """The clients that hear the line."""
        return sum(client.session is not None and client.session.reader is not None for client in self.clients)

    @property
    def clients(self) -> tuple[Handle, ...]:
        return self.service.handle.children

    async def settled(self, *, clients: int) -> None:
        with trio.fail_after(5):
            while len(self.clients) != clients or self.listening != clients:
                await trio.lowlevel.checkpoint()

    async def down(self) -> None:
        with trio.fail_after(5):
            while self.unit.state in ("starting", "up"):
                await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def served(
    bus: Bus,
    spec: ProgramTty,
    *,
    up: bool = True,
    rights: Right = Right.READ | Right.TCP | Right.LINES,
    kept: DescriptorStore | None = None,
) -> AsyncIterator[Served]:
    descriptors = DescriptorStore(Notifier(None)) if kept is None else kept
    handle = Router({"P0": bus}).grant("P0", rights, "Tty")
    unit = Unit(str(spec), lambda: None)
    with trio.fail_after(20):
        async with trio.open_nursery() as clients, trio.open_nursery() as units:
            manner = Manner(drop_oldest=True, limit=65536)
            service = Service("P0", handle, Right.TCP, clients, carry=functools.partial(serve, manner=manner))

            async def run() -> None:
                with unit.scope:
                    await serve_programs(
                        spec, service, unit, lambda: service.handle.revoked is not None, descriptors, "tty"
                    )

            units.start_soon(run)
            await (unit.is_up if up else unit.settled).wait()
            yield Served(service, unit, Path(spec.path))
            unit.scope.cancel()
            clients.cancel_scope.cancel()
    if kept is None:
        descriptors.close()
    assert handle.children == ()


@contextlib.asynccontextmanager
async def port(folder: Path) -> AsyncIterator[tuple[Line, Served]]:
    async with serial_line() as line, served(line.bus, ProgramTty(str(folder / "tty-P0"))) as tty_:
        yield line, tty_


async def read(fd: int, count: int) -> bytes:
    heard = b""
    while len(heard) < count:
        await trio.lowlevel.wait_readable(fd)
        heard += os.read(fd, 65536)
    return heard


async def test_a_program_has_every_byte_of_the_line_both_ways(tmp_path: Path) -> None:
    every = bytes(range(256)) * 8
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            os.write(fd, every)
            assert await line.hear(len(every)) == every
            line.say(every)
            assert await read(fd, len(every)) == every
        await served_.settled(clients=0)


async def test_the_lines_words_are_not_echoed_into_it_whatever_a_program_sets(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            attributes = termios.tcgetattr(fd)
            attributes[3] = termios.ECHO | termios.ICANON | termios.ISIG  # and EXTPROC is cleared with that
            termios.tcsetattr(fd, termios.TCSANOW, attributes)
            with trio.fail_after(5):
                while not termios.tcgetattr(fd)[3] & EXTPROC:
                    await trio.lowlevel.checkpoint()
            line.say(b"no echo\x03")
            assert await read(fd, 8) == b"no echo\x03"
            os.write(fd, b"end")
            assert await line.hear(3) == b"end"


async def test_a_program_that_never_sets_anything_gets_bytes_and_no_lines(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            line.say(b"half a line")
            assert await read(fd, 11) == b"half a line"
            os.write(fd, b"a\nb\r")
            assert await line.hear(4) == b"a\nb\r"


async def test_what_a_program_left_unread_is_not_there_for_the_next(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            line.say(b"old")
            await trio.lowlevel.wait_readable(fd)
        await served_.settled(clients=0)
        with served_.opened() as fd:
            await served_.settled(clients=1)
            line.say(b"new")
            assert await read(fd, 3) == b"new"


async def test_a_program_that_stops_its_output_and_leaves_does_not_keep_the_next_from_writing(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            termios.tcflow(fd, termios.TCOOFF)
            with pytest.raises(BlockingIOError):
                os.write(fd, b"held")
        await served_.settled(clients=0)
        with served_.opened() as fd:
            await served_.settled(clients=1)
            os.write(fd, b"next")
            assert await line.hear(4) == b"next"


async def test_a_program_that_takes_another_line_discipline_and_leaves_costs_the_next_no_byte(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            with contextlib.suppress(OSError):  # a kernel without this one, which drops all bytes
                fcntl.ioctl(fd, termios.TIOCSETD, struct.pack("i", N_NULL))
        await served_.settled(clients=0)
        with served_.opened() as fd:
            await served_.settled(clients=1)
            os.write(fd, b"next")
            assert await line.hear(4) == b"next"
            line.say(b"answer")
            assert await read(fd, 6) == b"answer"


async def test_what_a_program_wrote_before_it_closed_is_on_the_line(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        for _ in range(20):
            with served_.opened() as fd:
                os.write(fd, b"command\r")
            assert await line.hear(8) == b"command\r"


async def test_two_programs_that_have_it_open_are_one_client_until_the_last_closes(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as first:
            with served_.opened() as second:
                await served_.settled(clients=1)
                os.write(second, b"2")
                assert await line.hear(1) == b"2"
            os.write(first, b"1")
            assert await line.hear(1) == b"1"
            assert len(served_.service.handle.children) == 1
        await served_.settled(clients=0)


async def test_a_program_goes_on_while_the_line_is_unplugged_and_nothing_stale_fires(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            (client,) = served_.service.handle.children
            assert client.session is not None
            line.bus.disconnect("the cable is out")
            os.write(fd, b"stale")
            while client.session.counters.dropped != 5:
                await trio.lowlevel.checkpoint()
            again = Arbiter(line.uart, line.bus)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(again.run)
                line.bus.connect(again)
                os.write(fd, b"fresh")
                assert await line.hear(5) == b"fresh"
                nursery.cancel_scope.cancel()


async def test_a_stuck_line_with_a_program_that_has_left_costs_no_spinning(tmp_path: Path) -> None:
    bus, _ = narrow_port(NarrowTty(1))
    async with served(bus, ProgramTty(str(tmp_path / "tty-P0"))) as served_:
        with served_.opened() as fd:
            await served_.settled(clients=1)
            os.write(fd, b"more than the line takes")
            (client,) = served_.service.handle.children
            while client.session is None or client.session.counters.received != 24:
                await trio.lowlevel.checkpoint()
            for _ in range(64):
                bus.deliver(bytes(4096))  # more than the pty takes, so that some of it waits
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(served_.service.handle.children) == 1


async def test_who_is_ended_from_this_side_is_not_served_again_until_it_was_closed(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened():
            await served_.settled(clients=1)
            served_.service.handle.children[0].revoke("an admin ended it")
            await served_.settled(clients=0)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert served_.service.handle.children == ()
        await trio.testing.wait_all_tasks_blocked(0.01)
        with served_.opened() as fd:
            await served_.settled(clients=1)
            os.write(fd, b"again")
            assert await line.hear(5) == b"again"


async def test_who_is_refused_is_looked_at_again_when_it_opens_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with port(tmp_path) as (_, served_):
        monkeypatch.setattr("gateway.clients.service._CLIENTS", 0)
        with served_.opened():
            while not served_.service.refused:
                await trio.lowlevel.checkpoint()
        monkeypatch.undo()
        await trio.testing.wait_all_tasks_blocked(0.01)
        with served_.opened():
            await served_.settled(clients=1)


async def test_a_tty_that_a_program_locked_for_ever_is_replaced_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real_open, real_pty = os.open, os.openpty

    def opened(path: str, *options: int) -> int:
        # As the kernel does to all but root, once TIOCEXCL was set.
        if path in made[:1] and len(made) == 1:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real_open(path, *options)

    def openpty() -> tuple[int, int]:
        master, slave = real_pty()
        made.append(os.ttyname(slave))
        return master, slave

    async with serial_line() as line:
        monkeypatch.setattr(os, "openpty", openpty)
        line.bus.adjusted(19200, "RS232 19200 8N1")
        rights = Right.READ | Right.TCP | Right.LINES | Right.CONFIGURE
        async with served(line.bus, ProgramTty(str(tmp_path / "tty-P0")), rights=rights) as served_:
            with served_.opened():
                await served_.settled(clients=1)
                monkeypatch.setattr(os, "open", opened)
            with trio.fail_after(5):
                while len(made) < 2 or not served_.path.is_symlink():
                    await trio.lowlevel.checkpoint()
            with served_.opened() as fd:
                assert termios.tcgetattr(fd)[5] == termios.B19200, "the new one shows what is in force, too"
                await served_.settled(clients=1)
                os.write(fd, b"in")
                assert await line.hear(2) == b"in"


async def test_what_the_line_says_is_with_the_program_before_any_other_task_runs(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        with served_.opened() as fd:
            await served_.settled(clients=1)
            line.bus.deliver(b"now")
            assert select.select([fd], [], [], 5)[0], "no checkpoint, so no task that drains a queue"
            assert os.read(fd, 16) == b"now"


async def test_a_program_that_never_reads_costs_its_oldest_bytes_which_are_counted(tmp_path: Path) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with served(bus, ProgramTty(str(tmp_path / "tty-P0"))) as served_:
        with served_.opened() as fd:
            await served_.settled(clients=1)
            session = served_.clients[0].session
            assert session is not None
            assert session.reader is not None
            for number in range(1000):
                bus.deliver(b"%04d" % number * 256)
                assert session.reader.size <= 65536 + 1024
            assert session.missed > 900_000
            heard = b""
            while not heard.endswith(b"0999" * 256):
                await trio.lowlevel.wait_readable(fd)
                heard += os.read(fd, 65536)
            assert len(heard) + session.missed == 1_024_000


async def test_nobody_new_is_served_while_the_gateway_stops(tmp_path: Path) -> None:
    async with port(tmp_path) as (_, served_):
        served_.service.revoke("the gateway stops")
        with served_.opened():
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert served_.service.refused == 0


# -- its name


async def test_the_name_is_a_link_with_the_mode_that_was_asked_and_goes_with_it(tmp_path: Path) -> None:
    bus, _ = narrow_port(NarrowTty())
    path = tmp_path / "tty-P0"
    path.symlink_to("/dev/pts/nowhere")  # left behind by a process that was killed
    (tmp_path / "tty-P0.new").symlink_to("/dev/null")
    async with served(bus, ProgramTty(str(path), 0o640)):
        assert path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not path.is_symlink()
    assert os.listdir(tmp_path) == []


async def test_a_link_that_somebody_else_made_meanwhile_stays(tmp_path: Path) -> None:
    bus, _ = narrow_port(NarrowTty())
    path = tmp_path / "tty-P0"
    async with served(bus, ProgramTty(str(path))):
        path.unlink()
        path.symlink_to("/dev/null")
    assert os.readlink(path) == "/dev/null"


async def test_what_is_no_link_is_not_removed(tmp_path: Path) -> None:
    bus, _ = narrow_port(NarrowTty())
    path = tmp_path / "tty-P0"
    path.write_text("precious")
    async with served(bus, ProgramTty(str(path)), up=False) as served_:
        await served_.down()
        assert "is there, and is no link" in served_.unit.state
        path.unlink()
        await served_.unit.is_up.wait()
        assert path.is_symlink()


async def test_a_group_that_this_host_does_not_have_is_said(tmp_path: Path) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with served(bus, ProgramTty(str(tmp_path / "t"), 0o660, "no such group"), up=False) as served_:
        await served_.down()
        assert "this host has no group named 'no such group'" in served_.unit.state


async def test_a_group_that_the_daemon_is_not_in_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    bus, _ = narrow_port(NarrowTty())
    monkeypatch.setattr(os, "chown", refused)
    async with served(bus, ProgramTty(str(tmp_path / "t"), 0o660, "root"), up=False) as served_:
        await served_.down()
        assert "needs SystemCallFilter=@chown, to give the tty the group 'root'" in served_.unit.state


async def test_the_group_is_that_of_the_device(tmp_path: Path) -> None:
    import grp

    bus, _ = narrow_port(NarrowTty())
    path = tmp_path / "t"
    async with served(bus, ProgramTty(str(path), 0o660, grp.getgrgid(os.getgid()).gr_name)):
        assert path.stat().st_gid == os.getgid()


async def test_a_folder_that_comes_later_is_found(tmp_path: Path) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with served(bus, ProgramTty(str(tmp_path / "later" / "t")), up=False) as served_:
        await served_.down()
        (tmp_path / "later").mkdir()
        await served_.unit.is_up.wait()


async def test_a_host_without_inotify_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        watches = False

        def inotify_init1(self, _: int) -> int:
            return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) if self.watches else -1

        def inotify_add_watch(self, *_: object) -> int:
            return -1

    bus, _ = narrow_port(NarrowTty())
    for watches in (False, True):
        Exhausted.watches = watches
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Exhausted())
        async with served(bus, ProgramTty(str(tmp_path / "t")), up=False) as served_:
            await served_.down()


# -- real programs


async def test_pyserial_opens_it_at_any_setting(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):

        def talk() -> bytes:
            with serial.Serial(str(served_.path), 115200, timeout=5, exclusive=False) as program:
                program.write(b"AT\r")
                heard = program.read(4)
                program.baudrate = 9600
                program.reset_input_buffer()
                return heard

        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                assert await line.hear(3) == b"AT\r"
                line.say(b"OK\r\n")

            nursery.start_soon(answer)
            assert await trio.to_thread.run_sync(talk) == b"OK\r\n"


async def run(*command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process([*command], stdin=stdin, capture_stdout=True, capture_stderr=True, check=False)


async def test_stty_sets_and_shows_it(tmp_path: Path) -> None:
    async with port(tmp_path) as (_, served_):
        assert (await run("stty", "-F", str(served_.path), "19200", "raw", "-echo")).returncode == 0
        shown = (await run("stty", "-F", str(served_.path))).stdout
        assert b"speed 19200 baud" in shown


@pytest.mark.skipif(shutil.which("picocom") is None, reason="picocom is not installed")
async def test_picocom_sends_and_shows(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        result = await run("picocom", "-qrx", "300", "-b", "115200", "-t", "hello\r", str(served_.path))
        assert await line.hear(6) == b"hello\r"
        assert result.returncode == 0


@pytest.mark.skipif(shutil.which("mbpoll") is None, reason="mbpoll is not installed")
async def test_mbpoll_reads_a_register(tmp_path: Path) -> None:
    async with port(tmp_path) as (line, served_):
        async with trio.open_nursery() as nursery:

            async def unit() -> None:
                assert await line.hear(8) == bytes.fromhex("11 03 00 6b 00 01 f7 46")
                line.say(bytes.fromhex("11 03 02 ae 41 c5 d7"))

            nursery.start_soon(unit)
            options = ("-a", "17", "-r", "108", "-c", "1", "-1", "-m", "rtu", "-b", "9600", "-P", "none")
            result = await run("mbpoll", *options, str(served_.path))
        assert b"[108]:" in result.stdout
        assert b"44609" in result.stdout or b"-20927" in result.stdout
