"""Announce a remote port server to the neighbours, for as long as it listens and has a way to the line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from protocol.link.advert import Advert
from protocol.link.handshake import VERSIONS
from protocol.link.identity import MAX_NAME
from protocol.link.port_state import encode_text

if TYPE_CHECKING:
    from gateway.discovery.bonjour import Bonjour
    from gateway.port.bus import PortStatus
    from gateway.tasks.watch import Cell

__all__ = ["announce"]


async def announce(
    bonjour: Bonjour, state: Cell[PortStatus], index: int, chassis: str, name: str, keyed: bool, port: int
) -> None:
    """Announce port manager ``index`` on TCP ``port`` until cancelled, without a ``name`` where that is empty."""
    told: tuple[bytes, ...] = ()
    label = encode_text(name, MAX_NAME)[1:].decode()  # cut as the handshake cuts it
    async with trio.open_nursery() as nursery:
        ended = trio.CancelScope()
        async for now in state.changes():
            path = now.path
            if path == told:
                continue
            # The new advert begins before the old one ends, so that neighbours see a change and no goodbye.
            before, ended, told = ended, trio.CancelScope(), path
            if path:
                advert = Advert(path[-1], index, chassis, len(path) - 1, keyed, VERSIONS, label)
                await nursery.start(_announce, bonjour, advert, port, ended)
            before.cancel()


async def _announce(
    bonjour: Bonjour, advert: Advert, port: int, ended: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    task_status.started()  # ``bonjour.announce`` is reached before the starter wakes
    with ended:
        await bonjour.announce(advert, port)
