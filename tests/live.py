"""The daemon as a process of its own, as systemd starts it: for limits of a process, and for clients beside it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from gateway.state.users import Users
from tests.helpers import PASSWORD, free_port, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from tests.helpers import FarEnd


@dataclass
class Live:
    """A daemon that runs; ``told`` is the service manager's socket, where READY has been read."""

    process: trio.Process
    lines: tuple[FarEnd, ...]
    http_port: int
    tcp_ports: tuple[int, ...]
    told: socket.socket
    directory: Path

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    async def curl(self, target: str, *options: str, user: str = "admin") -> tuple[str, str]:
        """Return the status and the body."""
        url = f"http://127.0.0.1:{self.http_port}{target}"
        login = ["--digest", "-u", f"{user}:{PASSWORD}"]
        command = ["curl", "-s", "-g", "-m", "20", *login, "-w", "%{http_code}", *options]
        done = await trio.run_process([*command, url], capture_stdout=True, check=False)
        return done.stdout[-3:].decode(), done.stdout[:-3].decode("latin-1")

    async def status(self) -> dict[str, Any]:
        code, body = await self.curl("/daisyport/status")
        assert code == "200"
        found: dict[str, Any] = json.loads(body)
        return found

    def hear_told(self) -> list[bytes]:
        """Return what the service manager was told since."""
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(self.told.recv(4096))
        return told


@contextlib.asynccontextmanager
async def daemon(
    directory: Path,
    ports: int = 1,
    descriptors: tuple[int, int] | None = None,
    watchdog: float = 2.0,
    config: str = "",
    more: Mapping[str, object] | None = None,
    program: Sequence[str] = ("-m", "gateway"),
) -> AsyncIterator[Live]:
    """Run a daemon whose ports have an open TCP server each and serial.cgi, until the block ends.

    ``descriptors`` are the soft and the hard limit that it starts with; ``more`` parameters come without ``root.``;
    ``program`` is what Python runs.
    """
    with lines(directory, ports) as ends, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(directory / "notify"))
        told.setblocking(False)
        http_port, *tcp_ports = (free_port() for _ in range(ports + 1))
        (directory / "state").mkdir()
        servers = {"SerialCGI.Enabled": "yes", "GenericTCPServer.Enabled": "yes", "PTZServer.Enabled": "yes"}
        for index, port in enumerate(tcp_ports):
            listener = {"GenericTCPServer.Listener.Enabled": "yes", "GenericTCPServer.Listener.Port": port}
            with (directory / "state" / "parameters").open("a") as parameters:
                parameters.writelines(
                    f"root.PortManager.P{index}.{name}={value}\n" for name, value in (servers | listener).items()
                )
        with (directory / "state" / "parameters").open("a") as parameters:
            parameters.writelines(f"root.{name}={value}\n" for name, value in (more or {}).items())
        serial = "".join(f'[[serial]]\ndevice = "{end.path}"\n' for end in ends)
        (directory / "config.toml").write_text(
            f'state_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\nnode_name = "cpu1"\n'
            f'[http]\nlisten = ["127.0.0.1:{http_port}"]\n{config}\n[tcp]\nbind = ["127.0.0.1"]\n{serial}'
        )
        users = Users(directory / "state", "cpu1")
        for role in ("admin", "operator", "viewer"):
            users.add(role, role, PASSWORD)
        environ = {**os.environ, "NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": f"{watchdog * 1e6:.0f}"}
        command = [sys.executable, *program, "run", "--config", str(directory / "config.toml")]
        with (directory / "log").open("wb") as log:
            process = await trio.lowlevel.open_process(
                command, stderr=log, stdin=None, env=environ, preexec_fn=lambda: _limit(descriptors)
            )
        try:
            live = Live(process, ends, http_port, tuple(tcp_ports), told, directory)
            while b"READY=1" not in live.hear_told():
                await trio.lowlevel.wait_readable(told)
            yield live
            process.terminate()
            with trio.fail_after(10):
                assert await process.wait() == 0
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def _limit(descriptors: tuple[int, int] | None) -> None:
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)


async def connected(port: int, source: str = "127.0.0.1") -> trio.SocketStream:
    """Return a TCP client that comes from another address of loopback."""
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)
