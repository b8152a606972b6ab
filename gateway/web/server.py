"""The HTTP server: it takes accepted connections, gives each a place, and serves it.

A connection that finds no place (see `places`) gets an answer that says so, and does not wait. That answer takes time
and a descriptor too, so the number of such answers at a time is limited: beyond it a connection is closed at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import trio

from gateway.clients.connections import Connections
from gateway.clients.service import DEAD_CLIENT
from gateway.clients.streams import keep_alive
from gateway.web.forwarded import is_trusted
from gateway.web.http import TLS_HANDSHAKE, Held, HttpLimits, Respond, Secure, lingering_close, serve
from gateway.web.message import explain, spelled_out
from gateway.web.pace import Pace
from gateway.web.places import Places
from protocol.endpoint import Endpoint
from protocol.parameters.addresses import AddressList

if TYPE_CHECKING:
    import socket

__all__ = ["HttpServer"]

logger = logging.getLogger(__name__)

_BUSY = spelled_out(explain(503, "All connections are taken: close idle ones, or try again.", ("Retry-After", "1")))


@final
@dataclass(eq=False, repr=False, slots=True)
class HttpServer:
    """Serves connections by ``respond``. All listeners share one server and its places."""

    respond: Respond
    secure: Secure | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    places: Places = field(default_factory=Places)
    connections: Connections = field(default_factory=Connections)
    """The count of all clients' connections."""
    trusted_proxies: AddressList = field(default_factory=AddressList)
    """The proxies that are trusted to name their clients' addresses; without items, none."""
    pace: Pace = field(default_factory=Pace)
    """The turns that all connections take."""
    most_refusals: int = 64
    """The most connections at a time that are told that there is no place."""
    refusing: int = 0

    def admit(self, clients: trio.Nursery, sock: socket.socket, sockaddr: Any) -> None:
        """Serve an accepted connection, from the socket address ``sockaddr``, in a task of ``clients``.

        Raises OSError where its client has already left.
        """
        keep_alive(sock, DEAD_CLIENT)  # a WebSocket may be silent, and a caller may wait for its line, for a long time
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        clients.start_soon(self.welcome, stream, Endpoint.of(sockaddr))

    async def welcome(self, stream: trio.SocketStream, peer: Endpoint) -> None:
        """Serve one connection, or tell it that there is no place; then close it."""
        async with stream:
            self.pace.connections += 1
            try:
                network = "" if is_trusted(peer, self.trusted_proxies) else peer.network
                place = self.places.take(network, trio.current_time())
                if place is None:
                    await self._refuse(stream, peer)
                    return
                connection = self.connections.open(stream.socket.fileno(), peer.network)
                held = Held(self.places, place, connection, self.trusted_proxies, self.pace)
                try:
                    with place.scope:
                        await serve(stream, peer, self.respond, self.limits, self.secure, held)
                finally:
                    self.places.closed(place)
                    connection.close()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                logger.debug("HTTP server: the connection from %s broke: %s", peer, exc)
            except Exception:  # the first ring: an error in one connection ends that connection alone
                logger.exception("HTTP server: a bug ended the connection from %s", peer)
            finally:
                self.pace.connections -= 1

    async def _refuse(self, stream: trio.SocketStream, peer: Endpoint) -> None:
        if self.refusing >= self.most_refusals:
            return
        logger.debug("HTTP server: %s refused: no place", peer)
        self.refusing += 1
        try:
            with trio.move_on_after(self.limits.linger_seconds):
                first = await stream.receive_some(1)
                if first and not first.startswith(TLS_HANDSHAKE):  # a TLS client could not read the answer
                    await stream.send_all(_BUSY)
            await lingering_close(stream, self.limits)
        finally:
            self.refusing -= 1
