"""Serve the clients of one way into a port: admit or refuse them, and end them when they may not stay.

A service exists as long as its parameter says so, while listeners in front of it come and go. It has a handle on the
port and narrows it for each client. So revoking the service's handle ends all its clients, and revoking a client's
handle ends that client.

This is the first ring of containment: an error of a client, or of the code that serves it, ends that client alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

import trio

from gateway.clients.connections import Connections
from gateway.clients.relay import Manner, relay
from gateway.clients.roster import Roster
from gateway.clients.streams import SocketStream, keep_alive
from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.port.router import Revoked
from gateway.tasks.watch import Cell
from protocol.endpoint import Endpoint
from protocol.parameters.addresses import AddressList

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from gateway.clients.connections import ClientConnection
    from gateway.clients.streams import Stream
    from gateway.port.router import Handle, Session

__all__ = ["DEAD_CLIENT", "NOT_ALLOWED", "Carry", "Handshakes", "Service"]

logger = logging.getLogger(__name__)

DEAD_CLIENT = 30.0
"""Seconds after which a TCP client that does not answer is given up; less would cut a paused terminal."""

_CLIENTS = 256
"""The most clients of one service at a time, because each may cost a descriptor and a queue."""
SHARE = 192
"""The most of them from one network (or user of this host), so that it cannot keep out the others."""
Carry: TypeAlias = "Callable[[Stream, Session, Cell[int]], Awaitable[None]]"
"""Serves a client until it leaves, its session is ended, or it is idle for the seconds in the cell; closes both."""

NOT_ALLOWED = "its address is not among AllowedIPAddresses"
_LOOP = "it is this port's own connection, and would feed the line with its own echo"


class Handshakes(Protocol):
    """Makes TCP clients prove who they are before a service admits them."""

    def begin(self, sock: socket.socket, connection: ClientConnection, peer: Endpoint) -> None:
        """Take a client that a listener accepted."""

    async def run(self, service: Service) -> None:
        """Bring clients to ``service`` until cancelled."""


@final
class Service:
    """A service of ``port`` (``P0``) that is open; its clients are tasks of the nursery ``clients``, which outlives it.

    ``handle`` has all rights of its clients, ``write`` those of them that write. ``connections`` counts the clients'
    connections with all others of the process, and at most ``share`` of one network are served. ``roster`` has the
    clients of the port's other services too. ``manner`` says how ``relay`` serves each client; ``carry`` replaces
    ``relay``. With ``handshakes`` TCP clients speak TLS, and prove who they are before they are admitted.
    """

    def __init__(
        self,
        port: str,
        handle: Handle,
        write: Right,
        clients: trio.Nursery,
        connections: Connections | None = None,
        share: int = SHARE,
        roster: Roster | None = None,
        manner: Manner | None = None,
        carry: Carry | None = None,
        handshakes: Handshakes | None = None,
    ) -> None:
        self.handle = handle
        self.connections = connections or Connections()
        self._roster = roster or Roster()
        self.manner = manner or Manner()
        self._carry = carry
        self._handshakes = handshakes
        self._share = share
        self._logger = PortLogger(logger, port)
        self._write = write
        self._clients = clients
        self._allowed = AddressList()
        self._idle_limit = Cell(0)
        self._networks: dict[Handle, str] = {}
        """The network of each client whose connection is counted."""
        self._addresses: dict[Handle, str] = {}
        """The IP address of each client that came by TCP."""
        self._dialled: dict[str, Handle] = {}
        """Each client that we dialled, by the endpoint at our end of the connection."""
        self.refused = 0
        """Clients that were refused."""

    async def run(self) -> None:
        """Keep the service open until cancelled: clients come by ``admit``, ``dialled`` and ``serve``."""
        if self._handshakes is not None:
            await self._handshakes.run(self)
        await trio.sleep_forever()

    def allows(self, address: str) -> bool:
        """Return whether a client with this IP address may come."""
        return self._allowed.allows(address)

    def update_policy(self, allowed: AddressList, idle_limit: int) -> None:
        """Take up a new list of addresses, which may end clients, and a new idle limit in seconds (0: none)."""
        self._allowed = allowed
        self._idle_limit.set(idle_limit)
        for client, address in tuple(self._addresses.items()):
            if not allowed.allows(address):
                client.revoke(f"{address} is not among AllowedIPAddresses any more")

    def welcome(self, sock: socket.socket, sockaddr: Any) -> None:
        """Take a TCP client that a listener accepted. Raises OSError where it has already left."""
        keep_alive(sock, DEAD_CLIENT)
        peer = Endpoint.of(sockaddr)
        connection = self.connections.open(sock.fileno(), peer.network)
        if self._handshakes is None:
            self.admit(SocketStream(sock, connection), str(peer), peer.address)
        else:
            self._handshakes.begin(sock, connection, peer)

    def admit(self, stream: Stream, holder: str, address: str, rights: Right | None = None) -> bool:
        """Serve a client that came by TCP from the IP address ``address``; return whether it is served.

        If not, it has been refused. ``holder`` is its endpoint, or its user's name and its endpoint; for ``rights`` see
        ``serve``.
        """
        if not self.allows(address):
            self.refuse(stream, holder, NOT_ALLOWED)
            return False
        # The port's own Dial may have reached its own listener. Either end may be seen first: here, or in ``dialled``.
        if (dialled := self._dialled.get(holder)) is not None:
            self.refuse(stream, holder, _LOOP)
            dialled.revoke(_LOOP)
            return False
        client = self.serve(stream, holder, rights=rights)
        if client is not None:
            self._addresses[client] = address
        return client is not None

    def dialled(self, stream: Stream, holder: str, own_end: str, ended: trio.Event) -> Handle | None:
        """Serve a peer that the gateway connected to from its endpoint ``own_end``; None where it is refused.

        ``ended`` is set when it is gone.
        """
        if any(client.holder == own_end for client in self._addresses):
            self.refuse(stream, holder, _LOOP)
            return None
        client = self.serve(stream, holder, ended)
        if client is not None:
            self._dialled[own_end] = client
        return client

    def serve(
        self,
        stream: Stream,
        holder: str,
        ended: trio.Event | None = None,
        rights: Right | None = None,
        carry: Carry | None = None,
    ) -> Handle | None:
        """Serve a client that is known to be allowed, in a task of its own; return None where it is refused.

        ``ended`` is set when it is gone. ``rights`` are those that it gets; by default all of the service. A client
        that watches others takes no place among them. ``carry`` serves this client in another way than the service's
        others.
        """
        rights = self.handle.rights if rights is None else rights
        watches = Right.WATCH in rights
        if len(self.handle.children) >= _CLIENTS:
            self.refuse(stream, holder, f"{_CLIENTS} clients are connected already")
            return None
        if stream.connection is not None and (why := self._too_many(stream.connection)) is not None:
            self.refuse(stream, holder, why)
            return None
        if not watches and (why := self._roster.refusal(rights)) is not None:
            self.refuse(stream, holder, why)
            return None
        try:
            client = self.handle.attenuate(rights, holder)
        except Revoked as exc:
            self.refuse(stream, holder, str(exc))
            return None
        if stream.connection is not None:
            self._networks[client] = stream.connection.network
        if not watches:
            self._roster.join(client)
        ended = trio.Event() if ended is None else ended
        self._clients.start_soon(self._run, client, stream, ended, carry or self._carry)
        return client

    def _too_many(self, connection: ClientConnection) -> str | None:
        """Return why a client with this connection would be one too many; None where it is not."""
        if sum(network == connection.network for network in self._networks.values()) >= self._share:
            return f"{self._share} clients from {connection.network} are connected already"
        return connection.refusal()

    def refuse(self, stream: Stream, holder: str, why: str) -> None:
        """Refuse a client: close its connection, and log why."""
        self.count_refusal(holder, why)
        stream.close()

    def count_refusal(self, holder: str, why: str) -> None:
        """Count and log a client that was refused."""
        self.refused += 1
        self.handle.events.log(logging.WARNING, "clients refused", "%s refused: %s", holder, why)

    def revoke(self, why: str) -> None:
        """Close the service and end all its clients."""
        self.handle.revoke(why)

    async def _run(self, client: Handle, stream: Stream, ended: trio.Event, carry: Carry | None) -> None:
        self.handle.events.log(logging.INFO, "clients connected", "%s connected", client.holder)
        why = "its port stops"
        try:
            session = client.open(self._write & client.rights)
            self._roster.choose()
            if carry is None:
                await relay(stream, session, self._idle_limit, self.manner)
            else:
                await carry(stream, session, self._idle_limit)
            why = _why_gone(session)
        except Revoked as exc:
            why = str(exc)
        except Exception:  # the first ring: an error in one client ends that client alone
            why = "a bug ended it"
            self._logger.exception("%s: a bug", client.holder)
        finally:
            stream.close()
            client.drop()
            self._roster.leave(client)
            self._addresses.pop(client, None)
            self._networks.pop(client, None)
            self._dialled = {end: other for end, other in self._dialled.items() if other is not client}
            ended.set()
            self.handle.events.log(logging.INFO, "clients gone", "%s gone: %s", client.holder, why)


def _why_gone(session: Session) -> str:
    stopped = "the gateway stops" if session.pumping.cancel_called else "it closed the connection"
    assert session.reader is not None, "the relay has listened"
    counts = (session.counters.dropped, "of it dropped"), (session.reader.size + session.missed, "unread")
    lost = (f"; {count} bytes {what}" for count, what in counts if count)
    return (session.ended or stopped) + "".join(lost)
