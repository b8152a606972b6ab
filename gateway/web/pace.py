"""The pace of HTTP: connections work one after the other, and the lines of the ports go on between any two.

Parsing and answering cost the processor about a millisecond a request, and a stranger may have 48 connections that
never stop asking. Each scheduler pass runs whoever is ready, so all of them would work in one pass, and a byte of a
line would wait for the sum. So a connection takes a turn before each piece of work:

    In one pass of the scheduler at most one connection takes up a piece of work.

Where there are only a few connections no turn is waited for, so the usual request pays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import trio

__all__ = ["Pace", "PacedStream"]

_FEW = 2
_PIECE = 512
"""Bytes of a WebSocket that are taken at once: at six bytes a frame, under a hundred frames."""


@final
@dataclass(slots=True)
class Pace:
    """The turns of so many open ``connections``, first come, first served."""

    connections: int = 0
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def turn(self) -> None:
        """Wait for the turn to do a piece of work, which is begun at once and has no checkpoint in it."""
        if self.connections > _FEW:
            async with self._lock:
                # The next one is woken by the release, and so works in a later pass.
                await trio.lowlevel.checkpoint()


@final
class PacedStream(trio.abc.HalfCloseableStream):
    """``stream``, in pieces so small that a reader which parses each at once holds up nobody. It owns the stream."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive at most 512 bytes, and those of a full piece in turn."""
        data = await self._stream.receive_some(min(max_bytes or _PIECE, _PIECE))
        if len(data) == _PIECE:  # more is coming, and a message that fits is not delayed
            await self._pace.turn()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` through the stream."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Close the sending half of the stream."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()
