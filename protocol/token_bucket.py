"""A token bucket: so many events at once, then one in so many seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["TokenBucket"]


@final
@dataclass(slots=True)
class TokenBucket:
    """Holds at most ``burst`` tokens and gains one each ``pause`` seconds; ``since`` is when it was full.

    ``now`` is in seconds of any one clock. Whoever looks before taking may still find a token gone: several that
    looked at once leave a debt, which is paid off before the next token.
    """

    burst: float
    pause: float
    since: float
    tokens: float = -1.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def wait(self, now: float) -> float:
        """Return how many seconds from now a token will be there; 0 where one is."""
        self._refill(now)
        return max(0.0, (1 - self.tokens) * self.pause)

    def take(self, now: float) -> None:
        """Take a token, whether or not one is there."""
        self._refill(now)
        self.tokens -= 1

    def try_take(self, now: float) -> bool:
        """Take a token if one is there, and return whether one was: this runs into no debt."""
        if self.wait(now):
            return False
        self.take(now)
        return True

    def put_back(self) -> None:
        """Undo one ``take``."""
        self.tokens = min(self.burst, self.tokens + 1)

    def is_full(self, now: float) -> bool:
        """Return whether no token is missing, so that the bucket need not be remembered."""
        self._refill(now)
        return self.tokens >= self.burst

    def _refill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.since) / self.pause)
        self.since = now
