"""Who may do what on which port: a Handle is the permission.

An object capability: a handle names one port and carries its rights; it can be narrowed or revoked, never widened.
``open()`` is the single check of rights. Each turn looks once more, synchronously, whether the seat was revoked, and
``revoke()`` detaches the reader before it returns: a pump that was already woken would otherwise still write. This
room must not know of sockets, parameters or protocols.
"""

from __future__ import annotations

import enum
import itertools
import time
from typing import TYPE_CHECKING, Protocol, final

import trio

from gateway.turns import PortDown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.bus import Bus
    from gateway.turns import Turn

__all__ = ["Forbidden", "Handle", "Reader", "Revoked", "Right", "Router", "Session"]


@final
class Right(enum.Flag):
    """What a handle lets its holder do on the port."""

    READ = enum.auto()
    """Hear what the line says."""
    PTZ = enum.auto()
    """Write PTZ commands."""
    TCP = enum.auto()
    """Write what generic TCP clients send."""
    CGI = enum.auto()
    """Write what serial.cgi was asked to."""


_AGE_LIMIT = {Right.PTZ: 2.0}
_OTHERS_AGE_LIMIT = 15.0
"""Seconds after which a command that waited for its turn is not sent any more."""


class Reader(Protocol):
    """Who hears the line for one client."""

    @property
    def size(self) -> int:
        """Bytes of the line that wait for the client now."""

    @property
    def sent(self) -> int:
        """Bytes that the client took."""

    def offer(self, data: bytes) -> None:
        """Take it now: never wait, never raise."""


class Forbidden(Exception):
    """The handle does not carry that right."""


@final
class Revoked(Forbidden):
    """The handle did, and was taken back; the message says why."""


@final
class Router:
    """Grants the handles that all others are narrowed from; only the composition root and the port managers see it."""

    def __init__(self, buses: Mapping[str, Bus]) -> None:
        self._buses = buses

    def grant(self, port: str, rights: Right, holder: str) -> Handle:
        """Make a handle on ``port`` for ``holder`` (a door)."""
        return Handle(self._buses[port], rights, holder, None)


@final
class Handle:
    """Permission to use one port, with the rights it carries, for one holder."""

    def __init__(self, bus: Bus, rights: Right, holder: str, parent: Handle | None) -> None:
        self._bus = bus
        self._parent = parent
        self._children: dict[Handle, None] = {}
        self._session: Session | None = None
        self.rights = rights
        self.holder = holder
        self.revoked: str | None = None

    def attenuate(self, rights: Right, holder: str) -> Handle:
        """Make a handle with no more than these rights for ``holder``. Raises Forbidden or Revoked."""
        self._require(rights)
        child = Handle(self._bus, rights, holder, self)
        self._children[child] = None
        return child

    def open(self, write: Right) -> Session:
        """Sit down at the line, to hear it and to write in the class ``write``. Raises Forbidden or Revoked."""
        self._require(write | Right.READ)
        self._session = Session(self, self._bus, write)
        return self._session

    def revoke(self, why: str) -> None:
        """Take it back, and all that was narrowed from it; no byte passes any more when this returns."""
        for child in tuple(self._children):
            child.revoke(why)
        self.revoked = why
        if self._session is not None:
            self._session.end(why)
        self.drop()

    def drop(self) -> None:
        """Give it up: nobody holds it any more."""
        if self._parent is not None:
            self._parent._children.pop(self, None)

    @property
    def seats(self) -> tuple[Handle, ...]:
        """What was narrowed from it and is still held."""
        return tuple(self._children)

    @property
    def sessions(self) -> Iterator[Session]:
        """The open sessions of this handle and of all that was narrowed from it."""
        own = () if self._session is None else (self._session,)
        return itertools.chain(own, *(child.sessions for child in self._children))

    def _require(self, rights: Right) -> None:
        if self.revoked is not None:
            raise Revoked(self.revoked)
        if rights not in self.rights:
            raise Forbidden(f"{self.holder} has no right to {rights & ~self.rights} on {self._bus.name}")


@final
class Session:
    """An opened handle: the line as one client has it, and what is counted of it."""

    def __init__(self, handle: Handle, bus: Bus, write: Right) -> None:
        self._handle = handle
        self._bus = bus
        self._age_limit = _AGE_LIMIT.get(write, _OTHERS_AGE_LIMIT)
        self._pending = 0
        self._spoke_at = trio.current_time()
        self.scope = trio.CancelScope()
        """All that the holder does with the session runs in it."""
        self.pumping = trio.CancelScope()
        """Within that, what reads from the client: cancelled when the gateway stops, and takes no more."""
        self.ended: str | None = None
        """Why the session was ended from this side, or None."""
        self.since = time.time()
        """When it was opened, in seconds since 1970."""
        self.received = 0
        """Bytes that came from the client."""
        self.written = 0
        """Bytes of these that the line's tty took."""
        self.reader: Reader | None = None
        """Who hears the line for the client."""

    @property
    def holder(self) -> str:
        """Who sits here."""
        return self._handle.holder

    @property
    def port(self) -> str:
        """The port manager, as ``P0``."""
        return self._bus.name

    @property
    def dropped(self) -> int:
        """Bytes that came from the client and will not reach the line."""
        return self.received - self.written - self._pending

    @property
    def active_at(self) -> float:
        """When a byte last went either way, in seconds of trio's clock."""
        return max(self._spoke_at, self._bus.heard_at)

    def listen(self, reader: Reader) -> None:
        """Let ``reader`` have every byte of the line from now on."""
        self.reader = reader
        self._bus.attach(reader.offer)

    async def write(self, data: bytes) -> None:
        """Write one message whole. Raises PortDown or Revoked."""
        accepted = self._accept(data)
        try:
            await self._bus.turns.write(data, self, accepted)
        finally:
            self._pending = 0

    async def transfer(self, data: bytes) -> None:
        """Write a piece of a byte stream; a long one lets others in between. Raises PortDown or Revoked."""
        accepted = self._accept(data)
        try:
            await self._bus.turns.transfer(data, self, accepted)
        finally:
            self._pending = 0

    async def turn(self) -> Turn:
        """Wait for the line and hold it until the turn is closed. Raises PortDown or Revoked."""
        return await self._bus.turns.turn(self, trio.current_time())

    def check(self, accepted: float) -> None:
        """As a Claim: raise Revoked, or PortDown for a message that waited longer than its age limit."""
        if self._handle.revoked is not None:
            raise Revoked(self._handle.revoked)
        if trio.current_time() - accepted > self._age_limit:
            raise PortDown(f"the line was busy for more than {self._age_limit:g} s")

    def wrote(self, count: int) -> None:
        """As a Claim: count what the tty took."""
        self.written += count
        self._pending -= count

    def end(self, why: str) -> None:
        """Stop hearing the line at once, and cancel all that the holder does here."""
        if self.ended is None:
            self.ended = why
            self._deafen()
            self.scope.cancel()

    def close(self) -> None:
        """Get up and leave."""
        self._deafen()
        self._handle.drop()

    def _accept(self, data: bytes) -> float:
        self.received += len(data)
        self._pending = len(data)
        self._spoke_at = trio.current_time()
        return self._spoke_at

    def _deafen(self) -> None:
        if self.reader is not None:
            self._bus.detach(self.reader.offer)
