"""The keys that a remote port client gets from its server, on their way down a chain, and the client's answers.

One key is taken at a time, then the last of those that came meanwhile. Taking a key ends the connection, so the server
may send the key again over the next one, and gets its answer there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias, final

import trio

from protocol.link.key_frames import Rekey, Rekeyed, Told, ToldCpu
from protocol.link.key_rules import MAX_CPUS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.port.log import PortLogger
    from protocol.link.identity import NodeKey

__all__ = ["TakeKey", "ToldKeys"]

TakeKey: TypeAlias = "Callable[[Rekey], Awaitable[tuple[Told, Sequence[ToldCpu]]]]"
"""Takes a key from the server, and carries it further down; returns the outcome here, and at the CPUs below."""


@final
class ToldKeys:
    """The keys for ``node``: each goes to ``take``, and ``say`` sends the answer if there is a connection."""

    def __init__(self, node: NodeKey, take: TakeKey, say: Callable[[Rekeyed], None], logger: PortLogger) -> None:
        self._node = node
        self._take = take
        self._say = say
        self._logger = logger
        self.taking: Rekey | None = None
        """The key that is being taken ..."""
        self._next: Rekey | None = None
        """... and the last one that came meanwhile."""
        self._answer: Rekeyed | None = None
        """The answer to the last key that was taken ..."""
        self._due = -math.inf
        """... and until when the server waits for it, in seconds of trio's clock."""

    def heard(self, told: Rekey, tasks: trio.Nursery) -> None:
        """Take a key in ``tasks``; if it was answered already and comes again, only answer it again."""
        if self._answer is not None and told.number == self._answer.number:
            self.answer()
        elif self.taking is None:
            self.taking = told
            tasks.start_soon(self._take_all)
        elif told.number != self.taking.number:
            self._next = told

    def answer(self) -> None:
        """Send the answer to the last key, while the server waits for it."""
        if self._answer is not None and trio.current_time() < self._due:
            self._say(self._answer)

    async def _take_all(self) -> None:
        while (told := self.taking) is not None:
            self._due = trio.current_time() + told.patience / 1000
            try:
                outcome, below = await self._take(told)
            except Exception:  # a bug here must not end the link, and the server gets an answer
                self._logger.exception("remote port: a bug: the key that the server told was not taken")
                outcome, below = Told.FAILED, ()
            own = ToldCpu(self._node.id, self._node.name, outcome)
            self._answer = Rekeyed(told.number, (own, *below)[:MAX_CPUS])
            self.answer()
            self.taking, self._next = self._next, None
