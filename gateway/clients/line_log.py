"""Log what a line says in a file, such as the output of a console: each line of text with the time when it began.

What clients write is left out: it may be passwords, and a console echoes the rest. The disk may be slow, full or stuck,
so a thread writes, one piece of work at a time; what the line says meanwhile waits in a bounded trace. The file is
opened for each write, so that it may be moved away, and that a file system which was away is used when it is back.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.clients.trace import Trace, Way
from gateway.port.rights import Right

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.clients.trace import Piece
    from gateway.port.router import Handle
    from gateway.tasks.event_log import EventLog

__all__ = ["KEPT", "LineLog"]

KEPT: Final = 4
"""The number of full files to keep."""
_PAUSE: Final = 0.2
"""Seconds between two writes: each costs a thread's start and an open file."""
_RETRY: Final = 1.0
"""Seconds until a write that failed is tried again."""
_FLUSH: Final = 0.5
"""Seconds that the last bytes have at the end."""
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
"""Bytes that must not reach a terminal which shows the file; carriage returns are removed before."""


@final
class LineLog:
    """The file at ``path``, which becomes PATH.1, and that PATH.2, where it would grow beyond ``most`` bytes."""

    def __init__(self, path: Path, most: int, grant: Callable[[], Handle]) -> None:
        self._path = path
        self._most = most
        self._grant = grant
        self._thread = trio.CapacityLimiter(1)
        """Its own: a disk that is stuck must not take a thread from anybody else."""
        self._waiting: deque[Piece] = deque()
        """For the thread: its next write takes them, whoever asked for it and was cancelled since."""
        self._text = b""
        """What could not be written yet; the thread's own, as is ``_at_start``."""
        self._at_start = True
        """The next byte begins a line of the file."""

    async def run(self) -> None:
        """Write what the line says, until cancelled, or until a bug ends the session."""
        handle = self._grant()
        session = handle.open(Right(0))
        trace = Trace(session, writing=False)

        async def show(pieces: list[Piece]) -> None:
            self._waiting.extend(pieces)
            await self._write(session.events)
            await trio.sleep(_PAUSE)

        try:
            await trace.run(show)
        finally:
            self._waiting.extend(trace.taken())
            # It waits for a write that is under way. Where the disk is stuck, that one holds the thread beyond this.
            with trio.move_on_after(_FLUSH, shield=True):
                await self._write(session.events)

    async def _write(self, events: EventLog) -> None:
        while why := await trio.to_thread.run_sync(self._append, limiter=self._thread, abandon_on_cancel=True):
            events.log(logging.WARNING, "log file", "the log of the line cannot be written: %s: %s", self._path, why)
            await trio.sleep(_RETRY)

    def _append(self) -> str:
        """Write all that waits, in a thread; return why it could not be written, or nothing."""
        while self._waiting:
            self._text += self._lines(self._waiting.popleft())
        try:
            self._turn_over(len(self._text))
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                while self._text:
                    self._text = self._text[os.write(fd, self._text) :]
            finally:
                os.close(fd)
        except OSError as exc:
            return exc.strerror or str(exc)
        return ""

    def _lines(self, piece: Piece) -> bytes:
        """Return a piece as lines of text; the last line may continue with the next piece."""
        moment = datetime.datetime.fromtimestamp(piece.microseconds / 1_000_000).astimezone()
        when = moment.isoformat(sep=" ", timespec="milliseconds").encode() + b" "
        if piece.way is Way.NOTE:
            begun = b"" if self._at_start else b"\n"
            self._at_start = True
            return begun + when + b"-- " + piece.text.encode() + b"\n"
        said = piece.data.replace(b"\r", b"")
        if not said:
            return b""
        text = _CONTROL.sub(lambda byte: b"\\x%02x" % byte[0][0], said)
        lines = text.splitlines(keepends=True)
        first = when if self._at_start else b""
        self._at_start = text.endswith(b"\n")
        return first + when.join(lines)

    def _turn_over(self, more: int) -> None:
        """Begin a new file where this one has no room for ``more`` bytes."""
        with contextlib.suppress(FileNotFoundError):
            size = self._path.stat().st_size
            if not size or size + more <= self._most:
                return
            numbered = (self._path.with_name(f"{self._path.name}.{number + 1}") for number in range(KEPT))
            for newer, older in reversed([*itertools.pairwise((self._path, *numbered))]):
                with contextlib.suppress(FileNotFoundError):
                    newer.rename(older)
