"""Identify the process at the other end of a Unix socket, for which the kernel vouches (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import socket
import struct
from typing import final

from protocol.frozen import frozen

__all__ = ["Members", "Peer"]

_SO_PEERGROUPS = 59
_MOST_GROUPS = 1024
"""The largest buffer of Python's getsockopt, in bytes: 256 group numbers."""


@final
@frozen
class Peer:
    """A process of this host, as it was when it connected."""

    process: int
    user: int
    groups: frozenset[int]
    """Its first group and the supplementary ones."""

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """Read the credentials of a connected socket."""
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process, user, group = struct.unpack("3i", credentials)
        return cls(process, user, frozenset({group, *_supplementary_groups(sock)}))


@final
@frozen
class Members:
    """Some users of this host: those of these numbers, and those in groups of these numbers."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def include(self, peer: Peer) -> bool:
        """Return whether the process is one of them."""
        return peer.user in self.users or bool(self.groups & peer.groups)


def _supplementary_groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS)
    except OSError:  # more groups than fit: go by its user and its first group
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
