"""The places of HTTP connections, and which connection has to leave when they run out.

A connection holds a place from its accept until its last answer, so the places bound the tasks, buffers and descriptors
that HTTP costs. When they run out, or a network's share of them, an idle connection has to leave:

1. first a connection that never proved a login, the one that has been silent longest: a stranger's, or a browser's
   spare one;
2. then a kept-alive connection of a proven caller, the one that has been idle longest: its client reconnects by itself;
3. never one with a request in work, and never the last two of proven callers, so that an administrator stays connected.

A connection of a trusted proxy carries requests of many clients. Its place counts for no network at first, and then for
that of each request's client (``rename``).

So a new connection nearly always finds a place, and a stranger displaces only strangers. The time of silence counts
from the accept or the last answer, not from the last byte, so that sending a byte a second does not help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import trio

__all__ = ["Place", "Places"]

_KEPT_FOR_PROVEN = 2


@final
@dataclass(eq=False, repr=False, slots=True)
class Place:
    """One connection's place; ``scope`` is cancelled when it has to leave."""

    network: str
    """The network whose share it counts in; empty for a trusted proxy's connection before its first request."""
    since: float
    """When it was accepted, or its last answer was sent."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    proven: bool = False
    """One of its requests came with a correct login."""
    working: bool = False
    """One of its requests is in work."""


@final
@dataclass(eq=False, repr=False, slots=True)
class Places:
    """At most ``total`` connections at once, and at most ``share`` of them from one network."""

    total: int = 64
    share: int = 48
    held: set[Place] = field(default_factory=set)
    lingering: set[Place] = field(default_factory=set)
    """Connections without a place that are still read from, until their peers have the last answer."""

    def take(self, network: str, now: float) -> Place | None:
        """Take a place, if need be from an idle connection. Return None if there is none."""
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
        """Count a place for another network. Return False if that has its share, and none of its places is idle."""
        if place.network == network:
            return True
        neighbours = self._neighbours(network)
        if len(neighbours) >= self.share and not self._make_room(neighbours):
            return False
        place.network = network
        return True

    def _neighbours(self, network: str) -> list[Place]:
        """Return the places that count for a network; a proxy's own count for none."""
        return [place for place in self.held if network and place.network == network]

    def give_back(self, place: Place) -> None:
        """Give a place back; its connection may live on as a WebSocket. Idempotent."""
        self.held.discard(place)

    def linger(self, place: Place) -> bool:
        """Give a place back for a lingering close. Return False if too many linger: then close at once."""
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
