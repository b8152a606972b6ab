"""The connections of all clients of the process: what they may take of its descriptors, and which of them are broken.

Each connection costs a descriptor, and a process has only so many. What must never fail needs some too, at any time: a
tty that is plugged in again, the file of the parameters, the bias command. The administrator has to get in at HTTP
when everything else is taken, and another CPU with its link. So:

    No client of a port holds a descriptor whose number is ``most`` or higher.

The kernel gives out the lowest number that is free. So an accepted socket's own number tells whether everything below
it is taken, whoever took it: Bonjour's sockets and a command's pipes count by themselves, and no count of ours could
drift. The numbers above are for us, for links and for requests; these two bound themselves, the handshakes of links
(``remote_port.server``) and the places of HTTP (``web.places``), whatever numbers they get.

A connection that its client reset shows that at its socket, in the same way for all kinds of clients, while nobody
reads from it because the line is busy. ``run`` waits for it with an epoll of its own: one that asks for nothing else,
so bytes that wait to be read do not wake it.
"""

from __future__ import annotations

import contextlib
import resource
import select
from collections import Counter
from typing import final

import trio

__all__ = ["ClientConnection", "Connections"]

_OWN = 64
"""Descriptors for the process itself, where it has at least 512; one more for each port, and one for its links."""


@final
class ClientConnection:
    """One client's connection, from its accept until ``close()``, which comes before its socket is closed."""

    def __init__(self, connections: Connections, number: int, network: str) -> None:
        self._connections = connections
        self.number = number
        """Its descriptor."""
        self.network = network
        """Where it comes from, as shares count it: an IPv4 address, an IPv6 /64, or a user of this host."""
        self.broken = trio.Event()
        """Set once the client is gone, though nobody reads: it reset the connection, or closed a Unix socket."""
        self.was_reset = False
        """With ``broken``: the client took back what it sent."""

    def refusal(self) -> str | None:
        """Return why it cannot belong to a client of a port; None where it can."""
        return self._connections.refusal(self.number, self.network)

    @property
    def has_ended_sending(self) -> bool:
        """Return whether the client has, though what it sent before may wait to be read."""
        poll = select.poll()
        poll.register(self.number, select.POLLRDHUP)
        return bool(poll.poll(0))

    def rename(self, network: str) -> None:
        """Count it as another network's: behind a trusted proxy a connection is its client's."""
        self._connections.rename(self, network)

    def close(self) -> None:
        """Count it no more. Idempotent."""
        self._connections.forget(self)


@final
class Connections:
    """Counts the connections of a process with so many ``ports`` and descriptors (``limit``; the soft limit)."""

    def __init__(self, ports: int = 1, limit: int | None = None) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = limit or (1 << 20 if soft == resource.RLIM_INFINITY else soft)
        """Descriptors that the process may have."""
        self.requests = max(2, min(64, self.limit // 16))
        """Connections that HTTP may have in work; as many may linger, and as many be refused."""
        self._ports = ports
        self.reserve = 3 * self.requests + min(_OWN, self.limit // 8) + 2 * ports
        """Descriptors that are kept from the clients of ports."""
        self.refused = 0
        """Clients that were refused for want of descriptors, or because their network has most of them."""
        self._held: Counter[str] = Counter()
        self._open: dict[int, ClientConnection] = {}
        self._epoll: select.epoll | None = None

    @property
    def count(self) -> int:
        """The connections of all clients: of ports, links and their handshakes, WebSockets, requests."""
        return len(self._open)

    @property
    def most(self) -> int:
        """The lowest number that no client of a port gets."""
        return self.limit - self.reserve

    def refusal(self, number: int, network: str) -> str | None:
        """Return why a client of a port from ``network`` cannot have the descriptor ``number``; None where it can.

        A quarter of those for clients is not for a network that has the other three.
        """
        ours = number - self.count
        if number >= self.most:
            why = "the gateway has no descriptors left for clients"
        elif self._held[network] * 4 >= (self.most - ours) * 3:
            why = f"{network} has three quarters of the gateway's descriptors for clients"
        else:
            return None
        self.refused += 1
        return why

    def has_room_for_link(self, number: int) -> bool:
        """Return whether a link of another CPU, or its handshake, can have the descriptor ``number``."""
        return number < self.most + self._ports

    def open(self, number: int, network: str) -> ClientConnection:
        """Count the connection whose accepted socket has the descriptor ``number``."""
        connection = ClientConnection(self, number, network)
        if (stale := self._open.get(connection.number)) is not None:  # its socket was closed before it was forgotten
            self.forget(stale)
        self._open[connection.number] = connection
        self._held[network] += 1
        self._watch(connection)
        return connection

    def forget(self, connection: ClientConnection) -> None:
        """Count a connection no more. Idempotent."""
        # Its number may be another connection's by now, where its socket was closed from elsewhere.
        if self._open.get(connection.number) is not connection:
            return
        del self._open[connection.number]
        self._release(connection.network)
        if self._epoll is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(connection.number)

    def rename(self, connection: ClientConnection, network: str) -> None:
        """Count an open connection as another network's."""
        if self._open.get(connection.number) is connection:
            self._release(connection.network)
            connection.network = network
            self._held[network] += 1

    def _release(self, network: str) -> None:
        self._held[network] -= 1
        if not self._held[network]:
            del self._held[network]

    async def run(self) -> None:
        """Notice connections that break, until cancelled."""
        with select.epoll() as self._epoll:
            try:
                for connection in self._open.values():
                    self._watch(connection)
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    for number, events in self._epoll.poll(0):
                        self._broke(number, events)
            finally:
                self._epoll = None

    def _watch(self, connection: ClientConnection) -> None:
        if self._epoll is not None:
            # EPOLLERR and EPOLLHUP are always told; edge-triggered, or one that stays open would be told for ever.
            with contextlib.suppress(OSError):
                self._epoll.register(connection.number, select.EPOLLET)

    def _broke(self, number: int, events: int) -> None:
        connection = self._open.get(number)
        if connection is not None and events & (select.EPOLLERR | select.EPOLLHUP):
            connection.was_reset = connection.was_reset or bool(events & select.EPOLLERR)
            connection.broken.set()
