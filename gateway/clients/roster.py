"""The TCP and WebSocket clients of a port, in the order in which they came: how many may come, and which of them
writes.

Every client may write unless the port's owner says otherwise. On a console or a modem several writers confuse each
other: there only the client that came first (or last) writes, and the others listen until it leaves. Messages that take
turns are not subject to this order: those of PTZ drivers, of serial.cgi, and of chained CPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

from gateway.port.rights import Right

if TYPE_CHECKING:
    from gateway.port.router import Handle

__all__ = ["Roster", "Writers"]

Writers: TypeAlias = Literal["all", "first", "last"]
"""The clients that write: all, or the one of them that came first or last."""


@final
class Roster:
    """The clients of one port, at most ``most`` (None: only each service's own limit).

    Under "last" a client that may write takes the place of the oldest one when all places are taken.
    """

    def __init__(self, writers: Writers = "all", most: int | None = None) -> None:
        self._writers = writers
        self._most = most
        self._clients: dict[Handle, None] = {}

    @property
    def _full(self) -> bool:
        return self._most is not None and len(self._clients) >= self._most

    def refusal(self, rights: Right) -> str | None:
        """Return why there is no place for a client with these rights; None where there is."""
        if not self._full or (self._writers == "last" and rights & ~Right.READ):
            return None
        return f"{self._most} clients are connected to this port already"

    def join(self, client: Handle) -> None:
        """Add a client that was not refused; where no place is left, the oldest client is ended for it."""
        if self._full:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.revoke(f"{client.holder} took its place")
        self._clients[client] = None
        self.choose()

    def leave(self, client: Handle) -> None:
        """Forget a client that is gone. Idempotent."""
        if client in self._clients:
            del self._clients[client]
            self.choose()

    def choose(self) -> None:
        """Let the one client that writes write, and silence the others. Call it again when a session is opened."""
        able = [client for client in self._clients if client.rights & ~Right.READ]
        if self._writers == "all" or not able:
            return
        writer = able[0 if self._writers == "first" else -1]
        for client in able:
            if client.session is not None:
                client.session.silent = None if client is writer else f"only {writer.holder} may write now"
