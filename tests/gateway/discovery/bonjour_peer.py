"""A node for the tests of Bonjour: it says what it sees as lines of JSON, and obeys the words on its input.

    python -m tests.gateway.discovery.bonjour_peer NUMBER BIND

Words: ``announce INDEX PORT CHASSIS``, ``withdraw``, ``browse``, ``look``; it stops at the end of its input.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import trio

from gateway.discovery import bonjour as module
from gateway.discovery.bonjour import Bonjour
from protocol.link.advert import Advert

if TYPE_CHECKING:
    from gateway.tasks.watch import Cell


def node(number: int) -> bytes:
    """The node id of a peer."""
    return bytes([number]) * 16


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def tell_states(bonjour: Bonjour) -> None:
    async for state in bonjour.state.changes():
        say(state=state)


async def tell_seen(bonjour: Bonjour) -> None:
    with bonjour.browse() as seen:
        async for candidates in seen.changes():
            say(
                seen=[
                    [each.advert.node[0], each.advert.index, each.advert.chassis, list(each.addresses), each.port]
                    for each in sorted(candidates, key=lambda candidate: candidate.advert.node)
                ]
            )


async def tell_announced(announced: Cell[frozenset[str]]) -> None:
    async for names in announced.changes():
        say(announced=len(names))


async def obey(bonjour: Bonjour, number: int) -> None:
    async with trio.open_nursery() as nursery:
        announcing = trio.CancelScope()

        async def announce(advert: Advert, port: int) -> None:
            with announcing:
                await bonjour.announce(advert, port)

        async for line in trio.wrap_file(sys.stdin):
            match line.split():
                case ["announce", index, port, chassis]:
                    advert = Advert(node(number), int(index), chassis, 0, keyed=True, versions=(1,))
                    nursery.start_soon(announce, advert, int(port))
                case ["withdraw"]:
                    announcing.cancel()
                case ["browse"]:
                    nursery.start_soon(tell_seen, bonjour)
                case ["look"]:
                    bonjour.look_again()
        nursery.cancel_scope.cancel()


async def main(number: int, bind: str) -> None:
    module._LOOK = 0.0  # type: ignore[misc]  # each word is obeyed at once
    bonjour = Bonjour(node(number), [bind])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_states, bonjour)
        nursery.start_soon(tell_announced, bonjour.announced)
        nursery.start_soon(bonjour.run)
        await obey(bonjour, number)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2])
