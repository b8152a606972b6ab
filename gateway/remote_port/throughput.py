"""Measure how fast bytes really go, because ptys and USB adapters ignore the rate that was set."""

from __future__ import annotations

from typing import Final, final

import trio

__all__ = ["Throughput"]

_SPAN: Final = 0.25
"""Seconds of one measurement."""


@final
class Throughput:
    """The measured bytes a second, at least ``floor`` (the line's rate)."""

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self._measured = 0.0
        self._spans = (0.0, 0.0)
        self._count = 0
        self._since = trio.current_time()

    @property
    def bytes_per_second(self) -> float:
        """Return the last measured throughput, or the floor if that is more."""
        return max(self._measured, self.floor)

    @property
    def steady(self) -> float:
        """Return the lower throughput of the last two whole spans, or the floor if that is more.

        A burst into an empty buffer fills one span and not the next, so it does not pass for the line's throughput.
        """
        return max(min(self._spans), self.floor)

    def add(self, count: int) -> None:
        """Note that ``count`` bytes went now."""
        now = trio.current_time()
        self._count += count
        span = now - self._since
        if span >= _SPAN:
            self._measured = self._count / span
            self._spans = self._spans[1], self._measured
            self._count, self._since = 0, now
        else:
            # A throughput that is still rising need not wait for the end of its span.
            self._measured = max(self._measured, self._count / _SPAN)
