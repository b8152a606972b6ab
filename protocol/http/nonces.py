"""Remember the used counts of nonces: each count may be used once, late and out of order.

Memory is bounded twice. Of each nonce a window behind its newest count is remembered, as one integer of bits. Of all
nonces the newest are remembered; what was issued before the newest forgotten one is refused, because a nonce that was
forgotten must not come back to life with all its counts free.
"""

from __future__ import annotations

from typing import final

__all__ = ["Ledger"]

_WINDOW = 128
"""How far behind the newest count a count may come. No client has so many requests under way on one nonce."""

_NONCES = 1024
"""Nonces that are remembered; only one that proved a password is entered."""


@final
class Ledger:
    """The used counts of the newest nonces."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, _Counts]] = {}
        self._forgotten = -1

    def take(self, nonce: str, issued: int, count: int) -> bool:
        """Use up a count of a nonce. Return False if it was used before, or may have been."""
        if issued <= self._forgotten:
            return False
        if nonce not in self._counts and len(self._counts) >= _NONCES:
            oldest = min(self._counts)  # a nonce begins with its time of issue, in digits of equal number
            self._forgotten, _ = self._counts.pop(oldest)
        return self._counts.setdefault(nonce, (issued, _Counts()))[1].take(count)


@final
class _Counts:
    """The newest count of a nonce and, as bits, which of the window behind it were used."""

    def __init__(self) -> None:
        self._newest = -1
        self._used = 0

    def take(self, count: int) -> bool:
        # Bit n says that the count n behind the newest was used; a newer count shifts all others up.
        behind = self._newest - count
        if behind < 0:
            self._used = (self._used << min(-behind, _WINDOW) | 1) % (1 << _WINDOW)
            self._newest = count
            return True
        free = behind < _WINDOW and not self._used >> behind & 1
        self._used |= free << behind
        return free
