"""What a client may ask of a line beside its bytes: a request is a row of steps, carried out as one.

It has the line from its first step to its last, behind what its sender wrote before and ahead of what it writes next,
and nobody writes in between: so ``esptool``'s reset, which moves two lines and waits between, meets no other client.
A step that fails ends the request; those before it have been carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

from gateway.port.rights import Right

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

LONGEST_BREAK: Final = 5.0
"""Seconds that a break may last, also one whose end is asked for by another request."""
LONGEST_PAUSES: Final = 2.0
"""Seconds that the pauses of a request may last together: all others wait for them."""


@final
class Configure(NamedTuple):
    """Set the line otherwise than Serial.Ser# says, for as long as this session lasts.

    ``values`` are texts by the contract's names, as param.cgi takes them: ``{"BaudRate": "19200"}``. What the rules or
    the driver refuse, and all of it while another session holds settings, stays as it is: whoever asks looks at what
    is in force.
    """

    values: tuple[tuple[str, str], ...]


@final
class SetLines(NamedTuple):
    """Assert or release DTR and RTS; None leaves one as it is."""

    dtr: bool | None = None
    rts: bool | None = None


@final
class Break(NamedTuple):
    """Hold the line in break for ``seconds``, at most LONGEST_BREAK."""

    seconds: float


@final
class HoldBreak(NamedTuple):
    """Begin a break, or end it. It ends by itself after LONGEST_BREAK, and with the session that began it."""

    on: bool


@final
class Purge(NamedTuple):
    """Throw away what waits in the driver to be sent; left out where the line has other clients."""


@final
class Pause(NamedTuple):
    """Leave the line alone for ``seconds``; those of a request are at most LONGEST_PAUSES together."""

    seconds: float


Step: TypeAlias = Configure | SetLines | Break | HoldBreak | Purge | Pause


def checked(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return the steps. Raises ValueError where a break or the pauses are longer than they may be."""
    if any(not 0 < step.seconds <= LONGEST_BREAK for step in steps if isinstance(step, Break)):
        raise ValueError(f"a break lasts at most {LONGEST_BREAK:g} s")
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    if min(pauses, default=0) < 0 or sum(pauses) > LONGEST_PAUSES:
        raise ValueError(f"the pauses of a request last at most {LONGEST_PAUSES:g} s together")
    return tuple(steps)


def rights(steps: Sequence[Step]) -> Right:
    """Return the rights that a session needs for these steps."""
    needed = Right(0)
    for step in steps:
        needed |= Right.CONFIGURE if isinstance(step, Configure) else Right.LINES
    return needed
