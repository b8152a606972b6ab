"""Which counts of which nonces were used: each may be used once, late and out of order.

It must not know what a nonce proves, nor when one is too old.
"""

from __future__ import annotations

from typing import final

__all__ = ["Ledger"]

_WINDOW = 128
"""How far behind the newest count one may come: more requests than that are never under way on one nonce."""

_NONCES = 1024
"""How many nonces that proved a password are remembered."""


@final
class Ledger:
    """The used counts of each nonce; a nonce that had to be forgotten is refused, with all that were issued before."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, _Counts]] = {}
        self._forgotten = -1

    def take(self, nonce: str, issued: int, count: int) -> bool:
        """Use up a count of a nonce; False if it was used before or cannot be told."""
        if issued <= self._forgotten:
            return False
        if nonce not in self._counts and len(self._counts) >= _NONCES:
            self._forget_the_oldest()
        return self._counts.setdefault(nonce, (issued, _Counts()))[1].take(count)

    def _forget_the_oldest(self) -> None:
        oldest = min(self._counts)  # a nonce begins with its time of issue, in digits of equal number
        self._forgotten, _ = self._counts.pop(oldest)


@final
class _Counts:
    """The newest count of a nonce and, as bits, which of the window behind it were used."""

    def __init__(self) -> None:
        self._newest = -1
        self._used = 0

    def take(self, count: int) -> bool:
        behind = self._newest - count
        if behind < 0:
            self._used = (self._used << min(-behind, _WINDOW) | 1) % (1 << _WINDOW)
            self._newest = count
            return True
        free = behind < _WINDOW and not self._used >> behind & 1
        self._used |= free << behind
        return free
