"""The log of who did what: changes of parameters, first logins, lock-outs, changes that could not be stored.

Its records are as urgent as errors (``host.logging``), and come out at every level. They hold no secret, no byte of a
line, and no name that is not a user's: who mistypes a login may have typed a password for a name.
"""

from __future__ import annotations

import logging
from typing import Final, final

__all__ = ["AUDIT", "FirstLogins", "audit"]

AUDIT: Final = "gateway.audit"
"""The name of the logger."""

audit: Final = logging.getLogger(AUDIT)

_MOST_SEEN: Final = 1024
"""Pairs of a user and a network whose first login was written."""


@final
class FirstLogins:
    """Writes the first login of a user from a network since the start, as far as a bounded memory goes."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def note(self, user: str, role: str, network: str) -> None:
        """Take note of a login that was right."""
        if (user, network) in self._seen:
            return
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen.add((user, network))
        audit.info("%s (%s) logged in from %s", user, role, network)
