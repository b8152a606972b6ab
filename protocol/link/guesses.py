"""How many guesses at the key a network may make: the limit that makes a weak key hold.

It must not know what is guessed, nor of connections; ``now`` is in seconds of any one clock.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, final

__all__ = ["GuessLimit", "network_of"]

_BURST: Final = 10.0
_FASTEST: Final = 1.0
_SLOWEST: Final = 60.0
"""Guesses at once, then one in so many seconds; the pause doubles with each, until all have been saved up again."""
_ADDRESSES: Final = 1024


@final
@dataclass(slots=True)
class _Account:
    left: float = _BURST
    pause: float = _FASTEST
    since: float = 0.0


def network_of(address: str) -> str:
    """Return who counts as one peer: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


@final
class GuessLimit:
    """Accounts of at most 1024 networks; the one that guessed longest ago is forgotten first."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def allows(self, network: str, now: float) -> bool:
        """Whether the network may make a guess now."""
        return self._account(network, now).left >= 1

    def charge(self, network: str, now: float) -> None:
        """It made one: the answer to its hello lets it test one key."""
        account = self._account(network, now)
        account.left -= 1
        if account.left < 1:
            account.pause = min(account.pause * 2, _SLOWEST)
        self._accounts.pop(network, None)
        self._accounts[network] = account
        if len(self._accounts) > _ADDRESSES:
            del self._accounts[next(iter(self._accounts))]

    def refund(self, network: str) -> None:
        """The last one was no guess: it has the key. Those of its neighbours behind the same address still count."""
        account = self._accounts.get(network)
        if account is not None:
            account.left = min(_BURST, account.left + 1)

    def _account(self, network: str, now: float) -> _Account:
        account = self._accounts.get(network) or _Account(since=now)
        account.left = min(_BURST, account.left + (now - account.since) / account.pause)
        account.since = now
        if account.left >= _BURST:
            account.pause = _FASTEST
        return account
