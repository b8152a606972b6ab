"""Wrap clients' sockets as streams with one verb more than trio's: ``send_nowait``, which never waits.

With it the line's task hands bytes to a client itself, and no second task has to be woken. trio's own SocketStream also
costs one more scheduler pass for every read: it tries to read, and then waits. These wait for the descriptor first, and
read once. They are Direct: a reader may pass a step of its own, which is called whenever there is something to read,
and moves the bytes there and then (``tasks.ready``).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol, TypeVar, final, runtime_checkable

import trio

from gateway.tasks.ready import closing, when_readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clients.connections import ClientConnection

__all__ = [
    "MESSAGE_LIMIT",
    "Direct",
    "PacketStream",
    "SocketStream",
    "Stream",
    "TooLong",
    "close_socket",
    "keep_alive",
]

T = TypeVar("T")

MESSAGE_LIMIT = 4096
"""The longest exact message, in bytes: a packet here, a write of serial.cgi, a WebSocket message."""

_READ_SIZE = 65536
_CREDENTIALS_SPACE = socket.CMSG_SPACE(12)


@final
class TooLong(Exception):
    """A packet was longer than MESSAGE_LIMIT, so no part of it may be used."""


class Stream(Protocol):
    """A way to carry one client's bytes."""

    exact: bool
    """True if each piece that ``receive()`` returns is a whole message, never to be split."""
    connection: ClientConnection | None
    """The connection behind it, for counting; None where it is not counted."""

    def send_nowait(self, data: bytes) -> int:
        """Send what the peer takes now, and return how many bytes that was. Never waits, never raises."""

    async def send(self, data: bytes) -> int:
        """Wait until the peer takes some of it, and return how much. Raises OSError when the peer is gone."""

    async def skip(self, count: int) -> None:
        """Tell the peer, if its protocol can, that ``count`` bytes of the line are missing here; as ``send``."""

    async def receive(self) -> bytes:
        """Return the next piece, ``b""`` at the end. Raises OSError when the peer is gone."""

    def close(self) -> None:
        """Close at once. Idempotent."""


@runtime_checkable
class Direct(Protocol):
    """A stream that is a descriptor, without anything between it and the client's bytes."""

    def receive_nowait(self) -> bytes | None:
        """Return the next piece as ``receive`` does, or None where nothing has come."""

    async def when_readable(self, step: Callable[[], T | None]) -> T:
        """Call ``step`` whenever there may be something to receive, until it returns something; return that."""


@final
class SocketStream:
    """A TCP or Unix stream socket; it becomes non-blocking."""

    exact = False

    def __init__(self, sock: socket.socket, connection: ClientConnection | None = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.connection = connection

    def send_nowait(self, data: bytes) -> int:
        """See Stream."""
        try:
            return self._socket.send(data)
        except OSError:
            return 0  # full, or gone: send() meets the same error where it can be told

    async def send(self, data: bytes) -> int:
        """See Stream."""
        return await _send(self._socket, data)

    async def skip(self, count: int) -> None:
        """See Stream: bytes alone cannot tell."""
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        """See Stream."""
        return await self.when_readable(self.receive_nowait)

    async def when_readable(self, step: Callable[[], T | None]) -> T:
        """See Direct."""
        return await when_readable(self._socket.fileno(), step)

    def receive_nowait(self) -> bytes | None:
        """See Direct."""
        try:
            return self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """See Stream."""
        close_socket(self._socket, self.connection)


@final
class PacketStream:
    """A Unix SOCK_SEQPACKET socket: each packet is one message, of at most MESSAGE_LIMIT bytes.

    ``receive()`` raises TooLong for a longer one, and reads on after it.
    """

    exact = True

    def __init__(self, sock: socket.socket, connection: ClientConnection | None = None) -> None:
        self.connection = connection
        sock.setblocking(False)
        # With credentials on every packet, an empty packet (with them) differs from the end (without).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket = sock

    def send_nowait(self, data: bytes) -> int:
        """See Stream."""
        try:
            return self._socket.send(data)
        except OSError:
            return 0

    async def send(self, data: bytes) -> int:
        """See Stream."""
        return await _send(self._socket, data)

    async def skip(self, count: int) -> None:
        """See Stream: bytes alone cannot tell."""
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        """See Stream."""
        return await self.when_readable(self.receive_nowait)

    async def when_readable(self, step: Callable[[], T | None]) -> T:
        """See Direct."""
        return await when_readable(self._socket.fileno(), step)

    def receive_nowait(self) -> bytes | None:
        """See Direct; an empty packet is nothing."""
        try:
            data, credentials, flags, _ = self._socket.recvmsg(MESSAGE_LIMIT, _CREDENTIALS_SPACE)
        except BlockingIOError:
            return None
        if flags & socket.MSG_TRUNC:
            raise TooLong
        return data if data or not credentials else None

    def close(self) -> None:
        """See Stream."""
        close_socket(self._socket, self.connection)


def close_socket(sock: socket.socket, connection: ClientConnection | None) -> None:
    """Close a client's socket, wake whoever waits for it, and stop counting its connection. Idempotent."""
    if connection is not None:
        connection.close()
    if sock.fileno() >= 0:
        closing(sock.fileno())
    sock.close()


async def _send(sock: socket.socket, data: bytes) -> int:
    while True:
        await trio.lowlevel.wait_writable(sock)
        try:
            return sock.send(data)
        except BlockingIOError:
            continue


def keep_alive(sock: socket.socket, dead_after: float) -> None:
    """Send small pieces at once, and give the peer up after ``dead_after`` seconds without an answer.

    Keepalive finds an idle peer that has gone, and TCP_USER_TIMEOUT one that leaves data unacknowledged. Neither sees
    the other case.
    """
    probes = 3
    pause = max(1, int(dead_after / (probes + 1)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, pause)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after * 1000))
