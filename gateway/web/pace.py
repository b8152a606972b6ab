"""The pace of HTTP: connections work one after the other, and the lines of the ports go on between any two.

Parsing and answering a request costs about a millisecond of processor time, and a stranger may have 48 connections that
never stop asking. A scheduler pass runs all tasks that are ready, so all of them would work in one pass, and a byte of
a line would wait for all of that. So a connection takes a turn before each piece of work:

    In one pass of the scheduler at most one connection begins a piece of work.

With only a few connections no turn is waited for, so the usual request pays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import trio

__all__ = ["Pace", "PacedStream"]

_FEW = 2
_PIECE = 512
"""The most bytes of a WebSocket to take at once: with at least six bytes a frame, under a hundred frames."""


@final
@dataclass(eq=False, repr=False, slots=True)
class Pace:
    """The turns of so many open ``connections``, first come, first served."""

    connections: int = 0
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def turn(self) -> None:
        """Wait for the turn to do a piece of work, which is begun at once and has no checkpoint in it."""
        if self.connections > _FEW:
            async with self._lock:
                # Releasing the turn wakes the next connection, which so works in a later pass.
                await trio.lowlevel.checkpoint()


@final
class PacedStream(trio.abc.HalfCloseableStream):
    """``stream`` in pieces so small that parsing one delays nobody. It owns the stream."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive at most 512 bytes; wait for a turn if that many came."""
        data = await self._stream.receive_some(min(max_bytes or _PIECE, _PIECE))
        if len(data) == _PIECE:  # more is coming; a smaller message is not delayed
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
