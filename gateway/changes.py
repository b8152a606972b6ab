"""One update of the parameters at a time: commit it, let the ports settle, put back what they could not do.

So a script may connect as soon as it has its ``OK``, and what a driver or the host refuses is an error line of the
answer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

import trio

from protocol.errors import ParameterError
from protocol.parameters.catalogue import Update
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.manager import Manager
    from gateway.state.store import Store
    from protocol.parameters.catalogue import Catalogue, Ports
    from protocol.parameters.settings import Settings

__all__ = ["Changes"]

logger = logging.getLogger(__name__)

_SETTLE = 2.0
"""Seconds that an answer waits for the ports."""
_LOGGED = 16
"""The most refused parameters of one request that the log names: a request may hold a thousand."""


@final
class Changes:
    """Carries out the updates, one after the other."""

    def __init__(self, catalogue: Catalogue, store: Store, managers: Sequence[Manager]) -> None:
        self._catalogue = catalogue
        self._store = store
        self._managers = managers
        self._one_at_a_time = trio.Lock()

    async def update(self, assignments: Sequence[tuple[str, str]], role: Role, ports: Ports = None) -> Update:
        """Set parameters as ``role``, bound to ``ports``; see Catalogue.updated.

        Raises StoreError where the disk does not take them.
        """
        async with self._one_at_a_time:
            before = self._store.published.value.settings
            # A caller that goes away must not leave behind what a port refused. The shield is bounded by what is in it:
            # a commit, which no one could interrupt anyway, and the settling, which has its deadline.
            with trio.CancelScope(shield=True):
                update = await self._store.update(assignments, role, ports)
                _log_refused(update.refused)
                await self._settle()
                update = await self._put_back(update, before)
        return update

    async def _settle(self) -> None:
        version = self._store.published.value.version
        with trio.move_on_after(_SETTLE):
            for manager in self._managers:
                await manager.settled(version)

    async def _put_back(self, update: Update, before: Settings) -> Update:
        """Put back what a port refused of this update, as errors of the update; the rest of it stays."""
        why = {
            refusal.name: refusal.why for manager in self._managers for refusal in manager.responsible(update.changed)
        }
        if not why:
            return update
        old = {name: self._catalogue.text(before, name) for name in update.changed}
        back = await self._store.update([(name, old[name]) for name in why], Role.ADMIN)
        if back.refused:  # what stays of the request cannot be without what was refused: then nothing of it stays
            back = await self._store.update(tuple(old.items()), Role.ADMIN)
            why |= dict.fromkeys(update.changed, "it requires another parameter, which was refused") | why
        await self._settle()
        errors = [ParameterError(name, self._catalogue.text(update.settings, name), why[name]) for name in why]
        for error in errors:
            logger.warning("put back: %s", error)
        return Update(
            settings=back.settings,
            changed=tuple(name for name in update.changed if name not in why),
            refused=(*update.refused, *errors),
        )


def _log_refused(refused: Sequence[ParameterError]) -> None:
    """Log why parameters were refused: the error lines of VAPIX have no room for a reason."""
    for error in refused[:_LOGGED]:
        logger.info("not set: %.60r: %s", error.name, error.why)
    if len(refused) > _LOGGED:
        logger.info("not set: %d more", len(refused) - _LOGGED)
