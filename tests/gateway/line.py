"""Serial lines to test with: a real pty with its bus, and a tty that takes only so many bytes, which no pty does."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import trio
import trio.testing

from gateway.host.config import SerialConfig
from gateway.port.bus import Bus
from gateway.port.line import ModemLines, PortDown
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.uart import DeviceGone, Uart, UartError
from protocol.parameters.settings import SerialPort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gateway.port.router import Handle
    from protocol.link.reasons import Reason

_LINE = SerialPort()
ALL = Right.READ | Right.PTZ | Right.TCP | Right.CGI | Right.LINES | Right.CONFIGURE


class Unwanted(Exception):
    """What a claim raises whose message is not wanted any more."""


@dataclass(eq=False)
class Writer:
    """A claim that can be taken back, and counts."""

    traffic: Right = Right.TCP
    holder: str = "a writer"
    age_limit: float = math.inf
    is_mixed: bool = False
    revoked: bool = False
    written: int = 0
    checked: list[float] = field(default_factory=list)
    outcomes: list[tuple[int, Reason]] = field(default_factory=list)

    @property
    def party(self) -> object:
        return self

    def check(self, accepted: float, ahead: float = 0.0) -> None:
        self.checked.append(accepted)
        if self.revoked:
            raise Unwanted
        if trio.current_time() + ahead - accepted > self.age_limit:
            raise PortDown("stale")

    def wrote(self, count: int) -> None:
        self.written += count

    def lost(self, count: int, reason: Reason) -> None:
        self.outcomes.append((count, reason))


class NarrowTty:
    """A tty whose driver has ``room`` for so many bytes; what it took is in ``taken``."""

    def __init__(self, room: int = 0, rate: int = 9600) -> None:
        self.settings = SimpleNamespace(timing=SerialPort(baud_rate=rate))
        self.is_paced = False
        self.epoch = 0
        self.room = room
        self.taken = b""
        self.closed = False
        self._waiting = trio.lowlevel.ParkingLot()

    def send_nowait(self, data: memoryview) -> int:
        if self.closed:
            raise DeviceGone("the cable is out")
        took = min(self.room, len(data))
        self.room -= took
        self.taken += data[:took]
        return took

    async def writable(self) -> None:
        assert not self.closed, "a closed descriptor cannot be waited for"
        await trio.lowlevel.checkpoint()
        while not self.room:
            await self._waiting.park()
            if self.closed:
                raise trio.ClosedResourceError

    def modem_lines(self) -> ModemLines:
        raise UartError("it has no modem lines")

    def make_room(self, count: int) -> None:
        self.room += count
        self._waiting.unpark_all()

    def close(self) -> None:
        self.closed = True
        self._waiting.unpark_all()

    @property
    def as_uart(self) -> Uart:
        return cast("Uart", self)


@dataclass
class Line:
    """A port on a pty; ``far`` is the descriptor of who is at its other end."""

    bus: Bus
    turns: Arbiter
    uart: Uart
    far: int

    @property
    def handle(self) -> Handle:
        return Router({"P0": self.bus}).grant("P0", ALL, "service")

    def say(self, data: bytes) -> None:
        os.write(self.far, data)

    async def hear(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            await trio.lowlevel.wait_readable(self.far)
            heard += os.read(self.far, 65536)
        return heard

    async def unplug(self) -> None:
        self.bus.disconnect("the cable is out")
        self.turns.end("the cable is out")
        await closed(self.uart)


@contextlib.contextmanager
def real_time() -> Iterator[None]:
    """Keep a mock clock from jumping: a thread is at work, which it does not see."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, trio.testing.MockClock):
        yield
        return
    threshold, clock.autojump_threshold = clock.autojump_threshold, math.inf
    try:
        yield
    finally:
        clock.autojump_threshold = threshold


async def opened(device: str | SerialConfig, line: SerialPort = _LINE, bias: tuple[str, ...] = ()) -> Uart:
    with real_time():
        config = device if isinstance(device, SerialConfig) else SerialConfig(device, bias=bias)
        return await Uart.open(config, line)


async def closed(uart: Uart) -> None:
    with real_time():
        await uart.close()


async def received(uart: Uart) -> bytes:
    """Return what comes in next; ``b""`` when the device has hung up."""
    pieces = list[bytes]()
    with trio.CancelScope() as scope:

        def take(data: bytes) -> None:
            pieces.append(data)
            scope.cancel()

        await uart.hear(take)
    return b"".join(pieces)


@contextlib.asynccontextmanager
async def serial_line() -> AsyncIterator[Line]:
    """Open a port on a pty, as a device does."""
    far, near = os.openpty()
    uart = await opened(os.ttyname(near))
    bus = Bus("P0")
    turns = Arbiter(uart, bus)

    async def hear() -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                await uart.hear(turns.heard)

    try:
        bus.connect(turns)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            nursery.start_soon(hear)
            yield Line(bus, turns, uart, far)
            nursery.cancel_scope.cancel()
    finally:
        await closed(uart)
        os.close(near)
        os.close(far)


def narrow_port(tty: NarrowTty) -> tuple[Bus, Arbiter]:
    """Open a port on a narrow tty."""
    bus = Bus("P0")
    turns = Arbiter(tty.as_uart, bus)
    bus.connect(turns)
    return bus, turns


async def until(sock: trio.socket.SocketType, end: bytes) -> bytes:
    """Read until what came ends with ``end``."""
    got = b""
    while not got.endswith(end):
        piece = await sock.recv(65536)
        assert piece, f"the end of file after {got!r}"
        got += piece
    return got
