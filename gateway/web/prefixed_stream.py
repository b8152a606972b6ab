"""A stream with bytes put back in front, so that code which looked at the first bytes can hand it on unread."""

from __future__ import annotations

from typing import final

import trio

__all__ = ["PrefixedStream"]


@final
class PrefixedStream(trio.abc.HalfCloseableStream):
    """``stream``, except that ``head`` is received first. It owns the stream: closing it closes both."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, head: bytes) -> None:
        self._stream = stream
        self._head = head

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what was put back, at most ``max_bytes`` at a time; then what the stream receives."""
        if not self._head:
            return await self._stream.receive_some(max_bytes)
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        piece, self._head = self._head[:max_bytes], self._head[max_bytes:] if max_bytes else b""
        return piece

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
        """Drop what was put back, and close the stream."""
        self._head = b""
        await self._stream.aclose()
