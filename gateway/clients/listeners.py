"""Listen where clients connect, and hand each of them to a ``welcome``: TCP and Unix sockets.

A listener never gives up. One that cannot bind goes on trying, since addresses come and go, and two ports may swap
theirs in one update. The unit tells how it is.

``clients.connections`` keeps descriptors from clients, so a listener hardly ever finds none. Where it does, it gives up
a spare one for as long as it takes to accept a client and let ``welcome`` refuse it: a client in the backlog would
wait for nobody knows how long, and everybody behind it too. Each time it pauses, for its socket stays readable.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.tasks.reconcile import Unit

__all__ = ["Welcome", "accept_clients", "listen_tcp", "listen_unix"]

logger = logging.getLogger(__name__)

_BACKLOG = 1024
"""Clients that may wait to be accepted; the kernel may have a lower limit (net.core.somaxconn)."""
_SWAP_TIME = 1.0
"""Seconds for which a port that is taken is tried again before that is a refusal: another may just be leaving it."""
_SWAP_PAUSE = 0.02
_RETRY = 1.0
_LOOK = 2.0
"""Seconds of silence after which a Unix socket is looked for under its name."""
_OUT_OF_DESCRIPTORS_PAUSE = 0.1
_FIRST_FREE_PORT = 1024
"""Ports below this one take a capability to bind, which the service has not."""
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
_TAKEN = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}

Welcome: TypeAlias = "Callable[[socket.socket, Any], None]"
"""Takes an accepted socket and its peer's address, and owns it then. It may raise OSError."""


async def listen_tcp(address: str, port: int, welcome: Welcome, unit: Unit) -> None:
    """Accept TCP clients on an IP address of this host, IPv4 or IPv6, until cancelled."""
    await _listen(unit, lambda: _bind_tcp(address, port), welcome)


async def listen_unix(path: Path, kind: socket.SocketKind, mode: int, welcome: Welcome, unit: Unit) -> None:
    """Accept clients on the Unix socket ``path``, made with ``mode``, until cancelled; remove it then.

    One that somebody removed is made again, within some seconds: nothing tells the process that its name is gone.
    """
    made = (0, 0)

    def bind() -> socket.socket:
        nonlocal made
        listener = _bind_unix(path, kind, mode)
        made = _identity(path)
        return listener

    try:
        await _listen(unit, bind, welcome, lambda: _identity(path) == made)
    finally:
        with contextlib.suppress(OSError):
            _remove_socket(path)


async def accept_clients(
    listener: socket.socket, welcome: Welcome, unit: Unit, is_there: Callable[[], bool] | None = None
) -> None:
    """Hand every client of a listening socket to ``welcome``, until cancelled; then its backlog, and close it.

    It also ends when ``is_there``, which is asked now and then, says that clients cannot find the socket any more.
    Where the process or the host has no descriptor left the client is told so, and ``unit`` tells of it once.
    """
    unit.up()
    spare = _spare()
    try:
        while True:
            with trio.move_on_after(math.inf if is_there is None else _LOOK) as waiting:
                await trio.lowlevel.wait_readable(listener)
            if waiting.cancelled_caught:
                if is_there is not None and not is_there():
                    unit.failing("the socket was removed, and is made again")
                    return
                continue
            try:
                _accept(listener, welcome)
                unit.up()
            except OSError as exc:  # also where the kernel has no memory for it: then there is nothing but to wait
                unit.failing(f"cannot accept a client: {exc.strerror}")
                if spare is not None and exc.errno in _NO_DESCRIPTOR:
                    os.close(spare)
                    with contextlib.suppress(OSError):
                        _accept(listener, welcome)
                spare = _spare() if exc.errno in _NO_DESCRIPTOR else spare
                await trio.sleep(_OUT_OF_DESCRIPTORS_PAUSE)
    finally:
        if spare is not None:
            os.close(spare)
        # These clients connected before the listener moved: to their kernels, they are connected.
        with contextlib.suppress(OSError):
            for _ in range(_BACKLOG):  # bounded, for more may go on connecting meanwhile
                if not _accept(listener, welcome):
                    break
        listener.close()


def _spare() -> int | None:
    """Take a descriptor to give up when there is no other; None where there is none."""
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _accept(listener: socket.socket, welcome: Welcome) -> bool:
    """Accept one client; return whether there was one. Raises OSError where the host has no descriptor left."""
    with contextlib.suppress(ConnectionError):
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return False
        try:
            welcome(sock, peer)
        except OSError:
            sock.close()  # it has left already, so its socket takes no options
        except Exception:  # a listener outlives whatever goes wrong with one client
            logger.exception("a bug: a client could not be welcomed")
            sock.close()
    return True


async def _listen(
    unit: Unit, bind: Callable[[], socket.socket], welcome: Welcome, is_there: Callable[[], bool] | None = None
) -> None:
    """Bind, however long that takes, and accept; a port that stays taken is a refusal, all else a passing state."""
    unit.began()
    patience = trio.current_time() + _SWAP_TIME
    while True:
        try:
            await accept_clients(bind(), welcome, unit, is_there)
            continue
        except OSError as exc:
            why = exc.strerror or str(exc)
            patient = trio.current_time() <= patience
            if exc.errno not in _TAKEN:
                unit.failing(why)
            elif not patient:
                unit.refused(why)
        await trio.sleep(_SWAP_PAUSE if patient else _RETRY)


def _bind_tcp(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((address, port))
        except PermissionError as exc:
            if port >= _FIRST_FREE_PORT:
                raise
            raise OSError(exc.errno, f"{exc.strerror}: the service may bind no port below 1024") from None
        sock.listen(_BACKLOG)
        undo.pop_all()
        return sock


def _bind_unix(path: Path, kind: socket.SocketKind, mode: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        _remove_socket(path)  # left behind by a daemon that was killed
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK))
        sock.bind(str(path))
        path.chmod(mode)  # nobody can have connected: it does not listen yet
        sock.listen(_BACKLOG)
        undo.pop_all()
        return sock


def _identity(path: Path) -> tuple[int, int]:
    """Return which file ``path`` names; zeros for none."""
    try:
        found = path.lstat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _remove_socket(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, f"{path} exists and is no socket")
    path.unlink()
