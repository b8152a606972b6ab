"""Commit an update of the parameters, let the ports settle, and put back what they could not do.

So a script may connect as soon as it has its ``OK``, and what a driver or the host refuses is an error line of the
answer. The answer is final within two seconds: what is not in force by then is put back.

Updates are committed one after the other, and settle side by side: one that waits for a slow line holds up no other.
So a parameter may be set again before it is known whether its last value holds. Two rules keep the answers true:

1. An update puts back only what still has the value that it gave.
2. It puts back the value that last proved to hold (``_stood``), which need not be the one that it found.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, final

import trio

from protocol.errors import ParameterError
from protocol.parameters.catalogue import Update
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.manager import Manager
    from gateway.state.store import Store
    from protocol.parameters.catalogue import Catalogue, Ports

__all__ = ["Changes"]

logger = logging.getLogger(__name__)

_SETTLE = 2.0
"""Seconds within which an answer is final."""
_LOGGED = 16
"""The most refused parameters of one request that the log names: a request may hold a thousand."""


@final
class Changes:
    """Carries out the updates."""

    def __init__(self, catalogue: Catalogue, store: Store, managers: Sequence[Manager]) -> None:
        self._catalogue = catalogue
        self._store = store
        self._managers = managers
        self._one_at_a_time = trio.Lock()
        self._stood: dict[str, str] = {}
        """For each parameter that was set, the last value that proved to hold."""

    async def update(self, assignments: Sequence[tuple[str, str]], role: Role, ports: Ports = None) -> Update:
        """Set parameters as ``role``, bound to ``ports``; see Catalogue.updated.

        Raises StoreError where the disk does not take them.

        A value that a parameter has already is tried once more where it is not in force, and refused if that fails
        again.
        """
        # A caller that goes away must not leave behind what a port refused. The shield is bounded by what is in it: a
        # commit, which runs in a thread and cannot be interrupted anyway, and the settling, which has its deadline.
        with trio.CancelScope(shield=True):
            async with self._one_at_a_time:
                before = self._store.published.value.settings
                update = await self._store.update(assignments, role, ports)
                version = self._store.published.value.version
                for name in update.changed:
                    self._stood.setdefault(name, self._catalogue.text(before, name))
            _log_refused(update.refused)
            deadline = trio.current_time() + _SETTLE
            told = {*update.changed, *(error.name for error in update.refused)}
            same = {name.removeprefix("root."): text for name, text in assignments}
            same = {name: text for name, text in same.items() if name not in told}
            with trio.move_on_at(deadline):
                for manager in self._managers:
                    await manager.settled(version, update.changed)
                for manager in self._managers:
                    if names := same.keys() & manager.not_in_force():
                        await manager.insist(names)
            update = await self._put_back(update, version, deadline)
        return self._not_in_force(update, same)

    async def _put_back(self, update: Update, version: int, deadline: float) -> Update:
        """Put back what a port refused of this update, and report it as errors of the update; the rest stays."""
        why = {
            refusal.name: refusal.why
            for manager in self._managers
            # Only what this update has changed: a refusal that stands from before is no answer to this caller.
            for refusal in manager.responsible(update.changed, version)
        }
        async with self._one_at_a_time:
            mine = {name: self._catalogue.text(update.settings, name) for name in update.changed}
            back = await self._store.update(self._old(why, mine), Role.ADMIN)
            # The rest of the request is not allowed without the refused part, so nothing of it stays.
            if back.refused:
                why |= dict.fromkeys(update.changed, "it requires another parameter, which was refused") | why
                back = await self._store.update(self._old(why, mine), Role.ADMIN)
            version = self._store.published.value.version
            # Also for parameters that were set again since: a refusal of that later update comes back to this value.
            self._stood |= {name: text for name, text in mine.items() if name not in why}
        if not why:
            return update
        with trio.move_on_at(deadline):
            for manager in self._managers:
                await manager.settled(version, back.changed)
        errors = [ParameterError(name, mine[name], why[name]) for name in why]
        for error in errors:
            logger.warning("put back: %s", error)
        return Update(
            settings=back.settings,
            changed=tuple(name for name in update.changed if name not in why),
            refused=(*update.refused, *errors),
        )

    def _old(self, names: Iterable[str], mine: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return what these parameters come back to, except those that were set again since."""
        return [(name, self._stood[name]) for name in names if self._is(name, mine[name])]

    def _is(self, name: str, text: str) -> bool:
        return self._catalogue.text(self._store.published.value.settings, name) == text

    def _not_in_force(self, update: Update, same: Mapping[str, str]) -> Update:
        """Refuse what had its value already, and is not in force all the same."""
        why = {name: why for manager in self._managers for name, why in manager.not_in_force().items()}
        errors = tuple(ParameterError(name, text, why[name]) for name, text in same.items() if name in why)
        return replace(update, refused=(*update.refused, *errors))


def _log_refused(refused: Sequence[ParameterError]) -> None:
    """Log why parameters were refused: the error lines of VAPIX have no room for a reason."""
    for error in refused[:_LOGGED]:
        logger.info("not set: %.60r: %s", error.name, error.why)
    if len(refused) > _LOGGED:
        logger.info("not set: %d more", len(refused) - _LOGGED)
