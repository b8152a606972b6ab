"""What a message costs in system calls, counted from outside: wait, read, write, as in the shortest program in C.

Over a link it costs that at each end.

Time cannot be asserted on a busy machine; this can.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio

from protocol.session.server import HOLD
from tests.helpers import free_port
from tests.live import connected, daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.helpers import FarEnd
    from tests.live import Live

    Exchange: TypeAlias = Callable[[bytes], Awaitable[None]]

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

_MESSAGES = 200
_UNDISTURBED = 0.8
"""The least share of the messages beside which no timer of the daemon falls: there are a few a second."""
_FOR_AN_ACK = 8
"""System calls, at most, of an ACK that was held, at either end: with the timer's, for which trio makes two passes."""
_SERVER = "PortManager.P0.RemotePortServer"
_CLIENT = "PortManager.P0.GenericTCPServer"


def is_traced(pid: int) -> bool:
    return not re.search(r"TracerPid:\s+0\n", Path(f"/proc/{pid}/status").read_text())


@contextlib.asynccontextmanager
async def traced(live: Live) -> AsyncIterator[Path]:
    """Have strace write the daemon's system calls to a file while the block runs."""
    output = live.directory / "strace"
    command = ["strace", "-f", "-qq", "-o", str(output), "-p", str(live.process.pid)]
    process = await trio.lowlevel.open_process(command)
    try:
        while not is_traced(live.process.pid):  # noqa: ASYNC110  # the kernel sets no event
            await trio.sleep(0.01)
        yield output
    finally:
        process.send_signal(signal.SIGINT)
        with trio.CancelScope(shield=True):
            await process.wait()


def calls(trace: Path, way: str, reads: str) -> list[list[str]]:
    """Return the calls between the marks of this way, by name: a list for each message, which ``reads`` begins."""
    lines = trace.read_text().splitlines()
    first, last = (next(at for at, line in enumerate(lines) if mark in line) for mark in (f"<{way}>", f"</{way}>"))
    names = (re.match(r"\d+ +(\w+)\(", line) for line in lines[first:last])
    found: list[list[str]] = []
    for name in (match[1] for match in names if match is not None):
        if name == reads:
            found.append([])
        if found:
            found[-1].append(name)
    return found


def exchanges(client: trio.SocketStream, line: FarEnd) -> tuple[Exchange, Exchange]:
    """Return what has a message go from the client to the line, and one from the line to the client."""

    async def up(message: bytes) -> None:
        await client.send_all(message)
        assert await line.hear(len(message)) == message

    async def down(message: bytes) -> None:
        await line.say(message)
        got = b""
        while len(got) < len(message):
            got += await client.receive_some()
        assert got == message

    return up, down


async def rounds(way: str, exchange: Exchange) -> None:
    """Exchange messages one after the other, between two marks."""
    for message in (f"<{way}>", *map(str, range(_MESSAGES - 1)), f"</{way}>"):
        await exchange(message.encode())


async def test_a_message_costs_three_system_calls_each_way(short_path: Path) -> None:
    with trio.fail_after(50):
        async with daemon(short_path, watchdog=60) as live, traced(live) as trace:
            (line,) = live.lines
            client = await connected(live.tcp_ports[0])
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up, down = exchanges(client, line)
            await up(b"the first is the task's")
            await rounds("up", up)
            await rounds("down", down)
            await client.aclose()
    for way, reads, writes in (("up", "recvfrom", "write"), ("down", "read", "sendto")):
        each = calls(trace, way, reads)
        assert abs(len(each) - _MESSAGES) <= 1  # a mark itself may be among them
        assert each.count([reads, writes, "epoll_wait"]) >= _UNDISTURBED * _MESSAGES, Counter(map(tuple, each))


@pytest.mark.long
async def test_a_chained_message_costs_three_system_calls_at_each_end_but_for_a_few_acks(short_path: Path) -> None:
    link, tcp = free_port(), free_port()
    lends = {f"{_SERVER}.Enabled": "yes", f"{_SERVER}.AuthenticationKey": "a key", f"{_SERVER}.Listener.Enabled": "yes"}
    uses = {f"{_CLIENT}.Enabled": "yes", f"{_CLIENT}.Listener.Enabled": "yes", f"{_CLIENT}.Listener.Port": tcp}
    reaches = {"AutoConf": "no", "Host": "127.0.0.1", "Port": link, "AuthenticationKey": "a key"}
    uses |= {f"RemotePort.R0.{name}": value for name, value in reaches.items()}
    near, far = short_path / "near", short_path / "far"
    near.mkdir()
    far.mkdir()
    with trio.fail_after(55):
        async with (
            daemon(near, watchdog=60, more=lends | {f"{_SERVER}.Listener.Port": link}) as owner,
            daemon(far, ports=0, watchdog=60, config="[[port_manager]]\nremote_port = 0", more=uses) as chained,
        ):
            (line,) = owner.lines
            while (await chained.status())["ports"][0]["state"] != "up":  # noqa: ASYNC110  # nobody is told of it
                await trio.sleep(0.05)
            client = await connected(tcp)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up, down = exchanges(client, line)
            took = {}
            async with traced(owner) as at_owner, traced(chained) as at_chained:
                for way, exchange in (("up", up), ("down", down)):
                    await exchange(b"the first is the task's")
                    began = trio.current_time()
                    await rounds(way, exchange)
                    took[way] = trio.current_time() - began
            await client.aclose()
    for way, trace, reads in (
        ("up", at_chained, "recvfrom"),
        ("up", at_owner, "recvfrom"),
        ("down", at_owner, "read"),
        ("down", at_chained, "recvfrom"),
    ):
        made = Counter(name for each in calls(trace, way, reads) for name in each)
        acks = took[way] * 1000 / HOLD + _MESSAGES / 32 + 2
        # A wait of less than 10 ms is made with select, which is one more.
        assert made.total() - made["pselect6"] <= 3 * _MESSAGES + acks * _FOR_AN_ACK, (way, made)
        assert made["sendto"] <= acks or (way, trace) != ("up", at_owner)
