"""Keep one changing value, and wake the tasks that wait for a change.

A reader eventually sees the newest value, but not the values that came and went while it was busy. So no queue can
fill, and no slow reader delays the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cell", "CellChanges"]

T = TypeVar("T")


@final
class Cell(Generic[T]):
    """A place for one value, which should be immutable, because it is compared and handed out as it is."""

    __slots__ = ("_changed", "_value")

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = trio.Event()

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> None:
        """Set ``value`` and wake the readers, unless it equals the last value."""
        if value == self._value:
            return
        self._value = value
        # Each event stands for one change; a later reader waits for the next one.
        self._changed.set()
        self._changed = trio.Event()

    def changes(self) -> CellChanges[T]:
        """Iterate: the value at once, then the newest whenever it differs from the one last seen."""
        return CellChanges(self)

    async def wait_for(self, predicate: Callable[[T], bool]) -> T:
        """Wait until ``predicate`` holds for the value, and return it; values that come and go may be missed."""
        await trio.lowlevel.checkpoint()
        while not predicate(self._value):
            await self._changed.wait()
        return self._value


@final
class CellChanges(Generic[T]):
    """One reader's walk through a cell's values.

    Not an async generator: trio warns of each generator that is not run to its end, and a reader may leave early.
    """

    __slots__ = ("_cell", "_seen")

    def __init__(self, cell: Cell[T]) -> None:
        self._cell = cell
        self._seen: object = object()  # equal to no value, so the first one is news

    def __aiter__(self) -> CellChanges[T]:
        return self

    async def __anext__(self) -> T:
        value = await self._cell.wait_for(lambda value: value != self._seen)
        self._seen = value
        return value
