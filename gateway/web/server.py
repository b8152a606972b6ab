"""The HTTP server's connections: a bounded number of them, and for each network a bounded share.

The share keeps one silent address from holding every place. A connection that finds no place is told so, and does not
wait for one. Telling takes time and a descriptor too, so those that are being told are bounded in the same way.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import trio

from gateway.web.http import HttpLimits, Respond, Secure, lingering_close, serve
from protocol.endpoint import Endpoint

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = ["HttpServer", "Places"]

logger = logging.getLogger(__name__)

_BUSY_TEXT = b"503 Service Unavailable\nAll connections are taken: close idle ones, or try again.\n"
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s" % (len(_BUSY_TEXT), _BUSY_TEXT)
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
        """Hold a place for the length of the block, if there is one; yield whether there is."""
        granted = self.taken.total() < self.total and self.taken[network] < self.share
        self.taken[network] += granted
        try:
            yield granted
        finally:
            self.taken[network] -= granted
            self.taken += Counter()  # drops the networks at zero, or strangers would fill the memory


@final
@dataclass(slots=True)
class HttpServer:
    """Serves connections by ``respond``. One server for all listeners: they share its places."""

    respond: Respond
    secure: Secure | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    places: Places = field(default_factory=Places)
    refusals: Places = field(default_factory=Places)
    """The connections that are being told that there is no place."""

    def admit(self, clients: trio.Nursery, sock: socket.socket, sockaddr: Any) -> None:
        """Serve an accepted connection, from the socket address ``sockaddr``, in a task of ``clients``."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        clients.start_soon(self.welcome, stream, Endpoint.of(sockaddr))

    async def welcome(self, stream: trio.SocketStream, peer: Endpoint) -> None:
        """Serve one connection, or tell it that there is no place; then close it."""
        async with stream:
            try:
                with self.places.take(peer.network) as granted:
                    if granted:
                        await serve(stream, peer, self.respond, self.limits, self.secure)
                        return
                with self.refusals.take(peer.network) as granted:
                    if granted:
                        logger.debug("HTTP server: %s refused: no place", peer)
                        with trio.move_on_after(self.limits.linger_seconds):
                            await stream.send_all(_BUSY)
                        await lingering_close(stream, self.limits)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                logger.debug("HTTP server: the connection from %s broke: %s", peer, exc)
            except Exception:  # the first ring: an error in one connection ends that connection only
                logger.exception("HTTP server: a bug ended the connection from %s", peer)
