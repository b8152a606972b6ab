"""A neighbour that announces many remote port servers which it is not: ``python -m tests.hostile.forger COUNT PORT``.

Each of them ranks before an honest one. It prints a line when all are announced, and stops at the end of its input.
"""

from __future__ import annotations

import sys

import trio

from gateway.discovery.bonjour import Bonjour
from protocol.link.advert import Advert


async def main(count: int, port: int) -> None:
    bonjour = Bonjour(b"\xee" * 16, ["0.0.0.0"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bonjour.run)
        for number in range(count):
            advert = Advert(bytes([number]) * 16, 0, "blade-7", 0, keyed=True, versions=(1,))
            nursery.start_soon(bonjour.announce, advert, port)
        await bonjour.announced.wait_for(lambda names: len(names) == count)
        print("announced", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
