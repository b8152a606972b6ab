"""Who gets in at the front door: a bounded number of connections, and of each network a bounded share.

It accepts and counts; what a connection says is `gateway.web.http`'s affair. The share keeps one silent address
from holding every place, and who finds none is told so instead of waiting.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import trio

from gateway.web.http import HttpLimits, Respond, Secure, farewell, serve
from protocol.endpoint import Endpoint

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = ["FrontDoor", "Places"]

logger = logging.getLogger(__name__)

_BUSY_TEXT = b"503 Service Unavailable\nAll connections are taken: close idle ones, or try again.\n"
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BUSY_TEXT), _BUSY_TEXT)
)


@final
@dataclass(slots=True)
class Places:
    """So many connections at once (``total``), and so many of them from one network (``share``)."""

    total: int = 64
    share: int = 48
    taken: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def take(self, network: str) -> Iterator[bool]:
        """Hold a place for the length of the block; whether there was one."""
        granted = self.taken.total() < self.total and self.taken[network] < self.share
        self.taken[network] += granted
        try:
            yield granted
        finally:
            self.taken[network] -= granted
            self.taken += Counter()  # drops the networks at zero: only who is here is remembered


@final
@dataclass(slots=True)
class FrontDoor:
    """Accepts connections and serves each by ``respond``. One for all listeners: they share the places."""

    respond: Respond
    secure: Secure | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    places: Places = field(default_factory=Places)
    doorstep: Places = field(default_factory=Places)
    """Those that are being told that there is no place."""

    def admit(self, clients: trio.Nursery, sock: socket.socket, sockaddr: Any) -> None:
        """Serve an accepted connection, from the socket address ``sockaddr``, in a task of ``clients``."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        clients.start_soon(self.welcome, stream, Endpoint.of(sockaddr))

    async def welcome(self, stream: trio.SocketStream, peer: Endpoint) -> None:
        """Serve one connection, or tell it that there is no place; then close it."""
        async with stream:
            try:
                await self._seat(stream, peer)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                logger.debug("front door: a connection broke: %s", exc)
            except Exception:  # the first ring: what goes wrong with one connection ends that connection
                logger.exception("front door: a connection ended by a fault of ours")

    async def _seat(self, stream: trio.SocketStream, peer: Endpoint) -> None:
        with self.places.take(peer.network) as granted:
            if granted:
                await serve(stream, peer, self.respond, self.limits, self.secure)
                return
        with self.doorstep.take(peer.network) as granted:
            if granted:
                await self._turn_away(stream, peer)

    async def _turn_away(self, stream: trio.SocketStream, peer: Endpoint) -> None:
        logger.debug("%s finds no place at the front door", peer)
        with trio.move_on_after(self.limits.linger_seconds):
            await stream.send_all(_BUSY)
        await farewell(stream, self.limits)
