"""Give a remote port server another key, while its clients may still use the one that it had.

So a chain is not cut while somebody goes from CPU to CPU. The old key is written down before the new one is in force:
whatever ends the process between the two, no client is shut out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from gateway.changes import Changes
    from gateway.state.old_keys import OldKeys
    from gateway.state.store import Published
    from gateway.tasks.watch import Cell

__all__ = ["Rekey"]


@final
class Rekey:
    """Changes keys by ``changes``, and keeps those from before in ``old_keys``."""

    def __init__(self, published: Cell[Published], changes: Changes, old_keys: OldKeys) -> None:
        self._published = published
        self._changes = changes
        self._old_keys = old_keys

    async def __call__(self, index: int, key: str, seconds: float) -> str:
        """Give the server of port manager ``index`` another key, and take the present one for so many seconds.

        Return why not, without a key in it, or nothing. Raises StoreError where the disk does not take it.
        """
        present = self._published.value.settings.port_managers[index].remote_port_server.authentication_key
        name = f"PortManager.P{index}.RemotePortServer.AuthenticationKey"
        if not present:
            return f"{name} is empty, so nobody has to be given time to change it: set it as any parameter"
        if key in ("", present):
            return f"{name}: must be another key than before, and not empty"
        before = self._old_keys.of(index)
        await self._old_keys.keep(index, (present, key, seconds))
        update = await self._changes.update([(name, key)], Role.ADMIN)
        if not update.refused:
            return ""
        await self._old_keys.keep(index, before)
        return f"{name}: {update.refused[0].why}"
