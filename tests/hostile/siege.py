"""Live daemons under attack, and the honest clients that use them meanwhile.

The daemons are processes of their own. The device of the owner's line says back whatever it is told, so that each
client sees its messages come back, and how long that took.
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from gateway.state.users import Users
from tests.helpers import PASSWORD, FarEnd, Gateway, configuration, free_port, laid_cable, lines
from tests.hostile.peer import Ended, Node, dialled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.demo.cable import Cable
    from tests.hostile.peer import Peer

KEY = "the blade's own key"
HOSTILE = Node(b"a hostile peer, with its own key")
ECHO = 0.030
"""Seconds that a message may take to come back, at half of all moments, whatever happens elsewhere."""
GROWTH = 8 << 20
"""Bytes that a daemon's memory may grow under attack."""
LOG = 100_000
"""Bytes that an attack may make a daemon log."""
_RECORD = 8
_ANSWER = 2.0
"""Seconds after which a message that has not come back fails the test."""


@dataclass
class Daemon:
    """A daemon in a process of its own; ``gateway`` is the way to ask it."""

    process: trio.Process
    log: Path
    gateway: Gateway
    settled: int = 0
    """Resident bytes before the attack."""

    @property
    def resident(self) -> int:
        """Resident bytes now."""
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def said(self) -> str:
        """All that it logged."""
        return self.log.read_text()

    async def says(self, text: str) -> None:
        """Wait until it logged that."""
        while text not in self.said:  # noqa: ASYNC110 -- a process tells by its log, and no other way
            await trio.sleep(0.01)

    def check(self) -> None:
        """It runs, no larger than before, and its log is short and knows of no bug."""
        assert self.process.returncode is None, f"it ended: {self.said[-3000:]}"
        said = self.said
        assert "bug" not in said, said[said.index("bug") - 300 :][:3000]
        assert "Traceback" not in said, said[said.index("Traceback") - 300 :][:3000]
        assert len(said) < LOG, f"{len(said)} bytes of log: {said[-1000:]}"
        assert self.resident < self.settled + GROWTH, f"{(self.resident - self.settled) >> 10} KiB more"


@asynccontextmanager
async def daemon(directory: Path, ports: str, parameters: dict[str, object], *ends: FarEnd) -> AsyncIterator[Daemon]:
    """Run a daemon on loopback until the block ends. ``ports`` is TOML, ``parameters`` come without ``root.``."""
    command, gateway = _prepared(directory, ports, parameters, *ends)
    with (directory / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(command, stderr=log, stdout=subprocess.DEVNULL, stdin=None)
        try:
            yield Daemon(process, directory / "log", gateway)
            process.terminate()
            with trio.move_on_after(6):
                assert await process.wait() == 0
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def _prepared(directory: Path, ports: str, parameters: dict[str, object], *ends: FarEnd) -> tuple[list[str], Gateway]:
    directory.mkdir()
    gateway = Gateway(configuration(directory, ends, free_port()), ends, free_port())
    serial = "".join(f'[[serial]]\ndevice = "{end.path}"\n' for end in ends)
    (directory / "daisyport.toml").write_text(
        f'state_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\nnode_name = "{directory.name}"\n'
        f'[http]\nlisten = ["127.0.0.1:{gateway.http_port}"]\n[tcp]\nbind = ["127.0.0.1"]\n{serial}{ports}\n'
    )
    Users(directory / "state", directory.name).add("admin", "admin", PASSWORD)
    (directory / "state" / "parameters").write_text("".join(f"root.{n}={v}\n" for n, v in parameters.items()))
    return [sys.executable, "-m", "gateway", "run", "--config", str(directory / "daisyport.toml")], gateway


def tcp_server(port: int, manager: int = 0) -> dict[str, object]:
    """The parameters of an open generic TCP server."""
    server = f"PortManager.P{manager}.GenericTCPServer."
    return {f"{server}Enabled": "yes", f"{server}Listener.Enabled": "yes", f"{server}Listener.Port": port}


def remote_server(port: int, key: str = KEY, manager: int = 0) -> dict[str, object]:
    """The parameters of an open remote port server."""
    server = f"PortManager.P{manager}.RemotePortServer."
    return {
        f"{server}Enabled": "yes",
        f"{server}AuthenticationKey": key,
        f"{server}Listener.Enabled": "yes",
        f"{server}Listener.Port": port,
    }


def remote_client(port: int, key: str = KEY, index: int = 0) -> dict[str, object]:
    """The parameters of a remote port client of a server on this host."""
    remote = {"AutoConf": "no", "Host": "127.0.0.1", "Port": port, "AuthenticationKey": key}
    return {f"RemotePort.R{index}.{name}": value for name, value in remote.items()}


@dataclass
class Client:
    """An honest client, whose numbered messages have to come back."""

    letter: str
    stream: trio.SocketStream
    delays: list[float] = field(default_factory=list)
    failure: str = ""
    """Why it has given up."""
    _heard: bytes = b""

    async def talk(self) -> None:
        """Send one message after another, each when the one before it has come back."""
        while not self.failure:
            began = trio.current_time()
            with trio.move_on_after(_ANSWER) as waiting:
                try:
                    await self._exchange(f"{self.letter}{len(self.delays):07d}".encode())
                except trio.BrokenResourceError:
                    self.failure = f"client {self.letter} was cut after {len(self.delays)} messages"
                    return
            if waiting.cancelled_caught:
                self.failure = f"message {len(self.delays)} of client {self.letter} did not come back in time"
            self.delays.append(trio.current_time() - began)
            await trio.sleep(0.002)

    async def _exchange(self, record: bytes) -> None:
        await self.stream.send_all(record)
        while record not in self._heard:
            data = await self.stream.receive_some()
            if not data:
                raise trio.BrokenResourceError
            self._heard = self._heard[-_RECORD:] + data

    async def more(self, count: int) -> None:
        """Wait until so many more messages have come back, or it has given up."""
        wanted = len(self.delays) + count
        while len(self.delays) < wanted and not self.failure:  # noqa: ASYNC110 -- it talks on its own
            await trio.sleep(0.005)

    def usual(self, start: int) -> float:
        """How long the message that was under way took, at half of all moments, from the message ``start`` on.

        Counted by messages, a second in which five hundred are fast would outweigh ten in which thirty are slow; and a
        single pause of the machine may not outweigh all the rest.
        """
        delays = sorted(self.delays[start:])
        spent = list(itertools.accumulate(min(delay, 0.1) for delay in delays))
        return delays[bisect.bisect(spent, spent[-1] / 2)]


@dataclass
class Siege:
    """An owner, a CPU that is chained to it, their honest clients, and a bystander whom nobody attacks."""

    owner: Daemon
    far: Daemon
    bystander: Client
    """What a client of another daemon meets tells how busy the machine itself is."""
    remote_port: int
    """TCP port of the owner's remote port server."""
    clients: tuple[Client, ...]
    written: bytearray
    """What the owner's device was told."""

    tcp_port: int
    """TCP port of the owner's generic TCP server."""
    cable: Cable
    """Between the chained CPU and the owner."""

    @asynccontextmanager
    async def unharmed(self, messages: int = 30, links: int = 1) -> AsyncIterator[None]:
        """Attack in the block; then the clients talk on for so many ``messages``, and nobody has noticed anything.

        The chained CPU's link has come up so many times by then.
        """
        for client in self.clients:
            await client.more(20)
        for each in (self.owner, self.far):
            each.settled = each.resident
        attacked = [len(client.delays) for client in (self.bystander, *self.clients)]
        yield
        for client in (self.bystander, *self.clients):
            await client.more(messages)
        for each in (self.owner, self.far):
            print(f"{(each.resident - each.settled) >> 10} KiB more, {len(each.said)} bytes of log", end="; ")
            each.check()
        self._check_echoes(*attacked)
        assert self.far.said.count("P0 R0: up\n") == links, f"the honest link was cut: {self.far.said}"

    def _check_echoes(self, start: int, *starts: int) -> None:
        elsewhere = self.bystander.usual(start)
        told = {client.letter: client.usual(start) for client, start in zip(self.clients, starts, strict=True)}
        print(
            f"{1000 * elsewhere:.0f} ms elsewhere", {letter: f"{1000 * usual:.0f} ms" for letter, usual in told.items()}
        )
        for client in self.clients:
            assert not client.failure, client.failure
            assert told[client.letter] < max(ECHO, 3 * elsewhere), (elsewhere, told)

    @asynccontextmanager
    async def hostile(self, node: Node = HOSTILE, source: str = "127.0.0.1") -> AsyncIterator[Peer]:
        """Be a client of the owner that has the key. That the owner hangs up on it is as it should be.

        Raises Ended where the owner does so before the key is proved.
        """
        async with dialled(self.remote_port, KEY, node, source=source) as peer:
            with suppress(Ended):
                yield peer

    def check_line(self) -> None:
        """Every message reached the line once, whole and in order."""
        for client in self.clients:
            own = re.findall(rb"%b\d{7}" % client.letter.encode(), self.written)
            count = len(client.delays)
            assert own[:count] == [f"{client.letter}{number:07d}".encode() for number in range(count)]


async def echo(end: FarEnd, written: bytearray) -> None:
    """Be a device that says back what it is told."""
    while True:
        data = await end.hear_some()
        written += data
        await end.say(data)


async def connected(port: int) -> trio.SocketStream:
    """Connect to a TCP port of this host as soon as somebody listens there."""
    while True:
        with suppress(OSError):
            return await trio.open_tcp_stream("127.0.0.1", port)
        await trio.sleep(0.02)


@asynccontextmanager
async def besieged(
    directory: Path,
    *,
    more_ports: str = "",
    more_parameters: dict[str, object] | None = None,
) -> AsyncIterator[Siege]:
    """An owner with a TCP client and a PTZ driver, a chained CPU with a TCP client, and a bystander; all of them talk.

    ``more_ports`` and ``more_parameters`` are the owner's.
    """
    tcp, remote, far_tcp, other_tcp = (free_port() for _ in range(4))
    own = tcp_server(tcp) | remote_server(remote) | {"PortManager.P0.PTZServer.Enabled": "yes"}
    alone = "[[port_manager]]\nserial = 1\n"
    written = bytearray()
    with lines(directory, 2) as (end, other_end):
        async with AsyncExitStack() as stack:
            start = stack.enter_async_context
            owner = await start(daemon(directory / "owner", alone + more_ports, own | (more_parameters or {}), end))
            cable = await start(laid_cable(remote))
            far = await start(
                daemon(
                    directory / "far",
                    "[[port_manager]]\nremote_port = 0\n",
                    tcp_server(far_tcp) | remote_client(cable.port),
                )
            )
            await start(daemon(directory / "bystander", alone, tcp_server(other_tcp), other_end))
            await far.says("P0 R0: up")
            await owner.says("P0 PTZ stream socket: up")
            streams = [
                await connected(other_tcp),
                await connected(tcp),
                owner.gateway.ptz(),
                await connected(far_tcp),
            ]
            bystander, *clients = (Client(*each) for each in zip("BTPF", streams, strict=True))
            for stream in streams:
                await start(stream)
            nursery = await start(trio.open_nursery())
            nursery.start_soon(echo, end, written)
            nursery.start_soon(echo, other_end, bytearray())
            for client in (bystander, *clients):
                nursery.start_soon(client.talk)
            siege = Siege(owner, far, bystander, remote, tuple(clients), written, tcp, cable)
            yield siege
            nursery.cancel_scope.cancel()
            siege.check_line()
