"""Serve the program that has a pty's slave open: carry its bytes, and what it does to the tty beside writing.

What it sets
    Where the host allows it (``configures``), a change of the rate, the stop bits or the flow control is asked of the
    line as a session's hold (``port.control``), which ends when the program closes the tty. The tty shows what is in
    force: a setting that the line refused changes back. While the line is away it cannot refuse, so the setting stays,
    and is asked for when the line is back.

What it throws away (tcflush)
    Either what waits for it here, or what it wrote and the line has not taken. Bytes that it wrote after the flush may
    have arrived by the time we see it, and are never thrown away.

The order
    The pty reports what the program did ahead of what it wrote before that (``clients.pty``), and on the line the
    change must not overtake those bytes. So a second descriptor (epoll, EPOLLPRI) reports a change at once, even while
    the pump is busy and does not read: everything that is in the pty at that moment was written before, and goes first.
    If the pump was waiting for the program, change and bytes came together, and the change goes first, because programs
    set a tty and then write. While a request of the line is being answered everything is read as it comes, for the same
    reason.

A request of the line runs in a task of its own, because ``receive`` is cancelled at every deadline of the pump; the
next ``receive`` waits for it first.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.clients.pty import PtySettings
from gateway.clients.relay import Outbox, relay
from gateway.port import control
from gateway.port.line import LineError, PortDown
from gateway.port.router import Forbidden

if TYPE_CHECKING:
    from gateway.clients.connections import ClientConnection
    from gateway.clients.pty import Happened, Pty
    from gateway.clients.relay import Manner
    from gateway.clients.streams import Stream
    from gateway.port.router import Session
    from gateway.tasks.watch import Cell

__all__ = ["TtyStream", "serve"]

_AHEAD: Final = 131_072
"""The most bytes to read ahead while the pump is busy; a pty holds fewer, so a change keeps its place after them."""
_MOST_TOLD: Final = 256
"""The most pieces and requests that are kept in order; beyond that nothing is read, and the kernel keeps the rest."""
_GONE: Final = "the program closed it"


async def serve(stream: Stream, session: Session, idle_limit: Cell[int], manner: Manner) -> None:
    """Serve a program until it has closed the tty, or the session is ended; closes both."""
    assert isinstance(stream, TtyStream), "no other service has it"
    async with trio.open_nursery() as nursery:
        stream.begin(session, nursery)
        await relay(stream, session, idle_limit, manner)
        stream.discard_ahead()
        nursery.cancel_scope.cancel()


@final
class TtyStream:
    """The master of a pty, as the stream of the program that has the slave open. ``close`` leaves the pty alone.

    ``configures``: the program may set the line.
    """

    exact = False

    def __init__(self, pty: Pty, *, configures: bool = False) -> None:
        self.connection: ClientConnection | None = None
        self.was_left = False
        """The program has closed it, and everything that it wrote was received."""
        self._pty = pty
        self._configures = configures
        self._closed = False
        self._session: Session
        self._nursery: trio.Nursery
        self._receiving = False
        """The pump waits in ``receive``: for the program, or for the line's answer to its request."""
        self._told: deque[bytes | control.Step] = deque()
        """What was read, in order: data, and requests to the line."""
        self._ahead = 0
        """The bytes of data in it."""
        self._wants: dict[str, str] = {}
        """The settings that the program made and that the line has neither taken nor refused."""
        self._asked: trio.Event | None = None
        """Set when the current request is answered; None while there is none."""
        self._flushes = 0
        """How often the program threw away what waits for it."""

    def begin(self, session: Session, nursery: trio.Nursery) -> None:
        """Become the stream of this session, and notice at once what the program does, while ``nursery`` runs."""
        self._session, self._nursery = session, nursery
        if stale := self._pty.stale:
            self._pty.stale = 0
            session.discard(stale)
            what = "%s: %d bytes that it wrote while nobody read them are dropped"
            session.events.log(logging.WARNING, "stale bytes", what, session.holder, stale)
        nursery.start_soon(self._hear_deeds)
        nursery.start_soon(self._ask_when_back)

    # -- what the line says

    def send_nowait(self, data: bytes) -> int:
        """See Stream."""
        if self._closed:
            return 0
        try:
            return os.write(self._pty.master, data)
        except OSError:
            return 0

    async def send(self, data: bytes) -> int:
        """See Stream."""
        flushes = self._flushes
        while True:
            await trio.lowlevel.wait_writable(self._pty.master)
            if self._flushes != flushes:
                return len(data)  # the program has thrown it away
            try:
                return os.write(self._pty.master, data)
            except BlockingIOError:
                if not self._pty.is_open():
                    # The program has left and nobody will read this. Waiting would be in vain, and the session may last
                    # a while: until what the program wrote before it left is on the line.
                    return len(data)

    async def skip(self, count: int) -> None:
        """See Stream: bytes alone cannot tell."""
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """See Stream."""
        self._closed = True

    # -- what the program says, and does

    async def receive(self) -> bytes:
        """See Stream. Raises OSError once the program, and whoever else had it open, has closed it."""
        self._receiving = True
        try:
            while True:
                if self._asked is not None:
                    await self._answered(self._asked)
                    self._asked = None
                if self._told:
                    told = self._told.popleft()
                    if isinstance(told, bytes):
                        self._ahead -= len(told)
                        return told
                    self._ask(told)
                elif self._is_owed:
                    self._ask(control.Configure(()))
                else:
                    await trio.lowlevel.wait_readable(self._pty.master)
                    self._read()
        finally:
            self._receiving = False

    async def _answered(self, asked: trio.Event) -> None:
        """Wait for the line's answer, maybe over a link, and read on meanwhile, so that the order is kept."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_on)
            await asked.wait()
            nursery.cancel_scope.cancel()

    async def _read_on(self) -> None:
        with contextlib.suppress(OSError):  # the program has left, which ``receive`` meets after what was read
            while self._has_room:
                await trio.lowlevel.wait_readable(self._pty.master)
                self._read()

    @property
    def _has_room(self) -> bool:
        return self._ahead < _AHEAD and len(self._told) < _MOST_TOLD

    def _read(self) -> None:
        """Read once; put what the program did before its data. Raises OSError where it has left."""
        try:
            happened = self._pty.read()
        except BlockingIOError:
            return
        except OSError as exc:
            self.was_left = True
            raise OSError(errno.EIO, _GONE) from exc
        self._note_flush(happened)
        if happened.set:
            self._note_settings()
        self._note_data(happened)

    @property
    def _is_at_work(self) -> bool:
        """True while the pump writes and will receive again, so that what is read for it now is not lost."""
        session = self._session
        return not (self._receiving or self.was_left or session.ended or session.pumping.cancel_called)

    async def _hear_deeds(self) -> None:
        """Whenever the program does something while the pump is busy, read first what it wrote before that."""
        while True:
            await trio.lowlevel.wait_readable(self._pty.deeds.fileno())
            did_something, has_set = self._pty.did_something(), False
            while did_something and self._is_at_work and self._has_room:
                try:
                    happened = self._pty.read()
                except OSError:  # nothing is left; or the program has left, which the pump meets
                    break
                self._note_flush(happened)
                self._note_data(happened)
                has_set = has_set or happened.set
            if has_set:
                self._note_settings()

    def _note_data(self, happened: Happened) -> None:
        if happened.data:
            self._told.append(happened.data)
            self._ahead += len(happened.data)

    def _note_flush(self, happened: Happened) -> None:
        """Carry out a flush at once, because it must not hit the program's next bytes, or the answer to them."""
        if happened.threw_away_input:
            self._flushes += 1
            if isinstance(self._session.reader, Outbox):
                self._session.reader.purge()
        if happened.threw_away_output:
            self.discard_ahead()
            self._tell(control.Purge())

    def discard_ahead(self) -> None:
        """Count as dropped what was read and never received by the pump."""
        self._session.discard(self._ahead)
        self._told = deque(told for told in self._told if not isinstance(told, bytes))
        self._ahead = 0

    def _note_settings(self) -> None:
        if not self._configures:
            return
        before, self._pty.seen = self._pty.seen, self._pty.settings()
        if self._pty.seen != before:
            self._pty.undecided = True
            self._tell(control.Configure(tuple(self._pty.seen.since(before).items())))

    def _tell(self, step: control.Step) -> None:
        """Queue a step for the line after what was read; join it with the last step where both are of one kind."""
        last = self._told[-1] if self._told else None
        if isinstance(last, control.Configure) and isinstance(step, control.Configure):
            self._told[-1] = control.Configure(tuple({**dict(last.values), **dict(step.values)}.items()))
        elif last != step:
            self._told.append(step)

    # -- what is asked of the line

    @property
    def _line_is_there(self) -> bool:
        return self._session.state.value.down is None

    @property
    def _is_owed(self) -> bool:
        """True while the line is there and has not been asked for a setting that the program made and may make."""
        return self._line_is_there and (bool(self._wants) or (self._configures and self._pty.was_set))

    def _ask(self, step: control.Step) -> None:
        self._asked = trio.Event()
        self._nursery.start_soon(self._carry_out, step, self._asked)

    async def _carry_out(self, step: control.Step, answered: trio.Event) -> None:
        try:
            if isinstance(step, control.Configure):
                self._wants |= dict(step.values)
                await self._configure()
            else:
                with contextlib.suppress(LineError, PortDown, Forbidden):
                    await self._session.control(step)
        finally:
            answered.set()

    async def _configure(self) -> None:
        """Ask the line for all settings that the program made, and show it what is in force then."""
        if self._pty.was_set and self._line_is_there:
            self._pty.was_set = False
            stored = PtySettings.of(self._session.state.value.known_settings)
            self._wants = ({} if stored is None else self._pty.settings().since(stored)) | self._wants
        wanted = tuple(self._wants.items())
        try:
            await self._session.control(control.Configure(wanted))
        except PortDown:
            if not self._line_is_there:
                return  # _ask_when_back asks again
        except (LineError, Forbidden):
            pass  # shown below, as a setting that the line refuses silently
        self._wants.clear()
        self._pty.undecided = any(isinstance(told, control.Configure) for told in self._told)
        in_force = PtySettings.of(self._session.state.value.known_settings)
        if in_force is None:
            return
        texts = in_force.texts()
        refused = [f"{name} {value} (it is {texts[name]})" for name, value in wanted if texts[name] != value]
        if refused:
            what, holder = "%s: what it set is not in force: %s", self._session.holder
            self._session.events.log(logging.WARNING, "settings refused", what, holder, ", ".join(refused))
        self._pty.show(in_force)

    async def _ask_when_back(self) -> None:
        """Ask for the program's settings when the line comes back, even if the program writes nothing then."""
        async for _ in self._session.state.changes():
            if self._is_owed and (self._asked is None or self._asked.is_set()):
                self._ask(control.Configure(()))
