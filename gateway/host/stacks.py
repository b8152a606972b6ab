"""Write the stacks of all threads when a fault, the watchdog's SIGABRT or an operator's SIGUSR1 asks for them.

``faulthandler`` writes them from the signal handler itself, so it works while the event loop is stuck, and needs a file
that is already open. The stacks are copied to the log when a loop runs again: within a second after a SIGUSR1, and at
the next start after the process died. They hold names of files and functions, but no values.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import logging
import os
import signal
import stat
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Stacks"]

logger = logging.getLogger(__name__)

_MOST: Final = 1 << 16
"""Bytes of stacks that go to the log: a fault in a deep recursion writes many."""
_LOOK: Final = 1.0
"""Seconds between two looks at the file."""


@final
class Stacks:
    """The file of the stacks, which this process appends to from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            fd = _opened(path)
        except OSError as exc:
            logger.warning("%s: %s; the stacks of a fault would be lost", path, exc.strerror)
            fd = os.memfd_create(path.name)
        self._file = os.fdopen(fd, "r+b", buffering=0)
        self.log("the stacks of the run before, which did not end by itself")
        faulthandler.enable(self._file)
        # Not chained to a handler that would tell the loop: a chained one may be interrupted by the next signal, and a
        # burst of them overran its small stack and ended the process.
        faulthandler.register(signal.SIGUSR1, self._file)

    async def follow(self) -> NoReturn:
        """Move what a SIGUSR1 has written to the log."""
        while True:
            await trio.sleep(_LOOK)
            self.log("SIGUSR1: the stacks of all threads")

    def log(self, title: str) -> None:
        """Move what is in the file to the log; write nothing where nothing is in it."""
        stacks = os.pread(self._file.fileno(), _MOST, 0).decode(errors="replace").strip()
        if stacks:
            self._file.truncate(0)
            logger.error("%s:\n%s", title, stacks)

    def close(self) -> None:
        """Restore the default handling of signals and faults, and remove the file: the process ends regularly."""
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.disable()
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def _opened(path: Path) -> int:
    # A link could make root empty a file of somebody else's.
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd
