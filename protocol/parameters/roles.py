"""Who a caller is, and who a parameter is open to.

One scale for both, in the digits of VAPIX ``securityLevel``; it must not know how a caller proved its role.
"""

from __future__ import annotations

import enum
from typing import final

__all__ = ["Role"]


@final
class Role(enum.IntEnum):
    """A step on the scale: a caller may do what asks for its own role or a lower one."""

    OPEN = 0
    VIEWER = 1
    OPERATOR = 4
    ADMIN = 6
    NOBODY = 7
    """Asked for by what nobody may do; no caller has it."""
