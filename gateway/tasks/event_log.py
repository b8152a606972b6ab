"""Limit the log lines for events that a peer can cause as often as it likes.

A peer must not fill the disk, nor push out of the log what operators need to see. Errors, and actions of operators, go
to the log directly, so this never limits them.
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
"""The first events of a kind are written whole; after them one line in this many seconds gives their number."""


@final
@dataclass(eq=False, repr=False, slots=True)
class _Kind:
    """The events of one kind since the last line with a number."""

    since: float
    level: int
    whole: int = 0
    hidden: int = 0


@final
class EventLog:
    """Writes the first ten events of a kind whole to ``logger``, then their number once a minute.

    After a minute without a hidden event of a kind, that kind starts again. ``kind`` is one of a few fixed names, under
    which the number is written: at the next event, or when the owner calls ``tell``, every few seconds (``run`` does
    that).
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
        """Write the numbers of kinds whose minute is over."""
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
        """Begin another minute of a kind, and write the number of events hidden in the last one."""
        if events.hidden:
            self._logger.log(events.level, "%s: %d more in %.0f s", kind, events.hidden, now - events.since)
        events.since, events.hidden = now, 0
