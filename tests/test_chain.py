"""Chained CPUs over real links: what a client on another CPU gets, and what a cut link costs (nothing)."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from protocol.hardware import ManagerHardware
from tests.helpers import free_port, house, needs_curl
from tests.wire import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.helpers import House
    from tests.wire import Wire

pytestmark = needs_curl

KEY = "a-key"


async def client(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = await stream.receive_some(count - len(received))
        assert piece, f"the connection ended after {len(received)} of {count} bytes"
        received += piece
    return bytes(received)


async def serve_remotely(home: House, key: str = KEY, **more: str) -> int:
    port = free_port()
    answer = await home.update(
        RemotePortServer_Enabled="yes",
        RemotePortServer_AuthenticationKey=key,
        RemotePortServer_Listener_Enabled="yes",
        RemotePortServer_Listener_Port=port,
        **more,
    )
    assert answer == "OK"
    return port


async def chain_to(home: House, port: int, key: str = KEY) -> None:
    remote = {"AutoConf": "no", "Host": "127.0.0.1", "Port": port, "AuthenticationKey": key}
    assert await home.set({f"RemotePort.R0.{name}": value for name, value in remote.items()}) == "OK"


async def up(home: House) -> None:
    await home.until(lambda status: status["state"] == "up")


@asynccontextmanager
async def chain(directory: Path, hops: int = 1, **more: str) -> AsyncIterator[tuple[list[House], list[Wire]]]:
    """An owner and ``hops`` CPUs, each chained to the one before it by a cable."""
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(house(_made(directory / "owner")))
        homes, cables = [owner], []
        for hop in range(hops):
            cable = await stack.enter_async_context(
                wire(await serve_remotely(homes[-1], PTZServer_Enabled="yes", **more))
            )
            managers = (ManagerHardware(remote_port=0),)
            home = await stack.enter_async_context(house(_made(directory / f"cpu{hop}"), ports=0, managers=managers))
            await chain_to(home, cable.port)
            await up(home)
            homes.append(home)
            cables.append(cable)
        yield homes, cables


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("hops", [1, 2, 3])
async def test_every_kind_of_client_reaches_the_line_of_another_cpu(tmp_path: Path, hops: int) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path, hops) as (homes, _):
            owner, far = homes[0], homes[-1]
            line = owner.lines[0]
            port = await far.open_tcp(SerialCGI_Enabled="yes", PTZServer_Enabled="yes")
            async with await client(port) as tcp, far.ptz() as driver:
                await tcp.send_all(b"tcp\x00\xff")
                assert await line.hear(5) == b"tcp\x00\xff"
                await driver.send_all(b"ptz")
                assert await line.hear(3) == b"ptz"
                await line.say(b"to all")
                assert await receive_exactly(tcp, 6) == b"to all"
                assert await receive_exactly(driver, 6) == b"to all"

                answers: list[str] = []

                async def ask() -> None:
                    answers.append(await far.curl("/axis-cgi/com/serial.cgi?write=5152&read=3&timeout=5000"))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    assert await line.hear(2) == b"QR"
                    await line.say(b"abcd")
                assert answers == ["#616263#"]
                assert len((await far.status())["path"]) == hops + 1


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_link_that_is_cut_again_and_again_costs_no_byte(tmp_path: Path, hops: int) -> None:
    up_bytes, down_bytes = os.urandom(60_000), os.urandom(60_000)
    with trio.fail_after(60):
        async with chain(tmp_path, hops) as (homes, cables):
            owner, far = homes[0], homes[-1]
            port = await far.open_tcp()
            async with await client(port) as tcp:
                done = trio.Event()
                heard: dict[str, bytes] = {}

                async def talk() -> None:
                    for start in range(0, len(up_bytes), 1000):
                        await tcp.send_all(up_bytes[start : start + 1000])
                        await owner.lines[0].say(down_bytes[start : start + 1000])

                async def hear_up() -> None:
                    heard["up"] = await owner.lines[0].hear(len(up_bytes))

                async def hear_down() -> None:
                    heard["down"] = await receive_exactly(tcp, len(down_bytes))

                async def disturb() -> None:
                    while not done.is_set():
                        for cable in cables:
                            cuts = cable.cuts
                            cable.cut_after(3000 + cuts * 777)
                            while cable.cuts == cuts and not done.is_set():
                                await trio.lowlevel.checkpoint()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(disturb)
                    async with trio.open_nursery() as traffic:
                        for task in (talk, hear_up, hear_down):
                            traffic.start_soon(task)
                    done.set()
                assert heard["up"] == up_bytes
                assert heard["down"] == down_bytes
                assert all(cable.cuts > 3 for cable in cables)
