"""A line over a real pty for the tests of a Uart; only calls that a pty does not have are answered by a fake driver."""

from __future__ import annotations

import fcntl
import math
import os
import struct
import termios
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.parameters.settings import SerialPort
from tests.gateway.line import closed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gateway.serial_line.settings_in_force import SettingRefusal
    from gateway.serial_line.uart import Uart

TIOCGRS485, TIOCSRS485, TIOCSBRK, TIOCCBRK = 0x542E, 0x542F, 0x5427, 0x5428
LINE = SerialPort()


@dataclass
class Pty:
    """The far end of a line."""

    master: int
    path: str

    def say(self, data: bytes) -> None:
        os.write(self.master, data)

    async def hear(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            await trio.lowlevel.wait_readable(self.master)
            heard += os.read(self.master, 65536)
        return heard

    @property
    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.master)

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1


@pytest.fixture
def pty() -> Iterator[Pty]:
    master, slave = os.openpty()
    far = Pty(master, os.ttyname(slave))
    yield far
    os.close(slave)
    if far.master >= 0:
        far.hang_up()


@dataclass
class Driver:
    """A driver with what a pty lacks. ``log`` is what it was told, in order; each list is told from its front."""

    offers: set[int] = field(default_factory=set)
    control: tuple[int, ...] = (0,) * 8
    supported: int = 0b11111 | 32 | 512
    queue: list[int] = field(default_factory=list)
    busy: int = 0
    lines: int = 0
    log: list[Any] = field(default_factory=list)

    def ioctl(self, request: int, argument: Any) -> Any:
        if request == TIOCGRS485:
            argument[:] = struct.pack("8I", *self.control)
        elif request == TIOCSRS485:
            flags, *rest = struct.unpack("8I", argument)
            self.log.append(("rs485", flags, *rest[:2]))
            self.control = (flags & self.supported, *rest) if flags & 1 else (0,) * 8
        elif request == termios.TIOCOUTQ:
            return struct.pack("i", self.queue.pop(0) if len(self.queue) > 1 else self.queue[0])
        elif request == termios.TIOCSERGETLSR:
            self.log.append("lsr")
            self.busy -= 1
            return struct.pack("i", self.busy < 0)
        elif request == termios.TIOCGICOUNT:
            argument[:] = struct.pack("20i", *range(1, 21))
        elif request == termios.TIOCMGET:
            return struct.pack("i", self.lines)
        elif request in (termios.TIOCMBIS, termios.TIOCMBIC):
            self.log.append((request, *struct.unpack("I", argument)))
        else:
            self.log.append(request)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    fake, real = Driver(), fcntl.ioctl

    def ioctl(fd: int, request: int, argument: Any = 0, mutate: bool = True) -> Any:
        if request in fake.offers:
            return fake.ioctl(request, argument)
        return real(fd, request, argument, mutate)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return fake


@asynccontextmanager
async def closing(port: Uart, within: float = math.inf) -> AsyncIterator[Uart]:
    try:
        with trio.fail_after(within):
            yield port
    finally:
        await closed(port)


def names(refusals: tuple[SettingRefusal, ...]) -> list[str]:
    return [refusal.name for refusal in refusals]
