"""Connect PTZ drivers, programs of this host, by the credentials that the kernel vouches for (SO_PEERCRED)."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, final

from gateway.clients.streams import PacketStream, SocketStream

if TYPE_CHECKING:
    from gateway.clients.service import Service
    from gateway.clients.streams import Stream

__all__ = ["Drivers"]

_SO_PEERGROUPS = 59
_MOST_GROUPS = 1024
"""Bytes of group numbers that Python's getsockopt has room for: 256 groups."""


@final
class Drivers:
    """The users and groups of this host, by number, that may connect as PTZ drivers."""

    def __init__(self, users: frozenset[int], groups: frozenset[int]) -> None:
        self._users = users
        self._groups = groups

    @property
    def mode(self) -> int:
        """The mode of the sockets.

        A mode has room for the daemon's own user and group. Where others are named too, everybody may connect, and
        ``identify`` tells them from strangers.
        """
        ours = self._users <= {0, os.getuid()} and self._groups <= {os.getgid()}
        return 0o660 if ours else 0o666

    def identify(self, sock: socket.socket) -> tuple[str, int, bool]:
        """Return the name of who is at the other end of a Unix socket, its user, and whether it may use the port."""
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process, user, group = struct.unpack("3i", credentials)
        known = user in self._users or bool(self._groups & {group, *_peer_groups(sock)})
        return f"process {process} of user {user}", user, known

    def welcome(self, service: Service, sock: socket.socket) -> None:
        """Connect a driver to ``service``, or refuse it."""
        holder, user, known = self.identify(sock)
        connection = service.connections.open(sock.fileno(), f"user {user}")
        kind = PacketStream if sock.type is socket.SOCK_SEQPACKET else SocketStream
        stream: Stream = kind(sock, connection)
        if known:
            service.serve(stream, holder)
        else:
            service.refuse(stream, holder, "neither its user nor a group of it is among [ptz]")


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups that the peer had when it connected."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS)
    except OSError:  # it has more than there is room for; its user and its first group have to do
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
