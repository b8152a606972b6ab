"""Ask where each announced service is, and keep the candidates that the answers give.

An answer may be older than the newest news of its service, because asking takes up to three seconds on a thread. So
each piece of news has a number, and an answer counts only if no newer news of its service has come.

Anybody can announce services that do not exist. So the first question is short, which is enough for a real service,
whose answer comes with the news. Silent ones are asked once more by other tasks, so that they delay no real one. And
only a limited number of one address is kept, so that a crowd of forged ones leaves room for others.

What an earlier look found is kept, and forgotten only if this look has not heard of it within some seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.discovery.mdns import Responder, ServiceRecord
    from protocol.link.advert import Candidate

__all__ = ["Resolver"]

_MOST: Final = 256
"""The most services to remember: a network full of forged ones must not fill the memory."""
_OF_ADDRESS: Final = 32
"""The most of them from one address."""
_SHORT: Final = 0.3
_LONG: Final = 3.0
"""Seconds for a service to say where it is, when it is asked first and again."""
_AT_ONCE: Final = 4
"""Threads that ask for the first time, and the same number that ask again."""
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
        """The number of the newest news of each service that is there."""
        self._count = 0
        self._ended = False
        self._new: dict[str, None] = {}
        self._silent: dict[str, None] = {}
        """The services still to be asked for, and those that did not answer, in order."""
        self._more = trio.lowlevel.ParkingLot()

    def told(self, name: str, there: bool) -> None:
        """Take a piece of news, on trio's thread."""
        if self._ended:
            return
        self._count += 1
        if not there:
            self._forget(name)
            self._put(name, None)
        elif name in self._news or len(self._news) < _MOST:
            self._news[name] = self._count
            self._silent.pop(name, None)
            self._new[name] = None
            self._more.unpark_all()

    def end(self) -> None:
        """Ignore further news: late results of this look must not spoil those of the next."""
        self._ended = True

    async def run(self) -> None:
        """Ask, until cancelled. Raises MdnsError."""
        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(self._ask, self._new, _SHORT)
                nursery.start_soon(self._ask, self._silent, _LONG)
            await trio.sleep(_CONFIRM)
            for name in self._found.keys() - self._news.keys():
                self._put(name, None)

    async def _ask(self, names: dict[str, None], seconds: float) -> None:
        while True:
            while not names:
                await self._more.park()
            name = next(iter(names))
            del names[name]
            news = self._news[name]
            service = await trio.to_thread.run_sync(self._responder.resolve, name, seconds, abandon_on_cancel=True)
            if self._news.get(name) != news:
                continue  # it changed or went while we asked
            if service is None and seconds < _LONG:
                self._silent[name] = None
                self._more.unpark_all()
            else:
                self._put(name, service and self._judged(service))

    def _forget(self, name: str) -> None:
        for names in (self._news, self._new, self._silent):
            names.pop(name, None)

    def _put(self, name: str, candidate: Candidate | None) -> None:
        if candidate is None:
            self._found.pop(name, None)
        elif name in self._found or self._has_room(candidate):
            self._found[name] = candidate
        else:
            self._forget(name)
            return
        self._changed()

    def _has_room(self, candidate: Candidate) -> bool:
        address = candidate.addresses[0]
        return sum(other.addresses[0] == address for other in self._found.values()) < _OF_ADDRESS
