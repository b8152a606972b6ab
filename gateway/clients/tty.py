"""A tty for programs that can open nothing else: a pty under a name that stays, with the port at its other end.

A program that has it open is a client of the port like any other, with a session of its own (``clients.tty_stream``).
The pty is ours: the line may be unplugged, and a link be cut, and the program's descriptor goes on. It also goes on
while the service is restarted, where the service manager keeps the master (``host.descriptor_store``).

inotify tells that the slave is opened or closed; whether it is open *now*, poll does, and that is asked
(``clients.pty``). Events are only a reason to ask again, so it does not matter how many of them came together.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
from typing import TYPE_CHECKING, Final, Protocol

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
    """The place where a pty outlives its server, by name."""

    def take(self, name: str) -> int | None:
        """Return the descriptor that was left, which is the caller's then."""

    def keep(self, name: str, fd: int) -> None:
        """Have a copy of ``fd`` kept for another process."""

    def forget(self, name: str) -> None:
        """Have it kept no more."""

    def leave(self, name: str, fd: int) -> None:
        """Leave ``fd`` to the next who takes it."""


async def serve_programs(
    spec: ProgramTty,
    service: Service,
    unit: Unit,
    stopping: Callable[[], bool],
    descriptors: Descriptors,
    name: str,
) -> None:
    """Keep a tty under the name that ``spec`` gives until cancelled, and serve whoever opens it.

    Where the gateway is ``stopping`` nobody new is served, and who is there may still take what waits for it. The pty
    is one that was left among ``descriptors`` under ``name``, if there is one, and is left there in the end.
    """
    configures = Right.CONFIGURE in service.handle.rights
    kept: list[Pty] = []
    """The pty, which goes on while its name cannot be had."""
    if (left := descriptors.take(name)) is not None:
        with contextlib.suppress(OSError):
            kept.append(Pty.taken(left))

    def in_force() -> PtySettings | None:
        return PtySettings.of(service.handle.state.value.known_settings) if configures else None

    async def live(backoff: Backoff) -> None:
        if not kept:
            kept.append(Pty.made())
            descriptors.keep(name, kept[0].master)
        pty = kept[0]
        pty.show(in_force())
        with _named(spec, pty.slave), _watched(pty.slave) as openings:
            unit.up()
            backoff.reset()
            while True:
                # Who has closed it by now may have written before that.
                await _wait(openings, lambda: pty.is_open() or pty.unread() > 0 or pty.stale > 0)
                if stopping():
                    await trio.sleep_forever()
                stream, ended = TtyStream(pty, configures=configures), trio.Event()
                client = service.serve(stream, str(spec), ended)
                if client is not None:
                    try:
                        await ended.wait()
                    finally:
                        client.revoke("the tty is closed")
                if not stream.was_left:
                    # Who was refused, or ended from this side, has it open still: the next to open it is served.
                    await _wait(openings, lambda: not pty.is_open())
                    pty.drop_unread()
                if not pty.drop_unheard() and not pty.is_open():
                    kept.remove(pty)
                    descriptors.forget(name)
                    os.close(pty.detach())
                    return
                pty.forget(in_force())

    async def show() -> None:
        """Let the tty show what is in force, also while nobody has it open: the next to open it looks at that."""
        async for _ in service.handle.state.changes():
            for pty in kept:
                pty.show(in_force())

    unit.began()
    unit.settled.set()  # a folder that is not there is no reason to refuse the settings
    try:
        async with trio.open_nursery() as nursery:
            if configures:
                nursery.start_soon(show)
            await supervise(live, (OSError,), unit.failing, Backoff(_FIRST_RETRY, _LAST_RETRY))
    finally:
        for pty in kept:
            descriptors.leave(name, pty.detach())


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
