"""Run something again and again, and wait longer after each failure.

The caller says which exceptions are failures. All others are bugs, and are raised.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NoReturn, final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Backoff", "supervise"]


@final
class Backoff:
    """Seconds to wait before the next try: none, then ``first``, doubling to ``most``.

    Up to a quarter is subtracted at random, so that clients which lost the same peer do not all come back at once.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._next = 0.0
        self.due = 0.0
        """When ``supervise`` tries again, or tried last, in seconds of trio's clock."""

    def reset(self) -> None:
        """Start again without a wait, because the last try worked."""
        self._next = 0.0

    def next(self) -> float:
        """Return how long to wait now."""
        delay, self._next = self._next, min(max(self._first, self._next * 2), self._most)
        return delay * random.uniform(0.75, 1.0)


async def supervise(
    run: Callable[[Backoff], Awaitable[None]],
    failures: tuple[type[Exception], ...],
    report: Callable[[str], None],
    backoff: Backoff,
) -> NoReturn:
    """Run ``run`` for ever; pass each of ``failures`` to ``report``, and pause after it.

    ``run`` gets the backoff, and resets it once it works. If it returns after that, it starts again at once.
    """
    while True:
        backoff.due = trio.current_time() + backoff.next()
        await trio.sleep_until(backoff.due)
        try:
            await run(backoff)
        except failures as exc:
            report(str(exc))
