"""Measure how fast bytes really go, because ptys and USB adapters ignore the rate that was set."""

from __future__ import annotations

from typing import Final, final

from gateway.tasks.ready import run_clock

__all__ = ["Throughput"]

_SPAN: Final = 0.25
"""Seconds of one measurement."""


@final
class Throughput:
    """The measured bytes a second, at least ``floor`` (the line's rate)."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._measured = 0.0
        self._spans = (0.0, 0.0)
        self._count = 0
        self._now = run_clock()
        self._since = self._now()
        self.bytes_per_second = floor
        """The last measured throughput, or the floor if that is more."""
        self.steady = floor
        """The lower throughput of the last two whole spans, or the floor if that is more.

        A burst into an empty buffer fills one span and not the next, so it does not pass for the line's throughput.
        """

    @property
    def floor(self) -> float:
        """The throughput that is there in any case."""
        return self._floor

    @floor.setter
    def floor(self, value: float) -> None:
        self._floor = value
        self._have(self._measured)

    def add(self, count: int) -> bool:
        """Note that ``count`` bytes went now; return whether the throughput is another one by that."""
        now = self._now()
        self._count += count
        span = now - self._since
        if span >= _SPAN:
            self._have(self._count / span, whole=True)
            self._count, self._since = 0, now
            return True
        # A throughput that is still rising need not wait for the end of its span.
        if self._count <= self._measured * _SPAN:
            return False
        self._have(self._count / _SPAN)
        return True

    def _have(self, measured: float, *, whole: bool = False) -> None:
        self._measured = measured
        if whole:
            self._spans = self._spans[1], measured
        self.bytes_per_second = max(measured, self._floor)
        self.steady = max(min(self._spans), self._floor)
