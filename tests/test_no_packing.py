"""What a line says goes to its TCP clients at once: nothing is held back to be joined with what may come next."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.clients.streams import SocketStream
from gateway.port.bus import Bus
from tests.helpers import needs_curl
from tests.test_chain import chain

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_curl

_PATIENCE = 10.0
"""Seconds of the machine's own clock."""


def is_sent_at_once(client: socket.socket) -> bool:
    """Return whether the gateway's end of this connection, which is in this process, has TCP_NODELAY."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # it is no TCP socket, or was that of the listing
            end = socket.socket(fileno=descriptor)
            try:
                if end.getpeername() == client.getsockname():
                    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            finally:
                end.detach()
    raise AssertionError("nobody is at the other end")


async def heard(client: socket.socket, count: int) -> bytes:
    """Return what the client hears, though trio's clock may stand still: then no timer of the gateway goes off."""
    until, got = time.monotonic() + _PATIENCE, b""
    while len(got) < count:
        assert time.monotonic() < until, f"only {got!r} came, as long as no time passes"
        with contextlib.suppress(BlockingIOError):
            got += client.recv(count - len(got))
        await trio.lowlevel.checkpoint()
    return got


@pytest.mark.parametrize("hops", [0, 1])
async def test_two_reads_of_the_line_are_two_sends_at_once(
    tmp_path: Path, hops: int, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each CPU hands a piece on in the step in which it has it, though no time passes and nothing comes after it."""
    mock_clock.rate = 1
    steps: list[tuple[str, bytes]] = []
    deliver, send_nowait = Bus.deliver, SocketStream.send_nowait

    def noted_deliver(bus: Bus, data: bytes) -> None:
        steps.append(("read", data))
        deliver(bus, data)

    def noted_send(stream: SocketStream, data: bytes) -> int:
        steps.append(("sent", data))
        return send_nowait(stream, data)

    with trio.fail_after(30):
        async with chain(tmp_path, hops) as (gateways, _):
            line = gateways[0].lines[0]
            with socket.create_connection(("127.0.0.1", await gateways[-1].open_tcp())) as client:
                client.setblocking(False)
                client.send(b"I listen")
                assert await line.hear(8) == b"I listen"
                assert is_sent_at_once(client), "the kernel would join small pieces"
                monkeypatch.setattr(Bus, "deliver", noted_deliver)
                monkeypatch.setattr(SocketStream, "send_nowait", noted_send)
                mock_clock.rate = 0
                for piece in (b"first", b"second"):
                    await line.say(piece)
                    assert await heard(client, len(piece)) == piece
                mock_clock.rate = 1
    assert steps == [
        step
        for piece in (b"first", b"second")
        for step in (*[("read", piece)] * hops, ("read", piece), ("sent", piece))
    ]
