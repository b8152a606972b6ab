"""The daemon at full load: clients that send as fast as they can cost nobody else his turn, and the daemon its manners.

The limits are the product's own: the patience of a CPU that asks, of an update, of a service manager.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import free_port, needs_curl
from tests.hostile import peer as wire
from tests.hostile.siege import KEY, remote_server
from tests.live import connected, daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.helpers import FarEnd
    from tests.live import Live

pytestmark = [
    pytest.mark.long,  # it loads every core
    needs_curl,
    pytest.mark.skipif(shutil.which("nc") is None, reason="netcat is not installed"),
]

WATCHDOG = 3.0
"""Seconds of silence after which the service manager would kill."""
PATIENCE = {"a client": 2.0, "the link": 3.0, "the front door": 2.0}
"""Seconds after which a command is stale, a CPU cuts its link, and an update should have been answered."""


@contextlib.contextmanager
def flooding(port: int, clients: int) -> Iterator[None]:
    """Have so many clients send zeros as fast as they can, each a process of its own."""
    with contextlib.ExitStack() as stack:
        zeros = stack.enter_context(open("/dev/zero", "rb"))
        for _ in range(clients):
            command = ["nc", "127.0.0.1", str(port)]
            process = stack.enter_context(subprocess.Popen(command, stdin=zeros, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
        yield


@contextlib.contextmanager
def swallowed(end: FarEnd) -> Iterator[None]:
    """Have a process of its own take what the gateway writes, as fast as it can."""
    os.set_blocking(end.master, True)
    with subprocess.Popen(["cat"], stdin=end.master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cat:
        try:
            yield
        finally:
            cat.kill()


def processor_seconds(live: Live) -> float:
    return int(Path(f"/proc/{live.process.pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.asynccontextmanager
async def all_connected(*ports: int) -> AsyncIterator[list[trio.SocketStream]]:
    """Connect a client to each of these TCP ports."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await connected(port)) for port in ports]


async def is_busy(live: Live, seconds: float) -> None:
    """Wait until the daemon had a processor for so many seconds more."""
    until = processor_seconds(live) + seconds
    while processor_seconds(live) < until:  # noqa: ASYNC110 -- a process tells it in no other way
        await trio.sleep(0.02)


async def test_beside_a_client_at_full_speed_seven_others_a_link_and_the_front_door_are_answered(
    short_path: Path,
) -> None:
    remote, heard = free_port(), bytearray()
    longest = dict.fromkeys(PATIENCE, 0.0)
    answers = dict.fromkeys(PATIENCE, 0)

    def note(who: str, since: float) -> None:
        longest[who] = max(longest[who], trio.current_time() - since)
        answers[who] += 1

    async def hear(end: FarEnd) -> None:
        while True:
            heard.extend((await end.hear_some()).replace(b"\0", b""))

    async def talk(client: trio.SocketStream, letter: str) -> None:
        for number in range(20):
            message, began = f"<{letter}{number}>".encode(), trio.current_time()
            await client.send_all(message)
            while message not in heard:  # noqa: ASYNC110 -- it is heard elsewhere
                await trio.sleep(0.002)
            note("a client", began)

    async def ask(peer: wire.Peer) -> None:
        while True:
            began = trio.current_time()
            await peer.send(wire.PING, payload=wire.now())
            await peer.until(wire.PONG)
            note("the link", began)
            await trio.sleep(0.01)

    async def knock(live: Live) -> None:
        while True:
            began = trio.current_time()
            answer = await live.curl("/axis-cgi/param.cgi?action=update&Serial.Ser1.BaudRate=19200")
            assert answer == ("200", "OK")
            note("the front door", began)

    with trio.fail_after(40):
        async with daemon(short_path, more=remote_server(remote)) as live:
            others, link = all_connected(*live.tcp_ports * 7), wire.dialled(remote, KEY, wire.Node(b"p" * 32))
            async with others as clients, link as peer, trio.open_nursery() as beside:
                beside.start_soon(hear, live.lines[0])
                await peer.open()
                with flooding(live.tcp_ports[0], 1):
                    await is_busy(live, 0.1)
                    beside.start_soon(ask, peer)
                    beside.start_soon(knock, live)
                    async with trio.open_nursery() as talking:
                        for letter, client in zip("abcdefg", clients, strict=True):
                            talking.start_soon(talk, client, letter)
                    while min(answers.values()) < 5:  # noqa: ASYNC110 -- they are counted elsewhere
                        await trio.sleep(0.01)
                beside.cancel_scope.cancel()
            print(longest, answers)
            assert all(longest[who] < patience for who, patience in PATIENCE.items()), longest


async def test_while_eight_clients_flood_the_watchdog_is_fed_and_sigterm_ends_it_in_time(short_path: Path) -> None:
    with trio.fail_after(40):
        async with daemon(short_path, watchdog=WATCHDOG) as live:
            with swallowed(live.lines[0]), flooding(live.tcp_ports[0], 8):
                await is_busy(live, 0.1)
                live.hear_told()
                for _ in range(3):
                    with trio.fail_after(WATCHDOG):
                        while b"WATCHDOG=1" not in live.hear_told():
                            await trio.lowlevel.wait_readable(live.told)
                began = trio.current_time()
                live.process.terminate()
                assert await live.process.wait() == 0
                took = trio.current_time() - began
            print(f"{took:.1f} s to its end")
            assert took < 4
            assert b"STOPPING=1" in live.hear_told()
            assert "a bug" not in live.log


async def test_an_idle_port_and_a_broken_one_cost_no_processor_time(short_path: Path) -> None:
    """Clients are there, one of them hung up on its side alone, and one of the lines is gone."""
    with trio.fail_after(40):
        async with daemon(short_path, ports=2) as live, all_connected(*live.tcp_ports * 3) as clients:
            live.lines[1].unplug()
            while (await live.status())["ports"][1]["state"] == "up":
                pass
            await clients[1].send_all(b"nobody is there")
            await trio.sleep(0.5)
            before = processor_seconds(live)
            await trio.sleep(2)
            spent = processor_seconds(live) - before
            print(f"{spent * 500:.1f} ms a second")
            assert spent < 0.2, "a loop that is busy would have all that there is"
