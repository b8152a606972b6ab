"""The cable: it carries everything while it is whole, and what is cut is cut at both ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from tests.helpers import free_port, laid_cable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.demo.cable import Cable


async def connected(cable: Cable) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", cable.port)


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Cable, trio.SocketStream, trio.SocketStream, trio.SocketListener]]:
    """A cable, and one connection over it: its near end, its far end, and where the next one will come."""
    with trio.fail_after(5):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        async with listener, laid_cable(port) as cable, await connected(cable) as near, await listener.accept() as far:
            yield cable, near, far, listener


async def everything(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError:
        pass
    return received


async def test_it_carries_both_ways_and_counts() -> None:
    async with joined() as (cable, near, far, _):
        await near.send_all(b"there")
        assert await far.receive_some() == b"there"
        await far.send_all(b"and back")
        assert await near.receive_some() == b"and back"
        assert (cable.carried, cable.cuts) == (13, 0)


async def test_where_one_end_closes_so_does_the_other() -> None:
    async with joined() as (_, near, far, _):
        await far.aclose()
        assert await everything(near) == b""


async def test_a_cut_drops_what_is_under_way_and_the_next_connection_is_carried() -> None:
    async with joined() as (cable, near, far, listener):
        cable.cut()
        assert await everything(near) == await everything(far) == b""
        assert cable.cuts == 1
        cable.cut()
        assert cable.cuts == 1, "there was nothing to cut"
        async with await connected(cable) as again, await listener.accept() as there:
            await again.send_all(b"again")
            assert await there.receive_some() == b"again"


async def test_a_cut_after_some_bytes_comes_in_the_middle_of_what_is_sent() -> None:
    async with joined() as (cable, near, far, _):
        cable.cut_after(5)
        await near.send_all(b"a")
        assert await far.receive_some() == b"a"
        await near.send_all(b"bcdefgh")
        assert b"bcde".startswith(await everything(far))  # a reset may overtake what was sent before it
        assert (cable.carried, cable.cuts) == (5, 1)


async def test_nothing_gets_through_while_it_is_unplugged() -> None:
    async with joined() as (cable, near, _, listener):
        cable.unplug()
        assert await everything(near) == b""
        async with await connected(cable) as refused:
            assert await everything(refused) == b""
        cable.plug()
        async with await connected(cable) as again, await listener.accept() as there:
            await again.send_all(b"again")
            assert await there.receive_some() == b"again"


async def test_where_nobody_listens_at_the_far_end_the_connection_is_closed() -> None:
    with trio.fail_after(5):
        async with laid_cable(free_port()) as cable, await connected(cable) as near:
            assert await everything(near) == b""


async def test_what_is_sent_to_an_end_that_is_gone_ends_the_connection() -> None:
    async with joined() as (_, near, far, _):
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        far.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await far.aclose()
        assert await everything(near) == b""
