"""Asks where each service is that was heard of, and keeps the candidates that come of the answers.

An answer may be older than the newest news of its service, for asking takes up to three seconds on a thread. So each
piece of news has a number, and an answer counts only while no newer news of that service came.

What an earlier look found is kept: it is only forgotten where this look has not heard of it within some seconds.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.discovery.mdns import Responder, ServiceRecord
    from protocol.link.advert import Candidate

__all__ = ["Resolver"]

_MOST: Final = 256
"""Services remembered, and questions under way: a network full of forged ones must not fill the memory."""
_AT_ONCE: Final = 8
"""Threads that ask where a service is; one that does not answer holds its thread for seconds."""
_CONFIRM: Final = 5.0
"""Seconds for which a service that an earlier look found is kept until this one hears of it."""


@final
class Resolver:
    """Keeps in ``found``, by name, the candidates that ``judged`` makes of the services, while ``run()`` runs.

    ``changed`` is called after each change of ``found``.
    """

    def __init__(
        self,
        responder: Responder,
        judged: Callable[[ServiceRecord], Candidate | None],
        found: dict[str, Candidate],
        changed: Callable[[], None],
    ) -> None:
        self._responder = responder
        self._judged = judged
        self._found = found
        self._changed = changed
        self._news: dict[str, int] = {}
        """For each service that is there the number of its newest news."""
        self._count = 0
        self._ended = False
        self._arrived, self._arrivals = trio.open_memory_channel[tuple[str, int]](_MOST)

    def told(self, name: str, there: bool) -> None:
        """Take a piece of news, on trio's thread."""
        if self._ended:
            return
        self._count += 1
        if not there:
            self._news.pop(name, None)
            self._put(name, None)
        elif name in self._news or len(self._news) < _MOST:
            self._news[name] = self._count
            with contextlib.suppress(trio.WouldBlock):
                self._arrived.send_nowait((name, self._count))

    def end(self) -> None:
        """Take no more news: what still comes of this look must not spoil what the next one finds."""
        self._ended = True

    async def run(self) -> None:
        """Ask, until cancelled. Raises MdnsError."""
        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(self._ask)
            await trio.sleep(_CONFIRM)
            for name in self._found.keys() - self._news.keys():
                self._put(name, None)

    async def _ask(self) -> None:
        async for name, news in self._arrivals:
            if self._news.get(name) != news:
                continue
            service = await trio.to_thread.run_sync(self._responder.resolve, name, abandon_on_cancel=True)
            candidate = service and self._judged(service)
            if self._news.get(name) == news:  # it did not change or go while we asked
                self._put(name, candidate)

    def _put(self, name: str, candidate: Candidate | None) -> None:
        if candidate is None:
            self._found.pop(name, None)
        else:
            self._found[name] = candidate
        self._changed()
