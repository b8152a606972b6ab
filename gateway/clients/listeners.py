"""Listen on TCP and Unix sockets, and hand each client that connects to a ``welcome``.

A listener never gives up. If it cannot bind it goes on trying, since addresses come and go, and two ports may swap
theirs in one update. Its unit reports the state.

``clients.connections`` reserves descriptors, so a listener hardly ever runs out of them. If it does, it gives up a
spare descriptor to accept the client and let ``welcome`` refuse it. Otherwise that client and all those after it would
wait in the backlog for an unknown time. It pauses each time, because its socket stays readable.
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
"""Seconds for which a port in use is tried again before it is refused: another listener may be about to leave it."""
_SWAP_PAUSE = 0.02
_RETRY = 1.0
_LOOK = 2.0
"""Seconds without a client after which the listener checks that its Unix socket still has its name."""
_OUT_OF_DESCRIPTORS_PAUSE = 0.1
_FIRST_FREE_PORT = 1024
"""Lower ports need a capability that the service does not have."""
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
_TAKEN = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}

Welcome: TypeAlias = "Callable[[socket.socket, Any], None]"
"""Takes an accepted socket and its peer's address, and owns the socket from then on. It may raise OSError."""


async def listen_tcp(address: str, port: int, welcome: Welcome, unit: Unit) -> None:
    """Accept TCP clients on an IP address of this host, IPv4 or IPv6, until cancelled."""
    await _listen(unit, lambda: _bind_tcp(address, port), welcome)


async def listen_unix(
    path: Path,
    kind: socket.SocketKind,
    mode: int,
    welcome: Welcome,
    unit: Unit,
    folder_mode: int | None = None,
) -> None:
    """Accept clients on the Unix socket ``path``, made with ``mode``, until cancelled; remove it then.

    A socket that was removed is made again within seconds: nothing tells the process that its name is gone. With
    ``folder_mode`` its folder is its own, and is made with it.
    """
    made = (0, 0)

    def bind() -> socket.socket:
        nonlocal made
        if folder_mode is not None:
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(folder_mode)
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

    It also ends when ``is_there``, which is called every few seconds, says that clients cannot find the socket any
    more. Where the process or the host has no descriptor left, the client is told so, and ``unit`` reports it once.
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
            except OSError as exc:  # the kernel may also be out of memory: nothing helps but to wait
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
        # These clients connected before the listener moved, and believe that they are being served.
        with contextlib.suppress(OSError):
            for _ in range(_BACKLOG):  # bounded, since others may go on connecting meanwhile
                if not _accept(listener, welcome):
                    break
        listener.close()


def _spare() -> int | None:
    """Open a descriptor that can be given up when no other is free; None where even this one cannot be had."""
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
            sock.close()  # the client has left already: its socket takes no options
        except Exception:  # whatever goes wrong with one client must not end the listener
            logger.exception("a bug: a client could not be welcomed")
            sock.close()
    return True


async def _listen(
    unit: Unit, bind: Callable[[], socket.socket], welcome: Welcome, is_there: Callable[[], bool] | None = None
) -> None:
    """Bind, however long that takes, and accept. A port that stays in use is a refusal; other errors may pass."""
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
        path.chmod(mode)  # before it listens, so that no client gets in with another mode
        sock.listen(_BACKLOG)
        undo.pop_all()
        return sock


def _identity(path: Path) -> tuple[int, int]:
    """Return the device and inode of ``path``; zeros where there is no file."""
    try:
        found = path.lstat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _remove_socket(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, f"{path} exists and is no socket")
    path.unlink()
