"""What a hostile or broken caller does at the front door, while bytes flow on the line: neither notices the other."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers import needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helpers import Gateway

DISCOVERY = b"GET /axis-cgi/apidiscovery.cgi HTTP/1.1\r\nHost: cam\r\n\r\n"
SHARE = 48
"""Connections that one address may have at once."""

pytestmark = needs_curl


async def caller(gateway: Gateway) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", gateway.http_port)


async def rest(stream: trio.SocketStream) -> bytes:
    """All that still comes, however it ends."""
    received = b""
    with contextlib.suppress(trio.BrokenResourceError):
        async for piece in stream:
            received += piece
    return received


@contextlib.asynccontextmanager
async def flowing(directory: Path) -> AsyncIterator[Gateway]:
    """A gateway whose TCP client and device exchange bytes for as long as the block takes, and a hundred times more."""
    with trio.fail_after(30):
        async with running_gateway(directory) as gateway:
            port = await gateway.open_tcp()
            rounds = 0

            async def exchange(tcp: trio.SocketStream) -> None:
                nonlocal rounds
                message = b"%08d" % rounds
                await tcp.send_all(message)
                assert await gateway.lines[0].hear(len(message)) == message
                await gateway.lines[0].say(message)
                received = b""
                while len(received) < len(message):
                    received += await tcp.receive_some(len(message) - len(received))
                assert received == message
                rounds += 1

            async def exchange_for_ever(tcp: trio.SocketStream) -> None:
                while True:
                    await exchange(tcp)

            async with await trio.open_tcp_stream("127.0.0.1", port) as tcp, trio.open_nursery() as nursery:
                nursery.start_soon(exchange_for_ever, tcp)
                yield gateway
                before = rounds
                while rounds < before + 100:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert await answered(gateway)


async def answered(gateway: Gateway) -> bool:
    """Whether a caller at another address is answered."""
    elsewhere = trio.socket.socket()
    await elsewhere.bind(("127.0.0.2", 0))
    await elsewhere.connect(("127.0.0.1", gateway.http_port))
    async with trio.SocketStream(elsewhere) as stream:
        await stream.send_all(DISCOVERY)
        return bytes(await stream.receive_some(1000)).startswith(b"HTTP/1.1 200 ")


async def test_callers_that_send_their_requests_byte_by_byte(tmp_path: Path) -> None:
    async with flowing(tmp_path) as gateway, contextlib.AsyncExitStack() as callers:
        slow = [await callers.enter_async_context(await caller(gateway)) for _ in range(SHARE - 8)]
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 50:
            for stream in slow:
                await stream.send_all(bytes([byte]))
        assert await answered(gateway)


async def test_two_hundred_callers_that_say_nothing(tmp_path: Path) -> None:
    async with flowing(tmp_path) as gateway, contextlib.AsyncExitStack() as callers:
        ended = 0

        async def wait(stream: trio.SocketStream) -> None:
            nonlocal ended
            told = await rest(stream)
            assert told == b"" or told.startswith(b"HTTP/1.1 503 ")
            ended += 1

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(wait, await callers.enter_async_context(await caller(gateway)))
            while ended < 200 - SHARE:
                await trio.lowlevel.checkpoint()
            assert await answered(gateway)
            nursery.cancel_scope.cancel()


async def test_a_head_of_ten_megabytes(tmp_path: Path) -> None:
    async with flowing(tmp_path) as gateway, await caller(gateway) as stream:
        answers: list[bytes] = []

        async def listen() -> None:
            answers.append(await rest(stream))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"GET / HTTP/1.1\r\n" + b"X-Long: %b\r\n" % bytes(b"x" * 1000) * 10_000)
                await stream.send_eof()
        assert answers[0].startswith(b"HTTP/1.1 431 ")
        assert b"Connection: close\r\n" in answers[0]


async def test_a_thousand_requests_in_one_piece_are_answered_in_order(tmp_path: Path) -> None:
    async with flowing(tmp_path) as gateway, await caller(gateway) as stream, trio.open_nursery() as nursery:
        body = b'{"context":"%d","method":"getSupportedVersions"}'
        head = b"POST /axis-cgi/apidiscovery.cgi HTTP/1.1\r\nHost: cam\r\nContent-Length: %d\r\n\r\n"
        requests = [head % len(body % n) + body % n for n in range(1000)]

        async def send() -> None:
            await stream.send_all(b"".join(requests))
            await stream.send_eof()

        nursery.start_soon(send)
        assert re.findall(rb'"context": "(\d+)"', await rest(stream)) == [b"%d" % n for n in range(1000)]


async def test_bodies_that_do_not_end(tmp_path: Path) -> None:
    async with flowing(tmp_path) as gateway, contextlib.AsyncExitStack() as callers:
        for framing in (b"Content-Length: 60000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nffff\r\n"):
            for _ in range(10):
                stream = await callers.enter_async_context(await caller(gateway))
                await stream.send_all(b"POST /axis-cgi/param.cgi HTTP/1.1\r\nHost: cam\r\n" + framing + b"action=li")
        assert await answered(gateway)
        await stream.send_eof()
        assert b"HTTP/1.1 400 " in await rest(stream)


RUBBISH = {
    "no WebSocket": b"Upgrade: rubbish\r\nConnection: upgrade\r\n\r\n" + bytes(range(256)),
    "no key": b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n" + bytes(range(256)),
    "a key and frames before they are due": (
        b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + bytes(range(256))
    ),
    "HTTP/2": b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
}


@pytest.mark.parametrize("kind", RUBBISH)
@pytest.mark.parametrize("path", [b"/axis-cgi/com/serial.cgi", b"/daisyport/ports/P0", b"/"])
async def test_an_upgrade_with_rubbish(
    tmp_path: Path, path: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with flowing(tmp_path) as gateway, await caller(gateway) as stream:
        await stream.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: cam\r\n" + RUBBISH[kind])
        await stream.send_eof()
        assert re.match(rb"HTTP/1.1 4\d\d ", await rest(stream))
    assert "Traceback" not in caplog.text


async def test_a_tls_hello_that_is_none_and_one_that_does_not_end(tmp_path: Path) -> None:
    async with flowing(tmp_path) as gateway, await caller(gateway) as junk, await caller(gateway) as half:
        await junk.send_all(b"\x16\x03\x01\x02\x00" + bytes(600))
        await half.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert b"HTTP" not in await rest(junk)
        assert await answered(gateway)


PIECES = st.one_of(
    st.binary(max_size=64),
    st.sampled_from(
        [
            DISCOVERY,
            b"GET /axis-cgi/param.cgi?action=list HTTP/1.1\r\nAuthorization: Digest ",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"\x16\x03\x01",
            b"\r\n\r\n",
            b"Content-Length: 5\r\n",
            b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        ]
    ),
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(PIECES, max_size=6).map(b"".join), min_size=1, max_size=20))
@example([b"GET \xff HTTP/9.9\r\n\r\n", b"\x00" * 100])
async def test_any_bytes_get_an_answer_that_blames_their_sender_or_none(thrown: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with flowing(Path(directory)) as gateway:
            for raw in thrown:
                async with await caller(gateway) as stream:
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.send_all(raw)
                        await stream.send_eof()
                    for status in re.findall(rb"(?m)^HTTP/1.1 (\d+) ", await rest(stream)):
                        assert status[:1] != b"5" or status == b"505"


async def test_the_port_is_toggled_as_a_public_web_page_does_it_while_clients_are_connected(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes", PTZServer_Enabled="yes")
            async with await trio.open_tcp_stream("127.0.0.1", port) as tcp, gateway.ptz() as driver:
                await gateway.until(lambda status: len(status["clients"]) >= 2)
                assert await gateway.update(PortEnabled="no") == "OK"
                await tcp.send_all(b"lost")
                until = trio.current_time() + 0.8  # the page's own pause, filled with looks at the status
                while trio.current_time() < until:
                    assert (await gateway.status())["enabled"] is False
                assert await gateway.update(PortEnabled="yes") == "OK"
                for stream, message in ((tcp, b"tcp"), (driver, b"ptz")):
                    await stream.send_all(message)
                    assert await gateway.lines[0].hear(3) == message
                assert await gateway.curl("/axis-cgi/com/serial.cgi?write=636769") == ""
                assert await gateway.lines[0].hear(3) == b"cgi"
                await gateway.lines[0].say(b"both")
                for stream in (tcp, driver):
                    assert await stream.receive_some(100) == b"both"
                assert any(client["dropped"] == 4 for client in (await gateway.status())["clients"])
