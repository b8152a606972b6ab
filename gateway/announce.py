"""Tell the neighbours of a remote port server, for as long as it listens and has a way to the line.

It must not know how neighbours are told, nor what a link is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from protocol.advert import Advert
from protocol.handshake import VERSIONS

if TYPE_CHECKING:
    from gateway.bonjour import Bonjour
    from gateway.bus import PortState
    from gateway.watch import Cell

__all__ = ["announce"]


async def announce(bonjour: Bonjour, state: Cell[PortState], index: int, chassis: str, keyed: bool, port: int) -> None:
    """Announce port manager ``index``, which listens on TCP ``port``, until cancelled."""
    while True:
        path = (await state.wait_for(lambda now: bool(now.path))).path
        advert = Advert(path[-1], index, chassis, len(path) - 1, keyed, VERSIONS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bonjour.announce, advert, port)
            await state.wait_for(lambda now, told=path: now.path != told)  # type: ignore[misc]  # bound for this turn
            nursery.cancel_scope.cancel()
