"""Keep running what is wanted: start what is new, stop what is gone, leave the rest alone.

What is wanted is told by equality of its specs. This room knows nothing of ports, parameters or sockets.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator

__all__ = ["Unit", "Units"]

logger = logging.getLogger(__name__)

S = TypeVar("S", bound="Hashable")


@final
class Unit:
    """One thing that runs because it is wanted, and how it says how it is."""

    def __init__(self, name: str, started: Callable[[], None]) -> None:
        self.name = name
        self.state = "starting"
        """A word or sentence for the status: ``up``, or what is wrong."""
        self.refusal: str | None = None
        """Why it cannot be as wanted, where that is not the passing state of a device or a peer."""
        self.is_up = trio.Event()
        """Set once it is up."""
        self.settled = trio.Event()
        """Set once it is up, or known not to be."""
        self.scope = trio.CancelScope()
        """What it does until it is not wanted any more; ``run`` enters it, and may tidy up after it."""
        self.ended = trio.Event()
        self._started = started

    def began(self) -> None:
        """What comes after it in order may start; it need not be up."""
        self._started()

    def up(self) -> None:
        """It is as wanted."""
        self.is_up.set()
        self._tell("up", None)

    def failing(self, why: str) -> None:
        """It is not as wanted now, and goes on trying."""
        self._tell(why, None)

    def refused(self, why: str) -> None:
        """It cannot be as wanted, and goes on trying in case that changes."""
        self._tell(why, why)

    def _tell(self, state: str, refusal: str | None) -> None:
        if state != self.state:  # a try that fails as the last one did is no news
            logger.log(logging.INFO if state == "up" else logging.WARNING, "%s: %s", self.name, state)
        self.state = state
        self.refusal = refusal
        self.settled.set()


@final
class Units(Generic[S]):
    """What runs now, by its spec.

    ``run`` runs one spec until its leaf's scope is cancelled, and reports to the leaf; ``order`` says which start
    before which (they stop the other way round). Failures that ``run`` does not handle end the nursery.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        run: Callable[[S, Unit], Awaitable[None]],
        order: Callable[[S], int],
        prefix: str,
    ) -> None:
        self._nursery = nursery
        self._run = run
        self._order = order
        self._prefix = prefix
        self._units: dict[S, Unit] = {}

    def __iter__(self) -> Iterator[tuple[S, Unit]]:
        return iter(tuple(self._units.items()))

    async def apply(self, wanted: frozenset[S]) -> None:
        """Stop what is not wanted any more, wait until it has ended, then start what is new."""
        for spec in sorted(self._units.keys() - wanted, key=self._order, reverse=True):
            unit = self._units.pop(spec)
            unit.scope.cancel()
            await unit.ended.wait()
        for spec in sorted(wanted - self._units.keys(), key=self._order):
            await self._nursery.start(self._grow, spec)

    async def settled(self) -> None:
        """Wait until each is up, or known not to be."""
        for _, unit in self:
            await unit.settled.wait()

    async def _grow(self, spec: S, *, task_status: trio.TaskStatus[None]) -> None:
        unit = self._units[spec] = Unit(f"{self._prefix} {spec}", task_status.started)
        try:
            await self._run(spec, unit)
        finally:
            unit.settled.set()
            unit.ended.set()
