"""Limit strangers' guesses at the key, so that even a weak key holds.

Each guess is charged to several accounts, and allowed while each of them has something left: that of its network (an
IPv4 address, or an IPv6 /64), for IPv6 also those of the /56 and the /48 around it, which one customer of a provider
may have, and one account for the whole world, so that a new address brings no new burst. A network that has proved the
key is not charged to the world's account, so that strangers cannot shut out the holders of the key.
"""

from __future__ import annotations

from typing import Final, final

from protocol.endpoint import wider_networks
from protocol.token_bucket import TokenBucket

__all__ = ["GuessLimit"]

_BURST: Final = 10.0
_FASTEST: Final = 1.0
_SLOWEST: Final = 60.0
"""A burst of guesses, then one after each pause in seconds, which doubles each time until all are saved up again."""
_WIDER: Final = {56: 20.0, 48: 40.0}
"""The bursts of the IPv6 networks around a /64, by the length of their prefix."""
_WORLD_BURST: Final = 60.0
_WORLD_PAUSE: Final = 1.0
"""The same for all networks together. This pause does not grow, or strangers could keep everybody waiting."""
_ADDRESSES: Final = 1024


@final
class GuessLimit:
    """Accounts of at most 1024 networks; the one that guessed longest ago is forgotten first.

    ``network`` is Endpoint.network, ``now`` in seconds of any one clock. While the table is full, a network that is not
    in it begins with a single guess: whoever can fill the table could otherwise have a burst for each address.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self._proved: dict[str, None] = {}
        self._world: TokenBucket | None = None

    def allows(self, network: str, now: float) -> bool:
        """Return whether the network may guess now."""
        return all(bucket.wait(now) <= 0 for _, bucket in self._accounts(network, now))

    def charge(self, network: str, now: float) -> None:
        """Count a guess: the answer to a hello lets the network test one key."""
        for name, bucket in self._accounts(network, now):
            if bucket is self._world:
                if (
                    bucket.wait(now) <= 0
                ):  # the world runs into no debt, or strangers could make that as long as they like
                    bucket.take(now)
                continue
            bucket.take(now)
            if bucket.tokens < 1:
                bucket.pause = min(bucket.pause * 2, _SLOWEST)
            self._buckets.pop(name, None)
            self._buckets[name] = bucket
            if len(self._buckets) > _ADDRESSES:
                del self._buckets[next(iter(self._buckets))]

    def refund(self, network: str) -> None:
        """Take the last guess back: it was the key. Guesses of neighbours at the same address still count."""
        for name in _around(network):
            if (bucket := self._buckets.get(name)) is not None:
                bucket.put_back()
        if network not in self._proved and self._world is not None:
            self._world.put_back()
        self._proved.pop(network, None)
        self._proved[network] = None
        if len(self._proved) > _ADDRESSES:
            del self._proved[next(iter(self._proved))]

    def _accounts(self, network: str, now: float) -> list[tuple[str, TokenBucket]]:
        accounts = [(name, self._bucket(name, burst, now)) for name, burst in _around(network).items()]
        if network not in self._proved:
            if self._world is None:
                self._world = TokenBucket(_WORLD_BURST, _WORLD_PAUSE, now)
            accounts.append(("", self._world))
        return accounts

    def _bucket(self, name: str, burst: float, now: float) -> TokenBucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = TokenBucket(burst, _FASTEST, now)
            if len(self._buckets) >= _ADDRESSES:
                bucket.tokens = 1.0
        if bucket.is_full(now):
            bucket.pause = _FASTEST
        return bucket


def _around(network: str) -> dict[str, float]:
    """Return the networks that a guess is charged to, with their bursts."""
    return {network: _BURST} | dict(zip(wider_networks(network, *_WIDER), _WIDER.values(), strict=False))
