"""Serve serial.cgi on one port: a receive buffer that outlives requests, and write-then-read as one turn.

A caller polls: it writes, goes away, and reads in another request what came meanwhile. So one common buffer always
hears the line, and every request reads from it. During a write-then-read the line belongs to that request until its
reply is over. What the line says then is the reply, and goes into a buffer of that request alone; what its caller did
not ask for is put into the common buffer at the end.

A long turn ends early for a PTZ command, but its read goes on. The line then belongs to others, and this request hears
what it says as well as they do. On a line with a turn rule, all requests and the common buffer are one party: they hear
the replies to any of them, and what is no reply.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple, final

import trio

from gateway.port.line import PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.port.router import Revoked
from protocol.http.serial_cgi import CgiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.port.line import Hold
    from gateway.port.router import Handle, Session
    from protocol.http.serial_cgi import SerialRequest

__all__ = ["Received", "SerialCgi"]

_PATIENCE = 15.0
"""Seconds for the line to take what a request writes, including the wait for its turn."""


@final
class Received(NamedTuple):
    """The answer to a request that reads; ``ended_early``: its turn ended before the read, for a PTZ command."""

    data: bytes
    ended_early: bool = False


@final
class SerialCgi:
    """PortManager.P#.SerialCGI while it is enabled: it is the Reader of the line while ``run()`` runs."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._buffer = ReceiveBuffer()
        self._replies: list[ReceiveBuffer] = []
        """The buffers of the requests that wait for a reply: one, and those whose turn ended early."""
        self.sent = 0
        """As a Reader: bytes that requests read."""

    @property
    def size(self) -> int:
        """As a Reader: bytes that no request has read."""
        return sum(buffer.size for buffer in self._hearing)

    def deliver(self, data: bytes) -> None:
        """As a Reader: keep ``data`` in the buffers of the requests that wait, or else in the common one."""
        for buffer in self._hearing:
            buffer.deliver(data)

    @property
    def _hearing(self) -> list[ReceiveBuffer]:
        return self._replies or [self._buffer]

    async def run(self) -> None:
        """Keep what the line says, until cancelled."""
        while self._handle.revoked is None:
            listener = self._open("serial.cgi's receive buffer", needs=False)
            listener.listen(self)
            try:
                with listener.scope:  # a bug may end it, and the next requests must hear the line again
                    await trio.sleep_forever()
            finally:
                listener.close()

    def revoke(self, why: str) -> None:
        """End every request that uses the line, and the receive buffer."""
        self._handle.revoke(why)

    def _open(self, holder: str, *, needs: bool) -> Session:
        session = self._handle.attenuate(Right.READ | Right.CGI, holder).open(Right.CGI, needs=needs)
        session.party = self
        return session

    async def perform(self, request: SerialRequest, holder: str) -> Received | None:
        """Do what ``request`` asks, in the order flush, write, read; return what was read, None if no read was asked.

        Cancel it when the caller goes away: then the line is free at once, or under a turn rule when the turn is over.
        Raises CgiError.
        """
        try:
            session = self._open(holder, needs=request.output is not None)
        except Revoked as exc:
            raise CgiError(str(exc)) from None
        answer = None
        try:
            with session.scope:
                answer = await self._perform(request, session)
        except (PortDown, Revoked) as exc:
            raise CgiError(str(exc)) from None
        finally:
            session.close()
        if session.ended is not None:
            raise CgiError(session.ended)
        if answer is not None and not answer.data and (down := session.state.value.down) is not None:
            raise CgiError(down)  # an absent device must not look like a silent one
        return answer

    async def _perform(self, request: SerialRequest, session: Session) -> Received | None:
        if request.flush:
            self._buffer.clear()
        if request.output is None:
            return await self._read(request)
        await session.woken()
        reply = _reply(request)
        async with contextlib.AsyncExitStack() as until_answered:
            with trio.move_on_after(_PATIENCE) as patience:
                turn = await until_answered.enter_async_context(session.turn(request.output, reply))
            if patience.cancelled_caught:
                raise CgiError(f"the line was busy for more than {_PATIENCE:g} s; nothing was written")
            with self._reply(request) as heard:
                await self._write(turn, heard.clear, patience.deadline)
                if reply is None:
                    return None
                await turn.replied(heard, reply)
                return Received(self._taken(request, heard), turn.ended_early)

    async def _write(self, turn: Hold, began: Callable[[], None], deadline: float) -> None:
        with trio.move_on_at(deadline) as patience:
            await turn.write(began)
        if patience.cancelled_caught:
            raise CgiError(f"the line did not take all of it within {_PATIENCE:g} s; is flow control holding it?")

    @contextlib.contextmanager
    def _reply(self, request: SerialRequest) -> Iterator[ReceiveBuffer]:
        """Hear only what comes from now on; leave the rest of it to the next read.

        Requests that write take turns on the line, so only one is in here at a time, except those whose turn ended
        early.
        """
        self._buffer.clear()
        if request.read is None:
            yield self._buffer
            return
        reply = ReceiveBuffer()
        self._replies.append(reply)
        try:
            yield reply
        finally:
            self._replies = [other for other in self._replies if other is not reply]
            if not self._replies:
                self._buffer.deliver(reply.take(reply.size, None))

    async def _read(self, request: SerialRequest) -> Received | None:
        if request.read is None:
            return None
        with trio.move_on_after(request.timeout):
            await self._buffer.wait_for(request.read, request.until)
        return Received(self._taken(request, self._buffer))

    def _taken(self, request: SerialRequest, buffer: ReceiveBuffer) -> bytes:
        assert request.read is not None
        answer = buffer.take(request.read, request.until)
        self.sent += len(answer)
        return answer


def _reply(request: SerialRequest) -> Reply | None:
    """Return how the read after the write ends; None without a read."""
    return None if request.read is None else Reply(request.read, request.until, request.timeout)
