"""Do something just before a chosen step of trio's scheduler, and so at any checkpoint of any task.

A pause between two things lets each task run until it waits; what happens while a task is woken and has not run yet,
or between two steps without a wait, is only met by counting steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Moments"]


@final
class Moments(trio.abc.Instrument):
    """Counts steps; to be among the instruments of a run."""

    def __init__(self) -> None:
        self._due: list[tuple[int, Callable[[], object], trio.lowlevel.Task | None]] = []
        self.errors: list[BaseException] = []
        """What was done raised these: trio would only log them."""

    def after(self, steps: int, what: Callable[[], object], task: trio.lowlevel.Task | None = None) -> None:
        """Do ``what`` once so many steps from now are over: of ``task``, or of whoever runs."""
        self._due.append((steps, what, task))

    def forget(self) -> None:
        """Do nothing of what is still to be done."""
        self._due.clear()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        due, self._due = self._due, []
        for steps, what, whose in due:
            if whose not in (None, task):
                self._due.append((steps, what, whose))
            elif steps:
                self._due.append((steps - 1, what, whose))
            else:
                try:
                    what()
                except BaseException as error:  # noqa: BLE001 -- the test raises it
                    self.errors.append(error)
