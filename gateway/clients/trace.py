"""Watch one port: what its line says, what is written and by whom, and how the port is, each with its time.

A trace is a reader of the bus like any client, so it is called in the line's own task, and must never wait. It keeps a
bounded amount for the operator who watches. When it is full, nothing more is kept until all of that is taken, and a
note stands for what is missing. So there is at most one hole, and it is at the end:

    While ``_hidden`` is not 0, nothing is kept after it.
"""

from __future__ import annotations

import contextlib
import enum
import time
from typing import TYPE_CHECKING, NamedTuple, final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.port.bus import PortStatus
    from gateway.port.router import Session
    from protocol.link.reasons import Reason

__all__ = ["LIMIT", "Piece", "Trace", "Way", "now"]

LIMIT = 1 << 18
"""The most bytes that wait for the operator."""
_PIECE = 64
"""The approximate cost of a piece in bytes, beside its data."""


@final
class Way(enum.Enum):
    """The direction of a piece."""

    FROM_LINE = "from line"
    TO_LINE = "to line"
    NOTE = "note"
    """No bytes, but information on those around it."""


@final
class Piece(NamedTuple):
    """The bytes of one read or one write, or the text of a note."""

    microseconds: int
    """The time, since 1970."""
    way: Way
    text: str
    """The writer's name, or what the note says; empty where the line spoke."""
    data: bytes = b""


@final
class Trace:
    """What passes at a port from now on. It is a Reader of ``session``; with ``writing`` it hears the writers too.

    Raises Forbidden where the session may not watch writers.
    """

    def __init__(self, session: Session, *, writing: bool = True, limit: int = LIMIT) -> None:
        self._session = session
        self._limit = limit
        self._pieces: list[Piece] = []
        self._hidden = 0
        """Bytes that came while there was no room."""
        self._filled = trio.Event()
        self.size = 0
        """As a Reader: bytes that wait for the operator."""
        self.sent = 0
        """As a Reader: bytes that were taken."""
        if writing:
            session.listen_for_writing(self._write)
        session.listen(self)
        session.listen_for_gaps(self._miss)

    def deliver(self, data: bytes) -> None:
        """Keep what the line said. Never waits, never raises."""
        self._keep(Way.FROM_LINE, "", data)

    def _write(self, data: bytes, holder: str) -> None:
        self._keep(Way.TO_LINE, holder, data)

    def _miss(self, count: int, reason: Reason) -> None:
        size = f"{count} bytes" if count else "an unknown number of bytes"
        self.note(f"{size} of the line are missing: {reason.name.lower().replace('_', ' ')}")

    def note(self, text: str) -> None:
        """Keep a note on the bytes around it."""
        self._keep(Way.NOTE, text, b"")

    def hide(self, count: int) -> None:
        """Let a note say that ``count`` more bytes are missing: they were taken, but could not be shown."""
        self._hidden += count
        self._filled.set()

    def _keep(self, way: Way, text: str, data: bytes) -> None:
        cost = _PIECE + len(text) + len(data)
        if self._hidden or self.size + cost > self._limit:
            self.hide(len(data))
            return
        self._pieces.append(Piece(now(), way, text, data))
        self.size += cost
        self._filled.set()

    async def take(self) -> list[Piece]:
        """Wait for pieces, and take all that there are, the oldest first."""
        await self._filled.wait()
        return self.taken()

    def taken(self) -> list[Piece]:
        """Take what there is now."""
        pieces, self._pieces = self._pieces, []
        if self._hidden:
            pieces.append(Piece(now(), Way.NOTE, f"{self._hidden} bytes not shown"))
        self.sent += sum(len(piece.data) for piece in pieces)
        self.size = self._hidden = 0
        self._filled = trio.Event()
        return pieces

    async def run(self, show: Callable[[list[Piece]], Awaitable[None]]) -> None:
        """Pass every piece to ``show`` until the session is ended; then close the session."""
        with contextlib.closing(self._session), self._session.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_port)
                while True:
                    await show(await self.take())

    async def _follow_port(self) -> None:
        before: PortStatus | None = None
        async for state in self._session.state.changes():
            if before is None or before.down != state.down:
                self.note(f"the port is {state.word if state.down is None else f'{state.word}: {state.down}'}")
            if state.settings and (before is None or before.settings != state.settings):
                self.note(f"the line is set to {state.settings}")
            if before is not None and before.breaks != state.breaks:
                self.note(f"{state.breaks - before.breaks} breaks came from the line")
            before = state


def now() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000
