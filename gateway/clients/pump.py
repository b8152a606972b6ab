"""Carry what one client sends to the line: read it, cut it by the rules of the port, and write piece by piece.

A byte stream has no messages of its own. Without a rule a piece is what one read returned. With one, the stream is cut
here, where its client is connected, by the line owner's rules (``protocol.sharing``) into messages or requests, so that
each is one message on the line however TCP delivered it. Bytes that belong to no request are dropped and counted.

Nothing is read ahead of the line, so that the client's own TCP window closes while the line is busy, with two
exceptions:

    A PTZ driver's packet grows stale from when it was read. So up to AHEAD packets wait here with their times, and not
    in the kernel, where their age would be unknown.

    Under a turn rule one read is made while a request waits, because a newer request may take its place in the queue.

Only these two need a second task, and only while something waits.

The shortest way is for a stream that is a descriptor (``streams.Direct``), has no rule, and does not have to wait: a
step reads, and has the bytes in the tty before any task runs. In all other cases the step leaves the rest to the task:
what it read, and how much of that the line has taken already.

Every byte that was read is reported to the session as written or dropped, also those that wait here when the session
ends.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.clients.streams import MESSAGE_LIMIT, Direct, TooLong
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.port.router import Forbidden, Revoked
from protocol.link.reasons import Reason
from protocol.sharing.message_rule import MessageJoiner
from protocol.sharing.piece import Piece
from protocol.sharing.request_splitter import RequestSplitter

if TYPE_CHECKING:
    from gateway.clients.streams import Stream
    from gateway.port.bus import PortStatus
    from gateway.port.router import Session

__all__ = ["AHEAD", "Pump"]

logger = logging.getLogger(__name__)

AHEAD: Final = 64
"""Packets of a PTZ driver that are read while the line is busy."""


@final
class Pump:
    """The way of one client's bytes from its stream to the session's line."""

    def __init__(self, stream: Stream, session: Session) -> None:
        self._stream = stream
        self._direct = stream if isinstance(stream, Direct) else None
        self._session = session
        self._state: PortStatus | None = None
        """The state of the port whose rules cut the stream now."""
        self._cut: MessageJoiner | RequestSplitter | None = None
        self._rubbish = 0
        """Rubbish of ``_cut`` that was reported."""
        self._begun = 0
        """Bytes of the current piece that the line took in the step that read it."""
        self._waiting: deque[Piece] = deque()
        """Pieces that wait for the second task, after the one that it writes."""
        self._is_writing = False
        """The second task writes, or is about to."""
        self._moved = trio.Event()
        """Set when the second task takes the next piece, or ends."""
        self._refused = False
        """The last piece was refused. That is logged once, or a client that goes on sending would fill the log."""

    async def run(self) -> None:
        """Carry bytes until the client ends its sending, or the session has ended. Raises OSError, as the stream."""
        gone: OSError | None = None
        pieces: deque[Piece] = deque()
        try:
            async with trio.open_nursery() as beside:
                try:
                    while (read := await self._read()) is not None:
                        pieces.extend(read)
                        while pieces:
                            await self._put(pieces.popleft(), beside)
                        if self._cut is not None:
                            self._cut.resume(trio.current_time())
                    pieces.extend(self._finished())
                    while pieces:
                        await self._put(pieces.popleft(), beside)
                except OSError as exc:
                    gone = exc  # raised outside, or the nursery would wrap it; what was read before is still written
                except Revoked:
                    pass
        finally:
            left = sum(len(piece.data) for piece in (*self._waiting, *pieces))
            self._session.discard(left + (0 if self._cut is None else self._cut.waiting))
        if gone is not None:
            raise gone

    # -- reading

    async def _read(self) -> list[Piece] | None:
        """Return the pieces that the next read, or a pause, completes; None once the client has ended its sending."""
        deadline = None if self._cut is None else self._cut.deadline
        data = None
        try:
            if deadline is None:
                data = await self._receive()
            else:
                with trio.move_on_at(deadline):
                    data = await self._stream.receive()
        except TooLong:
            what = "%s: a packet over %d bytes is dropped"
            holder = self._session.holder
            self._session.events.log(logging.WARNING, "packets that are too long", what, holder, MESSAGE_LIMIT)
            return []
        now = trio.current_time()
        if data == b"":
            return None
        if self._stream.exact:
            return [Piece(data, now)] if data else []
        if self._begun:
            assert data is not None
            return [Piece(data, now, whole=False)]
        pieces = [] if self._is_followed else self._follow()
        cut = self._cut
        if cut is None:
            if data:
                pieces.append(Piece(data, now, whole=False))
            return pieces
        pieces += cut.expire(now) if data is None else cut.feed(data, now)
        self._tell_rubbish()
        return pieces

    async def _receive(self) -> bytes:
        """Return the next piece that is left to the task."""
        return await (self._stream.receive() if self._direct is None else self._direct.when_readable(self._step))

    def _step(self) -> bytes | None:
        """Read once, and write at once where possible; return what is left to the task, ``b""`` at the end."""
        assert self._direct is not None
        data, exact = self._direct.receive_nowait(), self._stream.exact
        if not data or self._is_writing or not (exact or (self._cut is None and self._is_followed)):
            return data
        took = self._session.write_nowait(data, whole=exact)
        if took == len(data):
            self._refused = False
            return None
        self._begun = took
        return data

    @property
    def _is_followed(self) -> bool:
        """True while the stream is cut by the rules that are in force now."""
        return self._session.state.value is self._state

    def _follow(self) -> list[Piece]:
        """Change to the rules that are in force now; return the pieces that the old ones leave."""
        before, state = self._state, self._session.state.value
        self._state = state
        rules = state.turn_rule, state.message_rule
        if before is not None and rules == (before.turn_rule, before.message_rule):
            return []
        left = self._finished()
        self._rubbish = 0
        if state.turn_rule is not None and state.turn_rule.has_requests:
            self._cut = RequestSplitter(state.turn_rule)
        else:
            self._cut = None if state.message_rule is None else MessageJoiner(state.message_rule)
        return left

    def _finished(self) -> list[Piece]:
        """Return the rest of a stream when its cutting ends."""
        if self._cut is None:
            return []
        pieces = self._cut.finish()
        self._tell_rubbish()
        return pieces

    def _tell_rubbish(self) -> None:
        if isinstance(self._cut, RequestSplitter) and (count := self._cut.rubbish - self._rubbish):
            self._rubbish += count
            self._session.discard(count, rubbish=True)

    # -- writing

    async def _put(self, piece: Piece, beside: trio.Nursery) -> None:
        """Write a piece, here or in the second task. Raises Revoked."""
        session = self._session
        if self._begun or (not self._is_writing and session.is_ready):
            await self._write(piece)  # it need not wait, so a second task would only cost a scheduler step
            return
        if session.state.value.turn_rule is not None:
            room = 0
        elif self._stream.exact and session.traffic is Right.PTZ:
            room = AHEAD - 1
        else:
            await self._write(piece)
            return
        if room == 0 and self._is_writing and not self._waiting and session.supersede(piece.data):
            return
        self._waiting.append(piece)
        if not self._is_writing:
            self._is_writing = True
            beside.start_soon(self._write_all)
        while len(self._waiting) > room and self._is_writing:
            self._moved = trio.Event()
            await self._moved.wait()

    async def _write_all(self) -> None:
        """Write the waiting pieces, one after the other."""
        try:
            while self._waiting:
                piece = self._waiting.popleft()
                self._moved.set()
                await self._write(piece)
        except Revoked:
            pass  # the reader meets the same with its next piece
        finally:
            self._is_writing = False
            self._moved.set()

    async def _write(self, piece: Piece) -> None:
        """Write one piece. If it is refused it is dropped, and the next one is tried. Raises Revoked."""
        write = self._session.write if piece.whole else self._session.transfer
        begun, self._begun = self._begun, 0
        try:
            await write(piece.data, piece.accepted, begun)
            self._refused = False
        except Revoked:
            raise
        except (PortDown, Forbidden) as exc:
            if not self._refused:
                what = "%s: what it sends is dropped: %s"
                self._session.events.log(logging.WARNING, "writes refused", what, self._session.holder, exc)
            self._refused = True
            connection = self._stream.connection
            stale = isinstance(exc, PortDown) and exc.reason is Reason.TOO_OLD
            if stale and connection is not None and connection.has_ended_sending:
                # Everything else that it sent waits as long already. A transfer that has begun does not come here: it
                # goes on as soon as the line moves, as a printer that was out of paper needs it.
                self._session.end("it ended its sending, and the line was busy for too long")
