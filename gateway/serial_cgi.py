"""serial.cgi's server on one port: a receive buffer that outlives requests, and write-then-read as one turn.

It must not know HTTP: a request value comes in, the bytes read go out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from gateway.router import Revoked, Right
from gateway.turns import PortDown
from protocol.serial_request import CgiError

if TYPE_CHECKING:
    from gateway.router import Handle, Session
    from protocol.serial_request import SerialRequest

__all__ = ["ReceiveBuffer", "SerialCgi"]

_KEPT = 4096
"""Bytes that came before a request asked for them: the newest so many are kept."""


@final
class ReceiveBuffer:
    """What the line said and no read has taken out yet."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._grown = trio.Event()
        self._wanted = 0
        self.exchanging = False
        """While a write-then-read holds the line, what comes is its reply and nobody else's."""
        self.sent = 0
        """Bytes that reads took out."""

    @property
    def size(self) -> int:
        """Bytes in it."""
        return len(self._data)

    def offer(self, data: bytes) -> None:
        """Keep ``data``, and of what was there the newest."""
        self._data += data
        del self._data[: -max(_KEPT, self._wanted)]
        self._grown.set()

    def clear(self) -> None:
        """Empty it."""
        self._data.clear()

    async def wait_for(self, most: int, until: bytes | None) -> None:
        """Wait until ``most`` bytes are there, or the bytes ``until`` among them."""
        self._wanted = max(self._wanted, most)
        while len(self._data) < most and (until is None or until not in self._data):
            self._grown = trio.Event()
            await self._grown.wait()

    def take(self, most: int, until: bytes | None) -> bytes:
        """Take out what is there: at most ``most`` bytes, and none after ``until``."""
        end = self._data.find(until) + len(until) if until is not None and until in self._data else most
        taken = bytes(self._data[: min(end, most)])
        del self._data[: len(taken)]
        self.sent += len(taken)
        self._wanted = 0
        return taken


@final
class SerialCgi:
    """The server that serial.cgi needs (PortManager.P#.SerialCGI), while its door is open.

    Its buffer is attached to the line for as long as ``serve()`` runs.
    """

    def __init__(self, door: Handle) -> None:
        self._door = door
        self._buffer = ReceiveBuffer()

    async def serve(self) -> None:
        """Keep what the line says, until cancelled."""
        listener = self._door.attenuate(Right.READ | Right.CGI, "serial.cgi's receive buffer").open(Right.CGI)
        listener.listen(self._buffer)
        try:
            with listener.scope:
                await trio.sleep_forever()
        finally:
            listener.close()

    async def perform(self, request: SerialRequest, holder: str) -> bytes | None:
        """Do what ``request`` asks, in the order flush, write, read; return what was read, None if no read was asked.

        Cancel it where the caller goes away: the line is free at once. Raises CgiError.
        """
        try:
            session = self._door.attenuate(Right.READ | Right.CGI, holder).open(Right.CGI)
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
        return answer

    async def _perform(self, request: SerialRequest, session: Session) -> bytes | None:
        if request.flush:
            self._buffer.clear()
        if request.output is None:
            return await self._read(request)
        if request.read is None:
            self._buffer.clear()
            await session.write(request.output)
            return None
        return await self._exchange(request, request.output, session)

    async def _exchange(self, request: SerialRequest, output: bytes, session: Session) -> bytes | None:
        turn = await session.turn()
        self._buffer.exchanging = True
        try:
            self._buffer.clear()
            await turn.write(output)
            return await self._read(request)
        finally:
            self._buffer.exchanging = False
            turn.close()

    async def _read(self, request: SerialRequest) -> bytes | None:
        if request.read is None:
            return None
        with trio.move_on_after(request.timeout):
            await self._buffer.wait_for(request.read, request.until)
        return self._buffer.take(request.read, request.until)
