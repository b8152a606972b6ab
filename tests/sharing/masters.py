"""Masters, by real clients, that share a line of units through daemons of their own, direct or chained."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import trio

from tests.helpers import free_port
from tests.live import daemon
from tests.sharing.wire import Precedence, Wire, take_precedence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import pytest

    from tests.live import Live
    from tests.sharing.wire import Units

__all__ = ["MODBUS", "REPLY_TIMEOUT", "VISCA", "Client", "Shared", "Tally", "master", "shared"]

HERE = Path(__file__).parent
KEY = "a-key"
START = 2.0
"""Seconds in which the clients load their libraries, before the first of them begins."""

TOGETHER, ALONE = 2.0, 1.0
"""Seconds of a round in which two masters share the line, and in which one has it to itself."""
SETTLE = 0.15
"""Seconds of each in which the last turn of the other kind may still be on the line."""

REPLY_TIMEOUT = 0.5
"""Seconds that a turn waits for a reply.

On a busy machine the kernel hands over what a pty's other end wrote tenths of a second late, whatever takes precedence.
"""
_PATIENT = f"reply_timeout_ms = {REPLY_TIMEOUT * 1000:.0f}\nreply_silence_ms = 200\nmax_wait_ms = 2500"
MODBUS = f'reply = "modbus-rtu"\n{_PATIENT}'
VISCA = f'reply = "visca"\n{_PATIENT}'


@dataclass(frozen=True)
class Tally:
    """What became of one client's requests."""

    right: int
    wrong: int
    timeouts: int
    exceptions: int = 0
    longest: float = 0.0
    by_unit: dict[str, int] | None = None


@dataclass(frozen=True)
class Rounds:
    """What the line carried in rounds in which one of two masters rests for a part.

    The times of one alone lie between those of both, for a machine has quieter and busier minutes.
    """

    tallies: list[Tally]
    together: float
    """Requests a second while both worked ..."""
    alone: float
    """... and while one did."""
    shares: list[int]
    """Requests of each while both worked."""


Client: TypeAlias = tuple[str, int, tuple[object, ...]]
"""A script, the TCP port that it connects to, and its other arguments."""


def master(
    port: int,
    first: int,
    patience: float = 3.0,
    work: float = 0.0,
    rest: float = 0.0,
    units: tuple[int, ...] = (1, 2, 3),
) -> Client:
    """Return a Modbus master that asks these units for registers from ``first`` on, and may rest in between."""
    return "modbus_master.py", port, (patience, work, rest, first, *units)


@dataclass
class Shared:
    """A line with its units, the daemon that owns it, and one that is chained to that."""

    wire: Wire
    owner: Live
    far: Live | None
    began: float = 0.0
    """When the clients last began, in seconds of the monotonic clock."""

    @property
    def ports(self) -> list[int]:
        """The TCP port of the owner's server, and that of the chained CPU."""
        return [live.tcp_ports[0] for live in (self.owner, self.far) if live is not None]

    async def poll(self, seconds: float, *clients: Client) -> list[Tally]:
        """Run clients beside each other."""
        tallies: dict[int, Tally] = {}
        begin, self.began = time.time() + START, time.monotonic() + START

        async def run(number: int, script: str, port: int, more: tuple[object, ...]) -> None:
            command = [sys.executable, str(HERE / script), str(port), str(begin), str(seconds), *map(str, more)]
            done = await trio.run_process(command, capture_stdout=True)
            tallies[number] = Tally(**json.loads(done.stdout))

        with _precedence(Precedence.CLIENT):
            async with trio.open_nursery() as nursery:
                for number, client in enumerate(clients):
                    nursery.start_soon(run, number, *client)
        return [tallies[number] for number in range(len(clients))]

    async def masters(self, seconds: float, *ports: int, patience: float = 3.0) -> list[Tally]:
        """Run a Modbus master at each of these TCP ports; each asks the same units for other registers."""
        return await self.poll(seconds, *(master(port, 100 * n, patience) for n, port in enumerate(ports, 1)))

    async def share_in_rounds(self, rounds: int, first: int, second: int) -> Rounds:
        """Run masters at two TCP ports, of which the second rests in the last third of each round."""
        clients = master(first, 100), master(second, 200, work=TOGETHER, rest=ALONE)
        tallies = await self.poll(rounds * (TOGETHER + ALONE), *clients)
        starts = [self.began + number * (TOGETHER + ALONE) for number in range(rounds)]
        together = [self._written(start + SETTLE, start + TOGETHER) for start in starts]
        alone = [self._written(start + TOGETHER + SETTLE, start + TOGETHER + ALONE) for start in starts]
        of_the_first = sum(int.from_bytes(request[2:4]) < 200 for written in together for _, request in written)
        shares = [of_the_first, sum(map(len, together)) - of_the_first]
        return Rounds(tallies, _rate(together), _rate(alone), shares)

    def _written(self, since: float, until: float) -> list[tuple[float, bytes]]:
        return [(time, request) for time, request in self.wire.written if since <= time < until]


@contextlib.asynccontextmanager
async def shared(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    units: Units,
    rate: int,
    rule: str | None,
    chained: bool = False,
    two_wires: bool = True,
) -> AsyncIterator[Shared]:
    """Run daemons whose line has these units; ``rule`` is the body of the owner's table of turns, None for none."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE / "paced"), os.environ.get("PYTHONPATH", "")]))
    turn = "" if rule is None else f"[[port_manager]]\nserial = 1\n[port_manager.turn]\n{rule}\n"
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_precedence(Precedence.GATEWAY))
        owner = await stack.enter_async_context(daemon(_made(directory / "owner"), config=turn))
        wire = Wire(owner.lines[0], units, rate, two_wires)
        stack.enter_context(wire.running())
        assert await owner.curl(f"/axis-cgi/param.cgi?action=update&Serial.Ser1.BaudRate={rate}") == ("200", "OK")
        far = await stack.enter_async_context(_chained(directory / "far", owner)) if chained else None
        yield Shared(wire, owner, far)


def _rate(spans: list[list[tuple[float, bytes]]]) -> float:
    """Return the requests a second in spans, by the times from each to the next.

    The longest tenth is left out: a busy kernel that hands a reply over tenths of a second late is no cost of turns.
    """
    cycles = sorted(after - before for span in spans for (before, _), (after, _) in itertools.pairwise(span))
    usual = cycles[: len(cycles) * 9 // 10]
    return len(usual) / sum(usual)


@contextlib.contextmanager
def _precedence(precedence: Precedence) -> Iterator[None]:
    """Give this thread, and the processes that it starts in the block, a precedence."""
    take_precedence(precedence)
    try:
        yield
    finally:
        take_precedence(Precedence.NONE)


@contextlib.asynccontextmanager
async def _chained(directory: Path, owner: Live) -> AsyncIterator[Live]:
    port, manager = free_port(), "PortManager.P0.RemotePortServer"
    server: dict[str, object] = {f"{manager}.Enabled": "yes", f"{manager}.AuthenticationKey": KEY}
    server |= {f"{manager}.Listener.Enabled": "yes", f"{manager}.Listener.Port": port}
    await _set(owner, server)
    config = "[[port_manager]]\nremote_port = 0\n"
    async with daemon(_made(directory), config=config) as far:
        remote = {"AutoConf": "no", "Host": "127.0.0.1", "Port": port, "AuthenticationKey": KEY}
        await _set(far, {f"RemotePort.R0.{name}": value for name, value in remote.items()})
        with trio.fail_after(10):
            while (await far.status())["ports"][0]["state"] != "up":
                pass
        yield far


async def _set(live: Live, parameters: dict[str, object]) -> None:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    assert await live.curl(f"/axis-cgi/param.cgi?action=update&{query}") == ("200", "OK")


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
