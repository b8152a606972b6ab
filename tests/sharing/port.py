"""A port whose line is a driver's model, from the sockets of its clients to the wire, and the one who owns it chained.

A client is a real socket, and is served as the daemon serves it. Time is trio's mock clock.
"""

from __future__ import annotations

import contextlib
import math
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from gateway.clients.relay import relay
from gateway.clients.serial_cgi import SerialCgi
from gateway.clients.streams import PacketStream, SocketStream
from gateway.port.bus import Bus
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.sharing import Sharing
from gateway.tasks.watch import Cell
from protocol.parameters.settings import SerialPort
from tests.gateway.line import ALL, closed, opened
from tests.gateway.remote_port.linked import node
from tests.sharing.driver import plugged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from gateway.port.router import Handle, Session
    from protocol.sharing.turn_rule import TurnRule
    from tests.sharing.driver import Driver

__all__ = ["Port", "Sent", "chained_port", "line_of", "port_on"]

NEVER = Cell(0)


@dataclass
class Sent:
    """Commands by number: when each was sent, and when it was refused."""

    sent: dict[bytes, float] = field(default_factory=dict)
    refused: dict[bytes, float] = field(default_factory=dict)

    def delays(self, driver: Driver) -> list[float]:
        """Return how long each command took to its last byte on the wire; for ever where it is not there."""
        return [
            driver.left(command) - sent if command in driver.sent else math.inf for command, sent in self.sent.items()
        ]


@dataclass
class Port:
    """The clients' side of one port, here or chained."""

    bus: Bus
    handle: Handle
    nursery: trio.Nursery
    ends: contextlib.ExitStack
    """The clients' ends of their sockets."""
    sharing: Sharing
    """What became of the owner's turns."""

    def session(self, right: Right) -> Session:
        return self.handle.attenuate(Right.READ | right, right.name or "").open(right)

    def client(self, right: Right, kind: int = socket.SOCK_STREAM) -> tuple[trio.socket.SocketType, Session]:
        """Return the socket of a client that writes in this class, and its session."""
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        near.setblocking(False)
        far.setblocking(False)
        session = self.session(right)
        stream = PacketStream(near, None) if kind == socket.SOCK_SEQPACKET else SocketStream(near, None)
        self.nursery.start_soon(relay, stream, session, NEVER)
        return self.ends.enter_context(trio.socket.from_stdlib_socket(far)), session

    def cgi(self) -> SerialCgi:
        """Return this port's serial.cgi, which runs."""
        cgi = SerialCgi(self.handle.attenuate(Right.READ | Right.CGI, "serial.cgi"))
        self.nursery.start_soon(cgi.run)
        return cgi

    async def send_bulk(self, size: int = 16_384, fill: bytes = b"b") -> None:
        """Send so many bytes at a time for ever, as one TCP client."""
        sock, _ = self.client(Right.TCP)
        while True:
            rest = memoryview(fill * size)
            while rest:
                rest = rest[await sock.send(rest) :]

    async def send_messages(self, size: int) -> None:
        """Write whole messages of this size for ever, as one client with exact messages."""
        session = self.session(Right.TCP)
        while True:
            with contextlib.suppress(PortDown):
                await session.write(b"m" * size)

    async def send_commands(self, count: int, every: float) -> Sent:
        """Send so many PTZ commands over the packet socket, one each ``every`` seconds; let the last one arrive."""
        sock, _ = self.client(Right.PTZ, socket.SOCK_SEQPACKET)
        commands = Sent()
        for number in range(count):
            command = command_of(number)
            commands.sent[command] = trio.current_time()
            await sock.send(command)
            await trio.sleep(every)
        await trio.sleep(3)
        return commands

    async def write_commands(self, count: int, every: float) -> Sent:
        """Write so many PTZ commands, each in a session of its own; take note of those that are refused, and when."""
        commands = Sent()

        async def write(command: bytes) -> None:
            try:
                await self.session(Right.PTZ).write(command)
            except PortDown:
                commands.refused[command] = trio.current_time()

        for number in range(count):
            command = command_of(number)
            commands.sent[command] = trio.current_time()
            self.nursery.start_soon(write, command)
            await trio.sleep(every)
        await trio.sleep(6)
        return commands


def command_of(number: int) -> bytes:
    """Return one of 64 different VISCA commands: pan to ``number``."""
    return bytes((0x81, 1, 6, 2, 24, 20, number % 64, 3, 0xFF))


async def line_of(bus: Bus, driver: Driver, rate: int, nursery: trio.Nursery, rule: TurnRule | None = None) -> Sharing:
    """Open ``driver`` as the line of this bus, as the serial device does."""
    uart, sharing = await opened(driver.config, SerialPort(baud_rate=rate)), Sharing(rule)
    turns = Arbiter(uart, bus, sharing)

    async def hear() -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            await uart.hear(turns.heard)

    async def close_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            driver.queue = b""  # a driver's close waits for its line, in a thread that has no mock clock
            with trio.CancelScope(shield=True):
                await closed(uart)

    bus.connect(turns)
    bus.share(rule, None)
    bus.adjusted(rate, f"{rate} 8N1")
    for task in (turns.run, hear, close_at_the_end):
        nursery.start_soon(task)
    return sharing


@contextlib.asynccontextmanager
async def port_on(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, rate: int = 9600, rule: TurnRule | None = None
) -> AsyncIterator[Port]:
    """Run a port whose line is ``driver``, until the block ends; under ``rule``, if there is one."""
    with contextlib.ExitStack() as ends:
        async with plugged(monkeypatch, driver), trio.open_nursery() as nursery:
            bus = Bus("P0")
            sharing = await line_of(bus, driver, rate, nursery, rule)
            yield Port(bus, Router({"P0": bus}).grant("P0", ALL, "service"), nursery, ends, sharing)
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def chained_port(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, rate: int = 9600, rule: TurnRule | None = None
) -> AsyncIterator[tuple[Port, Port]]:
    """Run a port whose line is ``driver``, and the same port at a CPU that is chained to it."""
    with contextlib.ExitStack() as ends:
        async with plugged(monkeypatch, driver), trio.open_nursery() as nursery:
            owner, far = node(nursery, "owner"), node(nursery, "cpu1")
            sharing = await line_of(owner.bus, driver, rate, nursery, rule)
            owner.bus.route(owner.node)
            far.dial(await owner.serve())
            await far.up()
            yield (
                Port(owner.bus, owner.handle, nursery, ends, sharing),
                Port(far.bus, far.handle, nursery, ends, sharing),
            )
            nursery.cancel_scope.cancel()
