"""Peers that send without end, or read nothing, or say nothing: others wait for none of them, and no queue grows."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.hostile import peer as wire
from tests.hostile.siege import KEY, besieged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hostile.siege import Siege

pytestmark = pytest.mark.long  # it measures time, so nothing else may run beside it

SECONDS = 4.0
"""How long an attack lasts."""
MANY = 100_000
"""Frames of a flood: more than a daemon makes of them in that time."""

Frame = tuple[int, int, int, bytes]


async def flood(siege: Siege, frames: list[Frame], *, slowly: bool = False) -> int:
    """Send ``frames`` faster than the owner can make anything of them; return how often it hung up.

    What it says is read, or read so ``slowly`` that it is not quite a dead peer.
    They are sealed beforehand, since a peer in Python is no faster than the owner.
    """
    ended = 0
    with trio.move_on_after(SECONDS):
        while True:
            with suppress(wire.Ended):
                stream = await wire.connection(siege.remote_port, read_buffer=2048 if slowly else 0)
                async with stream, trio.open_nursery() as nursery:
                    peer = wire.Peer(stream)
                    await peer.prove_as_client(KEY, wire.Node(os.urandom(32)))
                    await peer.open()
                    nursery.start_soon(read_on, stream, slowly)
                    sealed = await all_sealed(peer, frames)
                    with suppress(wire.Ended):
                        await peer.send_all(sealed)
                        await trio.sleep_forever()
                    ended += 1
                    nursery.cancel_scope.cancel()
            await trio.sleep(0.01)
    return ended


async def all_sealed(peer: wire.Peer, frames: list[Frame]) -> bytes:
    sealed = bytearray()
    for number, frame in enumerate(frames):
        sealed += peer.sealed(*frame)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    return bytes(sealed)


async def read_on(stream: trio.SocketStream, slowly: bool) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(1000 if slowly else 65536):  # noqa: ASYNC110 -- to be slow is what it is for
            await trio.sleep(0.1 if slowly else 0)


PINGS: list[Frame] = [(wire.PING, 0, 0, bytes(4))] * MANY
ACKS: list[Frame] = [(wire.ACK, wire.LINE, 0, b"")] * MANY
"""Nothing new in them, and nothing wrong."""
GAPS: list[Frame] = [(wire.GAP, wire.TCP, offset, wire.lost_range(1, 2)) for offset in range(MANY)]
"""A byte at a time that will never be sent."""


async def test_questions_without_end_delay_nobody(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with besieged(tmp_path) as siege, siege.unharmed():
            await flood(siege, PINGS)


async def test_frames_that_say_nothing_new_delay_nobody(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with besieged(tmp_path) as siege, siege.unharmed():
            await flood(siege, ACKS)


async def test_gaps_without_end_fill_no_log(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with besieged(tmp_path) as siege, siege.unharmed():
            await flood(siege, GAPS)


async def test_a_peer_that_sends_on_but_proves_nothing_is_given_up_and_costs_no_memory(tmp_path: Path) -> None:
    """Every other message is too old, and no PING is answered, so no loss is proved to have been told."""
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, siege.unharmed(), siege.hostile() as peer:
            await peer.open()
            with trio.fail_after(15):
                await lose(peer)


async def lose(peer: wire.Peer) -> None:
    """Send messages of one byte, every other one too old, as far as there is credit; answer nothing."""
    offset = credit = 0
    while True:
        frame = await peer.receive()
        if frame.kind == wire.CREDIT and frame.channel == wire.CGI:
            credit = frame.offset
        batch = []
        while offset < credit:
            clock = int.from_bytes(wire.now()) - (60_000 if offset % 2 else 0)
            batch.append(peer.sealed(wire.DATA, wire.CGI, offset, wire.message(b"x", accepted=clock & 0xFFFFFFFF)))
            offset += 1
        await peer.send_all(b"".join(batch))


async def test_clients_that_come_and_go_and_wrong_keys_from_two_addresses_fill_no_log(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with besieged(tmp_path) as siege, siege.unharmed():
            with trio.move_on_after(SECONDS):
                async with trio.open_nursery() as nursery:
                    for source in ("127.0.0.2", "127.0.0.3"):
                        nursery.start_soon(guess_for_ever, siege, source)
                    nursery.start_soon(come_and_go, siege)


async def guess_for_ever(siege: Siege, source: str) -> None:
    while True:
        with suppress(wire.Ended, AssertionError, ConnectionError):
            async with wire.dialled(siege.remote_port, "a guess", wire.Node(os.urandom(32)), source=source):
                pass
        await trio.sleep(0.005)


async def come_and_go(siege: Siege) -> None:
    while True:
        async with await trio.open_tcp_stream("127.0.0.1", siege.tcp_port):
            await trio.sleep(0.005)


async def test_beside_forty_silent_strangers_cpus_link_and_a_link_that_was_cut_resumes(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, AsyncExitStack() as strangers, siege.unharmed(links=2):
            for _ in range(40):
                await strangers.enter_async_context(await wire.connection(siege.remote_port, "127.0.0.9"))
            for number in range(4):
                with trio.fail_after(1):
                    async with siege.hostile(wire.Node(bytes([number]) * 32)) as peer:
                        assert (await peer.open()).kind == wire.OPENED
            siege.cable.cut()


async def test_sixteen_cpus_that_start_at_once_are_all_in_within_three_seconds(tmp_path: Path) -> None:
    opened: set[int] = set()

    async def start(siege: Siege, number: int) -> None:
        while number not in opened:
            with suppress(wire.Ended):
                async with siege.hostile(wire.Node(bytes([number]) * 32), f"127.0.1.{number}") as peer:
                    assert (await peer.open()).kind == wire.OPENED
                    opened.add(number)
            await trio.sleep(0.1)

    with trio.fail_after(40):
        async with besieged(tmp_path) as siege, siege.unharmed():
            with trio.fail_after(3):
                async with trio.open_nursery() as nursery:
                    for number in range(1, 17):
                        nursery.start_soon(start, siege, number)
