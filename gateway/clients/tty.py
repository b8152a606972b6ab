"""A tty for programs that can open nothing else: a pty under a name that stays, with the port at its other end.

A program that has it open is a client of the port like any other, with a session of its own. The pty is ours: the line
may be unplugged, and a link be cut, and the program's descriptor goes on.

The facts that this file is built on (Linux)
    Nobody there  A master whose slave nobody has open polls HUP, at once and for ever: it must not be waited for then.
                  inotify tells that the slave is opened or closed; whether it is open *now*, poll does, and that is
                  asked. Events are only a reason to ask again, so it does not matter how many of them came together.
    The rest      What a program left unread stays in the slave, for whoever opens it next: it is flushed there.
    Settings      They belong to the slave too, and stay. Raw from the start, or the line's own words would be echoed
                  into it. With EXTPROC the kernel leaves lines and echo to us, who do neither, and tells the master
                  in its packet mode (TIOCPKT) of each change. A program that clears EXTPROC has it put back.
    TIOCEXCL      outlives the last close of a slave, and shuts out all who come. Such a pty is replaced by a new one.
    Never         A pty has no modem lines and sends no break, and it is always 8 bits without parity.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import grp
import os
import select
import struct
import termios
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.tasks.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.clients.connections import ClientConnection
    from gateway.clients.service import Service
    from gateway.port.plan import ProgramTty
    from gateway.tasks.reconcile import Unit

__all__ = ["TtyStream", "serve_programs"]

_FIRST_RETRY = 0.1
_LAST_RETRY = 5.0
_READ_SIZE: Final = 65536
_EXTPROC: Final = 0o200000  # Linux; Python's termios leaves it out
_NONBLOCK: Final = os.O_NONBLOCK | os.O_CLOEXEC  # inotify's flags have the same numbers
_OPENED_OR_CLOSED: Final = 0x08 | 0x10 | 0x20
_DATA: Final = 0
"""The first byte of a packet that is data (TIOCPKT_DATA); any other tells what the program did."""
_NO_GROUP: Final = "the daemon must be in it, and its unit needs SystemCallFilter=@chown, to give the tty the group"
_GONE: Final = "the program closed it"


async def serve_programs(spec: ProgramTty, service: Service, unit: Unit, stopping: Callable[[], bool]) -> None:
    """Keep a tty under the name that ``spec`` gives until cancelled, and serve whoever opens it.

    Where the gateway is ``stopping`` nobody new is served, and who is there may still take what waits for it.
    """

    async def live(backoff: Backoff) -> None:
        with _pty() as (master, slave), _named(spec, slave), _watched(slave) as openings:
            unit.up()
            backoff.reset()
            while True:
                # Who has closed it by now may have written before that.
                await _wait(openings, lambda: _is_open(master) or _has_unread(master) > 0)
                if stopping():
                    await trio.sleep_forever()
                stream, ended = TtyStream(master), trio.Event()
                client = service.serve(stream, str(spec), ended)
                if client is not None:
                    try:
                        await ended.wait()
                    finally:
                        client.revoke("the tty is closed")
                if not stream.was_left:
                    # Who was refused, or ended from this side, has it open still: the next to open it is served.
                    await _wait(openings, lambda: not _is_open(master))
                    termios.tcflush(master, termios.TCIFLUSH)
                if not _forget(slave) and not _is_open(master):
                    return

    unit.began()
    unit.settled.set()  # a folder that is not there is no reason to refuse the settings
    await supervise(live, (OSError,), unit.failing, Backoff(_FIRST_RETRY, _LAST_RETRY))


@final
class TtyStream:
    """The master of a pty, as the stream of the program that has the slave open. ``close`` leaves the pty alone."""

    exact = False

    def __init__(self, master: int) -> None:
        self.connection: ClientConnection | None = None
        self.was_left = False
        """The program has closed it, and all that it wrote was received."""
        self._master = master
        self._closed = False

    def send_nowait(self, data: bytes) -> int:
        """See Stream."""
        if self._closed:
            return 0
        try:
            return os.write(self._master, data)
        except OSError:
            return 0

    async def send(self, data: bytes) -> int:
        """See Stream."""
        while True:
            await trio.lowlevel.wait_writable(self._master)
            try:
                return os.write(self._master, data)
            except BlockingIOError:
                if not _is_open(self._master):
                    # Nobody will read it, and to wait here would be to wait for nothing, again and again: the
                    # session lasts until what the program wrote before it left is on the line.
                    return len(data)

    async def skip(self, count: int) -> None:
        """See Stream: bytes alone cannot tell."""
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        """See Stream. Raises OSError once the program, and whoever else had it open, has closed it."""
        while True:
            await trio.lowlevel.wait_readable(self._master)
            try:
                packet = os.read(self._master, _READ_SIZE)
            except BlockingIOError:
                continue
            except OSError as exc:
                self.was_left = True
                raise OSError(errno.EIO, _GONE) from exc
            if packet[0] == _DATA and len(packet) > 1:
                return packet[1:]
            _leave_it_raw(self._master)

    def close(self) -> None:
        """See Stream."""
        self._closed = True


@contextlib.contextmanager
def _pty() -> Iterator[tuple[int, str]]:
    """Make a raw pty in packet mode; yield its master, and the name of its slave, which nobody has open then."""
    master, slave = os.openpty()
    try:
        name = os.ttyname(slave)
        os.set_blocking(master, False)
        fcntl.ioctl(master, termios.TIOCPKT, struct.pack("i", 1))
        iflag, oflag, cflag, lflag, *speeds, characters = termios.tcgetattr(slave)
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        iflag = 0
        termios.tcsetattr(
            slave, termios.TCSANOW, [iflag, oflag & ~termios.OPOST, cflag, lflag | _EXTPROC, *speeds, characters]
        )
    finally:
        os.close(slave)
    try:
        yield master, name
    finally:
        os.close(master)


@contextlib.contextmanager
def _named(spec: ProgramTty, slave: str) -> Iterator[None]:
    """Let the link of ``spec`` lead to the slave, whose mode and group are set before anybody can find it there.

    Raises OSError, also where something else than a link has that name: it is not ours to remove.
    """
    os.chmod(slave, spec.mode)
    if spec.group is not None:
        try:
            os.chown(slave, -1, grp.getgrnam(spec.group).gr_gid)
        except KeyError as exc:
            raise OSError(errno.EINVAL, f"this host has no group named {spec.group!r}") from exc
        except PermissionError as exc:
            raise OSError(exc.errno, f"{_NO_GROUP} {spec.group!r}") from exc
    if os.path.lexists(spec.path) and not os.path.islink(spec.path):
        raise OSError(errno.EEXIST, f"{spec.path} is there, and is no link")
    # Made beside it and moved onto it: at any time the name leads somewhere.
    new = f"{spec.path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(slave, new)
    os.replace(new, spec.path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.readlink(spec.path) == slave:
                os.unlink(spec.path)


@contextlib.contextmanager
def _watched(slave: str) -> Iterator[int]:
    """Yield a descriptor that is readable after the slave was opened or closed."""
    libc = ctypes.CDLL(None, use_errno=True)
    openings = libc.inotify_init1(_NONBLOCK)
    if openings < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        if libc.inotify_add_watch(openings, os.fsencode(slave), _OPENED_OR_CLOSED) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        yield openings
    finally:
        os.close(openings)


async def _wait(openings: int, reached: Callable[[], bool]) -> None:
    await trio.lowlevel.checkpoint()
    while not reached():
        await trio.lowlevel.wait_readable(openings)
        with contextlib.suppress(BlockingIOError):
            os.read(openings, _READ_SIZE)


def _is_open(master: int) -> bool:
    """Return whether anybody has the slave open now."""
    poll = select.poll()
    poll.register(master, 0)
    return not poll.poll(0)


def _has_unread(master: int) -> int:
    """Return how many bytes wait that were written to the slave; ``_is_open`` has just looked, and so they are in.

    Not by poll, which also tells of packets without data: our own flush makes one.
    """
    count: int = struct.unpack("i", fcntl.ioctl(master, termios.FIONREAD, bytes(4)))[0]
    return count


def _leave_it_raw(master: int) -> None:
    """Put EXTPROC back where a program has cleared it; everything else is the program's own."""
    iflag, oflag, cflag, lflag, *rest = termios.tcgetattr(master)
    if not lflag & _EXTPROC:
        termios.tcsetattr(master, termios.TCSANOW, [iflag, oflag, cflag, lflag | _EXTPROC, *rest])


def _forget(slave: str) -> bool:
    """Throw away what the last program left unread; return false where nobody can open the slave any more."""
    try:
        fd = os.open(slave, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        termios.tcflush(fd, termios.TCIFLUSH)
    finally:
        os.close(fd)
    return True
