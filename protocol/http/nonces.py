"""Remember the used counts of nonces: each count may be used once, late and out of order.

Memory is bounded twice. Of each nonce a window behind its newest count is remembered, as one integer of bits. Of all
nonces the newest are remembered; what was issued before the newest forgotten one is refused, because a nonce that was
forgotten must not come back to life with all its counts free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Ledger"]

_WINDOW = 128
"""How far behind the newest count a count may come. No client has so many requests under way on one nonce."""

_NONCES = 1024
"""Nonces that are remembered; only one that proved a password is entered."""


_WRONG = 8
"""Wrong proofs on a nonce after which it vouches for nobody."""


@final
@dataclass(eq=False, repr=False, slots=True)
class _Entry:
    """A nonce that proved a password at least once."""

    issued: int
    counts: _Counts
    name: str
    """The user whose password it proved; nobody's once too many wrong proofs came on it."""
    wrong: int = 0


@final
class Ledger:
    """The used counts of the newest nonces, and whose password each has proved."""

    def __init__(self) -> None:
        self._counts: dict[str, _Entry] = {}
        self._forgotten = -1

    def vouches(self, nonce: str, name: str) -> bool:
        """Return whether a nonce has proved the password of this name, and not been guessed on since."""
        entry = self._counts.get(nonce)
        return entry is not None and entry.name == name and entry.wrong < _WRONG

    def wrong(self, nonce: str) -> None:
        """Count a wrong proof on a nonce."""
        if nonce in self._counts:
            self._counts[nonce].wrong += 1

    def take(self, nonce: str, issued: int, count: int, name: str) -> bool:
        """Use up a count of a nonce that proved a name's password. Return False if it was, or may have been, used."""
        if issued <= self._forgotten:
            return False
        if nonce not in self._counts and len(self._counts) >= _NONCES:
            oldest = min(self._counts)  # a nonce begins with its time of issue, in digits of equal number
            self._forgotten = self._counts.pop(oldest).issued
        return self._counts.setdefault(nonce, _Entry(issued, _Counts(), name)).counts.take(count)


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
