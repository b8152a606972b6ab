"""A cable between two CPUs of one machine that can be cut: a TCP relay on loopback, for the demo and for tests."""

from __future__ import annotations

from typing import Final, final

import trio

__all__ = ["Cable", "lay"]

_HOST: Final = "127.0.0.1"
_PIECE: Final = 4096


@final
class Cable:
    """Relays every connection to ``port`` to the TCP port ``to``, unless it is unplugged."""

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self.cuts = 0
        """The number of connections that were cut."""
        self.carried = 0
        """The number of bytes carried, in both directions together."""
        self._to = to
        self._live: set[trio.CancelScope] = set()
        self._whole = True
        self._left: int | None = None

    def cut(self) -> None:
        """Drop all connections at once, with the bytes in them. New connections are carried."""
        self.cuts += len(self._live)
        for connection in self._live:
            connection.cancel()
        self._live.clear()

    def cut_after(self, count: int) -> None:
        """Cut when ``count`` more bytes (at least 1) have passed, which may be in the middle of a frame."""
        self._left = count

    def unplug(self) -> None:
        """Cut, and close new connections at once until ``plug()``."""
        self._whole = False
        self.cut()

    def plug(self) -> None:
        """Carry new connections again."""
        self._whole = True

    async def carry(self, near: trio.SocketStream) -> None:
        """Carry one connection until either end closes it or it is cut."""
        with trio.CancelScope() as connection:
            self._live.add(connection)
            try:
                async with near:
                    if self._whole:
                        await self._join(near)
            finally:
                self._live.discard(connection)

    async def _join(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(_HOST, self._to)
        except OSError:
            return
        async with far, trio.open_nursery() as both:
            both.start_soon(self._pass_on, near, far, both.cancel_scope)
            both.start_soon(self._pass_on, far, near, both.cancel_scope)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(_PIECE):
                # All connections share what is left until the cut. It is counted before the send, which may wait: the
                # other direction must not carry the same share meanwhile.
                piece = data[: self._left]
                self.carried += len(piece)
                if self._left is not None:
                    self._left -= len(piece)
                await sink.send_all(piece)
                if self._left == 0:
                    self._left = None
                    self.cut()
        except trio.BrokenResourceError:
            pass  # one end is gone, so the connection ends for both
        both.cancel()


async def lay(to: int, *, task_status: trio.TaskStatus[Cable] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a cable to the TCP port ``to`` until cancelled; ``task_status`` is given the Cable."""
    (listener,) = await trio.open_tcp_listeners(0, host=_HOST)
    cable = Cable(listener.socket.getsockname()[1], to)
    task_status.started(cable)
    await trio.serve_listeners(cable.carry, [listener])
