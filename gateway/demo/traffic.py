"""Numbered bytes in both directions between a line and a far client, while the cables on the way are cut."""

from __future__ import annotations

import contextlib
import os
import random
import tty
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.demo.numbers import Numbers
from gateway.demo.reach import reach

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from gateway.demo.cable import Cable

__all__ = ["Traffic", "a_line"]

_LINES: Final = 10
_PAUSE: Final = 0.05
"""Seconds between portions of ``_LINES`` lines: 2000 bytes a second in each direction."""
_REFRESH: Final = 1.0
_SOONEST: Final = 0.2
_LATEST: Final = 1.5
"""The seconds between cuts are between these two."""
_MOST: Final = 400
"""A cut comes after 1 to this many more bytes, so that it may be anywhere in a frame."""
_REST: Final = 0.5
"""The seconds that the last bytes have to arrive."""


@final
class Traffic:
    """Sends numbered bytes between a line's device and a client of that line, and cuts ``cables`` on the way."""

    def __init__(self, device: trio.abc.Stream, client: trio.abc.Stream, cables: Sequence[Cable]) -> None:
        self._ends = (device, client)
        self._cables = cables
        self._ways = (Numbers(), Numbers())
        self._heard = trio.Event()

    async def run(self, show: Callable[[str], None], stop: trio.Event) -> None:
        """Send until ``stop`` is set, then wait for the rest to arrive. Call ``show`` with the counts once a second."""
        one, other = self._ends
        down, up = self._ways
        await reach(one, other, b"?", b"!", b"!")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, other, down)
            nursery.start_soon(self._hear, one, up)
            async with trio.open_nursery() as disturbance:
                disturbance.start_soon(self._disturb)
                disturbance.start_soon(self._tell, show)
                await self._speak(stop)
                disturbance.cancel_scope.cancel()
            with trio.move_on_after(_REST):
                while any(way.on_the_way for way in self._ways):
                    self._heard = trio.Event()
                    await self._heard.wait()
            nursery.cancel_scope.cancel()
        show(self.text())

    def text(self) -> str:
        """Return the counts so far in one line."""
        sent, arrived, on_the_way, lost, strange = (
            sum(getattr(way, name) for way in self._ways)
            for name in ("sent", "arrived", "on_the_way", "lost", "strange")
        )
        cuts = sum(cable.cuts for cable in self._cables)
        return (
            f"{cuts:,} connections cut: {sent:,} bytes sent, {arrived:,} arrived, {on_the_way:,} on the way, "
            f"{lost:,} lost" + (f", {strange:,} broken" if strange else "")
        )

    async def _speak(self, stop: trio.Event) -> None:
        while not stop.is_set():
            for end, way in zip(self._ends, self._ways, strict=True):
                await end.send_all(way.next(_LINES))
            with trio.move_on_after(_PAUSE):
                await stop.wait()

    async def _hear(self, end: trio.abc.ReceiveStream, way: Numbers) -> None:
        while data := await end.receive_some():
            way.receive(bytes(data))
            self._heard.set()

    async def _disturb(self) -> None:
        while True:
            await trio.sleep(random.uniform(_SOONEST, _LATEST))
            random.choice(self._cables).cut_after(random.randint(1, _MOST))

    async def _tell(self, show: Callable[[str], None]) -> None:
        while True:
            show(self.text())
            await trio.sleep(_REFRESH)


@contextlib.asynccontextmanager
async def a_line() -> AsyncIterator[tuple[trio.abc.Stream, str]]:
    """Yield a pseudo-terminal: a stream for its device's end, and the path of the end that a gateway opens."""
    master, slave = os.openpty()
    try:
        # The slave stays open here: while nobody has it open, reading the master fails with EIO.
        tty.setraw(slave)
        async with trio.lowlevel.FdStream(master) as device:
            yield device, os.ttyname(slave)
    finally:
        os.close(slave)
