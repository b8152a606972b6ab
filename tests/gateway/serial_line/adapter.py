"""A USB serial adapter and its driver, at the boundary of os, fcntl and termios: all that ptys cannot show.

As the real ones do, it takes 4608 bytes at once and carries them at the line's rate, in blocks; its flush may do
nothing, its queue may count too much, or transfers in place of bytes, and its close waits for the line until a signal
comes. Its descriptor is a socket's, so that trio waits on something real: one that is stuffed where the driver is full.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import termios
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from gateway.host.config import SerialConfig
from gateway.serial_line import uart
from gateway.serial_line.adapters import Identity

if TYPE_CHECKING:
    import pytest

PATH = "/dev/ttyUSB7"
FTDI = Identity("0403", "6001", "A50285BI", "00", "0")
TIOCGSERIAL, TIOCSSERIAL, TIOCSBRK, TIOCCBRK = 0x541E, 0x541F, 0x5427, 0x5428
_MAJOR, _ACM_MAJOR = 188, 166  # ttyUSB, ttyACM
_TRANSFERS, _TRANSFER = 16, 20
_COOKED = [0, termios.OPOST, termios.CS8 | termios.CREAD | termios.HUPCL, termios.ICANON, termios.B9600, termios.B9600]


@dataclass
class Adapter:
    """One adapter, which is plugged in; ``cts`` low, or ``stopped`` by an XOFF, it sends nothing."""

    flushes: bool = False
    overcount: int = 0
    """What TIOCOUTQ says beyond the truth, while there is anything."""
    room: int = 4608
    block: int = 1
    """Bytes that leave the queue at once."""
    packet: int = 0
    """The bytes of its packets, where its driver is cdc_acm: that has 16 transfers of up to 20, and counts these."""
    cts: bool = True
    stopped: bool = False
    counts: bool = True
    """TIOCGICOUNT is there."""
    latency: bool = True
    """ASYNC_LOW_LATENCY is."""
    opening: threading.Event | None = None
    """Another program's close, which an open waits for."""
    closing: threading.Event | None = None
    """What a close waits for that no signal ends."""
    identity: Identity | None = FTDI
    present: bool = True

    queue: bytes = b""
    transfers: list[int] = field(default_factory=list)
    """The lengths of those that make up the queue of cdc_acm."""
    sent: bytes = b""
    lines: int = termios.TIOCM_DTR | termios.TIOCM_RTS
    flags: int = 0
    exclusive: bool = False
    attributes: list[Any] = field(default_factory=lambda: [*_COOKED, [b"\0"] * 32])
    log: list[str] = field(default_factory=list)
    fds: set[int] = field(default_factory=set)
    threads: list[threading.Thread] = field(default_factory=list)
    """Who opened and closed it, in order."""
    _far: socket.socket | None = None
    _stuffed: bool = False
    _at: float = 0.0
    _carried: float = 0.0

    @property
    def config(self) -> SerialConfig:
        return SerialConfig(PATH)

    # -- the line

    @property
    def rate(self) -> float:
        """Bytes a second of the line as it is set."""
        names = {getattr(termios, f"B{rate}"): rate for rate in (300, 1200, 2400, 9600, 19200, 115200)}
        bits = 10 + bool(self.attributes[2] & termios.CSTOPB)
        return names.get(self.attributes[5], 9600) / bits

    @property
    def held(self) -> bool:
        return self.stopped or (not self.cts and bool(self.attributes[2] & termios.CRTSCTS))

    def advance(self) -> None:
        """Carry what the line has carried by now."""
        try:
            now = trio.current_time()
        except RuntimeError:  # in a thread: no time passes there
            return
        self._carried = 0.0 if self.held or not self.queue else self._carried + (now - self._at) * self.rate
        self._at = now
        count = min(int(self._carried / self.block) * self.block, len(self.queue))
        if self.queue and self._carried >= len(self.queue):
            count = len(self.queue)
        if self.packet:
            count = 0
            while self.transfers and self._carried >= count + self.transfers[0]:
                count += self.transfers.pop(0)
        self._carried -= count
        self.sent, self.queue = self.sent + self.queue[:count], self.queue[count:]
        if self._stuffed and self._far is not None and len(self.queue) < self.room // 2:
            self._stuffed = False
            with contextlib.suppress(BlockingIOError):
                while self._far.recv(65536):
                    pass

    def say(self, data: bytes) -> None:
        assert self._far is not None
        self._far.send(data)

    def unplug(self) -> None:
        self.present = self.exclusive = False  # a tty that hung up is another when it is back
        self.put_away()

    def put_away(self) -> None:
        if self._far is not None:
            self._far.close()

    # -- the system's calls

    def open(self) -> int:
        self.threads.append(threading.current_thread())
        self.log.append("open")
        if self.opening is not None:
            self.opening.wait(30)
        if not self.present:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if self.exclusive:
            raise OSError(errno.EBUSY, "Device or resource busy")
        self.put_away()
        near, self._far = socket.socketpair()
        near.setblocking(False)
        self._far.setblocking(False)
        self.lines |= termios.TIOCM_DTR | termios.TIOCM_RTS
        self._stuffed = False
        fd = near.detach()
        self.fds.add(fd)
        return fd

    def close(self, fd: int, close: Any) -> None:
        self.fds.discard(fd)
        self.threads.append(threading.current_thread())
        self.log.append("close")
        if self.closing is not None:
            self.closing.wait(30)
        elif self.queue and self.present:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
            assert signal.sigtimedwait({signal.SIGURG}, 3) is not None, "nobody ended the wait of this close"
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.queue, self.transfers = b"", []
        close(fd)

    def write(self, data: bytes | memoryview) -> int:
        if not self.present:
            raise OSError(errno.EIO, "Input/output error")
        self.advance()
        took = bytes(data[: self.room - len(self.queue)])
        if self.packet:
            whole, most = bytes(data), _TRANSFER * self.packet
            new = [len(whole[at : at + most]) for at in range(0, len(whole), most)][: _TRANSFERS - len(self.transfers)]
            took, self.transfers = whole[: sum(new)], self.transfers + new
        if not took:
            self._stuff()
            raise BlockingIOError
        self.queue += took
        return len(took)

    def _stuff(self) -> None:
        self._stuffed = True
        (fd,) = self.fds
        with socket.fromfd(fd, socket.AF_UNIX, socket.SOCK_STREAM) as near, contextlib.suppress(BlockingIOError):
            while True:
                near.send(bytes(65536))

    def ioctl(self, request: int, argument: Any) -> Any:
        if not self.present:
            raise OSError(errno.EIO, "Input/output error")
        self.advance()
        if request == termios.TIOCOUTQ and self.packet:
            return struct.pack("i", len(self.transfers) * _TRANSFER * self.packet)
        if request == termios.TIOCOUTQ:
            return struct.pack("i", len(self.queue) + (self.overcount if self.queue else 0))
        if request in (termios.TIOCEXCL, termios.TIOCNXCL):
            self.exclusive = request == termios.TIOCEXCL
        elif request == termios.TIOCMGET:
            return struct.pack("i", self.lines | (termios.TIOCM_CTS if self.cts else 0))
        elif request in (termios.TIOCMBIS, termios.TIOCMBIC):
            (line,) = struct.unpack("I", argument)
            self.lines = self.lines | line if request == termios.TIOCMBIS else self.lines & ~line
        elif request == termios.TIOCGICOUNT and self.counts:
            argument[:] = struct.pack("20i", *range(20))
        elif request == TIOCGSERIAL and self.latency:
            struct.pack_into("i", argument, 16, self.flags)
        elif request == TIOCSSERIAL and self.latency:
            (self.flags,) = struct.unpack_from("i", argument, 16)
        elif request in (TIOCSBRK, TIOCCBRK):
            self.log.append("break" if request == TIOCSBRK else "no break")
        else:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        return 0

    def tcgetattr(self) -> list[Any]:
        if not self.present:
            raise termios.error(errno.EIO, "Input/output error")
        return [*self.attributes[:6], list(self.attributes[6])]

    def tcsetattr(self, new: list[Any]) -> None:
        self.advance()
        self.log.append("set")
        self.attributes = [*new[:6], list(new[6])]

    def tcflush(self, queue: int) -> None:
        if queue == termios.TCOFLUSH and self.flushes:
            self.advance()
            self.queue, self.transfers = b"", []


def plug(monkeypatch: pytest.MonkeyPatch, adapter: Adapter) -> None:
    """Put ``adapter`` behind PATH."""
    real = {name: getattr(os, name) for name in ("open", "close", "write", "fstat")}
    ioctl, flock = fcntl.ioctl, fcntl.flock
    get, put, flush = termios.tcgetattr, termios.tcsetattr, termios.tcflush

    class Found:
        @property
        def st_rdev(self) -> int:
            return os.makedev(_ACM_MAJOR if adapter.packet else _MAJOR, 7)

    def of(fd: int) -> bool:
        return fd in adapter.fds

    def opened(path: Any, *arguments: Any, **more: Any) -> int:
        return adapter.open() if path == PATH else real["open"](path, *arguments, **more)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "close", lambda fd: adapter.close(fd, real["close"]) if of(fd) else real["close"](fd))
    monkeypatch.setattr(os, "write", lambda fd, data: adapter.write(data) if of(fd) else real["write"](fd, data))
    monkeypatch.setattr(os, "fstat", lambda fd: Found() if of(fd) else real["fstat"](fd))
    monkeypatch.setattr(
        fcntl,
        "ioctl",
        lambda fd, request, argument=0, *more: (
            adapter.ioctl(request, argument) if of(fd) else ioctl(fd, request, argument, *more)
        ),
    )
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None if of(fd) else flock(fd, how))
    monkeypatch.setattr(termios, "tcgetattr", lambda fd: adapter.tcgetattr() if of(fd) else get(fd))
    monkeypatch.setattr(
        termios, "tcsetattr", lambda fd, when, new: adapter.tcsetattr(new) if of(fd) else put(fd, when, new)
    )
    monkeypatch.setattr(termios, "tcflush", lambda fd, queue: adapter.tcflush(queue) if of(fd) else flush(fd, queue))
    monkeypatch.setattr(uart, "identity", lambda _device: adapter.identity)
