"""The parameters in force: the tree that everybody reads, and the file that it is restored from.

Parameters of another version that this one does not know stay in the file. The file as it was before this process first
changed it is kept beside it (``parameters.old``). So an upgrade can be taken back.

A change is validated, then written to the disk, then published, in this order, so that whatever is seen in force
survives a crash. Only one daemon at a time may work on a state directory, which a lock file ensures.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, final

import trio

from gateway.state import atomic_file
from gateway.tasks.watch import Cell
from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from protocol.parameters.catalogue import Catalogue, Ports, Update
    from protocol.parameters.roles import Role
    from protocol.parameters.settings import Settings

__all__ = ["Published", "Store", "StoreError"]

logger = logging.getLogger(__name__)

_MOST_TOLD = 20
"""Lines that cannot be used, of which each gets a line in the log; of the others their number is told."""


@final
class StoreError(Exception):
    """The state directory cannot be used; the message says why in one sentence."""


@final
@frozen
class Published:
    """The tree in force; ``version`` counts the changes since the start."""

    version: int
    settings: Settings


@final
class Store:
    """The parameters kept in ``directory``, which is made if need be and locked until ``close``.

    Raises StoreError where it cannot be used; then nothing was changed. Lines of the parameter file that cannot be
    used are logged, the first of them one by one, and left out.
    """

    def __init__(self, directory: Path, catalogue: Catalogue) -> None:
        self._path = directory / "parameters"
        self._old = directory / "parameters.old"
        self._catalogue = catalogue
        self._turn = trio.Lock()
        # A thread of its own, so that the disk and name lookups, which use threads too, never wait for each other.
        self._thread = trio.CapacityLimiter(1)
        self._unknown = ""
        """The lines of the file that this version does not know."""
        self._before: bytes | None = None
        """The file as it was found, until the first change."""
        self._claim = _claimed(directory)
        try:
            self.published = Cell(Published(0, self._restored()))
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Unlock the directory. Idempotent."""
        if self._claim >= 0:
            claim, self._claim = self._claim, -1
            os.close(claim)

    async def update(self, assignments: Sequence[tuple[str, str]], role: Role, ports: Ports = None) -> Update:
        """Set those of these parameters that a caller of this role, bound to ``ports``, may set.

        Return when the change is on the disk and published. Raises StoreError if the disk fails; then nothing is
        changed. A cancelled update is complete or was not begun.
        """
        async with self._turn:
            before = self.published.value
            update = self._catalogue.updated(before.settings, assignments, role, ports)
            if update.changed:
                content = (self._catalogue.stored(update.settings) + self._unknown).encode()
                await trio.to_thread.run_sync(self._write, content, limiter=self._thread)
                self.published.set(Published(before.version + 1, update.settings))
                logger.info("parameters changed: %.300s", ", ".join(update.changed))
            return update

    def _write(self, content: bytes) -> None:
        try:
            if self._before:
                atomic_file.replace(self._old, self._before)
                self._before = None
            atomic_file.replace(self._path, content)
        except OSError as exc:
            raise StoreError(f"{self._path} cannot be written, nothing was changed: {exc.strerror}") from exc

    def _restored(self) -> Settings:
        try:
            atomic_file.sweep(self._path)
            atomic_file.sweep(self._old)
            content = atomic_file.read(self._path)
        except OSError as exc:
            raise StoreError(f"{self._path} cannot be read: {exc.strerror}") from exc
        # A byte that is not UTF-8 becomes U+FFFD, which no parameter accepts.
        restored = self._catalogue.restored((content or b"").decode(errors="replace"))
        unknown = dict(restored.unknown)
        for line, why in restored.errors[:_MOST_TOLD]:
            logger.warning("%s line %d: %s; %s", self._path, line, why, "kept" if line in unknown else "left out")
        if (more := len(restored.errors) - _MOST_TOLD) > 0:
            logger.warning("%s: %d more lines cannot be used", self._path, more)
        self._unknown = "".join(f"{line}\n" for line in unknown.values())
        self._before = content
        return restored.settings


def _claimed(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return atomic_file.claim(directory / "lock")
    except BlockingIOError as exc:
        raise StoreError(
            f"{directory} is in use by another daisyport: stop that one, or give this one a state_dir of its own"
        ) from exc
    except OSError as exc:
        why = "Not a directory" if isinstance(exc, FileExistsError) else exc.strerror
        raise StoreError(f"{directory} cannot be used to keep the state: {why}") from exc
