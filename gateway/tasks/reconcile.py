"""Keep running what is wanted: start what is new, stop what is gone, leave the rest alone.

A spec is any hashable value; equal specs mean the same unit. ``apply`` gets the whole set that is wanted and compares
it with what runs. So the caller never has to say what changed, and applying a set twice changes nothing the second
time. These rules hold:

1. Everything that must stop has ended before anything new starts, because a new unit may need an old one's address.
2. Units start in their order, each when the one before has called ``began``, and stop in the reverse order.
3. ``began`` is not ``up``. A missing device, or a port in use, must not hold up the units after it, nor the whole
   gateway. Such a unit goes on trying, and says so in ``state``.
4. ``settled`` is the moment when the outcome of a change is known: each unit is up, or known not to be.
5. Units never end by themselves. What ``run`` does not handle is a bug, and ends the nursery.

A unit ends by its ``scope`` and not by its task: ``run`` may still tidy up outside the scope, for example let a line
drain, and ``apply`` waits for that.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator

__all__ = ["Unit", "Units"]

logger = logging.getLogger(__name__)

S = TypeVar("S", bound="Hashable")

Log: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"
"""The log of the units' states; an adapter adds the owner of the units."""


@final
class Unit:
    """One thing that runs because it is wanted, and its state."""

    def __init__(self, name: str, started: Callable[[], None], log: Log = logger) -> None:
        self.name = name
        self.state = "starting"
        """A word or sentence for the status: ``up``, or what is wrong."""
        self.refusal: str | None = None
        """Why it cannot be as wanted, unless that is a passing state of a device or a peer."""
        self.is_up = trio.Event()
        """Set once it is up."""
        self.settled = trio.Event()
        """Set once it is up, or known not to be."""
        self.scope = trio.CancelScope()
        """Cancelled when the unit is no longer wanted; ``run`` enters it, and may tidy up after it."""
        self.ended = trio.Event()
        """Set when ``run`` has returned."""
        self._started = started
        self._log = log

    def began(self) -> None:
        """Let the next units start. This one need not be up."""
        self._started()

    def up(self) -> None:
        """Report that it is as wanted."""
        self.is_up.set()
        self._tell("up", None)

    def failing(self, why: str) -> None:
        """Report that it is not as wanted now, and goes on trying."""
        self._tell(why, None)

    def refused(self, why: str) -> None:
        """Report that it cannot be as wanted, which refuses the change; it goes on trying in case that passes."""
        self._tell(why, why)

    def _tell(self, state: str, refusal: str | None) -> None:
        if state != self.state:  # log only a new reason, not each failed try
            self._log.log(logging.INFO if state == "up" else logging.WARNING, "%s: %s", self.name, state)
        self.state = state
        self.refusal = refusal
        self.settled.set()


@final
class Units(Generic[S]):
    """The units that run now in ``nursery``, by their specs.

    ``run`` runs one spec until its unit's scope is cancelled, and reports to the unit. ``order`` ranks the specs: a
    lower rank starts earlier. ``log`` gets the state of each.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        run: Callable[[S, Unit], Awaitable[None]],
        order: Callable[[S], int],
        log: Log = logger,
    ) -> None:
        self._nursery = nursery
        self._run = run
        self._order = order
        self._log = log
        self._units: dict[S, Unit] = {}

    def __iter__(self) -> Iterator[tuple[S, Unit]]:
        return iter(tuple(self._units.items()))

    async def apply(self, wanted: frozenset[S]) -> None:
        """Stop what is no longer wanted, wait until it has ended, then start what is new."""
        for spec in sorted(self._units.keys() - wanted, key=self._order, reverse=True):
            unit = self._units.pop(spec)
            unit.scope.cancel()
            await unit.ended.wait()
        for spec in sorted(wanted - self._units.keys(), key=self._order):
            await self._nursery.start(self._start, spec)

    async def settled(self) -> None:
        """Wait until each is up, or known not to be."""
        for _, unit in self:
            await unit.settled.wait()

    async def _start(self, spec: S, *, task_status: trio.TaskStatus[None]) -> None:
        unit = self._units[spec] = Unit(str(spec), task_status.started, self._log)
        try:
            await self._run(spec, unit)
        finally:
            # Also if a bug ended it, or a task that waits for it would wait for ever.
            unit.settled.set()
            unit.ended.set()
