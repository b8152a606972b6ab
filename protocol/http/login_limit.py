"""Limit the guessing of passwords without shutting out a user who knows his own.

A login is judged where one of its accounts has a token, and only a wrong one takes tokens. There are three accounts:

- one for each pair of network and name: it ends the guessing of one user's password;
- one for each network, larger: it ends the guessing of many users' passwords from one place;
- a small one for each pair that logged in within the last hour. It is used only where the other two are empty, so a
  neighbour behind the same address (NAT, a proxy) who guesses other names cannot keep out a user who was here before.

A client that holds a nonce which has proved its name does not come here at all (see ``protocol.http.nonces``). Memory
is bounded: of each kind the accounts used last are kept, and strangers cannot push out the small accounts, because only
a right password makes one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, final

from protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["LoginLimit"]

K = TypeVar("K", bound="Hashable")

_LONGEST_NAME = 64
"""Characters of a name that tell accounts apart: a stranger's names must not fill the memory."""


@final
@dataclass(slots=True)
class LoginLimit:
    """The accounts. ``burst`` wrong logins may come at once, then one in ``pause`` seconds. Times are in seconds."""

    burst: int = 10
    pause: float = 6.0
    network_burst: int = 30
    network_pause: float = 2.0
    proven_burst: int = 3
    proven_pause: float = 20.0
    proven_seconds: float = 3600.0
    most: int = 1024
    """Accounts of each kind that are remembered."""
    _pairs: dict[tuple[str, str], TokenBucket] = field(default_factory=dict)
    _networks: dict[str, TokenBucket] = field(default_factory=dict)
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
        self._account(self._pairs, pair, TokenBucket(self.burst, self.pause, now)).take(now)
        self._account(self._networks, network, TokenBucket(self.network_burst, self.network_pause, now)).take(now)

    def right(self, network: str, name: str, now: float) -> None:
        """Remember that this name logged in from this network."""
        pair = (network, name[:_LONGEST_NAME])
        account = self._proven_account(pair, now) or TokenBucket(self.proven_burst, self.proven_pause, now)
        self._proven.pop(pair, None)
        self._proven[pair] = (now, account)
        if len(self._proven) > self.most:
            del self._proven[next(iter(self._proven))]

    def _common_wait(self, pair: tuple[str, str], now: float) -> float:
        buckets = (self._pairs.get(pair), self._networks.get(pair[0]))
        return max((bucket.wait(now) for bucket in buckets if bucket is not None), default=0.0)

    def _proven_account(self, pair: tuple[str, str], now: float) -> TokenBucket | None:
        since, account = self._proven.get(pair, (-self.proven_seconds, None))
        return account if now - since <= self.proven_seconds else None

    def _account(self, accounts: dict[K, TokenBucket], key: K, new: TokenBucket) -> TokenBucket:
        """Return the account of ``key`` as the one used last; forget the one that was used longest ago."""
        account = accounts[key] = accounts.pop(key, new)
        if len(accounts) > self.most:
            del accounts[next(iter(accounts))]
        return account
