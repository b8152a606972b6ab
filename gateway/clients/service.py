"""One way in to a port: who may come, who is in, and what becomes of them.

A door stands as long as its server is enabled, whatever listeners come and go before it. It must not know how clients
connect, nor see the router: it is given a handle, and narrows it for each client.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, final

import trio

from gateway.clients.relay import relay
from gateway.clients.streams import SocketStream, keep_alive
from gateway.port.router import Revoked
from gateway.tasks.watch import Cell
from protocol.endpoint import Endpoint
from protocol.parameters.addresses import AddressList

if TYPE_CHECKING:
    import socket

    from gateway.clients.streams import Stream
    from gateway.port.rights import Right
    from gateway.port.router import Handle, Session

__all__ = ["DEAD_CLIENT", "Service"]

logger = logging.getLogger(__name__)

DEAD_CLIENT = 30.0
"""Seconds after which a TCP client that answers nothing is given up; less would cut a paused terminal."""

_SEATS = 256
"""Clients that one door seats at a time: each may cost a descriptor and a queue."""
_LOOP = "it is this port's own connection, and would feed the line with its own echo"


@final
class Service:
    """An open door; ``clients`` is the nursery that its clients live in, which outlives it."""

    def __init__(self, port: str, handle: Handle, write: Right, clients: trio.Nursery) -> None:
        self.handle = handle
        self._port = port
        self._write = write
        self._clients = clients
        self._allowed = AddressList()
        self._idle_limit = Cell(0)
        self._addresses: dict[Handle, str] = {}
        self._own_ends: dict[str, Handle] = {}
        self.refused = 0
        """Clients turned away."""

    async def run(self) -> None:
        """Keep the service open until cancelled: clients come by ``admit``, ``dialled`` and ``serve``."""
        await trio.sleep_forever()

    def update_policy(self, allowed: AddressList, idle_limit: int) -> None:
        """Take up a new list of addresses, which may end seats, and a new idle limit in seconds (0: none)."""
        self._allowed = allowed
        self._idle_limit.set(idle_limit)
        for seat, address in tuple(self._addresses.items()):
            if not allowed.allows(address):
                seat.revoke(f"{address} is not among AllowedIPAddresses any more")

    def welcome(self, sock: socket.socket, sockaddr: Any) -> None:
        """Take a TCP client that a listener accepted. Raises OSError where it has already left."""
        keep_alive(sock, DEAD_CLIENT)
        peer = Endpoint.of(sockaddr)
        self.admit(SocketStream(sock), str(peer), peer.address)

    def admit(self, stream: Stream, holder: str, address: str) -> bool:
        """Seat a client that came from the endpoint ``holder``, of the IP address ``address``, if it may come in.

        Otherwise close it.
        """
        if not self._allowed.allows(address):
            self.refuse(stream, holder, "its address is not among AllowedIPAddresses")
            return False
        if (dialled := self._own_ends.get(holder)) is not None:
            self.refuse(stream, holder, _LOOP)
            dialled.revoke(_LOOP)
            return False
        seat = self.serve(stream, holder)
        if seat is not None:
            self._addresses[seat] = address
        return seat is not None

    def dialled(self, stream: Stream, holder: str, own_end: str, ended: trio.Event) -> Handle | None:
        """Seat a peer that the gateway connected to from its endpoint ``own_end``; close it if that cannot be.

        ``ended`` is set when it is gone.
        """
        if any(seat.holder == own_end for seat in self._addresses):
            self.refuse(stream, holder, _LOOP)
            return None
        seat = self.serve(stream, holder, ended)
        if seat is not None:
            self._own_ends[own_end] = seat
        return seat

    def serve(
        self, stream: Stream, holder: str, ended: trio.Event | None = None, rights: Right | None = None
    ) -> Handle | None:
        """Seat a client whose right to come is beyond doubt; return its seat, or close it where there is none free.

        ``ended`` is set when it is gone. ``rights`` are those that it gets, without them all that the door has.
        """
        if len(self.handle.children) >= _SEATS:
            self.refuse(stream, holder, f"all {_SEATS} seats are taken")
            return None
        try:
            seat = self.handle.attenuate(self.handle.rights if rights is None else rights, holder)
        except Revoked as exc:
            self.refuse(stream, holder, str(exc))
            return None
        self._clients.start_soon(self._run, seat, stream, trio.Event() if ended is None else ended)
        return seat

    def refuse(self, stream: Stream, holder: str, why: str) -> None:
        """Close a client that may not come in."""
        self.refused += 1
        logger.warning("%s %s turned away: %s", self._port, holder, why)
        stream.close()

    def revoke(self, why: str) -> None:
        """Close the door and end all who came through it."""
        self.handle.revoke(why)

    async def _run(self, seat: Handle, stream: Stream, ended: trio.Event) -> None:
        logger.info("%s %s seated", self._port, seat.holder)
        why = "a bug ended it"
        try:
            session = seat.open(self._write & seat.rights)
            await relay(stream, session, self._idle_limit)
            why = _why_gone(session)
        except Revoked as exc:
            why = str(exc)
        except Exception:  # the first ring: what goes wrong with one client ends that client
            logger.exception("%s %s: a bug", self._port, seat.holder)
        finally:
            stream.close()
            seat.drop()
            self._addresses.pop(seat, None)
            self._own_ends = {end: other for end, other in self._own_ends.items() if other is not seat}
            ended.set()
            logger.info("%s %s gone: %s", self._port, seat.holder, why)


def _why_gone(session: Session) -> str:
    stopped = "the gateway stops" if session.pumping.cancel_called else "it closed the connection"
    unread = session.reader.size if session.reader is not None else 0
    lost = (
        f"; {count} bytes {what}"
        for count, what in ((session.counters.dropped, "of it dropped"), (unread, "unread"))
        if count
    )
    return (session.ended or stopped) + "".join(lost)
