"""The log of who did what: changes of parameters, first logins, lock-outs, changes that could not be stored.

Its records are as urgent as errors (``host.logging``), and come out at every level. They hold no secret, no byte of a
line, and no name that is not a user's: who mistypes a login may have typed a password for a name.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["AUDIT", "audit"]

AUDIT: Final = "gateway.audit"
"""The name of the logger."""

audit: Final = logging.getLogger(AUDIT)
