"""``daisyport demo``: a simulated camera, a gateway in front of it, and a few commands to try; gone without a trace.

It needs no hardware, no root and no network, and must not touch the machine's own configuration or state.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import trio

from gateway.app import run
from gateway.camera import Camera, live
from gateway.config import Config, Http, Serial, Tcp
from gateway.sdnotify import Notifier
from gateway.users import Users
from protocol.hardware import ManagerHardware

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Demo", "Example", "demo", "main"]

_HOST = "127.0.0.1"
_STOP = 1.5
"""Seconds to end in after Ctrl-C; somebody is looking on."""


@final
@dataclass(frozen=True, slots=True)
class Example:
    """A command for a shell, and what it does."""

    what: str
    command: str


@final
@dataclass(frozen=True, slots=True)
class Demo:
    """Where everything is in this run, and who may log in."""

    directory: Path
    device: str
    http_port: int
    tcp_port: int
    user: str
    password: str

    @property
    def config(self) -> Config:
        """One line, everything on loopback."""
        return Config(
            state_dir=self.directory / "state",
            runtime_dir=self.directory / "run",
            node_name="demo",
            http=Http(listen=((_HOST, self.http_port),)),
            tcp=Tcp(bind=(_HOST,)),
            serial=(Serial(self.device),),
            managers=(ManagerHardware(serial=1, remote_port=0),),
        )

    @property
    def parameters(self) -> str:
        """All three doors open."""
        return (
            "root.PortManager.P0.SerialCGI.Enabled=yes\n"
            "root.PortManager.P0.PTZServer.Enabled=yes\n"
            "root.PortManager.P0.GenericTCPServer.Enabled=yes\n"
            "root.PortManager.P0.GenericTCPServer.Listener.Enabled=yes\n"
            f"root.PortManager.P0.GenericTCPServer.Listener.Port={self.tcp_port}\n"
        )

    @property
    def ptz_socket(self) -> Path:
        """Where a PTZ driver connects."""
        return self.directory / "run" / "ptz-P0.sock"

    def prepare(self) -> None:
        """Write what the gateway finds at its start."""
        Users(self.config.state_dir, self.config.node_name).add(self.user, "admin", self.password)
        parameters = self.config.state_dir / "parameters"
        parameters.touch(mode=0o600)
        parameters.write_text(self.parameters)

    def examples(self) -> tuple[Example, ...]:
        """Commands that make the camera do and say something, by each way in."""
        left, home = bytes.fromhex("8101060106050103ff"), bytes.fromhex("81010604ff")
        stop_and_ask = bytes.fromhex("ff010000000001 ff010051000052")
        return (
            Example("Over HTTP: drive to the left (VISCA)", self._curl(f"com/serial.cgi?write={left.hex()}")),
            Example(
                "Over HTTP: ask where it looks, and read the 11 bytes of its answer (VISCA)",
                self._curl("com/serial.cgi?write=81090612ff&read=11&timeout=500"),
            ),
            Example("Over TCP: stop, and ask for the pan in 0.01 degrees (Pelco-D)", self._tcp(stop_and_ask)),
            Example("As a PTZ driver: send it home (VISCA)", self._ptz(home)),
            Example("Set the baud rate", self._curl("param.cgi?action=update&Serial.Ser1.BaudRate=19200")),
            Example("List the port's parameters", self._curl("param.cgi?action=list&group=PortManager.P0")),
        )

    def _curl(self, target: str) -> str:
        login = shlex.quote(f"{self.user}:{self.password}")
        return f"curl -sS --digest -u {login} 'http://{_HOST}:{self.http_port}/axis-cgi/{target}'; echo"

    def _tcp(self, data: bytes) -> str:
        if _netcat_half_closes():
            # Octal, for a plain shell's printf knows no \x.
            octal = "".join(f"\\{byte:03o}" for byte in data)
            return f"printf '{octal}' | nc -N {_HOST} {self.tcp_port} | od -An -tx1"
        return _python("AF_INET", (_HOST, self.tcp_port), data)

    def _ptz(self, data: bytes) -> str:
        return _python("AF_UNIX", str(self.ptz_socket), data)

    def screen(self) -> str:
        """What is shown at the start."""
        examples = "\n".join(f"  # {example.what}\n  {example.command}\n" for example in self.examples())
        return f"""\
A simulated PTZ camera (VISCA and Pelco-D) on {self.device}, and a gateway in front of it.
All of it is on this machine only, and gone when you press Ctrl-C.

  HTTP         http://{_HOST}:{self.http_port}  user {self.user}, password {self.password} (for this run)
  TCP          {_HOST}:{self.tcp_port}
  PTZ drivers  {self.ptz_socket}

Paste these into another terminal, and see here what the camera is told:

{examples}"""


def _netcat_half_closes() -> bool:
    """Whether there is a netcat that knows -N; one that does not would never end."""
    if shutil.which("nc") is None:
        return False
    done = subprocess.run(["nc", "-h"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return b"-N" in done.stdout + done.stderr


def _python(family: str, address: object, data: bytes) -> str:
    """A one-line netcat for bytes: send, say that this was all, show what comes back."""
    python = "python3" if shutil.which("python3") else sys.executable
    talk = (
        f"import socket; s = socket.socket(socket.{family}); s.connect({address!r}); "
        f"s.sendall(bytes.fromhex('{data.hex()}')); s.shutdown(1); print(s.makefile('rb').read().hex(' '))"
    )
    return f"{shlex.quote(python)} -c {_double_quoted(talk)}"


def _double_quoted(text: str) -> str:
    return '"' + re.sub(r'([$`"\\])', r"\\\1", text) + '"'


def _free_port(preferred: int) -> int:
    """The port one would expect, or any other that is free."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.create_server((_HOST, port)) as held:
            return int(held.getsockname()[1])
    raise OSError(f"no free port on {_HOST}")


async def demo(
    say: Callable[[str], None], stop: trio.Event, *, task_status: trio.TaskStatus[Demo] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the camera and its gateway until ``stop`` is set; ``say`` gets the screen and the camera's lines."""
    with tempfile.TemporaryDirectory(prefix="daisyport-demo-") as directory:
        async with trio.open_nursery() as line:
            device = await line.start(live, Camera(), say)
            here = Demo(Path(directory), device, _free_port(8080), _free_port(4001), "demo", secrets.token_hex(6))
            here.prepare()
            async with trio.open_nursery() as gateway:
                await gateway.start(run, here.config, stop, Notifier(None))
                say(here.screen())
                task_status.started(here)
                await stop.wait()
                gateway.cancel_scope.deadline = trio.current_time() + _STOP
            line.cancel_scope.cancel()


def main() -> int:
    """Run the demo on this terminal until Ctrl-C; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    trio.run(_on_a_terminal)
    return 0


async def _on_a_terminal() -> None:
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(demo, functools.partial(print, flush=True), stop)
            await anext(aiter(signals))
            stop.set()
    print("\nGone, with all it made.")
