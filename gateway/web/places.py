"""The places of HTTP connections: who may stay when they run out.

A connection holds a place from its accept until its last answer, so the places bound the tasks, buffers and
descriptors that HTTP costs. When they run out, or a network's share of them, somebody who waits for nothing leaves:

1. first a connection that never proved a login, the longest silent one: that is a stranger, or a browser's spare;
2. then a kept-alive connection of a proven caller, the longest idle one: its client connects anew by itself;
3. never a request in work, and never the last two connections of proven callers: an administrator who is here stays.

A connection of a trusted proxy carries requests of many clients. It takes its place in nobody's name, and with each
request in that of the request's client (``rename``).

So a newcomer nearly always finds a place, and a stranger costs only strangers theirs. How long a connection has been
silent counts from its accept or its last answer, not from its last byte: a byte a second makes nobody younger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import trio

__all__ = ["Place", "Places"]

_KEPT_FOR_PROVEN = 2


@final
@dataclass(eq=False, slots=True)
class Place:
    """One connection's place; ``scope`` is cancelled when it has to leave."""

    network: str
    """Whose share it counts in; empty for a trusted proxy's that has not brought a request yet."""
    since: float
    """When it was accepted, or its last answer was sent."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    proven: bool = False
    """A request of it came with a right login."""
    working: bool = False
    """A request of it is in work."""


@final
@dataclass(slots=True)
class Places:
    """So many connections at once (``total``), and so many of them from one network (``share``)."""

    total: int = 64
    share: int = 48
    held: set[Place] = field(default_factory=set)
    lingering: set[Place] = field(default_factory=set)
    """Connections that gave their place back and are read from until their peers have the last answer."""

    def take(self, network: str, now: float) -> Place | None:
        """Take a place, from a connection that waits for nothing if need be. Return None where there is no such."""
        neighbours = self._neighbours(network)
        full = len(self.held) >= self.total
        if len(neighbours) >= self.share:
            if not self._make_room(neighbours):
                return None
        elif full and not self._make_room(list(self.held)):
            return None
        place = Place(network, now)
        self.held.add(place)
        return place

    def rename(self, place: Place, network: str) -> bool:
        """Count a place in the share of another network. Return False where that has its share, and none can leave."""
        if place.network == network:
            return True
        neighbours = self._neighbours(network)
        if len(neighbours) >= self.share and not self._make_room(neighbours):
            return False
        place.network = network
        return True

    def _neighbours(self, network: str) -> list[Place]:
        """Return the places that count in the share of a network; a proxy's own are in nobody's."""
        return [place for place in self.held if network and place.network == network]

    def give_back(self, place: Place) -> None:
        """Give a place back; its connection may live on as a WebSocket. Idempotent."""
        self.held.discard(place)

    def linger(self, place: Place) -> bool:
        """Give a place back for a lingering close. Return False where too many linger: then close at once."""
        self.give_back(place)
        if len(self.lingering) >= self.total:
            return False
        self.lingering.add(place)
        return True

    def closed(self, place: Place) -> None:
        """Forget a connection. Idempotent."""
        self.give_back(place)
        self.lingering.discard(place)

    def _make_room(self, candidates: list[Place]) -> bool:
        waiting = [place for place in candidates if not place.working]
        if sum(place.proven for place in self.held) <= _KEPT_FOR_PROVEN:
            waiting = [place for place in waiting if not place.proven]
        if not waiting:
            return False
        leaves = min(waiting, key=lambda place: (place.proven, place.since))
        self.give_back(leaves)
        leaves.scope.cancel()
        return True
