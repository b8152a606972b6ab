"""Contain the bugs of one part of the process: start it again, and never let them end the rest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

import trio

from gateway.tasks.supervise import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["contain"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""The most seconds before a restart. A part that has run for this time has recovered."""


async def contain(name: str, run: Callable[[], Awaitable[None]]) -> NoReturn:
    """Run ``run`` for ever: log each exception as a bug of ``name``, and restart it after a growing pause."""
    backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        await trio.sleep(backoff.next())
        started = trio.current_time()
        try:
            await run()
        except Exception:  # any exception is a bug, which must not end the other parts
            logger.exception("%s: a bug ended it; it is started again", name)
        if trio.current_time() - started >= _LONGEST_PAUSE:
            backoff.reset()
