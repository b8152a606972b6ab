"""One update of the parameters at a time: commit it, let the ports settle, put back what they could not do.

So after ``OK`` a script may connect at once, and what a driver or the host refuses is an error line, not a surprise.
It must not know who asks, nor by which protocol.
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
    from protocol.parameters.catalogue import Catalogue
    from protocol.parameters.settings import Settings

__all__ = ["Changes"]

logger = logging.getLogger(__name__)

_SETTLE = 2.0
"""Seconds that an answer waits for the ports."""
_TOLD = 16
"""Refused parameters of one request that the log tells of: one may name a thousand."""


@final
class Changes:
    """The way that every update takes."""

    def __init__(self, catalogue: Catalogue, store: Store, managers: Sequence[Manager]) -> None:
        self._catalogue = catalogue
        self._store = store
        self._managers = managers
        self._one_at_a_time = trio.Lock()

    async def update(self, assignments: Sequence[tuple[str, str]], role: Role) -> Update:
        """Set parameters as ``role``; see Catalogue.updated. Raises StoreError when the disk does not take them."""
        async with self._one_at_a_time:
            before = self._store.published.value.settings
            # A caller that goes away must not leave behind what a port refused. The shield is bounded by what is in it:
            # a commit, which no one could interrupt anyway, and the settling, which has its deadline.
            with trio.CancelScope(shield=True):
                update = await self._store.update(assignments, role)
                _tell(update.refused)
                await self._settle()
                update = await self._put_back(update, before)
        return update

    async def _settle(self) -> None:
        version = self._store.published.value.version
        with trio.move_on_after(_SETTLE):
            for manager in self._managers:
                await manager.settled(version)

    async def _put_back(self, update: Update, before: Settings) -> Update:
        """Take back what a port refused of this update, and say so; all else of it stays."""
        why = {refusal.name: refusal.why for manager in self._managers for refusal in manager.blamed(update.changed)}
        if not why:
            return update
        old = {name: self._catalogue.text(before, name) for name in update.changed}
        back = await self._store.update([(name, old[name]) for name in why], Role.ADMIN)
        if back.refused:  # what stays of the request cannot be without what was refused: then nothing of it stays
            back = await self._store.update(tuple(old.items()), Role.ADMIN)
            why |= dict.fromkeys(update.changed, "it cannot be without what else was refused") | why
        await self._settle()
        errors = [ParameterError(name, self._catalogue.text(update.settings, name), why[name]) for name in why]
        for error in errors:
            logger.warning("put back: %s", error)
        return Update(
            settings=back.settings,
            changed=tuple(name for name in update.changed if name not in why),
            refused=(*update.refused, *errors),
        )


def _tell(refused: Sequence[ParameterError]) -> None:
    """Say what would have been right: VAPIX's error line has no room for it."""
    for error in refused[:_TOLD]:
        logger.info("not set: %.60r: %s", error.name, error.why)
    if len(refused) > _TOLD:
        logger.info("not set: %d more", len(refused) - _TOLD)
