"""TLS over a stream whose halves can be closed one after the other, as those of a socket.

trio.SSLStream has no half-close: after its `aclose` nothing can be read. But a lingering close needs one, or a reset
could destroy the last answer, as over plain TCP. So the SSLStream gets a transport of its own, which can be cut off,
and the real one below stays open.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    import ssl

__all__ = ["TlsStream"]

_READ_SIZE = 512
"""The most bytes to decrypt in one step. A stranger may send nothing but KeyUpdates (RFC 8446, 4.6.3), on as many
connections as there are places; each has 27 bytes and costs OpenSSL some 75 us."""


@final
class TlsStream(trio.abc.HalfCloseableStream):
    """The server's side of TLS over ``transport``, which it owns."""

    def __init__(self, transport: trio.abc.HalfCloseableStream, context: ssl.SSLContext) -> None:
        self._transport = _Transport(transport)
        self._tls = trio.SSLStream(self._transport, context, server_side=True)

    async def do_handshake(self) -> None:
        """Do the handshake. Raise trio.BrokenResourceError."""
        await self._tls.do_handshake()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive decrypted bytes; after ``send_eof`` encrypted ones, of which only the end means anything."""
        if self._transport.cut_off:
            return await self._transport.stream.receive_some(max_bytes)
        return await self._tls.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` encrypted."""
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the transport does."""
        await self._tls.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send close_notify (RFC 8446, 6.1), then close the transport's sending half."""
        self._transport.cut_off = True
        with suppress(_CutOffError, trio.BrokenResourceError):
            # OpenSSL does not send close_notify while decrypted bytes are unread.
            while await self._tls.receive_some():
                pass
        await self._tls.aclose()
        await self._transport.stream.send_eof()

    async def aclose(self) -> None:
        """Close the transport at once."""
        await self._transport.stream.aclose()


@final
class _CutOffError(Exception):
    """SSLStream gets no more than what has come so far."""


@final
class _Transport(trio.abc.Stream):
    """The transport of the SSLStream: it cannot close ``stream``, and its receiving can be cut off."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.cut_off = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.cut_off:
            raise _CutOffError
        return await self.stream.receive_some(min(max_bytes or _READ_SIZE, _READ_SIZE))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
