"""The roles of callers, which are also the levels that parameters and paths require.

The values are the digits of VAPIX ``securityLevel``, so one comparison decides access.
"""

from __future__ import annotations

import enum
from typing import final

__all__ = ["Role"]


@final
class Role(enum.IntEnum):
    """A caller may do what requires its own role or a lower one."""

    OPEN = 0
    VIEWER = 1
    OPERATOR = 4
    ADMIN = 6
    NOBODY = 7
    """Required by what is read-only; no caller has it."""
