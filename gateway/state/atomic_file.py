"""Keep a small file that is always whole, and that only its owner can read.

The power may fail, the disk may be full, the process may be killed at any instant: afterwards the file holds the old
content or the new. So new content is written to a file beside it, synced, and renamed over it. Then the directory is
synced, because otherwise the rename itself may be lost.

Two writers at once would use the same file beside it. Callers exclude each other by ``turn`` or ``claim``.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["AtomicFile", "claim", "read", "replace", "sweep", "turn"]

logger = logging.getLogger(__name__)

LARGEST = 1 << 20
OWNER_ONLY = 0o600


def read(path: Path) -> bytes | None:
    """Return the content, None where there is no file. If others may access the file, take that away and log it.

    Raises OSError, also for a file that is not a regular one or is larger than 1 MiB.
    """
    try:
        # Without O_NONBLOCK a FIFO would hold up the start for ever. Without O_NOFOLLOW a link could make root read,
        # tighten and copy another user's file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        _tighten(path, descriptor, stat.S_IMODE(found.st_mode))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, "larger than 1 MiB", str(path))
    return content


def replace(path: Path, content: bytes) -> None:
    """Put ``content`` in place of the file, synced to the disk, owned by the owner of its directory.

    Raises OSError. The old file is then still there. Only if the directory could not be synced (the disk is failing),
    it may be either file.
    """
    new = _new(path)
    try:
        sweep(path)
        _write(new, content)
        os.replace(new, path)
    except OSError:
        sweep(path)
        raise
    _sync_directory(path.parent)


@final
class AtomicFile:
    """One such file, for users that need not know its path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        """See ``read``."""
        return read(self._path)

    def replace(self, content: bytes) -> None:
        """See ``replace``."""
        replace(self._path, content)


def sweep(path: Path) -> None:
    """Remove unfinished new content that a killed process left."""
    _new(path).unlink(missing_ok=True)


@contextmanager
def turn(directory: Path) -> Iterator[None]:
    """Exclude other processes that read and replace files of this directory while the block runs. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def claim(path: Path) -> int:
    """Lock a lock file, made if need be, until the returned descriptor is closed or the process ends in any way.

    Raises BlockingIOError where another process has it, and any other OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _give_to_the_owner_of(path.parent, descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _tighten(path: Path, descriptor: int, mode: int) -> None:
    if not mode & ~OWNER_ONLY:
        return
    try:
        os.fchmod(descriptor, OWNER_ONLY)
    except OSError as exc:
        logger.warning("%s has mode %04o, open to others, and cannot be tightened: %s", path, mode, exc.strerror)
    else:
        logger.warning("%s had mode %04o, open to others; it is 0600 now", path, mode)


def _write(new: Path, content: bytes) -> None:
    # O_EXCL: do not follow a link that another user put there.
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    with open(descriptor, "wb") as file:
        _give_to_the_owner_of(new.parent, descriptor)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _give_to_the_owner_of(directory: Path, descriptor: int) -> None:
    # Root may make the file on behalf of the daemon, which must be able to read and replace it.
    owner = directory.stat()
    if os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
