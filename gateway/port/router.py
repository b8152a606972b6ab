"""Grant access to ports: a Handle is the permission to use one, and a Session is that permission in use.

A Handle is an object capability: its holder may do what its rights say, and nobody else can. There is no table of users
to ask, and no way to a bus except through a handle. These rules hold:

1. Rights only shrink. ``attenuate`` makes a child with at most its parent's rights, and nothing makes a parent.
2. ``open`` is the single check of rights. A session may use them until it ends. At each turn on the line only two facts
   are checked again: that it has not ended, and that no other client is the one who writes now (``Session.check``).
3. Revoking is synchronous and reaches everything below. When ``revoke`` returns, no byte passes any more in either
   direction: the reader is detached from the bus, and a writer that was woken before but has not run yet meets the
   check of rule 2. That is why a turn checks again although ``revoke`` has cancelled the writer's task: trio delivers a
   cancellation only to a task that waits.
4. A handle is opened once. Revoking ends one session, so a second one on the same handle would escape it.

How a byte passes. The client's task calls ``Session.write`` or ``transfer``, or a step of ``tasks.ready`` calls
``write_nowait``, and the bus gives the line of that instant. The line calls the session back, as a Claim: ``check``
before the message begins and after each wait, because things may have changed meanwhile; then ``wrote`` or ``lost`` for
each byte. These may come after the session has closed, since a message that was begun is finished without its writer
(see ``serial_line.arbiter``). If the message need not wait, all this is one step. ``Counters`` does the counting.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from typing import TYPE_CHECKING, Protocol, final

import trio

from gateway.port.control import Purge, SetLines, checked, rights
from gateway.port.counters import Counters
from gateway.port.line import PortDown
from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.tasks.ready import run_clock
from protocol.link.message_rules import AGE_LIMIT, PTZ_AGE_LIMIT
from protocol.link.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from gateway.port.bus import Bus, PortStatus
    from gateway.port.control import Step
    from gateway.port.line import Asker, Hold, Line, ModemLines, Reply
    from gateway.tasks.event_log import EventLog
    from gateway.tasks.watch import Cell
    from protocol.sharing.exchange import Ending

__all__ = ["Forbidden", "Handle", "Reader", "Revoked", "Router", "Session"]

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """The receiver of the line's bytes for one client."""

    @property
    def size(self) -> int:
        """Bytes of the line that the client has not taken yet."""

    @property
    def sent(self) -> int:
        """Bytes of the line that the client took."""

    def deliver(self, data: bytes) -> None:
        """Take ``data`` now. Never waits, never raises."""


class Forbidden(Exception):
    """The handle does not have that right."""


@final
class Revoked(Forbidden):
    """The handle had the right, and was revoked; the message says why."""


@final
class Router:
    """Grants the first handle on each port; all others are narrowed from these.

    Only the composition root sees it, because whoever has it may use every port.
    """

    def __init__(self, buses: Mapping[str, Bus]) -> None:
        self._buses = buses

    def grant(self, port: str, rights: Right, holder: str) -> Handle:
        """Return a handle on ``port`` (``P0``) for ``holder``, the name of a service."""
        return Handle(self._buses[port], rights, holder, None)


@final
class Handle:
    """Permission for one holder, a service or a client, to use one port."""

    def __init__(self, bus: Bus, rights: Right, holder: str, parent: Handle | None) -> None:
        self._bus = bus
        self._parent = parent
        self._children: dict[Handle, None] = {}
        self._session: Session | None = None
        self.rights = rights
        self.holder = holder
        """The name of the service or client that holds it, for logs and status."""
        self.revoked: str | None = None
        """Why it was revoked, or None."""

    def attenuate(self, rights: Right, holder: str) -> Handle:
        """Return a handle with these rights for ``holder``. Raises Forbidden if this one has fewer, or Revoked."""
        self.require(rights)
        child = Handle(self._bus, rights, holder, self)
        self._children[child] = None
        return child

    def open(self, write: Right, *, needs: bool | None = None, kin: object = None) -> Session:
        """Begin a session that hears the line, and writes messages of the class ``write`` (``Right(0)``: none).

        Sessions with the same ``kin`` count as one client where it matters whether other clients write.

        A device on demand is open while any session ``needs`` it; by default a session that may write does. Raises
        Forbidden or Revoked.
        """
        self.require(write | Right.READ)
        assert self._session is None, "rule 4: a second session needs a handle of its own"
        self._session = Session(self, self._bus, write, needs=bool(write) if needs is None else needs, kin=kin)
        return self._session

    def revoke(self, why: str) -> None:
        """End its session and those of all handles below it. No byte passes any more when this returns."""
        for child in tuple(self._children):
            child.revoke(why)
        self.revoked = why
        if self._session is not None:
            self._session.end(why)
        self.drop()

    def drop(self) -> None:
        """Give the handle up when its holder has left. It cannot be used after that.

        Its parent forgets it and could not revoke it any more, so it must not work any more.
        """
        self.revoked = self.revoked or "its holder left"
        if self._parent is not None:
            self._parent._children.pop(self, None)

    @property
    def events(self) -> EventLog:
        """The log of events at the port that a client can repeat at will."""
        return self._bus.events

    @property
    def state(self) -> Cell[PortStatus]:
        """The port's state, which changes seldom."""
        return self._bus.state

    @property
    def session(self) -> Session | None:
        """The session that was opened with it, if one was."""
        return self._session

    @property
    def children(self) -> tuple[Handle, ...]:
        """The handles that were narrowed from it and are still held."""
        return tuple(self._children)

    @property
    def sessions(self) -> Iterator[Session]:
        """The open sessions of this handle and of all that was narrowed from it."""
        own = () if self._session is None else (self._session,)
        return itertools.chain(own, *(child.sessions for child in self._children))

    def require(self, rights: Right) -> None:
        """Raise Revoked, or Forbidden where it does not carry these rights."""
        if self.revoked is not None:
            raise Revoked(self.revoked)
        if rights not in self.rights:
            raise Forbidden(f"{self.holder} has no right to {rights & ~self.rights} on {self._bus.name}")


@final
class Session:
    """A handle in use by one client: how long it lasts, what it hears, and what it writes.

    It is the Claim of every message that it writes, one after the other.
    """

    def __init__(self, handle: Handle, bus: Bus, write: Right, *, needs: bool, kin: object = None) -> None:
        self._handle = handle
        self._bus = bus
        self.traffic = write
        """The class that the holder writes in; none where it may only listen."""
        self.writes = bool(write)
        """True if the holder has a right to write."""
        self.silent = None if write else f"{handle.holder} may only read"
        """Why nothing that the holder sends reaches the line now; None while it does."""
        self.missed = 0
        """Bytes of the line that the holder left unread for so long that they were thrown away."""
        self.outcome: Callable[[int, Reason | None], None] | None = None
        """Told what became of the holder's bytes, in order: so many are in the tty (None), or lost for a reason.

        Where it raises it is told no more, and the session ends; the bytes are counted before it is called.
        """
        self.party: object = self
        """Those who hear a reply to the holder; serial.cgi's requests and its receive buffer are one."""
        self.kin: object = self if kin is None else kin
        """The owner of the session: a client has one, and a link, as one owner, those of all its classes."""
        self.is_mixed = False
        """True for a link, which writes the messages of several clients."""
        self.is_monitor = not write
        """True if the holder hears the replies to others too, on a line with a turn rule."""
        self.counters = Counters()
        self.scope = trio.CancelScope()
        """All that the holder does with the session runs in it."""
        self.pumping = trio.CancelScope()
        """Within ``scope``, the task that reads from the client; cancelled alone when the gateway stops."""
        self.ended: str | None = None
        """Why the session was ended from this side, or None."""
        self.since = time.time()
        """When it was opened, in seconds since 1970."""
        self.reader: Reader | None = None
        """The reader that hears the line for the client."""
        self._hearing = contextlib.ExitStack()
        """Undoes at the end what was attached to the bus, or held on the line."""
        if write:
            bus.begin_to_write(self.kin)
            self._hearing.callback(bus.end_to_write, self.kin)
        if needs:
            bus.need()
            self._hearing.callback(bus.release)
        self._watches_lines = False
        self._hearing.callback(self.watch_lines, False)
        self.age_limit = (PTZ_AGE_LIMIT if write is Right.PTZ else AGE_LIMIT) / 1000
        """Seconds after which a message that has not begun is stale."""
        self._now = run_clock()
        self._active_at = self._now()
        # The line that the last message went to; the bus may have another by now, but that one knows of no rest.
        self._line: Line | None = None
        self._controlled: Line | None = None
        """The line that was last asked for something beside the bytes, and may hold something for it."""

    @property
    def holder(self) -> str:
        """The name of the client."""
        return self._handle.holder

    @property
    def watches(self) -> bool:
        """Return whether the holder may hear what others write, and their names."""
        return Right.WATCH in self._handle.rights

    @property
    def port(self) -> str:
        """The port manager, as ``P0``."""
        return self._bus.name

    @property
    def events(self) -> EventLog:
        """The log of events at the port that a client can repeat at will."""
        return self._bus.events

    @property
    def state(self) -> Cell[PortStatus]:
        """The port's state, which changes seldom."""
        return self._bus.state

    async def woken(self) -> None:
        """Wait until a device that slept was opened for this session, or is known not to open; for a monitor, no time.

        To be called within ``scope``, before the client is read: its first bytes are to find the device open.
        """
        if self.writes:
            await self._bus.state.wait_for(lambda state: not state.asleep)

    @property
    def on_its_way(self) -> int:
        """Bytes that the line has charge of, though their writer may have left; their outcome will be told."""
        return 0 if self._line is None else self._line.begun(self)

    @property
    def active_at(self) -> float:
        """When a byte last went either way, in seconds of trio's clock."""
        return max(self._active_at, self._bus.heard_at)

    # -- hearing

    def listen(self, reader: Reader) -> None:
        """Hand ``reader`` every byte of the line from now on."""
        self.reader = reader
        self._bus.attach(reader.deliver, self.end, None if self.is_monitor else self.party)
        self._hearing.callback(self._bus.detach, reader.deliver)

    def listen_for_gaps(self, reader: Callable[[int, Reason], None]) -> None:
        """Tell ``reader`` where bytes of the line are missing, from now on."""
        self._bus.attach_for_gaps(reader, self.end)
        self._hearing.callback(self._bus.detach_for_gaps, reader)

    def listen_for_turns(self, reader: Callable[[Asker | None, Ending | None], None]) -> None:
        """Tell ``reader`` where turns under a rule begin and end, from now on; see ``Bus.attach_for_turns``."""
        self._bus.attach_for_turns(reader, self.end)
        self._hearing.callback(self._bus.detach_for_turns, reader)

    def listen_for_writing(self, watcher: Callable[[bytes, str], None]) -> None:
        """Tell ``watcher`` what is written to the line, and the name of its writer, from now on. Raises Forbidden."""
        self._handle.require(Right.WATCH)
        self._bus.attach_for_writing(watcher, self.end)
        self._hearing.callback(self._bus.detach_for_writing, watcher)

    @property
    def is_reply(self) -> bool:
        """Return whether the bytes that a reader is handed just now are for ``asker`` and monitors alone."""
        return self._bus.is_reply

    @property
    def asker(self) -> Asker | None:
        """Whom they are for; None: for nobody at this CPU."""
        return self._bus.asker

    # -- writing

    @property
    def is_ready(self) -> bool:
        """Return whether a message that comes now waits for nobody; true where it is refused at once, too."""
        try:
            return self._bus.line.is_ready
        except PortDown:
            return True

    def write_nowait(self, data: bytes, *, whole: bool, accepted: float | None = None) -> int:
        """Begin a message, as ``write``, where it waits for nobody; return how many bytes the line has of it.

        0: nothing has happened; ``write`` or ``transfer`` tells why, or waits. One of the two has to go on at once
        where it is a part, told what is ``done``: see ``Line.write_nowait``. Never raises.
        """
        try:
            line = self._bus.line
            took = line.write_nowait(data, self, self._now() if accepted is None else accepted, whole=whole)
        except (PortDown, Forbidden):
            return 0
        if took:
            self.counters.received += len(data)
            self._line = line
        return took

    async def write(self, data: bytes, accepted: float | None = None, done: int = 0) -> Asker | None:
        """Write one message whole, which was read from its client now, or at ``accepted``; return as ``Line.write``.

        So many bytes of it are ``done``. Raises PortDown, Revoked, or Forbidden while it is ``silent``; so do
        ``transfer`` and ``turn``.
        """
        line = self._accept(data, done)
        try:
            return await line.write(data, self, self._active_at if accepted is None else accepted, done)
        except BaseException:
            self._drop_untaken()
            raise

    def supersede(self, data: bytes) -> bool:
        """Have ``data`` written in the place of a request that still waits; return whether one gave way."""
        if self._line is None or not (size := self._line.supersede(self, data)):
            return False
        self.counters.received += len(data)
        self._drop(size)
        return True

    async def transfer(self, data: bytes, accepted: float | None = None, done: int = 0) -> None:
        """Write a piece of a byte stream; a long one lets others in between. Otherwise as ``write``."""
        line = self._accept(data, done)
        try:
            await line.transfer(data, self, self._active_at if accepted is None else accepted, done)
        except BaseException:
            self._drop_untaken()
            raise

    @contextlib.asynccontextmanager
    async def turn(self, data: bytes, reply: Reply | None, accepted: float | None = None) -> AsyncIterator[Hold]:
        """Wait for the line, to write one message in it, and hold it for the reply while the block runs.

        Raises PortDown or Revoked.
        """
        line = self._accept(data)
        try:
            hold = await line.turn(self, self._active_at if accepted is None else accepted, data, reply)
            with contextlib.closing(hold):
                yield hold
        finally:
            self._drop_untaken()

    def discard(self, count: int, *, rubbish: bool = False) -> None:
        """Count bytes that were read from the holder and never offered to the line: ``rubbish`` is in no request."""
        self.counters.received += count
        self._drop(count)
        if rubbish:
            self._bus.rubbish += count
            self.events.log(
                logging.WARNING, "rubbish", "%s: %d bytes that are in no request are dropped", self.holder, count
            )

    async def control(self, *steps: Step, accepted: float | None = None) -> None:
        """Carry out what is asked beside the bytes, now or at ``accepted``, behind those that were written before.

        Raises Forbidden, PortDown or LineError, when the steps before have been carried out, or ValueError as
        ``checked``. What it holds (settings, a break) is given back when the session ends.
        """
        steps = checked(steps)
        line = self._accept(b"")
        self._handle.require(rights(steps))
        if self._bus.writers.keys() != {self.kin}:
            steps = tuple(step for step in steps if not isinstance(step, Purge))
            if not steps:
                return  # a turn for nothing would let others in before what it writes next
        if line is not self._controlled:
            self._controlled = line
            self._hearing.callback(line.let_go, self)
        await line.control(steps, self, self._active_at if accepted is None else accepted)
        if any(isinstance(step, SetLines) for step in steps):
            self._bus.set_lines(self.holder)

    def modem_lines(self) -> ModemLines:
        """Return the lines beside the data as they are known here. Raises PortDown or LineError."""
        return self._bus.line.modem_lines()

    async def look_at_lines(self) -> ModemLines:
        """Return the lines beside the data as they are now; see ``Line.look_at_lines``."""
        return await self._bus.line.look_at_lines()

    def watch_lines(self, wanted: bool) -> None:
        """Have the modem lines and the errors shown in ``state``, or not any more; not beyond the session's end."""
        if wanted is not self._watches_lines:
            self._watches_lines = wanted
            self._bus.look(1 if wanted else -1)

    def _accept(self, data: bytes, done: int = 0) -> Line:
        if done:  # it was accepted when it was begun; the bus may have another line by now
            assert self._line is not None
            return self._line
        self.counters.received += len(data)
        self._active_at = self._now()
        try:
            if self.silent is not None:  # asked before the line, so that nobody waits for a turn in vain
                raise Forbidden(self.silent)
            line = self._line = self._bus.line
        except (PortDown, Forbidden):
            self._drop(len(data))
            raise
        return line

    def _drop_untaken(self) -> None:
        """Drop what the line did not take charge of. The rest it finishes, or tells as lost."""
        self._drop(self.counters.pending - self.on_its_way)

    def _drop(self, count: int) -> None:
        self.counters.dropped += count
        self._bus.dropped += count

    # -- as a Claim: the line asks and tells

    def check(self, accepted: float, ahead: float = 0.0) -> None:
        """Raise Forbidden or Revoked, or PortDown for a message that is, or will be, older than its age limit."""
        if self.ended is not None:
            raise Revoked(self.ended)
        if self.silent is not None:
            raise Forbidden(self.silent)
        now = self._now()
        if now + ahead - accepted > self.age_limit:
            raise PortDown(f"the line was busy for more than {self.age_limit:g} s", Reason.TOO_OLD)
        self._active_at = now  # the line takes its bytes: it is not idle, however long that lasts

    def wrote(self, count: int) -> None:
        """Count what the tty took."""
        self.counters.written += count
        if self.outcome is not None:
            try:
                self.outcome(count, None)
            except Exception:  # noqa: BLE001  # logged there
                self._outcome_failed()

    def lost(self, count: int, reason: Reason) -> None:
        """Count what was on its way and will not be written."""
        self._drop(count)
        if self.outcome is not None:
            try:
                self.outcome(count, reason)
            except Exception:  # noqa: BLE001  # logged there
                self._outcome_failed()

    def _outcome_failed(self) -> None:
        """End this session for the exception at hand: the line told it, and another writer or the finisher runs on."""
        PortLogger(logger, self.port).exception("%s: a bug: it cannot be told the outcome of its bytes", self.holder)
        self.outcome = None
        self.end("a bug ended it")

    # -- the end

    def end(self, why: str) -> None:
        """Stop hearing the line at once, and cancel all that the holder does here. The first reason stands."""
        if self.ended is None:
            self.ended = why
            self._hearing.close()
            self.scope.cancel()

    def cut(self, why: str) -> None:
        """End it for being too slow, which others at the port are told."""
        if self.ended is None:
            self._bus.cut(f"{self.holder}: {why}")
            self.end(why)

    def close(self) -> None:
        """Leave the port. Idempotent."""
        self._hearing.close()
        self._handle.drop()
