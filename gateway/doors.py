"""One way in to a port: who may come, who is in, and what becomes of them.

A door stands as long as its server is enabled, whatever listeners come and go before it. It must not know how clients
connect, nor see the router: it is given a handle, and narrows it for each client.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

import trio

from gateway.relay import relay
from gateway.router import Revoked
from gateway.watch import Cell
from protocol.addresses import AddressList

if TYPE_CHECKING:
    from gateway.router import Handle, Right
    from gateway.streams import Stream

__all__ = ["Doorway"]

logger = logging.getLogger(__name__)

_SEATS = 256
"""Clients that one door seats at a time: each may cost a descriptor and a queue."""


@final
class Doorway:
    """An open door; ``clients`` is the nursery that its clients live in, which outlives it."""

    def __init__(self, port: str, handle: Handle, write: Right, clients: trio.Nursery) -> None:
        self.handle = handle
        self._port = port
        self._write = write
        self._clients = clients
        self._allowed = AddressList()
        self._idle_limit = Cell(0)
        self._addresses: dict[Handle, str] = {}
        self.refused = 0
        """Clients turned away."""

    def review(self, allowed: AddressList, idle_limit: int) -> None:
        """Take up a new list of addresses, which may end seats, and a new idle limit in seconds (0: none)."""
        self._allowed = allowed
        self._idle_limit.set(idle_limit)
        for seat, address in tuple(self._addresses.items()):
            if not allowed.allows(address):
                seat.revoke(f"{address} is not among AllowedIPAddresses any more")

    def admit(self, stream: Stream, holder: str, address: str) -> bool:
        """Seat a client that came from the IP address ``address``; close it where it may not come in."""
        if self._allowed.allows(address):
            return self.seat(stream, holder, address) is not None
        return self._turn_away(stream, holder, "its address is not among AllowedIPAddresses")

    def seat(self, stream: Stream, holder: str, address: str = "", ended: trio.Event | None = None) -> Handle | None:
        """Seat a client whose right to come is beyond doubt; return its seat, or close it where there is none free.

        ``ended`` is set when it is gone.
        """
        ended = trio.Event() if ended is None else ended
        if len(self.handle.seats) >= _SEATS:
            self._turn_away(stream, holder, f"all {_SEATS} seats are taken")
            ended.set()
            return None
        try:
            seat = self.handle.attenuate(self.handle.rights, holder)
        except Revoked as exc:
            self._turn_away(stream, holder, str(exc))
            ended.set()
            return None
        if address:
            self._addresses[seat] = address
        self._clients.start_soon(self._serve, seat, stream, ended)
        return seat

    def revoke(self, why: str) -> None:
        """Close the door and end all who came through it."""
        self.handle.revoke(why)

    async def _serve(self, seat: Handle, stream: Stream, ended: trio.Event) -> None:
        logger.info("%s %s seated", self._port, seat.holder)
        why = "it closed the connection"
        try:
            session = seat.open(self._write)
            await relay(stream, session, self._idle_limit)
            why = session.ended or why
        except Revoked as exc:
            why = str(exc)
            stream.close()
        except Exception:  # the first ring: what goes wrong with one client ends that client
            logger.exception("%s %s: a bug ended it", self._port, seat.holder)
        finally:
            self._addresses.pop(seat, None)
            ended.set()
            logger.info("%s %s gone: %s", self._port, seat.holder, why)

    def _turn_away(self, stream: Stream, holder: str, why: str) -> bool:
        self.refused += 1
        logger.warning("%s %s turned away: %s", self._port, holder, why)
        stream.close()
        return False
