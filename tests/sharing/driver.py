"""Drivers that take much more than their line has carried, as the real ones do; each byte of the wire with its time.

They stand at the boundary of os, fcntl and termios, below the real Uart (``serial_line.adapter``), and time is trio's.
What a driver takes, when it says that it is writable, and what it says of its queue are three different things:

    takes       at once, as long as no more than ``room`` bytes wait
    writable    below ``wakes_below`` bytes that it believes to wait, and not before (tty_poll of Linux, WAKEUP_CHARS)
    TIOCOUTQ    what it believes: the truth, or blocks that leave its count when they are wholly carried, or nothing

A chip may have a buffer of its own: ``beyond`` bytes that are not on the wire, and of which the driver knows nothing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import termios
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import trio

from tests.gateway.serial_line.adapter import Adapter, plug

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

__all__ = ["Driver", "cdc_acm", "ftdi_sio", "plugged", "serial_core"]

_RATES = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[:1] == "B" and name[1:].isdigit()}
_TIOCSERGETLSR = 0x5459


@final
@dataclass
class Driver(Adapter):
    """One driver with its line. The line is plugged in, and carries at the rate that termios has."""

    wakes_below: int = 256
    counted_block: int = 1
    """Bytes that leave its count together, when the last of them is on the wire."""
    silent: bool = False
    """TIOCOUTQ is always 0."""
    beyond: int = 0
    """Bytes of the chip's own buffer, of which the driver knows nothing."""

    close_waits: bool = True
    """A close waits for what is queued, until a signal comes; to be false where no thread closes it."""

    times: list[float] = field(default_factory=list)
    """When each byte of ``sent`` had left the wire."""
    taken: int = 0
    """Bytes that it took."""
    most: int = 0
    """The most bytes that ever waited."""
    lost: int = 0
    """Bytes that waited when it was unplugged."""
    writes: list[tuple[float, bytes]] = field(default_factory=list)
    """Each write: when, and what the driver took of it."""
    cuts: set[int] = field(default_factory=set)
    """After how many bytes that it took it was unplugged, closed or flushed: there a message may end in its middle."""
    took: trio.Event = field(default_factory=trio.Event)
    """Set by the next write, and made anew by who waited for it."""
    _next: float = 0.0
    _leading: int = 0
    """Bytes carried of the block that the count begins with."""
    _changed: trio.Event = field(default_factory=trio.Event)

    # -- the wire

    @property
    def rate(self) -> float:
        """Bytes a second of the line as it is set."""
        bits = {termios.CS5: 5, termios.CS6: 6, termios.CS7: 7, termios.CS8: 8}[self.attributes[2] & termios.CSIZE]
        bits += 2 + bool(self.attributes[2] & termios.CSTOPB) + bool(self.attributes[2] & termios.PARENB)
        return _RATES[self.attributes[5]] / bits

    @property
    def wire(self) -> list[tuple[float, bytes]]:
        """What was on the wire without a gap of half a character: when the last byte of it had left, and the bytes."""
        runs, start = [], 0
        gap = 1.5 / self.rate
        for end in range(1, len(self.times) + 1):
            if end == len(self.times) or self.times[end] - self.times[end - 1] > gap:
                runs.append((self.times[end - 1], self.sent[start:end]))
                start = end
        return runs

    def left(self, message: bytes) -> float:
        """Return when ``message``, which is on the wire once, had left it."""
        assert self.sent.count(message) == 1, f"{message!r} is on the wire {self.sent.count(message)} times"
        return self.times[self.sent.index(message) + len(message) - 1]

    def advance(self) -> None:
        """Carry what the line has carried by now."""
        try:
            now = trio.current_time()
        except RuntimeError:  # in a thread: no time passes there
            return
        if self.queue and not self.held and self._next <= now:
            count = min(int((now - self._next) * self.rate + 1e-9) + 1, len(self.queue))
            self.times += [self._next + number / self.rate for number in range(count)]
            self._next += count / self.rate
            self.sent, self.queue = self.sent + self.queue[:count], self.queue[count:]
            self._leading = (self._leading + count) % self.counted_block if self.queue else 0
        if self._stuffed and self._writable():
            self._unstuff()

    def hold(self, held: bool) -> None:
        """Stop the line, or let it go on, as an XOFF does."""
        self.advance()
        self.stopped = held
        self._next = trio.current_time() + 1 / self.rate
        self._changed.set()

    # -- what the driver says

    @property
    def counted(self) -> int:
        """Bytes that the driver believes to wait."""
        waiting = max(len(self.queue) - self.beyond, 0)
        return waiting + self._leading if waiting else 0

    def _writable(self) -> bool:
        return self.counted < self.wakes_below

    def write(self, data: bytes | memoryview) -> int:
        """See Adapter."""
        if not self.present:
            return super().write(data)
        self.advance()
        if not self.queue:
            self._next = trio.current_time() + 1 / self.rate
        took = bytes(data[: max(self.room - len(self.queue) - self._leading, 0)])
        self.queue += took
        self.most = max(self.most, len(self.queue))
        if not self._writable() and not self._stuffed:
            self._stuff()
            self._changed.set()
        if not took:
            raise BlockingIOError
        self.writes.append((trio.current_time(), took))
        self.taken += len(took)
        self.took.set()
        return len(took)

    def _unstuff(self) -> None:
        self._stuffed = False
        assert self._far is not None
        with contextlib.suppress(BlockingIOError):
            while self._far.recv(65536):
                pass

    def open(self) -> int:
        """See Adapter."""
        fd = super().open()
        with socket.socket(fileno=fd) as near:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # it is stuffed often
            near.detach()
        return fd

    def say(self, data: bytes) -> None:
        """See Adapter; where the tty marks breaks and errors, it shows a byte FF as two."""
        super().say(data.replace(b"\xff", b"\xff\xff") if self.attributes[0] & termios.PARMRK else data)

    def unplug(self) -> None:
        """See Adapter; what waited is lost."""
        self.advance()
        self.cuts.add(self.taken)
        self.lost += len(self.queue)
        self.queue, self._leading, self._stuffed = b"", 0, False
        super().unplug()

    def close(self, fd: int, close: Any) -> None:
        """See Adapter."""
        self.cuts.add(self.taken)
        if not self.close_waits:
            self.queue = b""
        super().close(fd, close)

    def ioctl(self, request: int, argument: Any) -> Any:
        """See Adapter."""
        if self.present and request == termios.TIOCOUTQ:
            self.advance()
            return struct.pack("i", 0 if self.silent else self.counted)
        if self.present and request == _TIOCSERGETLSR and not self.silent:
            self.advance()
            return struct.pack("i", not self.queue)
        return super().ioctl(request, argument)

    def tcsetattr(self, new: list[Any]) -> None:
        """See Adapter."""
        super().tcsetattr(new)
        if self.queue:  # so it is not being opened, which a thread does
            self._next = trio.current_time() + 1 / self.rate
            self._changed.set()

    def tcflush(self, queue: int) -> None:
        """See Adapter."""
        self.cuts.add(self.taken)
        super().tcflush(queue)

    async def run(self) -> None:
        """Be writable as soon as that is so, until cancelled; whoever waits for that calls nothing meanwhile."""
        while True:
            self._changed = trio.Event()
            self.advance()
            seconds = float("inf")
            if self._stuffed and not self.held:
                # The next byte that leaves may be the last of a block, or make it writable.
                surplus = max(len(self.queue) - self.beyond - self.wakes_below, 0)
                seconds = max(self._next - trio.current_time() + surplus / self.rate, 1e-6)
            with trio.move_on_after(seconds):
                await self._changed.wait()


def serial_core() -> Driver:
    """Return a driver of Linux' serial_core: 4095 bytes, and a true count."""
    return Driver(room=4095, flushes=True)


def ftdi_sio() -> Driver:
    """Return a driver as ftdi_sio: 4608 bytes, whose count keeps a block of 256 until the last of it is carried."""
    return Driver(room=4608, counted_block=256)


def cdc_acm() -> Driver:
    """Return a driver as cdc_acm under an adapter with a buffer of its own: it takes 20 kB, and tells of nothing."""
    return Driver(room=20_480, silent=True, beyond=20_000)


@contextlib.asynccontextmanager
async def plugged(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> AsyncIterator[Driver]:
    """Put ``driver`` behind its name, and let its line run, until the block ends."""
    plug(monkeypatch, driver)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            yield driver
            nursery.cancel_scope.cancel()
    finally:
        driver.put_away()
