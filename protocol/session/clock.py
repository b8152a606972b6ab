"""The estimate that one side of a link has of the other's clock, for translating acceptance times.

Clocks are milliseconds of any origin; on the wire they are cut to 32 bits, so that they wrap after 49 days, which
no message lives.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, final

__all__ = ["PeerClock", "age", "to_wire"]

_MASK: Final = 2**32 - 1
_HALF: Final = 2**31
_SAMPLES: Final = 8
"""Answers that count: a quartz drifts by seconds a day, so an old best round trip must not stand for ever."""


def to_wire(now: int) -> int:
    """Cut a clock to what the wire carries."""
    return now & _MASK


def age(moment: int, now: int) -> int:
    """Return how long ago a moment of the wire was, by the same clock; 0 for one that is yet to come."""
    passed = now - moment & _MASK
    return 0 if passed >= _HALF else passed


class _Sample(NamedTuple):
    round_trip: int
    shift: int  # what to add to the peer's clock to have ours, as it was when we asked


@final
class PeerClock:
    """The peer's clock, from its answers to ours: of the last eight, the one with the best round trip."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._best = _Sample(0, 0)

    def answered(self, echo: int, clock: int, now: int) -> None:
        """Take an answer: ``echo`` is our own clock as we sent it, ``clock`` the peer's, ``now`` ours."""
        self._samples.append(_Sample(now - echo & _MASK, echo - clock & _MASK))
        self._best = min(self._samples)

    @property
    def round_trip(self) -> int | None:
        """The best round trip in milliseconds; None before the first answer."""
        return self._best.round_trip if self._samples else None

    def local(self, clock: int, now: int) -> int:
        """Translate a moment of the past from the peer's clock to ours.

        Never later than it was, and at most the best round trip earlier: the peer is taken to have read its
        clock when we asked. So nothing ever passes for younger than it is.
        """
        return now - age(clock + self._best.shift, now)
