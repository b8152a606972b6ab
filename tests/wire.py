"""A cable between two hosts, for tests: laid until the block ends, and cut, unplugged and plugged in at will."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from gateway.demo.cable import Cable as Wire
from gateway.demo.cable import lay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Wire", "wire"]


@asynccontextmanager
async def wire(to: int) -> AsyncIterator[Wire]:
    """Lay a cable to the TCP port ``to``."""
    async with trio.open_nursery() as nursery:
        cable: Wire = await nursery.start(lay, to)
        yield cable
        nursery.cancel_scope.cancel()
