"""Connect PTZ drivers (programs of this host) by the credentials that the kernel vouches for."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, final

from gateway.clients.peer import Members, Peer
from gateway.clients.streams import PacketStream, SocketStream

if TYPE_CHECKING:
    from gateway.clients.service import Service
    from gateway.clients.streams import Stream

__all__ = ["Drivers"]


@final
class Drivers:
    """The users and groups of this host, by number, that may connect as PTZ drivers."""

    def __init__(self, users: frozenset[int], groups: frozenset[int]) -> None:
        self._members = Members(users, groups)

    @property
    def mode(self) -> int:
        """The mode of the sockets.

        A mode can name only the daemon's own user and group. Where the configuration names others too, everybody may
        connect, and ``identify`` tells them from strangers.
        """
        ours = self._members.users <= {0, os.getuid()} and self._members.groups <= {os.getgid()}
        return 0o660 if ours else 0o666

    def identify(self, sock: socket.socket) -> tuple[str, int, bool]:
        """Return the name of the process at the other end of a Unix socket, its user, and whether it may connect."""
        peer = Peer.of(sock)
        return f"process {peer.process} of user {peer.user}", peer.user, self._members.include(peer)

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
