"""TLS over a client's socket, as a Stream: OpenSSL on two buffers in memory, and the socket beside them.

trio's SSLStream can only wait, and so every byte of the line would go through a client's queue and task. Here a piece
is encrypted and sent by the line's own task, and read by the step of whoever waits for the socket (``streams.Direct``),
as on a plain socket.

What was encrypted cannot be taken back, and the socket may take only a part of it. So, as in OpenSSL's own SSL_write:

    The bytes of a record that the socket has not taken whole are not reported as taken, and have to come again, first,
    with the next call. An Outbox does that: its head stays until it is taken.

    At most one record of data waits here, and nothing is encrypted behind it.

And since more than was asked for may have been read from the socket, as behind the end of the handshake:

    Whoever reads empties the buffer, so that a socket without bytes means that there are none.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

from gateway.clients.streams import close_socket
from gateway.tasks.ready import when_readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clients.connections import ClientConnection

__all__ = ["TlsSocketStream"]

T = TypeVar("T")

_READ_SIZE: Final = 65536
_RECORD: Final = 16384
"""Bytes of data in one record, at most (RFC 8446, 5.1)."""
_UNSENT: Final = 65536
"""Bytes that may wait for the client: it can make TLS itself answer, again and again, and read nothing."""


@final
class TlsSocketStream:
    """The server's side of TLS over a TCP socket, which it owns; the socket becomes non-blocking."""

    exact = False

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, connection: ClientConnection | None = None
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.connection = connection
        self.user = ""
        """The user whom the client's certificate names, once that is known."""
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._unsent = bytearray()
        """Records that wait for the socket."""
        self._sealed = 0
        """Bytes of data in the last of them, which have not been reported as taken."""
        self._end: ConnectionError | None = None
        """Why nothing more is to be read, behind all that was."""
        self._ended = False
        """The client ended its sending, as TLS does that (close_notify)."""

    # -- the handshake

    async def do_handshake(self, turn: trio.Lock) -> None:
        """Do the handshake, each piece of work in a ``turn``; the caller bounds it. Raises OSError where it breaks.

        Where that is an ssl.SSLError the two do not agree, and the client has been told why.
        """
        done = False
        while not done:
            async with turn:
                # The next one is woken by the release, and so works in a later pass: the lines go on in between.
                await trio.lowlevel.checkpoint()
                try:
                    self._tls.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    pass
                finally:
                    self._push()
            while self._unsent:
                await trio.lowlevel.wait_writable(self._socket)
                self._flush()
            if not done:
                await trio.lowlevel.wait_readable(self._socket)
                with suppress(BlockingIOError):
                    self._read()

    async def linger(self) -> None:
        """Close the sending half, and read until the client has done so too: else a reset may destroy what was said."""
        self._say_end()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                with suppress(BlockingIOError):
                    if not self._socket.recv(_READ_SIZE):
                        return

    @property
    def certificate(self) -> dict[str, object]:
        """Return the client's certificate, as ssl.SSLSocket.getpeercert does."""
        return dict(self._tls.getpeercert() or {})

    # -- as a Stream

    def send_nowait(self, data: bytes) -> int:
        """See Stream."""
        try:
            return self._send(data)
        except OSError:
            return 0  # gone: send() meets the same error where it can be told

    async def send(self, data: bytes) -> int:
        """See Stream."""
        while True:
            await trio.lowlevel.wait_writable(self._socket)
            if took := self._send(data):
                return took

    async def skip(self, count: int) -> None:
        """See Stream: bytes alone cannot tell."""
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        """See Stream."""
        return await self.when_readable(self.receive_nowait)

    async def when_readable(self, step: Callable[[], T | None]) -> T:
        """See Direct: also called where the bytes were read already, with the handshake or before the end."""
        if self._received.pending or self._ended or self._end is not None:
            await trio.lowlevel.checkpoint()
            if (result := step()) is not None:
                return result
        return await when_readable(self._socket.fileno(), step)

    def receive_nowait(self) -> bytes | None:
        """See Direct."""
        if self._end is not None:
            raise self._end
        if self._ended:
            return b""
        if not self._received.pending:
            try:
                self._read()
            except BlockingIOError:
                return None
        data = self._decrypted()
        if len(self._unsent) > _UNSENT:
            raise ConnectionError("it does not read what it makes TLS answer")
        if data:
            return data
        if self._end is not None:
            raise self._end
        return b"" if self._ended else None

    def close(self) -> None:
        """See Stream. The client is told that this is the end, where its socket takes that now."""
        if self._socket.fileno() < 0:
            return
        self._say_end()
        close_socket(self._socket, self.connection)

    # -- between OpenSSL and the socket

    def _say_end(self) -> None:
        """Tell the client that nothing more comes (close_notify; RFC 8446, 6.1), where its socket takes that now."""
        with suppress(ssl.SSLError):  # it wants to read the client's own, or there was no handshake
            self._tls.unwrap()
        with suppress(OSError):
            self._push()
            self._flush()

    def _read(self) -> None:
        """Give OpenSSL what has come. Raises OSError, BlockingIOError where nothing has."""
        data = self._socket.recv(_READ_SIZE)
        if not data:
            # Its system may have ended the connection, or somebody on the way, and not the client.
            raise ConnectionError("its connection ended without the end of TLS (close_notify)")
        self._received.write(data)

    def _decrypted(self) -> bytes:
        """Return all data that has come whole, and take note of what ends it."""
        pieces = []
        try:
            # Each call takes one record from the buffer, and one more only to find none costs as much.
            while self._received.pending:
                if not (piece := self._tls.read(_RECORD)):
                    self._ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._end = ConnectionError(f"TLS: {exc.reason or exc}")
        if self._to_send.pending:  # OpenSSL has something to say to that
            with suppress(OSError):
                self._push()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _send(self, data: bytes) -> int:
        """Send what the socket takes now; return how much of ``data`` is in records that it took whole."""
        took = 0
        if self._unsent:
            self._flush()
            if self._unsent:
                return 0
            took, self._sealed = self._sealed, 0
        while took < len(data):
            size = self._tls.write(memoryview(data)[took : took + _RECORD])
            self._push()
            if self._unsent:
                self._sealed = size
                break
            took += size
        return took

    def _push(self) -> None:
        """Send what OpenSSL says, behind what waits, as far as the socket takes it. Raises OSError."""
        said = self._to_send.read()
        if not self._unsent:
            with suppress(BlockingIOError):
                said = said[self._socket.send(said) :]
        self._unsent += said

    def _flush(self) -> None:
        """Send of what waits what the socket takes. Raises OSError."""
        with suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
