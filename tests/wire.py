"""A cable between two hosts, for tests: a TCP relay on loopback that can be cut, silenced and mended."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Wire:
    """Listens on ``port`` and carries to ``to`` while it is whole; ``cuts`` counts the connections that it cut."""

    def __init__(self, listener: trio.SocketListener, to: int, nursery: trio.Nursery) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self.cuts = 0
        self.carried = 0
        self._to = to
        self._nursery = nursery
        self._live = trio.CancelScope()
        self._whole = True
        self._budget: int | None = None

    def cut(self) -> None:
        """Drop all that is under way, at once."""
        self.cuts += 1
        self._live.cancel()
        self._live = trio.CancelScope()

    def cut_after(self, count: int) -> None:
        """Cut in the middle of whatever is under way when ``count`` more bytes have passed."""
        self._budget = count

    def unplug(self) -> None:
        """Cut, and let nobody connect until ``plug()``."""
        self._whole = False
        self.cut()

    def plug(self) -> None:
        self._whole = True

    async def serve(self, near: trio.SocketStream) -> None:
        with self._live:
            if not self._whole:
                await trio.aclose_forcefully(near)
                return
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self._to)
            except OSError:
                await trio.aclose_forcefully(near)
                return
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, near, far, nursery.cancel_scope)
                nursery.start_soon(self._carry, far, near, nursery.cancel_scope)

    async def _carry(self, one: trio.SocketStream, other: trio.SocketStream, both: trio.CancelScope) -> None:
        try:
            while data := await one.receive_some(4096):
                if self._budget is not None and len(data) >= self._budget:
                    data, self._budget = data[: self._budget], None
                    await other.send_all(data)
                    self.cut()
                elif self._budget is not None:
                    self._budget -= len(data)
                self.carried += len(data)
                await other.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()


@asynccontextmanager
async def wire(to: int) -> AsyncIterator[Wire]:
    """Lay a cable to the TCP port ``to``."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        cable = Wire(listener, to, nursery)
        nursery.start_soon(trio.serve_listeners, cable.serve, [listener])
        yield cable
        nursery.cancel_scope.cancel()
