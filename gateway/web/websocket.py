"""A WebSocket (RFC 6455) as one more client of a port.

Binary messages are bytes of the line, both ways; text messages are JSON, whose meaning is in `control`. The caller and
its rights were checked before. This file, and the library behind it, are imported at the first WebSocket: a gateway
without browsers pays nothing for them.

Three tasks share a WebSocket. The port's relay, or `_trace` in its place, receives and sends, and owns its session.
`tell` sends events, and `keep` sends pings. All of them end with `closed`, which `close` sets; the task that did the
handshake then sends the close frame, because a stream's `close` cannot wait.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 -- wsproto decodes Host by it, and would load it in the loop
import functools
import json
import math
from typing import TYPE_CHECKING, final

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from gateway.clients.relay import RESET_PATIENCE, end_when_stuck, until_gone
from gateway.clients.streams import MESSAGE_LIMIT
from gateway.clients.trace import Trace, now
from gateway.web.control import answer, events
from gateway.web.prefixed_stream import PrefixedStream
from gateway.web.trace import SLICE, told
from gateway.web.websocket_handshake import BINARY

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_websocket import WebSocketConnection

    from gateway.clients.connections import ClientConnection
    from gateway.clients.service import Service
    from gateway.clients.streams import Stream
    from gateway.port.rights import Right
    from gateway.port.router import Handle, Session
    from gateway.tasks.watch import Cell
    from gateway.web.control import JsonObject

__all__ = ["WebSocketStream", "serve"]

PING_SECONDS = 20.0
"""Seconds between pings."""
PONG_SECONDS = 20.0
"""Seconds from a ping to its answer: an idle client may stay for ever, a dead one may not."""

LOOK_SECONDS = 0.25
"""Seconds between checks that the login is valid and the client is there."""

_TRACE_PAUSE = 0.05
"""Seconds between messages of a trace: its pieces have their times, and nobody reads faster."""

_GONE = (ConnectionClosed, LocalProtocolError)
"""Raised by the library if the client is gone, or is going and the library has not noticed yet."""
_HANDSHAKE_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
_GOING_AWAY = 1001
_ABNORMAL = 1006
_TOO_BIG = 1009
_REASON_LIMIT = 123
"""Bytes of a close frame's reason (RFC 6455, 5.5)."""


async def serve(
    stream: trio.abc.HalfCloseableStream,
    head: bytes,
    service: Service,
    rights: Right,
    holder: str,
    revoked: Callable[[], str | None],
    *,
    bytes_only: bool = False,
    traces: bool = False,
    connection: ClientConnection | None = None,
) -> None:
    """Connect ``holder`` to the line, with these rights, until either side ends it; then close the stream.

    ``head`` is the request, checked by `websocket_handshake`. Once it is accepted only its port ends it, so that at the
    gateway's stop it may take what waits for it, like any other client. With ``bytes_only`` every message is bytes of
    the line, text as UTF-8, and no JSON is sent; with ``traces`` only JSON is sent. ``connection`` is its connection,
    for counting. ``revoked`` returns why the login is no longer valid, which ends the client within a second.
    """
    with trio.CancelScope() as scope:
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(_HANDSHAKE_SECONDS):
                    request = await wrap_server_stream(
                        nursery, PrefixedStream(stream, head), max_message_size=MESSAGE_LIMIT
                    )
                    ws = await request.accept(subprotocol=BINARY if BINARY in request.proposed_subprotocols else None)
                # Shielded, but bounded by the port, which revokes the client's handle when it stops.
                scope.shield = True
                client = WebSocketStream(ws, connection, bytes_only=bytes_only)
                carry = functools.partial(_trace, client, service) if traces else None
                client.handle = service.serve(client, holder, rights=rights, carry=carry)
                await _connect(client, revoked)
                nursery.cancel_scope.cancel()
        except* (*_GONE, trio.TooSlowError):
            pass  # the client left during the handshake, or sent something during the refusal


async def _trace(client: WebSocketStream, service: Service, _: Stream, session: Session, __: Cell[int]) -> None:
    """Send the client what passes at the port, with times, until it leaves or its session is ended.

    A client that reads too slowly is not ended; it is told how many bytes are missing.
    """
    history = service.manner.history
    with contextlib.closing(session), contextlib.closing(client), session.scope:
        newest = b"" if history is None else history.newest
        trace = Trace(session, writing=session.watches)  # no checkpoint since the history was read: no byte is lost
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_gone, session, functools.partial(client.show, trace, newest))
            with session.pumping:
                await until_gone(session, client.receive)
            nursery.cancel_scope.cancel()


async def _connect(client: WebSocketStream, revoked: Callable[[], str | None]) -> None:
    async with trio.open_nursery() as beside:
        beside.start_soon(client.tell)
        beside.start_soon(client.keep)
        beside.start_soon(client.watch, revoked)
        await client.closed.wait()
        beside.cancel_scope.cancel()
    with trio.move_on_after(_CLOSE_SECONDS):
        await client.send_close()


@final
class WebSocketStream:
    """One WebSocket as a Stream: a binary message is an exact message, of at most MESSAGE_LIMIT bytes."""

    exact = True

    def __init__(
        self, ws: WebSocketConnection, connection: ClientConnection | None = None, *, bytes_only: bool = False
    ) -> None:
        self._ws = ws
        self.connection = connection
        self._bytes_only = bytes_only
        self._connected = trio.Event()
        self._listening_since = math.inf
        self.handle: Handle | None = None
        """Its handle on the port; None if it was refused."""
        self.closed = trio.Event()

    @property
    def _session(self) -> Session:
        assert self.handle is not None
        assert self.handle.session is not None
        return self.handle.session

    @property
    def why_ended(self) -> str:
        """Return why it was ended, for the close frame."""
        if self.handle is None:
            return "the port takes no more clients"
        session = self.handle.session
        return (session.ended if session is not None else None) or "the gateway stops"

    def send_nowait(self, data: bytes) -> int:
        """Take nothing, because a frame cannot be sent without waiting: each piece goes through the queue."""
        return 0

    async def send(self, data: bytes) -> int:
        """See Stream."""
        await self._send(data)
        return len(data)

    async def skip(self, count: int) -> None:
        """See Stream."""
        await self._say({"event": "gap", "count": count})

    async def receive(self) -> bytes:
        """See Stream. Requests, which come as text, are answered here in the order of all messages."""
        self._connected.set()
        while True:
            message = await self._next()
            if self._bytes_only and isinstance(message, str):
                message = message.encode()
                if len(message) > MESSAGE_LIMIT:  # the library counts characters
                    await self._ws.aclose(_TOO_BIG, f"a message has at most {MESSAGE_LIMIT} bytes")
                    raise self._left()
            if isinstance(message, str):
                await self._say(await answer(message, self._session))
            elif not self._session.writes:
                await self._say({"event": "refused", "reason": f"{self._session.holder} may only read"})
            elif message:  # an empty message would look like the end
                if self._session.silent is not None:  # the session counts what it drops
                    await self._say({"event": "refused", "reason": self._session.silent})
                return message

    async def send_close(self) -> None:
        """Send the close frame, with the reason."""
        await self._ws.aclose(_GOING_AWAY, self.why_ended.encode()[:_REASON_LIMIT].decode(errors="ignore"))

    def close(self) -> None:
        """Set ``closed``, so that the task of the handshake sends the close frame, which takes time."""
        self.closed.set()

    async def tell(self) -> None:
        """Send the events of the port while the client is connected."""
        await self._connected.wait()
        all_told = self._session.writes or self._session.watches
        before = None
        try:
            async for state in self._session.state.changes():
                for event in events(before, state, all_told=all_told):
                    await self._say(event)
                before = state
        except ConnectionError:
            return

    async def show(self, trace: Trace, newest: bytes) -> None:
        """Send the traced pieces, after the port's history."""
        if newest:
            await self._say({"event": "history", "data": newest.hex()})
        await self._say({"event": "trace", "time": now(), "pieces": []})
        while True:
            pieces = await trace.take()
            for start in range(0, len(pieces), SLICE):
                shown = [told(piece) for piece in pieces[start : start + SLICE]]
                await self._say({"event": "trace", "time": now(), "pieces": shown})
            # Collect pieces meanwhile: a message for each read would cost a busy line more than its bytes.
            await trio.sleep(_TRACE_PAUSE)

    async def keep(self) -> None:
        """Ping the client, and end its session if no answer comes."""
        while True:
            await trio.sleep(PING_SECONDS)
            with trio.move_on_after(PONG_SECONDS) as patience:
                try:
                    await self._ws.ping()
                except _GONE:
                    return  # the relay meets the same error, after writing what it holds
            # While a message waits for the line nothing is read, and so no answer to a ping: that is no silence.
            silent = trio.current_time() - self._listening_since
            if patience.cancelled_caught and silent >= PONG_SECONDS:
                self._session.end(f"no answer to a ping within {PONG_SECONDS:g} s")
                return

    async def watch(self, revoked: Callable[[], str | None]) -> None:
        """End the client's session when its login is revoked, or it has gone while its message waits for the line."""
        await self._connected.wait()
        while self._ws.closed is None:
            why = revoked()
            # The library bounds the bytes of an incomplete message, but not the number of its pieces.
            if why is None and len(self._ws._message_parts) > MESSAGE_LIMIT:
                why = "its message came in more pieces than a message has bytes"
            if why is not None:
                self._session.end(why)
                return
            await trio.sleep(LOOK_SECONDS)
        was_reset = self._ws.closed.code == _ABNORMAL
        await end_when_stuck(self._session, str(self._left()), RESET_PATIENCE if was_reset else self._session.age_limit)

    async def _next(self) -> str | bytes:
        self._listening_since = trio.current_time()
        try:
            return await self._ws.get_message()
        except ConnectionClosed:
            raise self._left() from None
        finally:
            self._listening_since = math.inf

    async def _say(self, message: JsonObject) -> None:
        if self._bytes_only:
            return
        await self._send(json.dumps(message))

    async def _send(self, message: str | bytes) -> None:
        try:
            await self._ws.send_message(message)
        except _GONE:
            raise self._left() from None

    def _left(self) -> ConnectionError:
        reason = self._ws.closed
        said = "" if reason is None else f": {reason.code} {reason.name}"
        return ConnectionError(f"it closed the connection{said}")
