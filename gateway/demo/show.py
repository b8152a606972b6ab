"""Run the demo until Ctrl-C: a camera, a chain that shares its line and, with ``--cut``, links that are cut."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.demo.cable import lay
from gateway.demo.camera import Camera, live
from gateway.demo.chain import chained
from gateway.demo.reach import reach
from gateway.demo.screen import Screen
from gateway.demo.traffic import Traffic, a_line
from gateway.host.terminal import hang_up_is_ignored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.demo.cable import Cable
    from gateway.demo.chain import Chain

__all__ = ["cut_demo", "demo", "main"]

_STOP: Final = 1.8
"""The seconds from Ctrl-C until it ends, whatever it is doing."""
_CLEAR: Final = bytes.fromhex("88010001ff")
_ADDRESS: Final = bytes.fromhex("883001ff")
_ADDRESSED: Final = bytes.fromhex("883002ff")
_CUT: Final = """
All of these commands keep working while the links are cut at random. At the same time numbered bytes flow in both
directions between a second line of the owner and the far CPU:
"""


async def demo(
    screen: Screen, stop: trio.Event, *, task_status: trio.TaskStatus[Chain] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a camera and a chain until ``stop`` is set."""
    narrator = _Narrator(screen)
    async with _table() as (directory, table):
        camera = await table.start(live, Camera(), narrator.tell)
        async with chained(directory, [camera], _straight) as chain:
            await narrator.begin(chain, chain.text())
            task_status.started(chain)
            await stop.wait()


async def cut_demo(
    screen: Screen, stop: trio.Event, *, task_status: trio.TaskStatus[Chain] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a camera and a chain until ``stop`` is set, and send numbered bytes over links that are cut at random."""
    narrator = _Narrator(screen)
    cables: list[Cable] = []

    async def link(port: int) -> int:
        cables.append(await table.start(lay, port))
        return cables[-1].port

    async with _table() as (directory, table), a_line() as (device, path):
        camera = await table.start(live, Camera(), narrator.tell)
        async with chained(directory, [camera, path], link) as chain:
            await narrator.begin(chain, chain.text() + _CUT)
            task_status.started(chain)
            async with await trio.open_tcp_stream(chain.far.host, chain.far.tcp_ports[1]) as client:
                await Traffic(device, client, cables).run(screen.show, stop)


@final
class _Narrator:
    """Shows on the screen what the camera receives, from when the chain works and the text has been shown.

    What the camera receives before is the probing of the chain, which the user did not ask for.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._begun = False

    def tell(self, line: str) -> None:
        if self._begun:
            self._screen.say(line)

    async def begin(self, chain: Chain, text: str) -> None:
        """Wait until the far CPU reaches the camera, then show ``text``.

        The probes are the VISCA broadcasts that a controller sends when it is switched on.
        """
        async with await trio.open_tcp_stream(chain.far.host, chain.far.tcp_ports[0]) as controller:
            await reach(controller, controller, _CLEAR, _ADDRESS, _ADDRESSED)
        self._screen.say(text)
        self._begun = True


@contextlib.asynccontextmanager
async def _table() -> AsyncIterator[tuple[Path, trio.Nursery]]:
    """Yield a temporary directory and a nursery; at the end of the block both are gone with all that is in them."""
    with tempfile.TemporaryDirectory(prefix="daisyport-demo-") as directory:
        async with trio.open_nursery() as table:
            yield Path(directory), table
            table.cancel_scope.cancel()


async def _straight(port: int) -> int:
    await trio.lowlevel.checkpoint()
    return port


def main(show: Callable[[Screen, trio.Event], Awaitable[None]] = demo) -> int:
    """Run a demo on this terminal until Ctrl-C; return the exit status."""
    # A link that is cut is worth a warning, except in the demo that cuts them.
    logging.basicConfig(level=logging.ERROR if show is cut_demo else logging.WARNING, format="%(message)s")
    # Bonjour warns that it cannot announce servers on loopback, where nobody could find them anyway.
    logging.getLogger("gateway.discovery.bonjour").setLevel(logging.ERROR)
    try:
        trio.run(_on_a_terminal, show)
    except* OSError as group:
        _, other = group.split(lambda exc: isinstance(exc, OSError) and exc.errno in (errno.EPIPE, errno.EIO))
        if other is not None:
            raise
        # The reader of the output has gone (`| head`), or the terminal, which ends the demo too. What is still buffered
        # goes to /dev/null, or Python would report the same error at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _on_a_terminal(show: Callable[[Screen, trio.Event], Awaitable[None]]) -> None:
    screen, stop = Screen(sys.stdout), trio.Event()
    # A terminal that is closed ends the demo, unless nohup(1) says not to.
    hang_up = () if hang_up_is_ignored() else (signal.SIGHUP,)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hang_up) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show, screen, stop)
            await anext(aiter(signals))
            stop.set()
            logging.disable(logging.WARNING)  # the CPUs lose their links now, as they should
            nursery.cancel_scope.deadline = trio.current_time() + _STOP
    screen.leave()
    screen.say("\nThe demo has ended, and removed all its files.")
