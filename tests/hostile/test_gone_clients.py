"""A client that is gone leaves its place, though the line is stuck and nobody reads from the client."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.port import router
from tests.helpers import PASSWORD, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.helpers import Gateway

pytestmark = [needs_curl, pytest.mark.long]

STUCK = b"s" * (1 << 20)
LOGIN = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
SERIAL = "/axis-cgi/com/serial.cgi"


def reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@contextlib.asynccontextmanager
async def stuck(directory: Path) -> AsyncIterator[tuple[Gateway, int]]:
    """A gateway whose line takes nothing more, as a client with a long transfer has filled it; and its TCP port."""
    with trio.fail_after(50):
        async with running_gateway(directory) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes", PTZServer_Enabled="yes") == "OK"
            assert await gateway.set({"Network.HTTP.AuthenticationPolicy": "basic_digest"}) == "OK"
            port = await gateway.open_tcp()
            async with await trio.open_tcp_stream("127.0.0.1", port) as blocker, trio.open_nursery() as nursery:
                nursery.start_soon(blocker.send_all, STUCK)
                taken = -1
                while (now := (await gateway.status())["bytes_to_line"]) != taken or not now:
                    taken = now
                yield gateway, port
                nursery.cancel_scope.cancel()


async def holders(gateway: Gateway, service: str) -> int:
    clients = (await gateway.status())["clients"]
    return sum(client["service"] == service and "buffer" not in client["holder"] for client in clients)


async def in_the_queue(gateway: Gateway, service: str, count: int) -> None:
    """Wait until so many clients of a service have a message that waits for the line."""
    while True:
        clients = (await gateway.status())["clients"]
        if sum(client["service"] == service and client["bytes_in"] > 0 for client in clients) >= count:
            return


async def gone(gateway: Gateway, service: str, left: int, seconds: float) -> None:
    with trio.fail_after(seconds):
        while await holders(gateway, service) > left:
            pass


@pytest.mark.parametrize("more", [b"", b"x" * 500_000])
async def test_a_tcp_client_that_resets_leaves_at_once(short_path: Path, more: bytes) -> None:
    async with stuck(short_path) as (gateway, port):
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(b"first")
        await in_the_queue(gateway, "GenericTCPServer", 2)
        with trio.move_on_after(0.5):
            await client.send_all(more)
        reset(client)
        await gone(gateway, "GenericTCPServer", 1, 5)


async def test_two_hundred_that_reset_do_not_keep_out_the_next(short_path: Path) -> None:
    async with stuck(short_path) as (gateway, port):
        for _ in range(2):
            clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(150)]
            for client in clients:
                await client.send_all(b"x")
            await in_the_queue(gateway, "GenericTCPServer", 151)
            for client in clients:
                reset(client)
            await gone(gateway, "GenericTCPServer", 1, 10)
        async with await trio.open_tcp_stream("127.0.0.1", port) as late:
            await gateway.lines[0].say(b"heard")
            assert bytes(await late.receive_some(5)) == b"heard"


@pytest.mark.parametrize("how", ["shutdown", "close"])
async def test_clients_that_ended_their_sending_leave_when_what_they_sent_is_stale(
    short_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "AGE_LIMIT", 2000)
    async with stuck(short_path) as (gateway, port):
        clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(10)]
        for client in clients:
            with trio.move_on_after(0.2):
                await client.send_all(b"x" * 500_000)  # many reads, each of which would wait for its own age limit
            if how == "close":
                await client.aclose()
            else:
                await client.send_eof()
        # The one whose transfer the line has begun stays.
        await gone(gateway, "GenericTCPServer", 1, 8)
        assert await holders(gateway, "GenericTCPServer") == 1
        for client in clients:
            await client.aclose()


async def test_a_ptz_driver_that_closed_leaves_when_its_commands_are_stale(short_path: Path) -> None:
    async with stuck(short_path) as (gateway, _):
        drivers = [gateway.ptz() for _ in range(3)]
        for driver in drivers:
            await driver.send_all(b"left")
        await in_the_queue(gateway, "PTZServer", 3)
        for driver in drivers:
            await driver.aclose()
        await gone(gateway, "PTZServer", 0, 8)


async def web_socket(gateway: Gateway) -> trio.SocketStream:
    """A WebSocket by hand, with nothing that would answer for us."""
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.http_port)
    await stream.send_all(
        f"GET /daisyport/ports/P0 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {LOGIN}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Protocol: binary\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some(4096)
    assert head.startswith(b"HTTP/1.1 101 ")
    return stream


def frame(payload: bytes, opcode: int = 2) -> bytes:
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + b"\0\0\0\0" + payload


@pytest.mark.parametrize("messages", [1, 2, 50])
async def test_a_web_socket_that_resets_leaves_at_once(short_path: Path, messages: int) -> None:
    async with stuck(short_path) as (gateway, _):
        page = await web_socket(gateway)
        await page.send_all(frame(b"turn left") * messages)
        await in_the_queue(gateway, "WebSocket", 1)
        reset(page)
        await gone(gateway, "WebSocket", 0, 5)


@pytest.mark.parametrize("path", ["port=1&write=41", "port=1&write=41&read=5&wait=9"])
async def test_a_caller_of_serial_cgi_that_resets_leaves_at_once_whatever_it_pipelined(
    short_path: Path, path: str
) -> None:
    async with stuck(short_path) as (gateway, _):
        caller = await trio.open_tcp_stream("127.0.0.1", gateway.http_port)
        head = f"GET {SERIAL}?{path} HTTP/1.1\r\nHost: cam\r\nAuthorization: Basic {LOGIN}\r\n\r\n".encode()
        await caller.send_all(head * 500)
        await in_the_queue(gateway, "SerialCGI", 1)
        while not await holders(gateway, "SerialCGI"):
            pass
        reset(caller)
        await gone(gateway, "SerialCGI", 0, 3)


async def test_what_a_client_sent_before_it_reset_is_written_where_the_line_takes_it(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            for _ in range(20):
                client = await trio.open_tcp_stream("127.0.0.1", port)
                await client.send_all(b"hello")
                reset(client)
                assert await gateway.lines[0].hear(5) == b"hello"
