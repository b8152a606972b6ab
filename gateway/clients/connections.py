"""The connections of all clients of the process: how many descriptors they may use, and which of them are broken.

Each connection costs a descriptor, and the number of a process's descriptors is limited. Some are needed at any time
for what must never fail: a tty that is plugged in again, the file of the parameters, the bias command. The
administrator must get in at HTTP when everything else is taken, and so must another CPU with its link. So:

    No client of a port holds a descriptor whose number is ``most`` or higher.

The kernel gives out the lowest number that is free. So the number of an accepted socket tells whether everything below
it is taken. Bonjour's sockets and a command's pipes count without being counted, and no count of ours can drift. The
higher numbers are for ourselves, for links and for requests. Links and requests have bounds of their own: the
handshakes (``remote_port.server``) and the places of HTTP (``web.places``).

While the line is busy nobody reads from a client, so a reset of its connection would go unnoticed. ``run`` waits for
resets of all clients with an epoll of its own, which asks for nothing else, so that unread bytes do not wake it.
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
        """Its origin, for the shares of networks: an IPv4 address, an IPv6 /64, or a user of this host."""
        self.broken = trio.Event()
        """Set once the client is gone, even while nobody reads: it reset the connection, or closed a Unix socket."""
        self.was_reset = False
        """With ``broken``: a reset, which destroyed what the client had sent and nobody had read."""

    def refusal(self) -> str | None:
        """Return why it cannot belong to a client of a port; None where it can."""
        return self._connections.refusal(self.number, self.network)

    @property
    def has_ended_sending(self) -> bool:
        """Return whether the client has ended its sending; earlier bytes may still wait to be read."""
        poll = select.poll()
        poll.register(self.number, select.POLLRDHUP)
        return bool(poll.poll(0))

    def rename(self, network: str) -> None:
        """Count it for another network: behind a trusted proxy that is the network of the proxy's client."""
        self._connections.rename(self, network)

    def close(self) -> None:
        """Stop counting it. Idempotent."""
        self._connections.forget(self)


@final
class Connections:
    """Counts the connections of a process with ``ports`` ports and ``limit`` descriptors (default: the soft limit)."""

    def __init__(self, ports: int = 1, limit: int | None = None) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = limit or (1 << 20 if soft == resource.RLIM_INFINITY else soft)
        """Descriptors that the process may have."""
        self.requests = max(2, min(64, self.limit // 16))
        """Connections that HTTP serves at once; the same number may linger, and the same number be refused."""
        self._ports = ports
        self.reserve = 3 * self.requests + min(_OWN, self.limit // 8) + 2 * ports
        """Descriptors that are kept from the clients of ports."""
        self.refused = 0
        """Clients that were refused because descriptors were short, or their network had most of them."""
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

        One network gets at most three quarters of the clients' descriptors.
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
        if (stale := self._open.get(connection.number)) is not None:  # its socket was closed without ``forget``
            self.forget(stale)
        self._open[connection.number] = connection
        self._held[network] += 1
        self._watch(connection)
        return connection

    def forget(self, connection: ClientConnection) -> None:
        """Stop counting a connection. Idempotent."""
        # Where its socket was closed elsewhere, another connection may have its number by now.
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
            # EPOLLERR and EPOLLHUP are always reported. Edge-triggered, or a broken socket that stays open would wake
            # us for ever.
            with contextlib.suppress(OSError):
                self._epoll.register(connection.number, select.EPOLLET)

    def _broke(self, number: int, events: int) -> None:
        connection = self._open.get(number)
        if connection is not None and events & (select.EPOLLERR | select.EPOLLHUP):
            connection.was_reset = connection.was_reset or bool(events & select.EPOLLERR)
            connection.broken.set()
