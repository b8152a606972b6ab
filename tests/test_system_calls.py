"""What a message costs in system calls, counted from outside: wait, read, write, as in the shortest program in C.

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
from typing import TYPE_CHECKING

import pytest
import trio

from tests.live import connected, daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.live import Live

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

_MESSAGES = 200
_UNDISTURBED = 0.8
"""The least share of the messages beside which no timer of the daemon falls: there are a few a second."""


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


async def rounds(way: str, exchange: Callable[[bytes], Awaitable[None]]) -> None:
    """Exchange messages one after the other, between two marks."""
    for message in (f"<{way}>", *map(str, range(_MESSAGES - 1)), f"</{way}>"):
        await exchange(message.encode())


async def test_a_message_costs_three_system_calls_each_way(short_path: Path) -> None:
    with trio.fail_after(50):
        async with daemon(short_path, watchdog=60) as live, traced(live) as trace:
            (line,) = live.lines
            client = await connected(live.tcp_ports[0])
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            async def up(message: bytes) -> None:
                await client.send_all(message)
                assert await line.hear(len(message)) == message

            async def down(message: bytes) -> None:
                await line.say(message)
                got = b""
                while len(got) < len(message):
                    got += await client.receive_some()
                assert got == message

            await up(b"the first is the task's")
            await rounds("up", up)
            await rounds("down", down)
            await client.aclose()
    for way, reads, writes in (("up", "recvfrom", "write"), ("down", "read", "sendto")):
        each = calls(trace, way, reads)
        assert abs(len(each) - _MESSAGES) <= 1  # a mark itself may be among them
        assert each.count([reads, writes, "epoll_wait"]) >= _UNDISTURBED * _MESSAGES, Counter(map(tuple, each))
