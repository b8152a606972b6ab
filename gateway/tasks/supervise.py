"""Run something again and again, waiting longer each time that it fails.

It knows nothing of ports or parameters: only of what the caller calls a failure. Everything else is a bug, and passes.
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
    """Seconds to wait before the next try: at once, then ``first``, doubling to ``most``, with a quarter of jitter."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._next = 0.0

    def reset(self) -> None:
        """It worked: begin anew."""
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
    """Run ``run`` for ever; each of ``failures`` is told to ``report``, and followed by a pause.

    ``run`` is given the backoff, to reset once it works. That it returns is no failure: it starts again at once where
    it worked.
    """
    while True:
        await trio.sleep(backoff.next())
        try:
            await run(backoff)
        except failures as exc:
            report(str(exc))
