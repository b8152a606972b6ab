"""A tty for programs that can open nothing else: a pty under a fixed name, with the port at its other end.

A program that has it open is a client of the port like any other, with a session of its own (``clients.tty_stream``).
The pty belongs to us, so a program's descriptor survives when the line is unplugged or a link is cut. It also survives
a restart of the service, where the service manager keeps the master (``host.descriptor_store``).

inotify reports that the slave was opened or closed, but only poll tells whether it is open *now* (``clients.pty``). So
an event is only a reason to poll, and it does not matter how many events came together.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import grp
import os
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from gateway.clients.pty import Pty, PtySettings
from gateway.clients.tty_stream import TtyStream
from gateway.port.rights import Right
from gateway.tasks.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.clients.service import Service
    from gateway.port.plan import ProgramTty
    from gateway.tasks.reconcile import Unit

__all__ = ["serve_programs"]

_FIRST_RETRY = 0.1
_LAST_RETRY = 5.0
_READ_SIZE: Final = 65536
_NONBLOCK: Final = os.O_NONBLOCK | os.O_CLOEXEC  # inotify's flags have the same numbers
_OPENED_OR_CLOSED: Final = 0x08 | 0x10 | 0x20
_NO_GROUP: Final = "the daemon must be in it, and its unit needs SystemCallFilter=@chown, to give the tty the group"


class Descriptors(Protocol):
    """A store in which a pty outlives its server, by name."""

    def take(self, name: str) -> int | None:
        """Return the descriptor that was left, and give it to the caller."""

    def keep(self, name: str, fd: int) -> None:
        """Keep a copy of ``fd`` for the next process."""

    def forget(self, name: str) -> None:
        """Stop keeping it."""

    def leave(self, name: str, fd: int) -> None:
        """Leave ``fd`` to the next caller of ``take``."""


async def serve_programs(
    spec: ProgramTty,
    service: Service,
    unit: Unit,
    stopping: Callable[[], bool],
    descriptors: Descriptors,
    name: str,
) -> None:
    """Keep a tty under the name that ``spec`` gives until cancelled, and serve the programs that open it.

    While the gateway is ``stopping`` no new program is served, and one that is there may still take what waits for it.
    The pty is the one that was left among ``descriptors`` under ``name``, if any, and is left there in the end.
    """
    unit.began()
    unit.settled.set()  # a folder that is not there is no reason to refuse the settings
    tty = _Tty(spec, service, descriptors, name)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tty.follow_settings)
            live = functools.partial(tty.live, unit, stopping)
            await supervise(live, (OSError,), unit.failing, Backoff(_FIRST_RETRY, _LAST_RETRY))
    finally:
        tty.leave()


@final
class _Tty:
    """The pty behind one name, and the programs that open it, one after the other."""

    def __init__(self, spec: ProgramTty, service: Service, descriptors: Descriptors, name: str) -> None:
        self._spec = spec
        self._service = service
        self._descriptors = descriptors
        self._name = name
        self._configures = Right.CONFIGURE in service.handle.rights
        self._pty: Pty | None = None
        """It outlives each ``live``: a program keeps it open while its name cannot be had."""
        if (left := descriptors.take(name)) is not None:
            with contextlib.suppress(OSError):
                self._pty = Pty.taken(left)

    def leave(self) -> None:
        """Leave the pty to the next server of this name."""
        if self._pty is not None:
            self._descriptors.leave(self._name, self._pty.detach())

    async def follow_settings(self) -> None:
        """Show the settings in force, also while nobody has the tty open: a program looks at them when it opens it."""
        if not self._configures:
            return
        async for _ in self._service.handle.state.changes():
            if self._pty is not None:
                self._pty.show(self._in_force)

    async def live(self, unit: Unit, stopping: Callable[[], bool], backoff: Backoff) -> None:
        """Serve programs under the name until the pty has to be replaced. Raises OSError."""
        if self._pty is None:
            self._pty = Pty.made()
            self._descriptors.keep(self._name, self._pty.master)
        pty = self._pty
        pty.show(self._in_force)
        with _named(self._spec, pty.slave), _watched(pty.slave) as openings:
            unit.up()
            backoff.reset()
            while True:
                # A program that has closed it by now may have written before that.
                await _wait(openings, lambda: pty.is_open() or pty.unread() > 0 or pty.stale > 0)
                if stopping():
                    await trio.sleep_forever()
                await self._serve_one(pty, openings)
                if not pty.drop_unheard() and not pty.is_open():
                    self._pty = None
                    self._descriptors.forget(self._name)
                    os.close(pty.detach())
                    return
                pty.forget(self._in_force)

    async def _serve_one(self, pty: Pty, openings: int) -> None:
        """Serve the program that has the tty open, until it is closed."""
        stream, ended = TtyStream(pty, configures=self._configures), trio.Event()
        client = self._service.serve(stream, str(self._spec), ended)
        if client is not None:
            try:
                await ended.wait()
            finally:
                client.revoke("the tty is closed")
        if not stream.was_left:
            # A program that was refused, or ended from this side, still has it open. The next to open it is served.
            await _wait(openings, lambda: not pty.is_open())
            pty.drop_unread()

    @property
    def _in_force(self) -> PtySettings | None:
        return PtySettings.of(self._service.handle.state.value.known_settings) if self._configures else None


@contextlib.contextmanager
def _named(spec: ProgramTty, slave: str) -> Iterator[None]:
    """Let the symbolic link of ``spec`` lead to the slave, after the slave's mode and group are set.

    Raises OSError, also where a file that is no symbolic link has that name: it is not ours to remove.
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
    # Made beside it and renamed over it, so that the name always leads somewhere.
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
