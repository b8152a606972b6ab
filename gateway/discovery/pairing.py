"""Announce a CPU that waits to be joined, and find those that do: for a command, which has no event loop of its own.

What is found is hearsay, as with every Bonjour record. Here it says where to knock, and the digits that people compare
say who opened.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio

from gateway.discovery.bonjour import Bonjour
from protocol.link.advert import Advert, Candidate, order
from protocol.link.handshake import VERSIONS
from protocol.link.identity import MAX_NAME
from protocol.link.port_state import NODE_ID, encode_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

__all__ = ["PAIRING", "Found", "announced", "find"]

PAIRING: Final = "_daisyport-pair._tcp.local."

_PATIENCE: Final = 8.0
"""Seconds for the first to be seen: one whose first answer is lost, or taken by another program of this host, is asked
anew after one, and after three."""
_OTHERS: Final = 1.5
"""Seconds for the others to be seen, behind the first."""
_GOODBYE: Final = 3.0


@final
class Found(NamedTuple):
    """The CPUs that wait, those of our own chassis first, and the state of Bonjour here, in words."""

    candidates: tuple[Candidate, ...]
    state: str


@contextlib.contextmanager
def announced(bind: Sequence[str], chassis: str, name: str, index: int, port: int) -> Iterator[None]:
    """Announce while the block runs that port manager ``index`` may be joined, at TCP ``port`` of those ``bind``.

    An empty ``name`` is not said. The node id is one of this run alone: who waits has not proved anything.
    """
    label = encode_text(name, MAX_NAME)[1:].decode()  # cut as the handshake cuts it
    advert = Advert(os.urandom(NODE_ID), index, chassis, 0, keyed=False, versions=VERSIONS, name=label)
    bonjour = Bonjour(advert.node, bind, PAIRING)
    with _running(bonjour, functools.partial(bonjour.announce, advert, port)):
        yield


def find(chassis: str, index: int) -> Found:
    """Look for CPUs that wait to be joined, for some seconds. Blocks."""
    bonjour = Bonjour(os.urandom(NODE_ID), (), PAIRING)
    answer: queue.SimpleQueue[Found] = queue.SimpleQueue()

    async def look() -> None:
        with bonjour.browse() as seen:
            with trio.move_on_after(_PATIENCE):
                await seen.wait_for(bool)
                await trio.sleep(_OTHERS)
            answer.put(Found(order(seen.value, chassis, index), bonjour.state.value))

    with _running(bonjour, look):
        return answer.get()


@contextlib.contextmanager
def _running(bonjour: Bonjour, task: Callable[[], Awaitable[object]]) -> Iterator[None]:
    """Run Bonjour and a task of it on a thread until the block ends: Ctrl-C stays the caller's, as is its input."""
    ended = threading.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bonjour.run)
            nursery.start_soon(task)
            await trio.to_thread.run_sync(ended.wait)
            nursery.cancel_scope.cancel()

    # A daemon, so that a goodbye that hangs does not keep the command from its end.
    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_GOODBYE)
