"""The log of who did what: changes of parameters, first logins, lock-outs, changes that could not be stored.

Its records are as urgent as errors (``host.logging``), and are written at every log level. They hold no secret, no byte
of a line, and no name that is not a user's, because a mistyped name may be a password.
"""

from __future__ import annotations

import logging
from typing import Final, final

__all__ = ["AUDIT", "FirstLogins", "audit"]

AUDIT: Final = "gateway.audit"
"""The name of the logger."""

audit: Final = logging.getLogger(AUDIT)

_MOST_SEEN: Final = 1024
"""The most pairs of a user and a network that are remembered."""


@final
class FirstLogins:
    """Writes the first login of each user from each network since the start, with a bounded memory."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def note(self, user: str, role: str, network: str) -> None:
        """Note a correct login."""
        if (user, network) in self._seen:
            return
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen.add((user, network))
        audit.info("%s (%s) logged in from %s", user, role, network)
