"""The number of guesses at the key that a network may make: the limit that makes a weak key hold.

``now`` is in seconds of any one clock.
"""

from __future__ import annotations

from typing import Final, final

from protocol.token_bucket import TokenBucket

__all__ = ["GuessLimit"]

_BURST: Final = 10.0
_FASTEST: Final = 1.0
_SLOWEST: Final = 60.0
"""Guesses at once, then one in so many seconds; the pause doubles with each, until all have been saved up again."""
_ADDRESSES: Final = 1024


@final
class GuessLimit:
    """Buckets of at most 1024 networks; the one that guessed longest ago is forgotten first."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def allows(self, network: str, now: float) -> bool:
        """Return whether the network may make a guess now."""
        return self._bucket(network, now).wait(now) <= 0

    def charge(self, network: str, now: float) -> None:
        """Count a guess: the answer to a hello lets the network test one key."""
        bucket = self._bucket(network, now)
        bucket.take(now)
        if bucket.tokens < 1:
            bucket.pause = min(bucket.pause * 2, _SLOWEST)
        self._buckets.pop(network, None)
        self._buckets[network] = bucket
        if len(self._buckets) > _ADDRESSES:
            del self._buckets[next(iter(self._buckets))]

    def refund(self, network: str) -> None:
        """Take the last guess back: it was the key. Those of neighbours behind the same address still count."""
        if (bucket := self._buckets.get(network)) is not None:
            bucket.put_back()

    def _bucket(self, network: str, now: float) -> TokenBucket:
        bucket = self._buckets.get(network) or TokenBucket(_BURST, _FASTEST, now)
        if bucket.is_full(now):
            bucket.pause = _FASTEST
        return bucket
