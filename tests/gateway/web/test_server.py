"""The HTTP server's places, over real sockets on loopback."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.clients.listeners import accept_clients
from gateway.tasks.reconcile import Unit
from gateway.web.http import HttpLimits
from gateway.web.message import Request, Response
from gateway.web.server import HttpServer, Places
from protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


GET = b"GET / HTTP/1.1\r\nHost: cam\r\n\r\n"


async def hello(_: Request) -> Response:
    return Response(200, b"hello")


@asynccontextmanager
async def listening(server: HttpServer, host: str = "127.0.0.1") -> AsyncIterator[tuple[str, int]]:
    """The address of a front server that accepts."""
    listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    with trio.fail_after(5):
        async with accepting(server, listener):
            yield listener.getsockname()[:2]


@asynccontextmanager
async def accepting(server: HttpServer, listener: socket.socket) -> AsyncIterator[None]:
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_clients, listener, partial(server.admit, nursery), Unit("front server", lambda: None))
        yield
        nursery.cancel_scope.cancel()


async def whole(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


async def ask(address: tuple[str, int]) -> bytes:
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(GET)
        await stream.send_eof()
        return await whole(stream)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_request_over_a_real_socket_is_answered(host: str) -> None:
    async with listening(HttpServer(hello), host) as address:
        assert (await ask(address)).endswith(b"hello")


async def test_an_ipv4_caller_on_an_ipv6_socket_is_named_by_its_ipv4_address() -> None:
    seen: list[str] = []

    async def note(request: Request) -> Response:
        seen.append(request.peer.address)
        return Response(200)

    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with trio.fail_after(5):
        async with accepting(HttpServer(note), listener):
            await ask(("127.0.0.1", listener.getsockname()[1]))
    assert seen == ["127.0.0.1"]


async def test_who_finds_no_place_is_told_so_and_the_next_free_place_is_taken() -> None:
    server = HttpServer(hello, places=Places(total=2, share=2))
    async with listening(server) as address:
        async with await trio.open_tcp_stream(*address), await trio.open_tcp_stream(*address):
            while server.places.taken.total() < 2:
                await trio.lowlevel.checkpoint()
            refused = await ask(address)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1\r\n" in refused
            assert refused.endswith(b"All connections are taken: close idle ones, or try again.\n")
        while server.places.taken:
            await trio.lowlevel.checkpoint()
        assert (await ask(address)).startswith(b"HTTP/1.1 200 ")


async def test_one_silent_address_cannot_hold_all_places() -> None:
    server = HttpServer(hello, places=Places(total=3, share=2))
    async with (
        listening(server) as address,
        await trio.open_tcp_stream(*address),
        await trio.open_tcp_stream(*address),
    ):
        while server.places.taken.total() < 2:
            await trio.lowlevel.checkpoint()
        assert (await ask(address)).startswith(b"HTTP/1.1 503 ")
        elsewhere = trio.socket.socket()
        await elsewhere.bind(("127.0.0.2", 0))
        await elsewhere.connect(address)
        async with trio.SocketStream(elsewhere) as stream:
            await stream.send_all(GET)
            await stream.send_eof()
            assert (await whole(stream)).startswith(b"HTTP/1.1 200 ")


async def test_when_even_the_refusals_are_full_a_connection_is_closed_at_once() -> None:
    server = HttpServer(hello, places=Places(total=0), refusals=Places(total=0))
    async with listening(server) as address, await trio.open_tcp_stream(*address) as stream:
        assert await whole(stream) == b""


async def test_two_hundred_connections_at_once_leave_nothing_behind() -> None:
    server = HttpServer(hello, limits=HttpLimits(linger_seconds=1))
    async with listening(server) as address:
        streams = [await trio.open_tcp_stream(*address) for _ in range(200)]
        statuses: list[bytes] = []

        async def one(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.send_all(GET)
                statuses.append(bytes(await stream.receive_some())[9:12])

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(one, stream)
        assert statuses.count(b"200") == server.places.share
        assert set(statuses) <= {b"200", b"503", b""}
        while server.places.taken or server.refusals.taken:
            await trio.lowlevel.checkpoint()
        assert (await ask(address)).startswith(b"HTTP/1.1 200 ")


async def test_work_for_a_caller_that_resets_is_cancelled_at_once() -> None:
    begun, ended = trio.Event(), trio.Event()

    async def work(_: Request) -> Response:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with listening(HttpServer(work, limits=HttpLimits(half_closed_seconds=3600))) as address:
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(GET)
        await begun.wait()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await ended.wait()


async def test_a_refusal_arrives_though_its_sender_is_still_sending() -> None:
    async with listening(HttpServer(hello)) as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 9000000\r\n\r\n")
        await stream.send_all(b"x" * 1_000_000)
        await stream.send_eof()
        assert (await whole(stream)).startswith(b"HTTP/1.1 413 ")


async def test_a_caller_that_leaves_before_it_is_served_disturbs_nobody() -> None:
    server = HttpServer(hello)
    async with listening(server) as address:
        client = trio.socket.socket()
        await client.connect(address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert (await ask(address)).startswith(b"HTTP/1.1 200 ")
        unconnected = trio.SocketStream(trio.socket.socket())
        await server.welcome(unconnected, Endpoint("192.0.2.1", 1))
        assert unconnected.socket.fileno() == -1


async def test_a_fault_of_ours_ends_one_connection_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong(_: Request) -> Response:
        return Response(200, headers=(("bad header", "\n"),))

    async with listening(HttpServer(wrong)) as address:
        assert await ask(address) == b""
        assert await ask(address) == b""
    assert caplog.text.count("a bug ended the connection from 127.0.0.1") == 2


def test_a_network_without_connections_is_forgotten() -> None:
    places = Places()
    with places.take("192.0.2.1") as granted:
        assert granted
        assert places.taken == {"192.0.2.1": 1}
    assert not places.taken
