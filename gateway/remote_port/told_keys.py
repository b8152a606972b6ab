"""The keys that a remote port server tells its client on their way down a chain, and what the client answers.

One is taken at a time; of those that come meanwhile, the last. The connection ends by the new key, so the server may
tell it once more over the next one, and hears there what became of it.
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
"""Takes a key that the server told, and carries it further down: what became of it here, and at the CPUs below."""


@final
class ToldKeys:
    """What ``node`` is told: each key goes to ``take``, and ``say`` tells the server, if it can be told now."""

    def __init__(self, node: NodeKey, take: TakeKey, say: Callable[[Rekeyed], None], logger: PortLogger) -> None:
        self._node = node
        self._take = take
        self._say = say
        self._logger = logger
        self.taking: Rekey | None = None
        """The one that is being taken ..."""
        self._next: Rekey | None = None
        """... and the last that was told meanwhile."""
        self._answer: Rekeyed | None = None
        """What became of the last that was taken ..."""
        self._due = -math.inf
        """... and until when the server waits for it."""

    def heard(self, told: Rekey, tasks: trio.Nursery) -> None:
        """Take a key in ``tasks``, unless it is one that was answered, told once more over another connection."""
        if self._answer is not None and told.number == self._answer.number:
            self.answer()
        elif self.taking is None:
            self.taking = told
            tasks.start_soon(self._take_all)
        elif told.number != self.taking.number:
            self._next = told

    def answer(self) -> None:
        """Say what became of the last key, while the server waits for that."""
        if self._answer is not None and trio.current_time() < self._due:
            self._say(self._answer)

    async def _take_all(self) -> None:
        while (told := self.taking) is not None:
            self._due = trio.current_time() + told.patience / 1000
            try:
                outcome, below = await self._take(told)
            except Exception:  # whatever it is, the link goes on, and the server hears of it
                self._logger.exception("remote port: a bug: the key that the server told was not taken")
                outcome, below = Told.FAILED, ()
            own = ToldCpu(self._node.id, self._node.name, outcome)
            self._answer = Rekeyed(told.number, (own, *below)[:MAX_CPUS])
            self.answer()
            self.taking, self._next = self._next, None
