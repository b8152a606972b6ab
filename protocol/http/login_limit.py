"""Limit the guessing of passwords without shutting out a user who knows his own.

A login is judged where its accounts have a token, and only a wrong one takes tokens. These are:

- one for each pair of network and name: it ends the guessing of one user's password;
- one for each network, larger: it ends the guessing of many users' passwords from one place. An IPv6 network (a /64)
  has two more around it, for the /56 and the /48 that one customer of a provider may have in whole;
- a small one for each pair that logged in within the last hour. It is used only where the others are empty, so a
  neighbour behind the same address (NAT, a proxy) who guesses other names cannot keep out a user who was here before.

A fresh address would still be a fresh burst. So there is one account for the guesses of the whole world, and while that
is empty, or the table of networks is full, a network that is not in it has a single guess. A single one, and not none:
nobody knows whether a first login is a guess before it is judged, and strangers must not keep out whoever knows his
password. So who has many networks has one guess for each, and the password has to stand that.

A client that holds a nonce which has proved its name does not come here at all (see ``protocol.http.nonces``). Memory
is bounded: of each kind the accounts used last are kept, and strangers cannot push out the small accounts, because only
a right password makes one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, final

from protocol.endpoint import wider_networks
from protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["LoginLimit"]

K = TypeVar("K", bound="Hashable")

_WIDER = {56: 2, 48: 4}
"""How many times as much as a network may the IPv6 networks around it, by the length of their prefix."""

_LONGEST_NAME = 64
"""Characters of a name that tell accounts apart: a stranger's names must not fill the memory."""


@final
@dataclass(eq=False, repr=False, slots=True)
class LoginLimit:
    """The accounts. ``burst`` wrong logins may come at once, then one in ``pause`` seconds. Times are in seconds."""

    burst: int = 10
    pause: float = 6.0
    network_burst: int = 30
    network_pause: float = 2.0
    world_burst: int = 60
    world_pause: float = 1.0
    crowd_pause: float = 60.0
    """While the world's account is empty, a network that guesses gains so slowly."""
    proven_burst: int = 3
    proven_pause: float = 20.0
    proven_seconds: float = 3600.0
    most: int = 1024
    """Accounts of each kind that are remembered."""
    _pairs: dict[tuple[str, str], TokenBucket] = field(default_factory=dict)
    _networks: dict[str, TokenBucket] = field(default_factory=dict)
    """Those of the IPv6 networks around them too."""
    _world: TokenBucket | None = None
    _proven: dict[tuple[str, str], tuple[float, TokenBucket]] = field(default_factory=dict)
    """With the time of the last login. All three are in the order of their last use."""

    def wait(self, network: str, name: str, now: float) -> float:
        """Return the seconds until a login of this name from this network is judged; 0 where it is judged at once."""
        pair = (network, name[:_LONGEST_NAME])
        common = self._common_wait(pair, now)
        proven = self._proven_account(pair, now)
        return common if proven is None else min(common, proven.wait(now))

    def wrong(self, network: str, name: str, now: float) -> None:
        """Charge a wrong login to the accounts that let it be judged."""
        pair = (network, name[:_LONGEST_NAME])
        proven = self._proven_account(pair, now)
        if proven is not None and self._common_wait(pair, now):
            proven.take(now)
            return
        crowded = self._is_crowded(now)
        self._account(self._pairs, pair, TokenBucket(self.burst, self.pause, now)).take(now)
        for around, times in _around(network).items():
            new = TokenBucket(self.network_burst * times, self.network_pause / times, now)
            if crowded and around == network:
                new.tokens = 1
            account = self._account(self._networks, around, new)
            account.take(now)
            if around == network:
                account.pause = self.crowd_pause if crowded else self.network_pause
        if self._world is None:
            self._world = TokenBucket(self.world_burst, self.world_pause, now)
        self._world.try_take(now)  # it runs into no debt, or strangers could make that as long as they like

    def right(self, network: str, name: str, now: float) -> None:
        """Remember that this name logged in from this network."""
        pair = (network, name[:_LONGEST_NAME])
        account = self._proven_account(pair, now) or TokenBucket(self.proven_burst, self.proven_pause, now)
        self._proven.pop(pair, None)
        self._proven[pair] = (now, account)
        if len(self._proven) > self.most:
            del self._proven[next(iter(self._proven))]

    def _common_wait(self, pair: tuple[str, str], now: float) -> float:
        buckets = (self._pairs.get(pair), *map(self._networks.get, _around(pair[0])))
        return max((bucket.wait(now) for bucket in buckets if bucket is not None), default=0.0)

    def _is_crowded(self, now: float) -> bool:
        """Return whether so many guess that a network which is not in the table has a single guess."""
        # What has been saved up again need not be remembered, or the table would be full for ever once it was.
        while self._networks and self._networks[oldest := next(iter(self._networks))].is_full(now):
            del self._networks[oldest]
        return (self._world is not None and self._world.wait(now) > 0) or len(self._networks) >= self.most

    def _proven_account(self, pair: tuple[str, str], now: float) -> TokenBucket | None:
        since, account = self._proven.get(pair, (-self.proven_seconds, None))
        return account if now - since <= self.proven_seconds else None

    def _account(self, accounts: dict[K, TokenBucket], key: K, new: TokenBucket) -> TokenBucket:
        """Return the account of ``key`` as the one used last; forget the one that was used longest ago."""
        account = accounts[key] = accounts.pop(key, new)
        if len(accounts) > self.most:
            del accounts[next(iter(accounts))]
        return account


def _around(network: str) -> dict[str, int]:
    """Return the networks that a guess is charged to, and how many times as much as a single one each may."""
    return {network: 1} | dict(zip(wider_networks(network, *_WIDER), _WIDER.values(), strict=False))
