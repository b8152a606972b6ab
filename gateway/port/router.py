"""Who may do what on which port: a Handle is the permission.

An object capability: a handle names one port and carries its rights; it can be narrowed or revoked, never widened.
``open()`` is the single check of rights. Each turn looks once more, synchronously, whether the session is over, and
``revoke()`` detaches the reader before it returns: a pump that was already woken would otherwise still write. This
room must not know of sockets, parameters or protocols.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, Protocol, final

import trio

from gateway.port.line import PortDown
from gateway.port.rights import Right
from protocol.link.message_rules import AGE_LIMIT, PTZ_AGE_LIMIT
from protocol.link.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gateway.port.bus import Bus, PortStatus
    from gateway.port.line import Hold, Line, ModemLines, Reply
    from gateway.tasks.watch import Cell

__all__ = ["Forbidden", "Handle", "Reader", "Revoked", "Router", "Session"]


class Reader(Protocol):
    """Who hears the line for one client."""

    @property
    def size(self) -> int:
        """Bytes of the line that wait for the client now."""

    @property
    def sent(self) -> int:
        """Bytes that the client took."""

    def deliver(self, data: bytes) -> None:
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
        """Sit down at the line, to hear it and to write in the class ``write`` (``Right(0)``: only to hear it).

        Raises Forbidden or Revoked.
        """
        self._require(write | Right.READ)
        assert self._session is None, "revoke() ends one session: a second one needs a handle of its own"
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
        """Give it up: nobody holds it any more, and out of its parent's sight nobody may use it."""
        self.revoked = self.revoked or "its holder left"
        if self._parent is not None:
            self._parent._children.pop(self, None)

    @property
    def session(self) -> Session | None:
        """The session that was opened with it, if one was."""
        return self._session

    @property
    def children(self) -> tuple[Handle, ...]:
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
        self.traffic = write
        """The class that the holder writes in; none where it may only listen."""
        self.writes = bool(write)
        """Whether the holder may write at all."""
        self.outcome: Callable[[int, Reason | None], None] | None = None
        """Told what became of the holder's bytes, in order: so many are in the tty (None), or lost for a reason."""
        self._age_limit = (PTZ_AGE_LIMIT if write is Right.PTZ else AGE_LIMIT) / 1000
        self._pending = 0
        self._line: Line | None = None
        self._active_at = trio.current_time()
        self.scope = trio.CancelScope()
        """All that the holder does with the session runs in it."""
        self.pumping = trio.CancelScope()
        """Within that, what reads from the client: cancelled when the gateway stops, and takes no more."""
        self._left = False
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
        self._gap_reader: Callable[[int, Reason], None] | None = None

    @property
    def holder(self) -> str:
        """Who sits here."""
        return self._handle.holder

    @property
    def port(self) -> str:
        """The port manager, as ``P0``."""
        return self._bus.name

    @property
    def state(self) -> Cell[PortStatus]:
        """What changes seldom at the port."""
        return self._bus.state

    @property
    def dropped(self) -> int:
        """Bytes that came from the client, did not reach the line, and are not on their way to it either."""
        return self.received - self.written - self._pending

    @property
    def on_its_way(self) -> int:
        """Bytes that the line has charge of, though their writer may have left: their fate will be told."""
        return 0 if self._line is None else self._line.begun(self)

    @property
    def active_at(self) -> float:
        """When a byte last went either way, in seconds of trio's clock."""
        return max(self._active_at, self._bus.heard_at)

    def listen(self, reader: Reader) -> None:
        """Let ``reader`` have every byte of the line from now on."""
        self.reader = reader
        self._bus.attach(reader.deliver)

    def listen_for_gaps(self, reader: Callable[[int, Reason], None]) -> None:
        """Let ``reader`` be told where bytes of the line are missing."""
        self._gap_reader = reader
        self._bus.attach_for_gaps(reader)

    async def write(self, data: bytes, accepted: float | None = None) -> None:
        """Write one message whole, which was read from its client now, or at ``accepted``.

        Raises PortDown or Revoked.
        """
        line = self._accept(data)
        try:
            await line.write(data, self, self._active_at if accepted is None else accepted)
        finally:
            self._pending = line.begun(self)

    async def transfer(self, data: bytes) -> None:
        """Write a piece of a byte stream; a long one lets others in between. Raises PortDown or Revoked."""
        line = self._accept(data)
        try:
            await line.transfer(data, self, self._active_at)
        finally:
            self._pending = line.begun(self)

    async def turn(self, data: bytes, reply: Reply | None, accepted: float | None = None) -> Hold:
        """Wait for the line, to write one message in it, and hold it for the reply until the turn is closed.

        Raises PortDown or Revoked.
        """
        line = self._accept(data)
        return await line.turn(self, self._active_at if accepted is None else accepted, data, reply)

    async def send_break(self, seconds: float) -> None:
        """Hold the line in break for ``seconds``, in a turn. Raises Forbidden, PortDown or LineError."""
        turn = await self.turn(b"", None)
        try:
            await turn.send_break(seconds)
        finally:
            turn.close()

    def modem_lines(self) -> ModemLines:
        """Return the lines beside the data as they are now. Raises PortDown or LineError."""
        return self._bus.line.modem_lines()

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        """Assert or release DTR and RTS; None leaves one as it is. Raises Forbidden, PortDown or LineError."""
        self.check(math.inf)
        self._bus.line.set_modem_lines(dtr, rts)

    def check(self, accepted: float) -> None:
        """As a Claim: raise Forbidden or Revoked, or PortDown for a message that waited longer than its age limit."""
        if self.ended is not None:
            raise Revoked(self.ended)
        if not self.writes:
            raise Forbidden(f"{self.holder} may only read")
        now = trio.current_time()
        if now - accepted > self._age_limit:
            raise PortDown(f"the line was busy for more than {self._age_limit:g} s", Reason.TOO_OLD)
        self._active_at = now  # the line takes its bytes: it is not idle, however long that lasts

    def wrote(self, count: int) -> None:
        """As a Claim: count what the tty took."""
        self.written += count
        self._pending -= count
        if self.outcome is not None:
            self.outcome(count, None)

    def lost(self, count: int, reason: Reason) -> None:
        """As a Claim: count what was on its way and will not be written."""
        self._pending -= count
        if self.outcome is not None:
            self.outcome(count, reason)

    def end(self, why: str) -> None:
        """Stop hearing the line at once, and cancel all that the holder does here."""
        if self.ended is None:
            self.ended = why
            self._deafen()
            self.scope.cancel()

    def cut(self, why: str) -> None:
        """End it for being too slow, which others at the port are told."""
        if self.ended is None:
            self._bus.cut(f"{self.holder}: {why}")
            self.end(why)

    def close(self) -> None:
        """Get up and leave; leaving twice is leaving once."""
        self._deafen()
        self._handle.drop()
        if not self._left:
            self._left = True
            self._bus.dropped += self.dropped

    def _accept(self, data: bytes) -> Line:
        self.received += len(data)
        self._active_at = trio.current_time()
        line = self._line = self._bus.line
        self._pending += len(data)
        return line

    def _deafen(self) -> None:
        if self.reader is not None:
            self._bus.detach(self.reader.deliver)
        if self._gap_reader is not None:
            self._bus.detach_for_gaps(self._gap_reader)
