"""Peers that send without end, or read nothing, or say nothing: others wait for none of them, and no queue grows."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

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


async def flood(directory: Path, frames: list[Frame], *, slowly: bool = False) -> bool:
    """Send ``frames`` faster than an owner can make anything of them, and return whether it hung up.

    They are sealed beforehand, since a peer in Python is no faster than the owner. What it says is read, or read so
    ``slowly`` that this is not quite a dead peer.
    """
    async with besieged(directory) as siege:
        stream = await wire.connection(siege.remote_port, read_buffer=2048 if slowly else 0)
        async with stream, trio.open_nursery() as nursery:
            peer = wire.Peer(stream)
            await peer.prove_as_client(KEY, wire.Node(os.urandom(32)))
            await peer.open()
            ended = trio.Event()
            nursery.start_soon(read_on, stream, slowly, ended)
            sealed = await all_sealed(peer, frames)
            async with siege.unharmed():
                with trio.move_on_after(SECONDS):
                    with suppress(wire.Ended):
                        await peer.send_all(sealed)
                    await ended.wait()
            nursery.cancel_scope.cancel()
    return ended.is_set()


async def all_sealed(peer: wire.Peer, frames: list[Frame]) -> bytes:
    sealed = bytearray()
    for number, frame in enumerate(frames):
        sealed += peer.sealed(*frame)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    return bytes(sealed)


async def read_on(stream: trio.SocketStream, slowly: bool, ended: trio.Event) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(1000 if slowly else 65536):  # noqa: ASYNC110 -- it is slow on purpose
            await trio.sleep(0.1 if slowly else 0)
    ended.set()


PINGS: list[Frame] = [(wire.PING, 0, 0, bytes(4))] * MANY
ACKS: list[Frame] = [(wire.ACK, wire.LINE, 0, b"")] * MANY
"""Nothing new in them, and nothing wrong."""
GAPS: list[Frame] = [(wire.GAP, wire.TCP, offset, wire.lost_range(1, 2)) for offset in range(MANY)]
"""A byte at a time that will never be sent."""


async def test_questions_of_a_peer_that_hardly_reads_the_answers_cost_no_memory(tmp_path: Path) -> None:
    with trio.fail_after(60):
        assert await flood(tmp_path, PINGS, slowly=True), "more than a few questions may not wait for their answers"


async def test_questions_without_end_delay_nobody(tmp_path: Path) -> None:
    with trio.fail_after(60):
        await flood(tmp_path, PINGS)


async def test_frames_that_say_nothing_new_delay_nobody(tmp_path: Path) -> None:
    with trio.fail_after(60):
        await flood(tmp_path, ACKS)


async def test_gaps_without_end_fill_no_log(tmp_path: Path) -> None:
    with trio.fail_after(60):
        await flood(tmp_path, GAPS)


async def test_a_peer_that_sends_on_but_proves_nothing_is_given_up_and_costs_no_memory(tmp_path: Path) -> None:
    """Every other message is too old, and no PING is answered, so no loss is proved to have been told."""
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, siege.unharmed(), siege.hostile() as peer:
            await peer.open()
            with trio.fail_after(15):
                await lose(peer)


async def lose(peer: wire.Peer) -> None:
    """Send messages of one byte, every other one too old, a thousand a second, until the owner hangs up."""
    credit = 0

    async def send() -> None:
        offset = 0
        while True:
            batch: list[bytes] = []
            while offset < credit and len(batch) < 50:
                clock = int.from_bytes(wire.now()) - (60_000 if offset % 2 else 0)
                batch.append(peer.sealed(wire.DATA, wire.CGI, offset, wire.message(b"x", accepted=clock & 0xFFFFFFFF)))
                offset += 1
            with suppress(wire.Ended):
                await peer.send_all(b"".join(batch))
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        with suppress(wire.Ended):
            while True:  # no PING is answered
                frame = await peer.receive()
                if frame.kind == wire.CREDIT and frame.channel == wire.CGI:
                    credit = frame.offset
        nursery.cancel_scope.cancel()


async def test_clients_that_come_and_go_and_wrong_keys_from_two_addresses_fill_no_log(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, siege.unharmed(), trio.open_nursery() as nursery:
            for source in ("127.0.0.2", "127.0.0.3"):
                nursery.start_soon(guess, siege, source, 200)
            nursery.start_soon(come_and_go, siege, 1000)


async def guess(siege: Siege, source: str, count: int) -> None:
    for _ in range(count):
        with suppress(wire.Ended, AssertionError, ConnectionError):
            async with wire.dialled(siege.remote_port, "a guess", wire.Node(os.urandom(32)), source=source):
                pass


async def come_and_go(siege: Siege, count: int) -> None:
    for _ in range(count):
        async with await trio.open_tcp_stream("127.0.0.1", siege.tcp_port):
            await trio.lowlevel.checkpoint()


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


REQUESTS = {
    "logins that are asked for": b"GET /daisyport/status HTTP/1.1\r\nHost: cam\r\n\r\n" * 200,
    "long heads": b"GET /x HTTP/1.1\r\nHost: cam\r\n" + b"a: b\r\n" * 2500 + b"\r\n",
    "bodies in tiny chunks": (
        b"POST /x HTTP/1.1\r\nHost: cam\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    ),
    "logins of many words": (
        b"GET /daisyport/status HTTP/1.1\r\nHost: cam\r\nAuthorization: Digest "
        + b", ".join(b"x%d=y" % number for number in range(1500))
        + b"\r\n\r\n"
    ),
}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_forty_callers_of_http_without_a_login_that_never_stop_asking_delay_nobody(
    tmp_path: Path, kind: str
) -> None:
    async def ask(port: int) -> None:
        while True:
            with suppress(OSError):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(swallow, stream)
                    with suppress(trio.BrokenResourceError):
                        while True:
                            await stream.send_all(REQUESTS[kind])
                    nursery.cancel_scope.cancel()
            await trio.sleep(0.01)

    async def swallow(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for _ in stream:
                pass

    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, siege.unharmed(), trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask, siege.owner.gateway.http_port)
            await trio.sleep(SECONDS)
            nursery.cancel_scope.cancel()


async def test_messages_of_one_byte_in_every_class_delay_nobody(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with besieged(tmp_path) as siege, siege.unharmed(), siege.hostile() as peer:
            await peer.open()
            with trio.move_on_after(SECONDS):
                await type_on(peer)


async def type_on(peer: wire.Peer) -> None:
    """Send messages of one byte, in every class as many as there is credit for; answer what is asked."""
    offsets = dict.fromkeys((wire.PTZ, wire.TCP, wire.CGI), 0)
    while True:
        frame = await peer.until(wire.CREDIT)
        while offsets[frame.channel] < frame.offset:
            batch = []
            for place in range(offsets[frame.channel], min(offsets[frame.channel] + 64, frame.offset)):
                payload = wire.message(b"x", accepted=int.from_bytes(wire.now()))
                batch.append(peer.sealed(wire.DATA, frame.channel, place, payload))
            offsets[frame.channel] += len(batch)
            await peer.send_all(b"".join(batch))
