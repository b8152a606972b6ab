"""The old keys of remote port servers, and until when they are accepted beside the present ones.

A key is changed on one CPU after the other, perhaps over hours, with restarts in between. So old keys outlive the
process. Expired ones are not kept.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.state import atomic_file
from gateway.state.store import StoreError
from protocol.link.key_rules import LONGEST_OLD_KEY

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OldKeys"]

logger = logging.getLogger(__name__)

_FILE: Final = "old_keys"
_FIELDS: Final = ("port", "key", "beside", "until")


@final
class OldKeys:
    """The old key of each port manager, by its index, kept in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._kept = self._read()

    def of(self, index: int) -> tuple[str, str, float] | None:
        """Return the old key of a port's server, the key beside which it is accepted, and for how many seconds."""
        key, beside, until = self._kept.get(index, ("", "", 0.0))
        left = min(until - time.time(), LONGEST_OLD_KEY)
        return (key, beside, left) if left > 0 else None

    async def keep(self, index: int, old: tuple[str, str, float] | None) -> None:
        """Keep another old key, or none. Raises StoreError if the disk fails; then nothing is changed."""
        now = time.time()
        kept = {port: each for port, each in self._kept.items() if port != index and each[2] > now}
        if old is not None:
            kept[index] = *old[:2], now + old[2]
        content = json.dumps([dict(zip(_FIELDS, (port, *each), strict=True)) for port, each in kept.items()])
        try:
            await trio.to_thread.run_sync(atomic_file.replace, self._path, content.encode())
        except OSError as exc:
            raise StoreError(f"{self._path} cannot be written, nothing was changed: {exc.strerror}") from exc
        self._kept = kept

    def _read(self) -> dict[int, tuple[str, str, float]]:
        """Read the file; without a readable one there is no old key."""
        try:
            content = atomic_file.read(self._path)
            found = [] if content is None else json.loads(content)
            return {int(each["port"]): (str(each["key"]), str(each["beside"]), float(each["until"])) for each in found}
        except OSError as exc:
            logger.warning("%s cannot be read, so no old key is accepted: %s", self._path, exc.strerror)
        except (ValueError, TypeError, KeyError):  # its content is not logged, because it may be a key
            logger.warning("%s cannot be used, so no old key is accepted", self._path)
        return {}
