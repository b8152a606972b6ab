"""The chain of the demo: a CPU that owns the lines, one chained to it, and a far one chained to that."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.app import run
from gateway.demo.cpu import Cpu, Login
from gateway.demo.examples import afar, at_the_owner
from gateway.host.sdnotify import Notifier
from gateway.remote_port.keygen import strong_key
from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from gateway.demo.examples import Example

__all__ = ["Chain", "chained", "free_ports"]

_NAMES: Final = ("owner", "middle", "far")
_HTTP: Final = 8080
_TCP: Final = 4001
_STOP: Final = 1.0
"""The seconds that the gateways have to end after Ctrl-C: fewer than the daemon's own, because a user waits."""


@final
@frozen
class Chain:
    """The CPUs of the demo, from the owner of the lines to the far one."""

    cpus: tuple[Cpu, ...]

    @property
    def owner(self) -> Cpu:
        """The CPU with the lines."""
        return self.cpus[0]

    @property
    def far(self) -> Cpu:
        """The CPU at the other end of the chain."""
        return self.cpus[-1]

    def text(self) -> str:
        """Return the text to show at the start: the console page, the addresses, and the commands to paste."""
        login = self.owner.login
        addresses = "".join(
            f"  {cpu.name:7} http://{cpu.host}:{cpu.http_port}  TCP {cpu.host}:{cpu.tcp_ports[0]}\n"
            for cpu in self.cpus
        )
        return f"""\
The line, live in a browser: http://{self.owner.host}:{self.owner.http_port}/
  user {login.user}, password {login.password} (for this run)

A simulated PTZ camera (VISCA and Pelco-D) is on {self.owner.devices[0]}. Three CPUs
share its line: the owner has it, and the others are chained to the one above.
Everything runs on this machine only, and is removed when you press Ctrl-C.

{addresses}
Paste these commands into another terminal. What the camera receives is shown
here, and on the page.

{_shown(at_the_owner(self.owner))}
These go to the far CPU, two links away from the camera:

{_shown(afar(self.far))}"""


def _shown(examples: Iterable[Example]) -> str:
    return "\n".join(f"  # {example.what}\n  {example.command}\n" for example in examples)


@contextlib.asynccontextmanager
async def chained(
    directory: Path, devices: Sequence[str], link: Callable[[int], Awaitable[int]]
) -> AsyncIterator[Chain]:
    """Run a chain that shares these devices: the block begins when all listeners are bound, and at its end it stops.

    ``link`` makes a link to a TCP port of this host, and returns the port to connect to.
    """
    stop = trio.Event()
    cpus: list[Cpu] = []
    async with trio.open_nursery() as gateways:
        for plan in _plans(directory, devices):
            leads = [await link(port) for port in cpus[-1].served] if cpus else []
            cpu = replace(plan, servers=tuple(leads))
            cpu.prepare()
            cpus.append(cpu)
            await gateways.start(run, cpu.config, stop, Notifier(None))
        try:
            yield Chain(tuple(cpus))
        finally:
            stop.set()
            gateways.cancel_scope.deadline = trio.current_time() + _STOP


def _plans(directory: Path, devices: Sequence[str]) -> Iterator[Cpu]:
    """Yield the CPUs from the owner to the far one, each with well-known ports, or with other free ones."""
    login = Login("demo", secrets.token_hex(6), strong_key())
    count = len(devices)
    wanted = [(_HTTP + place, _TCP + place, *[0] * (2 * count - 1)) for place in range(len(_NAMES))]
    ports = iter(free_ports(port for each in wanted for port in each))
    for name in _NAMES:
        yield Cpu(
            name=name,
            directory=directory / name,
            login=login,
            http_port=next(ports),
            tcp_ports=tuple(itertools.islice(ports, count)),
            devices=tuple(devices) if name == _NAMES[0] else (),
            served=tuple(itertools.islice(ports, count)) if name != _NAMES[-1] else (),
        )


def free_ports(preferred: Iterable[int]) -> list[int]:
    """Return a free port for each of these: the preferred one, or any other. Raises OSError if there is none."""
    # All are held until the last is found, or one of them would be found twice.
    with contextlib.ExitStack() as held:
        return [held.enter_context(_a_server(port)).getsockname()[1] for port in preferred]


def _a_server(preferred: int) -> socket.socket:
    for port in (preferred, 0):
        with contextlib.suppress(OSError):
            return socket.create_server((Cpu.host, port))
    raise OSError(f"no free port on {Cpu.host}")
