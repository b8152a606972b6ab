"""Give a remote port server another key while its clients may still use the old one, and carry it down a chain.

So a chain is not cut while it changes its keys. What must hold, at whatever instant the process ends:

1. A server stores its old key before the new one is in force, and has both on its disk before any client is told. So no
   client is shut out.
2. A CPU in the middle sets the new key for its remote port client and, if both had the same key, for its own server in
   one step. So a crash never leaves one of the two changed.
3. A key is sent only to the CPUs that an operator named. Any other CPU that is linked by the old key learns nothing.
"""

from __future__ import annotations

import logging
import math
import secrets
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.state.store import StoreError
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.changes import Changes
    from gateway.remote_port.server import RemotePortService
    from gateway.state.old_keys import OldKeys
    from gateway.state.store import Published
    from gateway.tasks.watch import Cell
    from protocol.link.key_frames import Rekey, Told, ToldCpu

__all__ = ["KeyChanges", "shown"]

logger = logging.getLogger(__name__)

_LEAST_PAUSE: Final = 10.0
"""The least seconds between two keys from a server: each costs a write to the disk, and a new connection."""

_BY_HAND: Final = "set RemotePort.R#.AuthenticationKey there"
_WORDS: Final = {
    "CHANGED": "has the new key",
    "SAME": "had the new key already",
    "REFUSED": f"takes no key from its server ([remote_port] accept_rekey is false, or it has no key): {_BY_HAND}",
    "FAILED": "could not store it, or was given another one seconds ago: see its log, and run this again",
    "SILENT": "did not connect with it in time: run this again",
    "OLDER": f"runs an older version, which takes no key from its server: {_BY_HAND}, or update it and run this again",
    "GONE": f"its link is down, and it has the old key: run this again when it is back, or {_BY_HAND}",
    "UNNAMED": f"was not among those asked about, and was not given the key: run this again, or {_BY_HAND}",
    "APART": "the CPU above it has another key for those below, and that stays",
    "MISSED": "was not reached: first mend the fault of the CPU above it, then run this again",
}
"""Each outcome of a key at a CPU, and what to do, by the names of ``protocol.link.key_frames.Told`` and MISSED."""


@final
class KeyChanges:
    """Changes keys by ``changes``, and keeps the old ones in ``old_keys``.

    ``server`` returns the remote port server of a port, if it runs; ``accepts`` says whether a key from the server
    above is taken at all.
    """

    def __init__(
        self,
        published: Cell[Published],
        changes: Changes,
        old_keys: OldKeys,
        server: Callable[[int], RemotePortService | None],
        *,
        accepts: bool,
    ) -> None:
        self._published = published
        self._changes = changes
        self._old_keys = old_keys
        self._server = server
        self._accepts = accepts
        self._turns = [trio.Lock() for _ in published.value.settings.port_managers]
        """One change at a time for each port."""
        self._taken_at: dict[int, float] = {}
        """When each port last took a key from the server above."""

    async def change(self, index: int, key: str, seconds: float) -> str:
        """Give the server of port manager ``index`` another key, and accept the present one for ``seconds`` more.

        Return the reason of a refusal, which contains no key, or an empty text. Raises StoreError if the disk fails.
        """
        async with self._turns[index]:
            return await self._change(index, key, seconds)

    async def carry(self, index: int, key: str, seconds: int, nodes: Sequence[bytes]) -> str | list[ToldCpu]:
        """Change the key, and carry it to the CPUs below that ``nodes`` names; return the outcome at each.

        If the server has the key already, only carry it to those that do not have it. Return the reason of a refusal as
        a text. Raises StoreError.
        """
        # Loaded only here, because a start does not need it.
        from gateway.remote_port.key_news import PATIENCE
        from protocol.link.key_frames import Rekey
        from protocol.link.port_state import has_controls

        async with self._turns[index]:
            if has_controls(key):
                return "the key must not have control characters"
            if key != self._key(index) and (why := await self._change(index, key, seconds)):
                return why
            if (server := self._server(index)) is None:
                return []
            told = Rekey(secrets.randbits(32), int(PATIENCE * 1000), seconds, tuple(nodes), key)
            return await server.rekey(told, PATIENCE)

    async def take(self, index: int, remote: int, told: Rekey) -> tuple[Told, Sequence[ToldCpu]]:
        """Take a key from the server of RemotePort.R``remote``, which port ``index`` uses, and carry it further down.

        Return the outcome here, and at the CPUs below.
        """
        from gateway.remote_port.key_news import PATIENCE, WAY_BACK
        from protocol.link.key_frames import Told

        deadline = trio.current_time() + min(told.patience / 1000, PATIENCE) - WAY_BACK
        async with self._turns[index]:
            had, servers = self._published.value.settings.remote_ports[remote].authentication_key, self._key(index)
            if not self._accepts or not had:
                return Told.REFUSED, ()
            outcome = Told.SAME
            if told.key != had:
                outcome = await self._take(index, remote, told, is_servers=servers == had)
            if outcome is Told.FAILED or (server := self._server(index)) is None:
                return outcome, ()
            if self._key(index) != told.key:
                return outcome, server.apart()
            return outcome, await server.rekey(told, max(0.0, deadline - trio.current_time()))

    async def _take(self, index: int, remote: int, told: Rekey, *, is_servers: bool) -> Told:
        """Set the key for the client, and for our own server too if that had the same key before."""
        from protocol.link.key_frames import Told

        if trio.current_time() - self._taken_at.get(index, -math.inf) < _LEAST_PAUSE:
            return Told.FAILED
        before = self._old_keys.of(index)
        assignments = [(f"RemotePort.R{remote}.AuthenticationKey", told.key)]
        try:
            if is_servers:
                await self._old_keys.keep(index, (self._key(index), told.key, told.seconds))
                assignments.append((_name(index), told.key))
            update = await self._changes.update(assignments, Role.ADMIN)
            if not update.refused:
                self._taken_at[index] = trio.current_time()
                return Told.CHANGED
            if self._key(index) != told.key:
                await self._old_keys.keep(index, before)
        except StoreError as exc:
            logger.warning("the key that the server of RemotePort.R%d told cannot be stored: %s", remote, exc)
        return Told.FAILED

    async def _change(self, index: int, key: str, seconds: float) -> str:
        present, name = self._key(index), _name(index)
        if not present:
            return f"{name} is empty, so no client needs time to change it: set it like any parameter"
        if key in ("", present):
            return f"{name}: must be another key than before, and not empty"
        before = self._old_keys.of(index)
        await self._old_keys.keep(index, (present, key, seconds))
        update = await self._changes.update([(name, key)], Role.ADMIN)
        if not update.refused:
            return ""
        await self._old_keys.keep(index, before)
        return f"{name}: {update.refused[0].why}"

    def _key(self, index: int) -> str:
        return self._published.value.settings.port_managers[index].remote_port_server.authentication_key


def shown(cpus: Sequence[ToldCpu], nodes: Sequence[bytes]) -> list[dict[str, str]]:
    """Return the outcome of a key at these CPUs, and at those of ``nodes`` that did not report, for JSON."""
    told = {cpu.node for cpu in cpus}
    found = [(cpu.node, cpu.name, cpu.told.name) for cpu in cpus]
    found += [(node, "", "MISSED") for node in nodes if node not in told]
    return [
        {"node": node.hex(), "name": name, "outcome": outcome.lower(), "what": _WORDS[outcome]}
        for node, name, outcome in found
    ]


def _name(index: int) -> str:
    return f"PortManager.P{index}.RemotePortServer.AuthenticationKey"
