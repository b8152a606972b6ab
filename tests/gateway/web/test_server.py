"""The HTTP server's places, over real sockets on loopback."""

from __future__ import annotations

import socket
import struct
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from gateway.clients.connections import Connections
from gateway.clients.listeners import accept_clients
from gateway.tasks.reconcile import Unit
from gateway.web.http import HttpLimits
from gateway.web.message import Handover, Request, Response
from gateway.web.places import Places
from gateway.web.server import HttpServer
from protocol.endpoint import Endpoint
from protocol.parameters.addresses import AddressList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.web.http import Respond


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


async def work_until(server: HttpServer, count: int) -> None:
    while sum(place.working for place in server.places.held) < count:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def working(server: HttpServer, address: tuple[str, int], count: int) -> AsyncIterator[None]:
    """So many connections whose request is in work, until the block ends."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*address))
            await stream.send_all(GET)
        await work_until(server, count)
        yield


async def never(_: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_connection_that_has_ended_is_counted_no_more() -> None:
    server = HttpServer(hello)
    async with listening(server) as address:
        assert (await ask(address)).endswith(b"hello")
        while server.places.held or server.places.lingering:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections.count == 0


async def test_the_silent_connections_of_a_trusted_proxy_are_in_nobodys_share() -> None:
    server = HttpServer(hello, places=Places(total=3, share=1), trusted_proxies=AddressList.parse("127.0.0.1"))
    async with (
        listening(server) as address,
        await trio.open_tcp_stream(*address),
        await trio.open_tcp_stream(*address),
    ):
        while len(server.places.held) < 2:
            await trio.lowlevel.checkpoint()
        assert {place.network for place in server.places.held} == {""}


async def test_a_caller_that_died_is_noticed_within_half_a_minute() -> None:
    server = HttpServer(never)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, peer = listener.accept()
    with far:
        async with trio.open_nursery() as nursery:
            server.admit(nursery, near, peer)
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            nursery.cancel_scope.cancel()


async def test_who_finds_no_place_is_told_so_and_the_next_free_place_is_taken() -> None:
    server = HttpServer(never, places=Places(total=2, share=2))
    async with listening(server) as address:
        async with working(server, address, 2):
            refused = await ask(address)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1\r\n" in refused
            assert refused.endswith(b"All connections are taken: close idle ones, or try again.\n")
        while server.places.held:
            await trio.lowlevel.checkpoint()
        server.respond = hello
        assert (await ask(address)).startswith(b"HTTP/1.1 200 ")


async def test_a_tls_client_that_finds_no_place_gets_no_plain_text() -> None:
    server = HttpServer(never, limits=HttpLimits(linger_seconds=0.2), places=Places(total=1, share=1))
    async with (
        listening(server) as address,
        working(server, address, 1),
        await trio.open_tcp_stream(*address) as stream,
    ):
        await stream.send_all(b"\x16\x03\x01\x02\x00")
        assert await whole(stream) == b""


async def test_silent_connections_do_not_keep_a_caller_out_and_the_longest_silent_goes_first() -> None:
    server = HttpServer(hello, places=Places(total=3, share=3))
    async with listening(server) as address, AsyncExitStack() as stack:
        silent = []
        for count in range(1, 4):
            silent.append(await stack.enter_async_context(await trio.open_tcp_stream(*address)))
            while len(server.places.held) < count:
                await trio.lowlevel.checkpoint()
        assert (await ask(address)).startswith(b"HTTP/1.1 200 ")
        assert await whole(silent[0]) == b""
        for still in silent[1:]:
            await still.send_all(GET)
            assert bytes(await still.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_forty_eight_kept_alive_connections_do_not_refuse_the_next_caller() -> None:
    async def proven(_: Request) -> Response:
        return Response(200, b"hello", proven=True)

    server = HttpServer(proven)
    async with listening(server) as address, AsyncExitStack() as stack:
        for _ in range(48):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*address))
            await stream.send_all(GET)
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert len(server.places.held) == 48
        assert (await ask(address)).startswith(b"HTTP/1.1 200 ")


async def test_one_network_takes_its_share_and_no_more() -> None:
    server = HttpServer(never, places=Places(total=3, share=2))
    async with listening(server) as address, working(server, address, 2):
        assert (await ask(address)).startswith(b"HTTP/1.1 503 ")
        server.respond = hello
        elsewhere = trio.socket.socket()
        await elsewhere.bind(("127.0.0.2", 0))
        await elsewhere.connect(address)
        async with trio.SocketStream(elsewhere) as stream:
            await stream.send_all(GET)
            await stream.send_eof()
            assert (await whole(stream)).startswith(b"HTTP/1.1 200 ")


async def test_a_lingering_connection_gives_its_place_back() -> None:
    server = HttpServer(hello, limits=HttpLimits(linger_seconds=60), places=Places(total=1, share=1))
    async with listening(server) as address, await trio.open_tcp_stream(*address) as lingers:
        await lingers.send_all(b"GET / HTTP/1.0\r\n\r\n")
        assert bytes(await lingers.receive_some()).startswith(b"HTTP/1.1 200 ")
        while not server.places.lingering:
            await trio.lowlevel.checkpoint()
        assert not server.places.held
        async with await trio.open_tcp_stream(*address) as second:  # one more finds no room to linger, and is closed
            await second.send_all(b"GET / HTTP/1.0\r\n\r\n")
            assert (await whole(second)).startswith(b"HTTP/1.1 200 ")


async def test_a_connection_that_was_handed_over_gives_its_place_back() -> None:
    async def take(_: trio.abc.HalfCloseableStream) -> None:
        await trio.sleep_forever()

    async def upgrade(_: Request) -> Handover:
        return Handover(take)

    server = HttpServer(upgrade, places=Places(total=1, share=1))
    async with listening(server) as address, AsyncExitStack() as stack:
        for _ in range(5):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*address))
            await stream.send_all(GET)
            while server.places.held:
                await trio.lowlevel.checkpoint()
        server.respond = hello
        assert (await ask(address)).startswith(b"HTTP/1.1 200 ")


async def test_when_too_many_are_being_refused_a_connection_is_closed_at_once() -> None:
    server = HttpServer(hello, limits=HttpLimits(linger_seconds=60), places=Places(total=0), most_refusals=2)
    async with listening(server) as address:
        async with await trio.open_tcp_stream(*address), await trio.open_tcp_stream(*address) as silent:
            while server.refusing < 2:
                await trio.lowlevel.checkpoint()
            async with await trio.open_tcp_stream(*address) as stream:
                assert await whole(stream) == b""
            await silent.send_all(GET)
            assert (await silent.receive_some()).startswith(b"HTTP/1.1 503 ")
        while server.refusing:
            await trio.lowlevel.checkpoint()
        assert (await ask(address)).startswith(b"HTTP/1.1 503 ")


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
        # The longest silent gave way to the later ones, before or after they had asked.
        assert statuses.count(b"200") >= server.places.share
        assert set(statuses) <= {b"200", b"503", b""}
        while server.places.held or server.places.lingering or server.refusing:
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


# -- behind a reverse proxy --------------------------------------------------------------------------------------------


def forwarded(client: str, path: bytes = b"/") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: cam\r\nX-Forwarded-For: %b\r\n\r\n" % (path, client.encode())


def behind_a_proxy(respond: Respond, **more: Any) -> HttpServer:
    return HttpServer(respond, trusted_proxies=AddressList.parse("127.0.0.1"), **more)


async def test_places_are_counted_by_the_real_client_behind_a_trusted_proxy() -> None:
    server = behind_a_proxy(never, places=Places(total=8, share=2))
    async with listening(server) as address, AsyncExitStack() as stack:

        async def through_the_proxy(client: str) -> trio.SocketStream:
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*address))
            await stream.send_all(forwarded(client))
            return stream

        for count, client in enumerate(("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"), 1):
            await through_the_proxy(client)
            await work_until(server, count)
        greedy = await through_the_proxy("192.0.2.1")
        answer = await whole(greedy)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"All connections that 192.0.2.1 may have are taken" in answer
        server.respond = hello
        friend = await through_the_proxy("192.0.2.3")
        assert bytes(await friend.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_a_kept_alive_connection_of_a_proxy_is_each_client_s_in_turn() -> None:
    seen: list[tuple[str, str]] = []
    server = behind_a_proxy(hello)

    async def note(request: Request) -> Response:
        (place,) = server.places.held
        seen.append((str(request.peer), place.network))
        return Response(200)

    server.respond = note
    async with listening(server) as address, await trio.open_tcp_stream(*address) as stream:
        for client in ("192.0.2.1", "2001:db8::1:2", "192.0.2.1"):
            await stream.send_all(forwarded(client))
            await stream.receive_some()
    assert seen == [
        ("192.0.2.1:0", "192.0.2.1"),
        ("[2001:db8::1:2]:0", "2001:db8::/64"),
        ("192.0.2.1:0", "192.0.2.1"),
    ]


async def test_without_trusted_proxies_nobody_takes_a_place_in_another_s_name() -> None:
    server = HttpServer(never, places=Places(total=8, share=2))
    async with listening(server) as address, AsyncExitStack() as stack:
        for count in (1, 2):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*address))
            await stream.send_all(forwarded(f"192.0.2.{count}"))
            await work_until(server, count)
        async with await trio.open_tcp_stream(*address) as third:
            await third.send_all(forwarded("192.0.2.3"))
            assert (await whole(third)).startswith(b"HTTP/1.1 503 ")


async def test_log_lines_name_the_real_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    async def fails(request: Request) -> Response:
        if request.path == "/bug":
            raise ValueError("a bug of the test")
        await trio.sleep_forever()
        raise AssertionError

    async with listening(behind_a_proxy(fails, limits=HttpLimits(half_closed_seconds=0))) as address:
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(forwarded("192.0.2.7", b"/bug"))
            assert (await whole(stream)).startswith(b"HTTP/1.1 500 ")
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(forwarded("192.0.2.8"))
            await stream.send_eof()
            await whole(stream)
    assert "192.0.2.7:0: no answer to GET '/bug'" in caplog.text
    assert "192.0.2.8:0 left before its answer" in caplog.text


async def test_a_web_socket_behind_a_proxy_counts_as_its_client_s_connection() -> None:
    connections = Connections(1, 1024)
    seen: list[str] = []

    async def take(request: Request) -> Response:
        assert request.connection is not None
        seen.append(request.connection.network)
        return Response(200)

    async with listening(behind_a_proxy(take, connections=connections)) as address:
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(forwarded("192.0.2.7"))
            await stream.receive_some()
            assert connections.count == 1
        while connections.count:
            await trio.lowlevel.checkpoint()
    assert seen == ["192.0.2.7"]
