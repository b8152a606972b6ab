"""A daemon whose log nobody reads: ports, callers and SIGTERM do not wait for it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from gateway.state.users import Users
from tests.helpers import PASSWORD, Gateway, configuration, free_port, lines, needs_curl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = needs_curl

PIPE = 4096


@asynccontextmanager
async def unread(directory: Path) -> AsyncIterator[tuple[Gateway, trio.Process]]:
    """Run a daemon with one port, and standard error in a pipe of 4 KiB that nobody reads."""
    log, end = os.pipe()
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE)
    try:
        async with logging_to(end, directory) as (gateway, process):
            yield gateway, process
    finally:
        os.close(end)
        os.close(log)


@asynccontextmanager
async def logging_to(log: int, directory: Path) -> AsyncIterator[tuple[Gateway, trio.Process]]:
    """Run a daemon with one port, and standard error in the descriptor ``log``."""
    with lines(directory, 1) as ends, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        gateway = Gateway(configuration(directory, ends, free_port()), ends, free_port())
        config = directory / "daisyport.toml"
        config.write_text(
            f'state_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\nnode_name = "cpu1"\n'
            f'[http]\nlisten = ["127.0.0.1:{gateway.http_port}"]\n[tcp]\nbind = ["127.0.0.1"]\n'
            f'[[serial]]\ndevice = "{ends[0].path}"\n'
        )
        Users(directory / "state", "cpu1").add("admin", "admin", PASSWORD)
        manager.bind(str(directory / "notify"))
        manager.setblocking(False)
        command = [sys.executable, "-m", "gateway", "run", "--verbose", "--config", str(config)]
        process = await trio.lowlevel.open_process(
            command, stderr=log, env=os.environ | {"NOTIFY_SOCKET": str(directory / "notify")}
        )
        try:
            told = b""
            while b"READY=1" not in told:
                await trio.lowlevel.wait_readable(manager)
                told = manager.recv(4096)
            yield gateway, process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def busy(gateway: Gateway) -> list[float]:
    """Make the gateway log a few hundred lines, while a client exchanges messages with the line all the time.

    Return how many seconds each exchange took.
    """
    port = await gateway.open_tcp()
    echoes: list[float] = []

    async def echo() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            while True:
                began = trio.current_time()
                await client.send_all(b"ask")
                assert await gateway.lines[0].hear(3) == b"ask"
                await gateway.lines[0].say(b"yes")
                heard = b""
                while len(heard) < 3:
                    heard += await client.receive_some(3 - len(heard))
                echoes.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        for number in range(20):
            for _ in range(50):
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            # A line of the log for most of them.
            refused: dict[str, object] = {f"Serial.Ser1.NoSuch{n}": 1 for n in range(20)}
            refused["Serial.Ser1.BaudRate"] = 9600 if number % 2 else 19200
            assert "NoSuch0" in await gateway.set(refused)
        before = len(echoes)
        while len(echoes) < before + 100:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return echoes


async def test_a_pipe_that_nobody_reads_delays_no_client_no_caller_and_no_stop(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with unread(tmp_path) as (gateway, process):
            await busy(gateway)
            process.send_signal(signal.SIGTERM)
            began = trio.current_time()
            assert await process.wait() == 0
            assert trio.current_time() - began < 4.5
