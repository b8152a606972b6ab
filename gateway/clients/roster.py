"""Who is connected to a port by TCP or WebSocket, in the order in which they came: how many, and which of them writes.

Sharing is what this product is for, so everybody may write unless the port's owner says otherwise. On a console or a
modem that confuses: there, of those who may write, the one that came first or last does, and the others listen until
it leaves. Messages that take their turns stand beside this order: those of PTZ drivers, of serial.cgi, and of chained
CPUs.
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
    """The clients of one port, at most ``most`` (None: no limit but that of each service).

    Under "last" a client that may write takes the place of the oldest where there is no other.
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
        """Take in a client that is not refused; the oldest makes room for it where none is left."""
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
        """Let the session of the client that writes write, and no other; called again once one is opened."""
        able = [client for client in self._clients if client.rights & ~Right.READ]
        if self._writers == "all" or not able:
            return
        writer = able[0 if self._writers == "first" else -1]
        for client in able:
            if client.session is not None:
                client.session.silent = None if client is writer else f"only {writer.holder} may write now"
