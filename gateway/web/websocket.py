"""A browser at the line: a WebSocket (RFC 6455) is one more client of a port, with words beside the bytes.

Binary messages are bytes of the line, both ways; text messages are JSON, whose meaning is in `control`.
Who may come, and by which path, was settled before. Nothing imports this room, nor the library behind it, until the
first WebSocket is asked for: a gateway without browsers pays nothing for them.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, final

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from gateway.clients.streams import MESSAGE_LIMIT
from gateway.web.control import answer, events
from gateway.web.prefixed_stream import PrefixedStream

if TYPE_CHECKING:
    from trio_websocket import WebSocketConnection

    from gateway.clients.service import Service
    from gateway.port.rights import Right
    from gateway.port.router import Handle, Session
    from gateway.web.control import JsonObject

__all__ = ["WebSocketStream", "serve"]

PING_SECONDS = 20.0
"""Between pings."""
PONG_SECONDS = 20.0
"""Until the answer to one: who is idle may stay for ever, who is gone may not."""

_GONE = (ConnectionClosed, LocalProtocolError)
"""What the library raises where the client is gone, or is going and the library has not noticed yet."""
_HANDSHAKE_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
_GOING_AWAY = 1001
_REASON_LIMIT = 123
"""Bytes that a close frame has for its reason (RFC 6455, 5.5)."""


async def serve(
    stream: trio.abc.HalfCloseableStream, head: bytes, service: Service, rights: Right, holder: str
) -> None:
    """Seat ``holder`` at the line, with these rights, until either side ends it, then close the stream.

    ``head`` is the request, which must be beyond doubt. Once it is accepted, its port ends it and nothing else: so
    that a gateway that stops lets it take what waits for it, as any other client.
    """
    with trio.CancelScope() as scope:
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(_HANDSHAKE_SECONDS):
                    ws = await _accepted(nursery, PrefixedStream(stream, head))
                scope.shield = True
                await _seat(ws, service, rights, holder)
                nursery.cancel_scope.cancel()
        except* (*_GONE, trio.TooSlowError):
            pass  # it left while it was greeted, or said something while it was told that it must go


async def _accepted(nursery: trio.Nursery, stream: trio.abc.Stream) -> WebSocketConnection:
    request = await wrap_server_stream(nursery, stream, max_message_size=MESSAGE_LIMIT)
    return await request.accept()


async def _seat(ws: WebSocketConnection, service: Service, rights: Right, holder: str) -> None:
    client = WebSocketStream(ws)
    client.seat = service.serve(client, holder, rights=rights)
    async with trio.open_nursery() as beside:
        beside.start_soon(client.tell)
        beside.start_soon(client.keep)
        await client.closed.wait()
        beside.cancel_scope.cancel()
    await _close(ws, client.why_ended)


async def _close(ws: WebSocketConnection, why: str) -> None:
    with trio.move_on_after(_CLOSE_SECONDS):
        await ws.aclose(_GOING_AWAY, why.encode()[:_REASON_LIMIT].decode(errors="ignore"))


@final
class WebSocketStream:
    """One WebSocket as a Stream: a binary message is an exact message, of at most MESSAGE_LIMIT bytes."""

    exact = True

    def __init__(self, ws: WebSocketConnection) -> None:
        self._ws = ws
        self._seated = trio.Event()
        self._listening_since = math.inf
        self.seat: Handle | None = None
        """Where it sits; None where it was turned away."""
        self.closed = trio.Event()

    @property
    def _session(self) -> Session:
        assert self.seat is not None
        assert self.seat.session is not None
        return self.seat.session

    @property
    def why_ended(self) -> str:
        """Say why it had to go, for the close frame."""
        if self.seat is None:
            return "no seat is free"
        session = self.seat.session
        return (session.ended if session is not None else None) or "the gateway stops"

    def send_nowait(self, data: bytes) -> int:
        """Take nothing: a frame cannot be sent without waiting, so each piece goes through the queue."""
        return 0

    async def send(self, data: bytes) -> int:
        """See Stream."""
        await self._send(data)
        return len(data)

    async def receive(self) -> bytes:
        """See Stream; requests that come as text are answered meanwhile, in the order of all messages."""
        self._seated.set()
        while True:
            message = await self._next()
            if isinstance(message, str):
                await self._say(await answer(message, self._session))
            elif not self._session.writes:
                await self._say({"event": "refused", "reason": f"{self._session.holder} may only read"})
            elif message:  # an empty one has no bytes to write, and would look like the end
                return message

    def close(self) -> None:
        """Say that it is over: the close frame, which takes time, is sent by who shook hands."""
        self.closed.set()

    async def tell(self) -> None:
        """Tell what becomes different at the port, for as long as the client lives."""
        await self._seated.wait()
        before = None
        try:
            async for now in self._session.state.changes():
                for event in events(before, now, all_told=self._session.writes):
                    await self._say(event)
                before = now
        except ConnectionError:
            return

    async def keep(self) -> None:
        """Ping the client, and end its session where no answer comes."""
        while True:
            await trio.sleep(PING_SECONDS)
            with trio.move_on_after(PONG_SECONDS) as patience:
                try:
                    await self._ws.ping()
                except _GONE:
                    return  # the pump meets the same, once what it has is written
            # While a message waits for the line nothing is read, and so no answer to a ping is seen either.
            silent = trio.current_time() - self._listening_since
            if patience.cancelled_caught and silent >= PONG_SECONDS:
                self._session.end(f"no answer to a ping within {PONG_SECONDS:g} s")
                return

    async def _next(self) -> str | bytes:
        self._listening_since = trio.current_time()
        try:
            return await self._ws.get_message()
        except ConnectionClosed:
            raise self._left() from None
        finally:
            self._listening_since = math.inf

    async def _say(self, message: JsonObject) -> None:
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
