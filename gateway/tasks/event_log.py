"""Write to the log what a peer can bring about as often as it likes, and not as often as it likes.

A peer must neither fill the disk nor push out of the log what others need to see. Errors, and what an operator did, go
to the log itself, so they never compete with this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    import logging

__all__ = ["EventLog"]

_WHOLE: Final = 10
_LOOK: Final = 15.0
_SPAN: Final = 60.0
"""So many events of a kind are written whole; of those that follow, one line each so many seconds tells the number."""


@final
@dataclass(slots=True)
class _Kind:
    """The events of one kind, since the last line that counted some."""

    since: float
    level: int
    whole: int = 0
    hidden: int = 0


@final
class EventLog:
    """Writes the first ten events of a kind whole to ``logger``, then their number once a minute.

    A minute in which no event of a kind was hidden begins anew. ``kind`` is one of a few fixed names, under which the
    number is told: with the next event, or when its owner calls ``tell``, which it does every few seconds, or has
    ``run`` do.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self._logger = logger
        self._kinds: dict[str, _Kind] = {}

    def log(self, level: int, kind: str, message: str, *args: object) -> None:
        """Write an event, or count it."""
        now = trio.current_time()
        events = self._kinds.setdefault(kind, _Kind(now, level))
        events.level = level
        if now - events.since >= _SPAN:
            if not events.hidden:
                events.whole = 0
            self._begin(kind, events, now)
        if events.whole < _WHOLE:
            events.whole += 1
            self._logger.log(level, message, *args)
        else:
            events.hidden += 1

    def tell(self) -> None:
        """Write the numbers whose minute is over."""
        now = trio.current_time()
        for kind, events in self._kinds.items():
            if events.hidden and now - events.since >= _SPAN:
                self._begin(kind, events, now)

    async def run(self) -> None:
        """Call ``tell`` every few seconds, until cancelled."""
        while True:
            await trio.sleep(_LOOK)
            self.tell()

    def _begin(self, kind: str, events: _Kind, now: float) -> None:
        """Begin another minute of a kind, with the number of what was hidden in the last."""
        if events.hidden:
            self._logger.log(events.level, "%s: %d more in %.0f s", kind, events.hidden, now - events.since)
        events.since, events.hidden = now, 0
