"""The programs to compare: how each is configured, started, found ready, weighed and stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["PEERS", "NotReady", "Peer", "Port", "Running", "daisyport", "has", "other_version", "start", "which"]

_ROOT = Path(__file__).parents[2]
_PATIENCE = 30.0
"""Seconds in which a program is to be ready, on the slowest of machines."""
_MIB = 1024 * 1024


@final
class NotReady(Exception):
    """A program ended, or was not ready in time; the message ends with what it said."""


@final
@dataclass(frozen=True, slots=True)
class Port:
    """A serial line that a gateway is to open, the TCP port where it offers it, and for how many clients.

    `links` are TCP ports for a chain of programs between the two.
    """

    device: str
    tcp: int
    clients: int = 1
    links: tuple[int, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Peer:
    """A program in one configuration.

    `commands` writes what configuration it needs into a directory and gives the commands to run. `shares`: any
    number of clients get what one line says. `notifies`: it says READY=1 on NOTIFY_SOCKET; the others are ready
    when they listen. `links`: so many it has on the way to a line.
    """

    name: str
    commands: Callable[[Sequence[Port], Path], list[list[str]]]
    present: Callable[[], bool]
    shares: bool = True
    notifies: bool = False
    links: int = 0


@final
@dataclass(frozen=True, slots=True)
class Running:
    """A gateway at work; `startup` is the seconds that it took to get ready."""

    processes: tuple[subprocess.Popen[bytes], ...]
    startup: float

    def memory(self) -> float:
        """Return the resident memory in MiB; pages that several processes share count once."""
        pids = self._family()
        return max(max(_rollup(pid, "Rss:") for pid in pids), sum(_rollup(pid, "Pss:") for pid in pids)) / _MIB

    def cpu(self) -> float:
        """Return the seconds on a CPU so far, of all threads and processes that live."""
        tasks = (task for pid in self._family() for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def _family(self) -> list[int]:
        return [pid for process in self.processes for pid in _descent(process.pid)]


def _descent(pid: int) -> Iterator[int]:
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _descent(int(child))


def _rollup(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@contextlib.contextmanager
def start(peer: Peer, ports: Sequence[Port], directory: Path, cpus: set[int]) -> Iterator[Running]:
    """Run a peer on these CPUs until the block ends; begin when it is ready. Raises NotReady."""
    directory.mkdir()
    commands = peer.commands(ports, directory)
    with contextlib.ExitStack() as stack:
        notify = stack.enter_context(_notify_socket(directory))
        log = stack.enter_context((directory / "log").open("wb"))
        environment = os.environ.copy()
        if not _is_compiled():
            # Once, as in an installation: the first start of a run does that, and is not counted.
            environment["PYTHONPYCACHEPREFIX"] = str(directory.parent / "compiled")
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if peer.notifies:
            environment["NOTIFY_SOCKET"] = str(directory / "notify")
        began = time.monotonic()
        processes = []
        with _on(cpus):
            for command in commands:
                process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)
                stack.callback(_stop, process)
                processes.append(process)
        said = _Readies(notify, len(commands))
        ready = said.all if peer.notifies else (lambda: _all_listen(ports))
        _wait(peer, processes, ready, directory / "log")
        yield Running(tuple(processes), time.monotonic() - began)


def _is_compiled() -> bool:
    """Return whether the gateway has its bytecode beside it, as where it is installed, and needs no other."""
    found = importlib.util.find_spec("gateway.__main__")
    return found is not None and found.cached is not None and Path(found.cached).exists()


@contextlib.contextmanager
def _on(cpus: set[int]) -> Iterator[None]:
    """Start children on these CPUs: they inherit the affinity of their parent."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _wait(peer: Peer, processes: list[subprocess.Popen[bytes]], ready: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not ready():
        died = any(process.poll() is not None for process in processes)
        if died or time.monotonic() > end:
            why = "ended" if died else f"not ready after {_PATIENCE:g} s"
            raise NotReady(f"{peer.name} {why}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.001)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(6)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _notify_socket(directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
        notify.bind(str(directory / "notify"))
        yield notify


@final
@dataclass(slots=True)
class _Readies:
    """Counts the processes that have still to say that they are ready."""

    notify: socket.socket
    missing: int

    def all(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            while self.missing:
                self.missing -= b"READY=1" in self.notify.recv(4096).split(b"\n")
        return not self.missing


def _all_listen(ports: Sequence[Port]) -> bool:
    """Ask the kernel: a connection would be one more client, and change the figures."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A"}
    return all({port.tcp, *port.links} <= listening for port in ports)


def _daisyport(ports: Sequence[Port], directory: Path) -> list[list[str]]:
    lines = [f'[[serial]]\ndevice = "{port.device}"' for port in ports]
    return [daisyport(directory / "cpu", lines, "".join(_parameters(i, port) for i, port in enumerate(ports)))]


def daisyport(directory: Path, hardware: Sequence[str], parameters: str) -> list[str]:
    """Prepare a directory for a daemon with this hardware and these parameters, and return the command."""
    state = directory / "state"
    state.mkdir(mode=0o700, parents=True)
    config = [
        f'state_dir = "{state}"',
        f'runtime_dir = "{directory}"',
        "[http]",
        "listen = []",
        "[tcp]",
        'bind = ["127.0.0.1"]',
        *hardware,
    ]
    (directory / "daisyport.toml").write_text("\n".join(config) + "\n")
    (state / "parameters").touch(mode=0o600)
    (state / "parameters").write_text(parameters)
    return [sys.executable, "-m", "gateway", "run", "--config", str(directory / "daisyport.toml")]


def _parameters(index: int, port: Port) -> str:
    server = f"root.PortManager.P{index}.GenericTCPServer"
    return f"{server}.Enabled=yes\n{server}.Listener.Enabled=yes\n{server}.Listener.Port={port.tcp}\n"


def _ser2net(options: Sequence[str], accepter: str = "tcp") -> Callable[[Sequence[Port], Path], list[list[str]]]:
    def commands(ports: Sequence[Port], directory: Path) -> list[list[str]]:
        lines = []
        for i, port in enumerate(ports):
            lines += [
                f"connection: &p{i}",
                f"  accepter: {accepter},127.0.0.1,{port.tcp}",
                f"  connector: serialdev,{port.device},9600n81,local",
                "  options:",
                f"    max-connections: {port.clients}",
                *(f"    {option}" for option in options),
            ]
        (directory / "ser2net.yaml").write_text("\n".join(lines) + "\n")
        return [[which("ser2net"), "-n", "-u", "-c", str(directory / "ser2net.yaml")]]

    return commands


def _socat(ports: Sequence[Port], _directory: Path) -> list[list[str]]:
    listen = "TCP-LISTEN:{},bind=127.0.0.1,reuseaddr,fork,nodelay"
    return [[which("socat"), listen.format(port.tcp), f"OPEN:{port.device},rawer"] for port in ports]


def _relay(ports: Sequence[Port], _directory: Path) -> list[list[str]]:
    return [[sys.executable, "-m", "tests.benchmarks.relay", str(port.tcp), port.device] for port in ports]


def other_version(peer: Peer, name: str, checkout: Path) -> Peer:
    """Return a Daisyport peer, under another name, whose code is that of another checkout."""

    def commands(ports: Sequence[Port], directory: Path) -> list[list[str]]:
        there = ["env", f"--chdir={checkout}", f"PYTHONPATH={checkout}"]
        return [[*there, *command] for command in peer.commands(ports, directory)]

    return replace(peer, name=name, commands=commands)


def which(program: str) -> str:
    """Return the path of a program, or ""; daemons often live where a user's PATH does not look."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or ""


def has(program: str) -> Callable[[], bool]:
    """Return a function that looks for a program when it is called."""
    return lambda: which(program) != ""


_BIG = ("chardelay: false", "dev-to-net-bufsize: 65536", "net-to-dev-bufsize: 65536")

PEERS = {
    peer.name: peer
    for peer in (
        Peer("daisyport", _daisyport, lambda: importlib.util.find_spec("gateway.__main__") is not None, notifies=True),
        Peer("again", _daisyport, lambda: importlib.util.find_spec("gateway.__main__") is not None, notifies=True),
        Peer("ser2net", _ser2net(()), has("ser2net")),
        Peer("tuned", _ser2net(("chardelay: false",)), has("ser2net")),
        Peer("max", _ser2net(_BIG, "tcp(nodelay)"), has("ser2net")),
        Peer("socat", _socat, has("socat"), shares=False),
        Peer("relay", _relay, lambda: True),
    )
}
"""The peers by name. `again` is Daisyport once more: how far the two differ is the noise. `max` and `relay` run only
when they are asked for."""
