"""Descriptors that outlive this process: the service manager keeps a copy over a restart (systemd's descriptor store).

The master of a tty for programs is kept here, so that a program's descriptor survives when the service is restarted or
killed. Names come from the configuration. A descriptor whose name is not in the present configuration is given up at
the start.
"""

from __future__ import annotations

import hashlib
import os
import urllib.parse
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gateway.host.sdnotify import Notifier

__all__ = ["DescriptorStore", "tty_name"]

_LONGEST_NAME: Final = 255
"""The longest name, in ASCII characters without controls and colon (sd_pid_notify_with_fds(3), FDNAME)."""


def tty_name(port: str, path: str) -> str:
    """Return the name under which the master of the tty ``path`` of ``port`` (``P0``) is kept."""
    name = f"tty-{port}-{urllib.parse.quote(path)}"
    return name if len(name) <= _LONGEST_NAME else f"tty-{port}-{hashlib.sha256(os.fsencode(path)).hexdigest()}"


@final
class DescriptorStore:
    """The descriptors that were kept for this process, and those that are kept for the next one."""

    def __init__(self, notifier: Notifier, kept: Mapping[str, int] | None = None) -> None:
        self._notifier = notifier
        self._free = dict(kept or {})
        """The unused descriptors, by name."""

    def retain(self, names: Collection[str]) -> None:
        """Give up all descriptors with other names than these."""
        for name in self._free.keys() - names:
            os.close(self._free.pop(name))
            self._notifier.forget(name)

    def take(self, name: str) -> int | None:
        """Return the descriptor of that name, and give it to the caller; None where there is none."""
        return self._free.pop(name, None)

    def keep(self, name: str, fd: int) -> None:
        """Let the service manager keep a copy of ``fd`` for the next process."""
        self._notifier.keep(name, fd)

    def forget(self, name: str) -> None:
        """Let the service manager close its copy of that name."""
        self._notifier.forget(name)

    def leave(self, name: str, fd: int) -> None:
        """Give ``fd`` back, for the next ``take`` of this process or of the next one."""
        self._free[name] = fd

    def close(self) -> None:
        """Close the unused descriptors; the service manager has its copies. Idempotent."""
        while self._free:
            os.close(self._free.popitem()[1])
