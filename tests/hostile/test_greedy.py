"""Clients that break no rule and hold all that they can: nobody else notices."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.hostile.siege import besieged
from tests.hostile.test_floods import SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hostile.siege import Siege

pytestmark = pytest.mark.long  # it measures time, so nothing else may run beside it

GREEDY = "127.0.0.9"
READ = "/axis-cgi/com/serial.cgi?port=1&read=65536&wait=9"


async def greedy_connection(port: int) -> trio.SocketStream:
    """Connect from the greedy client's address."""
    sock = trio.socket.socket()
    await sock.bind((GREEDY, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def silent(siege: Siege) -> None:
    """Hold 256 connections of the TCP server, or as many as are left open."""
    async with AsyncExitStack() as held:
        for _ in range(256):
            await held.enter_async_context(await greedy_connection(siege.tcp_port))
        await trio.sleep(SECONDS)


async def a_byte_at_a_time(siege: Siege) -> None:
    """Send a request of HTTP a byte at a time, over as many connections as there are."""
    async with AsyncExitStack() as held, trio.open_nursery() as nursery:
        for _ in range(64):
            stream = await held.enter_async_context(await greedy_connection(siege.owner.gateway.http_port))
            nursery.start_soon(drip, stream)


async def drip(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError), trio.move_on_after(SECONDS):
        for byte in b"GET /daisyport/status HTTP/1.1\r\nX: ":
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)


async def reads_without_end(siege: Siege) -> None:
    """Read by serial.cgi, one request after the other, sixteen at a time."""

    async def read() -> None:
        while True:
            await siege.owner.gateway.curl(READ, "--interface", GREEDY)

    with trio.move_on_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(read)


async def ten_thousand_connects_a_minute(siege: Siege) -> None:
    """Come and go."""
    with trio.move_on_after(SECONDS):
        while True:
            for port in (siege.tcp_port, siege.owner.gateway.http_port):
                with suppress(OSError):
                    await (await greedy_connection(port)).aclose()
            await trio.sleep(0.012)


@pytest.mark.parametrize(
    "hold",
    [silent, a_byte_at_a_time, reads_without_end, ten_thousand_connects_a_minute],
    ids=lambda each: each.__name__,
)
async def test_a_legal_client_that_holds_what_it_can_costs_others_nothing(
    tmp_path: Path, hold: Callable[[Siege], Awaitable[None]]
) -> None:
    more: dict[str, object] = {"PortManager.P0.SerialCGI.Enabled": "yes"}
    with trio.fail_after(60):
        async with besieged(tmp_path, more_parameters=more) as siege, siege.unharmed(), trio.open_nursery() as nursery:
            nursery.start_soon(hold, siege)
            await trio.sleep(SECONDS / 2)
            # Meanwhile another client finds its place at each service.
            async with await trio.open_tcp_stream("127.0.0.1", siege.tcp_port) as another:
                assert await another.receive_some()  # it hears the others' echoes
            with trio.fail_after(4):
                assert await siege.owner.gateway.curl("/daisyport/status", "-o/dev/null", "-w%{http_code}") == "200"
