"""What a client may ask of a line beside its bytes: a request is a list of steps, carried out as one.

A request holds the line from its first step to its last, after what its sender wrote before and ahead of what it writes
next. Nobody writes in between, so that no other client disturbs ``esptool``'s reset, which moves two lines and waits
between them. A step that fails ends the request; the steps before it have been carried out.

The steps are defined in ``protocol.link.control_steps``, because a link carries them to the line's owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.port.rights import Right
from protocol.link.control_steps import (
    LONGEST_BREAK,
    Break,
    Configure,
    HoldBreak,
    Pause,
    Purge,
    SetLines,
    Step,
    checked,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "LONGEST_BREAK",
    "Break",
    "Configure",
    "HoldBreak",
    "Pause",
    "Purge",
    "SetLines",
    "Step",
    "checked",
    "rights",
]


def rights(steps: Sequence[Step]) -> Right:
    """Return the rights that a session needs for these steps."""
    needed = Right(0)
    for step in steps:
        needed |= Right.CONFIGURE if isinstance(step, Configure) else Right.LINES
    return needed
