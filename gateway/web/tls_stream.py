"""TLS over a stream, whose two halves close one after the other, as those of a socket do.

So that a connection over TLS can be ended as gently as a plain one. It knows nothing of certificates or HTTP.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    import ssl

__all__ = ["TlsStream"]


@final
class TlsStream(trio.abc.HalfCloseableStream):
    """The server's side of TLS over ``transport``, which it owns."""

    def __init__(self, transport: trio.abc.HalfCloseableStream, context: ssl.SSLContext) -> None:
        self._transport = _Transport(transport)
        self._tls = trio.SSLStream(self._transport, context, server_side=True)

    async def do_handshake(self) -> None:
        """Shake hands. Raises trio.BrokenResourceError."""
        await self._tls.do_handshake()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive plain bytes; after ``send_eof`` undeciphered ones, of which only the end has a meaning."""
        if self._transport.cut_off:
            return await self._transport.stream.receive_some(max_bytes)
        return await self._tls.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, enciphered."""
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the transport does."""
        await self._tls.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more comes (close_notify, RFC 8446, 6.1), then close the transport's sending half."""
        self._transport.cut_off = True
        with suppress(_CutOffError, trio.BrokenResourceError):
            # OpenSSL does not say it while there are bytes that nobody has taken.
            while await self._tls.receive_some():
                pass
        await self._tls.aclose()
        await self._transport.stream.send_eof()

    async def aclose(self) -> None:
        """Close the transport at once."""
        await self._transport.stream.aclose()


@final
class _CutOffError(Exception):
    """What has come so far is all that SSLStream gets."""


@final
class _Transport(trio.abc.Stream):
    """What SSLStream has instead of ``stream``: only the owner closes that, and may cut off what it receives."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.cut_off = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.cut_off:
            raise _CutOffError
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
