"""Doors' listeners: where clients connect, and what the socket itself tells of them.

A listener that cannot bind goes on trying; one that moves accepts its backlog first. It must not know what clients
do once they are in.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any, final

import trio

from gateway.clients.streams import PacketStream, SocketStream, keep_alive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.clients.service import Doorway
    from gateway.port.plan import Listen
    from gateway.remote_port.server import RemoteDoorway
    from gateway.tasks.reconcile import Leaf

__all__ = ["DEAD_CLIENT", "Drivers", "endpoint", "listen_links", "listen_tcp", "listen_unix"]

logger = logging.getLogger(__name__)

DEAD_CLIENT = 30.0
"""Seconds after which a TCP client that answers nothing is given up; less would cut a paused terminal."""

_BACKLOG = 128
_SWAP_TIME = 1.0
"""Seconds for which a port that is taken is tried again before that is a refusal: another may just be leaving it."""
_SWAP_PAUSE = 0.02
_RETRY = 1.0
_OUT_OF_DESCRIPTORS_PAUSE = 0.1
_TAKEN = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}
_SO_PEERGROUPS = 59
_MOST_GROUPS = 1024
"""Bytes of group numbers that Python's getsockopt has room for: 256 groups."""


def endpoint(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Write a socket's address as ``host:port``, or ``[host]:port`` for IPv6."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def listen_tcp(spec: Listen, door: Doorway, leaf: Leaf) -> None:
    """Accept TCP clients on one address until cancelled."""

    def welcome(sock: socket.socket, peer: Any) -> None:
        keep_alive(sock, DEAD_CLIENT)
        door.admit(SocketStream(sock), endpoint(peer), peer[0])

    await _serve(leaf, lambda: _bind_tcp(spec.address, spec.port), welcome)


async def listen_links(spec: Listen, door: RemoteDoorway, leaf: Leaf) -> None:
    """Accept remote port clients on one address until cancelled."""

    def welcome(sock: socket.socket, peer: Any) -> None:
        door.admit(sock, endpoint(peer), peer[0])

    await _serve(leaf, lambda: _bind_tcp(spec.address, spec.port), welcome)


async def listen_unix(path: Path, kind: socket.SocketKind, drivers: Drivers, door: Doorway, leaf: Leaf) -> None:
    """Accept PTZ drivers on the Unix socket ``path`` until cancelled, and remove it then."""
    stream = PacketStream if kind is socket.SOCK_SEQPACKET else SocketStream

    def welcome(sock: socket.socket, _: Any) -> None:
        holder, known = drivers.identify(sock)
        if known:
            door.seat(stream(sock), holder)
        else:
            door.turn_away(stream(sock), holder, "neither its user nor a group of it is among [ptz]")

    try:
        await _serve(leaf, lambda: _bind_unix(path, kind, drivers), welcome)
    finally:
        with contextlib.suppress(OSError):
            _remove_socket(path)


@final
class Drivers:
    """Who may connect as a PTZ driver: users and groups of the host, by number."""

    def __init__(self, users: frozenset[int], groups: frozenset[int]) -> None:
        self._users = users
        self._groups = groups

    @property
    def mode(self) -> int:
        """The mode of the sockets. It has room for the daemon's own user and group; where others are named, everybody
        may knock, and ``identify`` tells them from strangers."""
        ours = self._users <= {0, os.getuid()} and self._groups <= {os.getgid()}
        return 0o660 if ours else 0o666

    def identify(self, sock: socket.socket) -> tuple[str, bool]:
        """Say who is at the other end of a Unix socket, and whether it may come in."""
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process, user, group = struct.unpack("3i", credentials)
        known = user in self._users or bool(self._groups & {group, *_peer_groups(sock)})
        return f"process {process} of user {user}", known


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the peer when it connected."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS)
    except OSError:  # it has more: then its user and its first group must do
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


async def _serve(leaf: Leaf, bind: Callable[[], socket.socket], welcome: Callable[[socket.socket, Any], None]) -> None:
    leaf.began()
    listener = await _bound(leaf, bind)
    leaf.up()
    try:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                _accept(listener, welcome)
                leaf.up()
            except OSError as exc:
                leaf.failing(f"cannot accept a client: {exc.strerror}")
                await trio.sleep(_OUT_OF_DESCRIPTORS_PAUSE)
    finally:
        # Who has connected already came before the listener moved, and was told so by its own kernel.
        with contextlib.suppress(OSError):
            for _ in range(_BACKLOG):  # who hurries to the closing door has no end
                _accept(listener, welcome)
        listener.close()


def _accept(listener: socket.socket, welcome: Callable[[socket.socket, Any], None]) -> None:
    """Accept one client, if there is one. Raises OSError where the host has no descriptor left."""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        sock, peer = listener.accept()
        try:
            welcome(sock, peer)
        except OSError:
            sock.close()  # it left while it was being seated


async def _bound(leaf: Leaf, bind: Callable[[], socket.socket]) -> socket.socket:
    """Bind, however long that takes; a port that stays taken is a refusal, all else a state."""
    patience = trio.current_time() + _SWAP_TIME
    while True:
        try:
            return bind()
        except OSError as exc:
            why = exc.strerror or str(exc)
            if exc.errno not in _TAKEN:
                leaf.failing(why)
            elif trio.current_time() > patience:
                leaf.refused(why)
        await trio.sleep(_SWAP_PAUSE if trio.current_time() <= patience else _RETRY)


def _bind_tcp(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
        undo.pop_all()
        return sock


def _bind_unix(path: Path, kind: socket.SocketKind, drivers: Drivers) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        _remove_socket(path)  # left behind by a daemon that was killed
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK))
        sock.bind(str(path))
        path.chmod(drivers.mode)  # nobody can have connected: it does not listen yet
        sock.listen(_BACKLOG)
        undo.pop_all()
        return sock


def _remove_socket(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, f"{path} exists and is no socket")
    path.unlink()
