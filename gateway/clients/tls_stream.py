"""TLS over a client's socket, as a Stream: OpenSSL on two buffers in memory, and the socket beside them.

trio's SSLStream can only wait, so every byte of the line would go through a client's queue and task. Here the line's
own task encrypts and sends a piece, and a step of the reader decrypts it (``streams.Direct``), as on a plain socket.

Encrypted bytes cannot be taken back, and the socket may take only a part of them. So, as in OpenSSL's own SSL_write:

    If the socket has not taken a record whole, its bytes are not reported as taken, and the next call must begin with
    them. An Outbox does that: its head stays until it is taken.

    At most one record of data waits here, and nothing is encrypted after it.

A read of the socket may bring more than it was for, such as data after the end of the handshake. So:

    A reader always empties the buffer, so that nothing is left when the socket has no bytes.
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

_READ_SIZE: Final = 512
"""The most bytes to decrypt in one step. A KeyUpdate (RFC 8446, 4.6.3) has 27 and costs OpenSSL some 75 us: 64 KiB of
them would hold up all lines for 0.2 s. A record may be longer, and then waits for its rest."""
_RECORD: Final = 16384
"""The most bytes of data in one record (RFC 8446, 5.1)."""
_UNSENT: Final = 65536
"""The most unsent bytes: a client could make TLS itself answer again and again, and read nothing."""


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
        """The user that the client's certificate names; empty until that is known."""
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._unsent = bytearray()
        """Encrypted bytes that wait for the socket."""
        self._sealed = 0
        """Bytes of data in its last record, which have not been reported as taken."""
        self._end: ConnectionError | None = None
        """The error to raise after everything that was decrypted has been read."""
        self._ended = False
        """The client ended its sending by close_notify."""

    # -- the handshake

    async def do_handshake(self, turn: trio.Lock) -> None:
        """Do the handshake, each piece of work in a ``turn``. The caller bounds its time. Raises OSError where it
        fails.

        If the error is an ssl.SSLError, the two sides do not agree, and the client has been told why.
        """
        done = False
        while not done:
            async with turn:
                # Releasing the turn wakes the next handshake, which so works in a later pass: the lines go on in
                # between.
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
        """Close the sending half, and read until the client closes too, or a reset may destroy our last words."""
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
            return 0  # gone: send() meets the same error, and may raise it

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
        """See Direct. The step is also called for bytes that were read with the handshake, and for the end."""
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
            raise ConnectionError("it does not read the answers that it causes in TLS")
        if data:
            return data
        if self._end is not None:
            raise self._end
        return b"" if self._ended else None

    def close(self) -> None:
        """See Stream. Send close_notify if the socket takes it now."""
        if self._socket.fileno() < 0:
            return
        self._say_end()
        close_socket(self._socket, self.connection)

    # -- between OpenSSL and the socket

    def _say_end(self) -> None:
        """Send close_notify (RFC 8446, 6.1) if the socket takes it now."""
        with suppress(ssl.SSLError):  # raised while the client's own has not come, and before the handshake
            self._tls.unwrap()
        with suppress(OSError):
            self._push()
            self._flush()

    def _read(self) -> None:
        """Give OpenSSL what the socket has. Raises OSError; BlockingIOError where that is nothing."""
        data = self._socket.recv(_READ_SIZE)
        if not data:
            # The connection may have been cut by anybody on the way: only close_notify proves that the client ended it.
            raise ConnectionError("its connection ended without the end of TLS (close_notify)")
        self._received.write(data)

    def _decrypted(self) -> bytes:
        """Return the data of all whole records, and note an end or an error after it."""
        pieces = []
        try:
            # Each call takes one record. A last call that finds nothing would cost as much as one that does.
            while self._received.pending:
                if not (piece := self._tls.read(_RECORD)):
                    self._ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._end = ConnectionError(f"TLS: {exc.reason or exc}")
        if self._to_send.pending:  # OpenSSL answers, for example to a key update
            with suppress(OSError):
                self._push()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _send(self, data: bytes) -> int:
        """Send what the socket takes now; return how many bytes of ``data`` are in records that it took whole."""
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
        """Send OpenSSL's output after what waits, as far as the socket takes it. Raises OSError."""
        said = self._to_send.read()
        if not self._unsent:
            with suppress(BlockingIOError):
                said = said[self._socket.send(said) :]
        self._unsent += said

    def _flush(self) -> None:
        """Send waiting bytes as far as the socket takes them. Raises OSError."""
        with suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
