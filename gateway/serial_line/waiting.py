"""The writers that wait for one line, in the order in which they are served.

PTZ goes before the other classes, at most four times in a row while one of those waits. Within a class it is first
come, first served. A client that writes again is last, so each has one message in a round. A chained CPU counts as one
client in each class, however many clients it has.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.port.rights import Right

if TYPE_CHECKING:
    from gateway.port.line import Claim

__all__ = ["Waiter", "Waiting"]

_IN_A_ROW: Final = 4
"""PTZ messages that may go one after the other while another class waits."""


@final
class Waiter:
    """A writer that waits for the turn, until it is granted or refused."""

    __slots__ = ("claim", "decided", "granted", "message", "since")

    def __init__(self, claim: Claim, message: bytes | memoryview, since: float) -> None:
        self.claim = claim
        self.message = message
        """Its bytes up to the end of the first portion; empty if it writes none."""
        self.since = since
        self.decided = trio.Event()
        self.granted = False


@final
class Waiting:
    """The writers that wait, in the order in which they are served."""

    def __init__(self) -> None:
        self._ptz: deque[Waiter] = deque()
        self._others: deque[Waiter] = deque()
        self._in_a_row = 0

    def __bool__(self) -> bool:
        return bool(self._ptz or self._others)

    def __len__(self) -> int:
        return len(self._ptz) + len(self._others)

    @property
    def first_command(self) -> Waiter | None:
        """The PTZ message that has waited longest; None where none waits."""
        return self._ptz[0] if self._ptz else None

    @property
    def next(self) -> Waiter:
        """The waiter that is served next."""
        return self._ptz[0] if self._ptz and (not self._others or self._in_a_row < _IN_A_ROW) else self._others[0]

    def add(self, waiter: Waiter) -> None:
        """Let it wait after those of its class."""
        self._of(waiter.claim).append(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter. Idempotent."""
        if waiter in self._of(waiter.claim):
            self._of(waiter.claim).remove(waiter)

    def take(self) -> Waiter:
        """Return the waiter that is served now, and forget it."""
        waiter = self.next
        self._of(waiter.claim).remove(waiter)
        self._in_a_row = self._in_a_row + 1 if waiter.claim.traffic is Right.PTZ else 0
        return waiter

    def before(self, claim: Claim) -> int:
        """Return how many bytes will certainly be written before a message of this claim that comes now."""
        return sum(len(waiter.message) for waiter in self._of(claim))

    def of(self, claim: Claim) -> Waiter | None:
        """Return the waiter of this claim; None without one."""
        return next((waiter for waiter in self._of(claim) if waiter.claim is claim), None)

    def _of(self, claim: Claim) -> deque[Waiter]:
        return self._ptz if claim.traffic is Right.PTZ else self._others
