"""Watch the port managers: restart one that no longer answers, and report to the service manager how they all are.

The event loop may run although a port does nothing any more, so a watchdog that only the loop feeds proves little. Each
manager counts its heartbeats (``Manager.beats``) where it follows the settings. A held turn, a drain and a slow driver
happen in other tasks and are no failure. Every wait of the manager itself takes less than 5 s.

Time is counted in looks, not in seconds of a clock: after a process was stopped for a while, or a machine slept, every
heartbeat is old, and no manager is at fault.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.host.sdnotify import Notifier
    from gateway.manager import Manager
    from protocol.parameters.settings import Settings

__all__ = ["Health"]

logger = logging.getLogger(__name__)

_LOOK: Final = 1.0
"""Seconds between two looks; a manager's heartbeats are as far apart."""
_HANGING: Final = 6
"""Looks in a row without a heartbeat after which a manager is restarted: the last beat was more than 5 s ago."""
_LOST: Final = 11
"""Looks without a heartbeat after which a restart did not help either."""


@final
class Health:
    """How the port ``managers`` are, as the looks of ``keep_watch`` found them."""

    def __init__(self, managers: Sequence[Manager]) -> None:
        self._managers = managers
        self._missed = [0] * len(managers)
        """The looks in a row that found no heartbeat, for each manager."""

    def answers(self, index: int) -> bool:
        """Return whether a manager answers: the last look that found a heartbeat is not long ago."""
        return self._missed[index] < _HANGING

    @property
    def any_answers(self) -> bool:
        """Return whether a manager answers, or there is none that could."""
        return not self._missed or min(self._missed) < _HANGING

    def word(self, settings: Settings, index: int | None = None) -> str:
        """Describe the gateway in one word, or one port of it.

        The gateway is ``ok``, ``degraded`` while an enabled port is down, or ``down`` while no manager answers. A port
        is ``ok``, ``disabled`` or ``down``.
        """
        if index is not None:
            manager = self._managers[index]
            if not settings.port_managers[index].port_enabled:
                return "disabled"
            return "ok" if manager.bus.state.value.word != "down" and self.answers(index) else "down"
        if not self.any_answers:
            return "down"
        return "degraded" if any(self.word(settings, n) == "down" for n in range(len(self._managers))) else "ok"

    async def keep_watch(self, notifier: Notifier, words: Callable[[], str], stop: trio.Event) -> None:
        """Look at the managers each second until cancelled; ``words`` is the state of the gateway in one line.

        The watchdog is fed while at least one manager answers and no restart has failed: a manager that ignores its
        cancellation can only be ended with the process. From ``stop`` on no manager is restarted.
        """
        beats = [manager.beats for manager in self._managers]
        missed = self._missed
        said = ""
        fed = float("-inf")
        while True:
            for index, manager in enumerate(self._managers):
                # Any change is a sign of life: all that counts is a beat since the last look.
                missed[index] = 0 if manager.beats != beats[index] else missed[index] + 1
                beats[index] = manager.beats
                # ``==``, so once for each silence: a second cancellation of the same tree would do nothing more.
                if missed[index] == _HANGING and not stop.is_set():
                    manager.restart("it did not answer for 5 s")
                elif missed[index] == _LOST and not stop.is_set():
                    logger.critical(
                        "port manager %s cannot be ended; the watchdog is not fed any more", manager.bus.name
                    )
            # A port that hangs is restarted alone; a restart of the process would take down the other ports too. So the
            # watchdog is starved only when all ports hang, or one does not even end.
            alive = stop.is_set() or (self.any_answers and max(missed, default=0) < _LOST)
            now = trio.current_time()
            # Half of the watchdog's time, as systemd advises, less one look, because the next look would be too late.
            if alive and notifier.watchdog_seconds is not None and now - fed >= notifier.watchdog_seconds / 2 - _LOOK:
                notifier.watchdog()
                fed = now
            if not stop.is_set() and (text := words()) != said:
                notifier.status(text)
                said = text
            await trio.sleep(_LOOK)
