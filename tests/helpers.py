"""A gateway for tests: real ptys as lines, real loopback sockets, and the daemon in this process.

Nothing here sleeps: a test waits for the state that it needs, under its own deadline.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import random
import resource
import shutil
import socket
import termios
import tty
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.app import run
from gateway.demo.cable import Cable, lay
from gateway.host.config import Config, HttpConfig, SerialConfig, TcpConfig
from gateway.host.sdnotify import Notifier
from gateway.state.users import Users
from protocol.parameters.hardware import ManagerHardware

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

PASSWORD = "correct horse"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def _ports_of_this_worker() -> Iterator[int]:
    """Go round the ports that only this worker of the test run gives away, from anywhere on.

    They lie below 32768, where the kernel takes the ports of connections and of sockets that name none: a port of those
    might be somebody's again before the test has bound it.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(12_000 + 2000 * (worker % 10), 14_000 + 2000 * (worker % 10))
    return itertools.islice(itertools.cycle(ports), random.SystemRandom().randrange(len(ports)), None)


_PORTS = _ports_of_this_worker()


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on, and that no other test is given."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports go round for ever")


def own_the_terminal() -> None:
    """Run in a child with a session of its own: it takes the terminal on descriptor 0, and hears Ctrl-C and its end."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process have no other descriptor while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


class FarEnd:
    """The device at the other end of a serial line. ``path`` stays its name while it is unplugged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.master = -1
        self.plug()

    def plug(self) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(self.master)
        os.set_blocking(self.master, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))
        os.close(slave)

    def unplug(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
        self.path.unlink(missing_ok=True)

    async def hear(self, count: int) -> bytes:
        """Return exactly so many bytes that the gateway wrote."""
        heard = b""
        while len(heard) < count:
            heard += await self.hear_some(count - len(heard))
        return heard

    async def hear_some(self, most: int = 65536) -> bytes:
        await trio.lowlevel.wait_readable(self.master)
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: nobody has opened the line yet
            return os.read(self.master, most)
        await trio.lowlevel.checkpoint()
        return b""

    async def say(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.wait_writable(self.master)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self.master, rest) :]


@dataclass
class Gateway:
    """A running gateway, with its lines and its HTTP port."""

    config: Config
    lines: tuple[FarEnd, ...]
    http_port: int
    stop: trio.Event = field(default_factory=trio.Event)

    async def curl(self, target: str, *options: str, user: str = "admin") -> str:
        """Return what curl prints for the path and query ``target``."""
        return (await self.curl_result(target, *options, user=user)).stdout.decode("latin-1")

    async def curl_result(self, target: str, *options: str, user: str = "admin") -> subprocess.CompletedProcess[bytes]:
        command = ["curl", "-s", "-g", "--digest", "-u", f"{user}:{PASSWORD}", *options]
        return await trio.run_process(
            [*command, f"http://127.0.0.1:{self.http_port}{target}"], capture_stdout=True, check=False
        )

    async def update(self, **parameters: object) -> str:
        """Set parameters of PortManager.P0: ``PTZServer_Enabled="yes"``."""
        assignments = {f"PortManager.P0.{name.replace('_', '.')}": value for name, value in parameters.items()}
        return await self.set(assignments)

    async def set(self, assignments: dict[str, object]) -> str:
        query = "&".join(f"{name}={value}" for name, value in assignments.items())
        return await self.curl(f"/axis-cgi/param.cgi?action=update&{query}")

    async def open_tcp(self, **more: object) -> int:
        """Open P0's generic TCP server on a free port, and return the port."""
        port = free_port()
        answer = await self.update(
            GenericTCPServer_Enabled="yes",
            GenericTCPServer_Listener_Enabled="yes",
            GenericTCPServer_Listener_Port=port,
            **more,
        )
        assert answer == "OK"
        return port

    async def status(self, port: int = 0) -> dict[str, Any]:
        """Return the status of one port."""
        found: dict[str, Any] = json.loads(await self.curl("/daisyport/status"))["ports"][port]
        return found

    async def until(self, holds: Callable[[dict[str, Any]], bool], port: int = 0) -> dict[str, Any]:
        """Ask for the status until ``holds`` is true of it; return that."""
        while True:
            status = await self.status(port)
            if holds(status):
                return status

    def ptz(self) -> trio.SocketStream:
        """Connect to P0's PTZ stream socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.config.runtime_dir / "ptz-P0.sock"))
        sock.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


@contextlib.asynccontextmanager
async def laid_cable(to: int) -> AsyncIterator[Cable]:
    """Lay a cable to the TCP port ``to``, until the block ends; it can be cut, unplugged and plugged in at will."""
    async with trio.open_nursery() as nursery:
        laid: Cable = await nursery.start(lay, to)
        yield laid
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def lines(directory: Path, count: int) -> Iterator[tuple[FarEnd, ...]]:
    """Plug in so many serial lines until the block ends."""
    ends = tuple(FarEnd(directory / f"tty{number}") for number in range(1, count + 1))
    try:
        yield ends
    finally:
        for end in ends:
            end.unplug()


def configuration(directory: Path, ends: tuple[FarEnd, ...], http_port: int, **more: Any) -> Config:
    """Return a configuration with these lines that listens on loopback only."""
    config = Config(
        state_dir=directory / "state",
        runtime_dir=directory / "run",
        node_name="cpu1",
        http=HttpConfig(listen=(("127.0.0.1", http_port),)),
        tcp=TcpConfig(bind=("127.0.0.1",)),
        serial=tuple(SerialConfig(str(end.path)) for end in ends),
        managers=tuple(ManagerHardware(serial=number) for number in range(1, len(ends) + 1)),
    )
    return replace(config, **more)


@contextlib.asynccontextmanager
async def running_gateway(directory: Path, ports: int = 1, **more: Any) -> AsyncIterator[Gateway]:
    """Run a gateway with ``ports`` serial ports and the users admin, operator and viewer, until the block ends."""
    with lines(directory, ports) as ends:
        http_port = free_port()
        config = configuration(directory, ends, http_port, **more)
        users = Users(config.state_dir, config.node_name)
        for role in ("admin", "operator", "viewer"):
            users.add(role, role, PASSWORD)
        gateway = Gateway(config, ends, http_port)
        async with trio.open_nursery() as nursery:
            await nursery.start(run, config, gateway.stop, Notifier(None))
            yield gateway
            gateway.stop.set()
