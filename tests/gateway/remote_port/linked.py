"""Nodes to test links with, without port managers: buses, a remote port server, a device, and a cable to disturb."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import trio

from gateway.port.bus import Bus
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.remote_port.candidates import Candidates
from gateway.remote_port.chain import Chain, ChainLink
from gateway.remote_port.client import RemotePortClient
from gateway.remote_port.server import RemotePortService
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.sharing import Sharing
from gateway.tasks.reconcile import Unit
from protocol.link.chain_tree import Cpu
from protocol.link.guesses import GuessLimit
from protocol.link.identity import NodeKey
from protocol.link.key_frames import Told, ToldCpu
from protocol.parameters.addresses import AddressList
from protocol.parameters.settings import RemotePort, Settings
from tests.gateway.line import ALL, NarrowTty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from gateway.discovery.bonjour import Bonjour
    from gateway.port.router import Session
    from gateway.serial_line.controls import Controls
    from protocol.link.key_frames import Rekey
    from protocol.link.reasons import Reason
    from protocol.sharing.turn_rule import TurnRule

KEY = "the key of the blade"
_HOST = "127.0.0.1"
_numbers = itertools.count(1)


async def holds(what: Callable[[], object]) -> None:
    """Wait until it does."""
    while not what():
        await trio.lowlevel.checkpoint()


@dataclass(eq=False)
class Ear:
    """A reader of a bus."""

    heard: bytes = b""
    size: int = 0
    missed: list[tuple[int, Reason]] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return len(self.heard)

    def deliver(self, data: bytes) -> None:
        self.heard += data

    def miss(self, count: int, reason: Reason) -> None:
        self.missed.append((count, reason))


class Cable:
    """Carries what connects to ``port`` to another port; can be cut, frozen, taken out, and made to lie."""

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self.to = to
        self.joined = 0
        self.carried = {"up": 0, "down": 0}
        self.flip: str | None = None
        """Which way the next byte that passes is altered."""
        self.whole = True
        self._thawed = trio.Event()
        self._thawed.set()
        self._live: list[trio.CancelScope] = []

    def cut(self) -> None:
        for scope in self._live:
            scope.cancel()
        self._live.clear()

    def unplug(self) -> None:
        self.whole = False
        self.cut()

    def plug(self) -> None:
        self.whole = True

    def freeze(self) -> None:
        """Carry nothing, so that neither end notices."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def carry(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope, contextlib.suppress(OSError):
            self._live.append(scope)
            async with near:
                if self.whole:
                    async with await trio.open_tcp_stream(_HOST, self.to) as far, trio.open_nursery() as both:
                        self.joined += 1
                        both.start_soon(self._pass_on, "up", near, far, scope)
                        both.start_soon(self._pass_on, "down", far, near, scope)

    async def _pass_on(
        self, way: str, near: trio.SocketStream, far: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await near.receive_some(4096):
                await self._thawed.wait()
                if self.flip == way:
                    self.flip, data = None, data[:-1] + bytes([data[-1] ^ 1])
                self.carried[way] += len(data)
                await far.send_all(data)
        await self._thawed.wait()  # not even the end of a connection passes
        scope.cancel()


@dataclass(eq=False)
class Node:
    """A CPU: its bus, and what is on either side of that."""

    name: str
    nursery: trio.Nursery
    bus: Bus
    key: NodeKey
    guesses: GuessLimit = field(default_factory=GuessLimit)
    rule: TurnRule | None = None
    takes: Told = Told.CHANGED
    told: list[Rekey] = field(default_factory=list)
    below: tuple[ToldCpu, ...] = ()
    controls: Right = Right.LINES | Right.CONFIGURE
    """What those who chain to it may do beside writing, as far as the owner of the line lets them."""

    def __post_init__(self) -> None:
        self.handle = Router({"P0": self.bus}).grant("P0", ALL, self.name)

    @property
    def node(self) -> bytes:
        return self.key.id

    def connect(self, right: Right) -> Session:
        """Return the session of a local client that may write in that class."""
        return self.handle.attenuate(Right.READ | right, f"{self.name}'s {right.name}").open(right)

    def control(self, name: str = "a client") -> Session:
        """Return the session of a local client that may do all that RFC 2217 knows of."""
        return self.handle.attenuate(ALL, f"{self.name}'s {name}").open(Right.TCP)

    def listen(self) -> Ear:
        ear = Ear()
        session = self.connect(Right.TCP)
        session.listen(ear)
        session.listen_for_gaps(ear.miss)
        return ear

    @functools.cached_property
    def chain(self) -> Chain:
        """What it knows of the chain."""
        return Chain(self._described, self._chain_links, lambda: self.service.lost if hasattr(self, "service") else ())

    def _described(self) -> Cpu:
        alarms = [*(self.service.alarms if hasattr(self, "service") else ())]
        alarms += self.device.alarms if hasattr(self, "device") else ()
        return Cpu(self.key.id, 0, self.name, "1.0", self.bus.down is None, self.bus.down or "", alarms=tuple(alarms))

    def _chain_links(self) -> Iterator[ChainLink]:
        if hasattr(self, "device"):
            yield self.device.chain_link
        if hasattr(self, "service"):
            yield from (session.chain_link for session in self.service.sessions)

    def own(self, room: int = 1 << 20, tty: NarrowTty | None = None, controls: Controls | None = None) -> None:
        """Own a line with a tty that takes ``room`` bytes, or with ``tty``."""
        self.tty = NarrowTty(room) if tty is None else tty
        self.turns = Arbiter(self.tty.as_uart, self.bus, Sharing(self.rule), controls=controls)
        self.bus.connect(self.turns)
        self.bus.adjusted(9600, "9600 8N1")
        self.bus.share(self.rule, None)
        self.bus.route(self.node)
        self.nursery.start_soon(self.turns.run)

    async def serve(self, key: str = KEY, ptz: bool = True, port: int = 0) -> Cable:
        """Open a remote port server, and return a cable to it."""
        self.clients = await self.nursery.start(_keep)
        self.reopen(key, ptz)
        listener = socket.create_server((_HOST, port))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self.nursery.start_soon(self._accept, listener)
        cable: Cable = await self.nursery.start(lay, self.port)
        return cable

    def reopen(self, key: str = KEY, ptz: bool = True, keyless: bool = False) -> None:
        """A server that knows of no session."""
        handle = self.handle.attenuate(ALL, "remote port server")
        self.service = RemotePortService(
            0, self.key, "chassis", handle, self.clients, self.guesses, chain=lambda: self.chain, keyless=keyless
        )
        self.service.update_policy(AddressList(), key, ptz, self.controls)
        self.clients.start_soon(self.service.run)

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                await trio.lowlevel.wait_readable(listener)
                sock, peer = listener.accept()
                self.service.welcome(sock, peer)

    def dial(self, cable: Cable, key: str = KEY, index: int = 0) -> None:
        """Chain to the server at the other end of the cable."""
        settings = RemotePort(auto_conf=False, authentication_key=key, host=_HOST, port=cable.port)
        self.dial_with(Candidates(cast("Bonjour", None), index, "", without_key=False), settings, index)

    def dial_with(self, candidates: Candidates, settings: RemotePort, index: int = 0) -> None:
        """Chain to whichever server ``candidates`` choose."""
        self.device = RemotePortClient(
            self.bus, self.key, index, settings, candidates, lambda: self.chain, self.take_key
        )
        self.settings = settings
        self.unit = Unit("P0 R0", lambda: None)
        self.nursery.start_soon(self.device.run, self.unit)

    async def adjust(self, settings: RemotePort) -> None:
        """Publish other settings of RemotePort.R0."""
        assert await self.device.adjust(Settings(remote_ports=(settings,))) == ()

    async def take_key(self, told: Rekey) -> tuple[Told, Sequence[ToldCpu]]:
        """Take a key that the server tells, as long as ``takes`` says so."""
        self.told.append(told)
        if self.takes is Told.CHANGED:
            self.settings = replace(self.settings, authentication_key=told.key)
            await self.adjust(self.settings)
        return self.takes, self.below

    async def up(self) -> None:
        await holds(lambda: self.bus.down is None)

    async def down(self) -> None:
        await holds(lambda: self.bus.down is not None)


async def _keep(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


async def lay(to: int, task_status: trio.TaskStatus[Cable]) -> None:
    """Lay a cable to a port."""
    listeners = await trio.open_tcp_listeners(0, host=_HOST)
    cable = Cable(listeners[0].socket.getsockname()[1], to)
    task_status.started(cable)
    await trio.serve_listeners(cable.carry, listeners)


def node(nursery: trio.Nursery, name: str) -> Node:
    """A CPU that has nothing yet."""
    return Node(name, nursery, Bus("P0"), NodeKey(next(_numbers).to_bytes(32, "big"), name))


@contextlib.asynccontextmanager
async def chained(
    hops: int = 1,
    room: int = 1 << 20,
    rule: TurnRule | None = None,
    tty: NarrowTty | None = None,
    controls: Controls | None = None,
) -> AsyncIterator[tuple[list[Node], list[Cable]]]:
    """An owner and ``hops`` CPUs behind it, each linked to the one before."""
    async with trio.open_nursery() as nursery:
        owner = node(nursery, "owner")
        owner.rule = rule
        owner.own(room, tty, controls)
        nodes, cables = [owner], []
        for hop in range(hops):
            cables.append(await nodes[-1].serve())
            nodes.append(node(nursery, f"cpu{hop + 1}"))
            nodes[-1].dial(cables[-1])
            await nodes[-1].up()
        yield nodes, cables
        nursery.cancel_scope.cancel()
