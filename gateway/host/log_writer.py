"""Write lines to a descriptor from a thread, so that logging never waits for a reader.

A pipe that nobody reads, a terminal stopped with Ctrl-S and a stopped journal all make write(2) wait. The event loop
must not wait, because every port would wait with it. So a line goes to a queue, which takes it at once or counts it as
lost, and only the thread waits. These rules hold:

* One queue keeps all lines in their order. Ordinary lines and urgent ones (errors, audit) each have their own share of
  it, so that a flood of ordinary lines never displaces an error.
* Where lines were lost, a line says how many, in the place of the lost ones.
* The thread owns a duplicate of the descriptor, and changes no flags, because flags belong to the open file, which the
  shell shares. If another program made the file non-blocking, the thread waits with poll(2).
* The thread is a daemon thread and no part of ``logging``'s own shutdown. Both would wait for it without a bound, and
  a write to an unread pipe has none. ``close`` waits, for as long as the caller says.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogWriter"]

_SHARE: Final = 1 << 18
"""The most bytes that wait for the thread, each for ordinary and for urgent lines: some thousand lines."""
_BATCH: Final = 1 << 14
"""The most bytes of one write: so many may be lost at the end, beside the queue."""


@final
class _Line(NamedTuple):
    """A line in the queue, or a text that stands for ``lost`` lines."""

    text: bytes
    urgent: bool
    lost: int


@final
class LogWriter:
    """Writes to a duplicate of ``fd``; ``lost`` makes the line that tells how many were lost."""

    def __init__(self, fd: int, lost: Callable[[int], bytes]) -> None:
        self._fd = os.dup(fd)
        self._lost_line = lost
        self._lines: deque[_Line] = deque()
        self._queued = {False: 0, True: 0}
        """Bytes in the queue: of ordinary lines, and of urgent ones."""
        self._lost = 0
        self._writing = self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: bytes, *, urgent: bool = False) -> None:
        """Queue one or more lines, or count them as lost where their share of the queue is full. Never waits."""
        line = _Line(text, urgent, text.count(b"\n"))
        with self._changed:
            if self._closed or self._queued[urgent] + len(text) > _SHARE:
                self._lost += line.lost
                return
            self._tell_lost()
            self._put(line)
            self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Take no more lines, and wait at most ``seconds`` until all are written; return whether they are."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self._lines or self._writing), seconds)

    def _put(self, line: _Line) -> None:
        self._lines.append(line)
        self._queued[line.urgent] += len(line.text)

    def _tell_lost(self) -> None:
        if self._lost:
            self._put(_Line(self._lost_line(self._lost), urgent=True, lost=self._lost))
            self._lost = 0

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._write_all(b"".join(line.text for line in batch))
            except OSError:  # the reader is gone, or the disk is full: later lines may pass again
                with self._changed:
                    self._lost += sum(line.lost for line in batch)
            else:
                with self._changed:
                    if not self._lines:
                        self._tell_lost()
        os.close(self._fd)

    def _take(self) -> list[_Line]:
        """Wait for lines, and take those for one write; return none when there are none left and none will come."""
        batch: list[_Line] = []
        size = 0
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines or self._closed)
            while self._lines and size < _BATCH:
                line = self._lines.popleft()
                self._queued[line.urgent] -= len(line.text)
                size += len(line.text)
                batch.append(line)
            self._writing = bool(batch)
        return batch

    def _write_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                writable.poll()
