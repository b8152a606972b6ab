"""Asks where each service is that was heard of, and keeps the candidates that come of the answers.

An answer may be older than the newest news of its service, for asking takes up to three seconds on a thread. So each
piece of news has a number, and an answer counts only while no newer news of that service came.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.discovery.mdns import Responder, ServiceRecord
    from gateway.tasks.watch import Cell
    from protocol.link.advert import Candidate

__all__ = ["Resolver"]

_MOST: Final = 256
"""Services remembered, and questions under way: a network full of forged ones must not fill the memory."""
_AT_ONCE: Final = 8
"""Threads that ask where a service is; one that does not answer holds its thread for seconds."""


@final
class Resolver:
    """Keeps in ``seen`` the candidates that ``judged`` makes of the services, while ``run()`` runs."""

    def __init__(
        self,
        responder: Responder,
        judged: Callable[[ServiceRecord], Candidate | None],
        seen: Cell[tuple[Candidate, ...]],
    ) -> None:
        self._responder = responder
        self._judged = judged
        self._seen = seen
        self._news: dict[str, int] = {}  # for each service that is there, how many news came before its newest
        self._candidates: dict[str, Candidate] = {}
        self._count = 0
        self._arrived, self._arrivals = trio.open_memory_channel[tuple[str, int]](_MOST)

    def told(self, name: str, there: bool) -> None:
        """Take a piece of news, on trio's thread."""
        self._count += 1
        if not there:
            self._news.pop(name, None)
            self._candidates.pop(name, None)
            self._publish()
        elif name in self._news or len(self._news) < _MOST:
            self._news[name] = self._count
            with contextlib.suppress(trio.WouldBlock):
                self._arrived.send_nowait((name, self._count))

    async def run(self) -> None:
        """Ask, until cancelled. Raises MdnsError."""
        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        async for name, news in self._arrivals:
            if self._news.get(name) == news:
                service = await trio.to_thread.run_sync(self._responder.resolve, name, abandon_on_cancel=True)
                self._take(name, news, service and self._judged(service))

    def _take(self, name: str, news: int, candidate: Candidate | None) -> None:
        if self._news.get(name) != news:  # it changed or went while we asked
            return
        if candidate is None:
            self._candidates.pop(name, None)
        else:
            self._candidates[name] = candidate
        self._publish()

    def _publish(self) -> None:
        self._seen.set(tuple(self._candidates.values()))
