"""Carry one client's bytes both ways, between a stream and a session, until either of them ends.

Towards the line a pump reads, and writes in its turn (``clients.pump``). While the line is busy it reads no more, so
the client's own TCP window closes.

Towards the client an Outbox, a reader of the bus, sends each piece at once, in the line's own task. It queues only what
the client does not take, for ``drain`` to send. Two writers to one socket must not change the order, so:

    While anything is queued, nothing is sent but the head of the queue, and only by ``drain``.

A client may end its sending and still wait for answers (``printf ... | nc``). It hears the line until the line has been
silent for two seconds; the port's owner can set another time, since a modem or a scale may take longer.

A client that takes nothing is cut when its queue is full, because a slow client must not cost memory, nor delay the
others. Where the owner prefers a gap to a cut client, the oldest bytes of the queue are dropped instead, except its
head:

    The queue has at most one gap, and that is right after the head.
"""

from __future__ import annotations

import functools
import logging
import math
import operator
from collections import deque
from typing import TYPE_CHECKING, final

import trio

from gateway.clients.pump import Pump
from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clients.connections import ClientConnection
    from gateway.clients.streams import Stream
    from gateway.port.history import History
    from gateway.port.router import Session
    from gateway.tasks.watch import Cell

__all__ = [
    "LINGER",
    "RESET_PATIENCE",
    "Manner",
    "Outbox",
    "end_when_stuck",
    "relay",
    "until_gone",
    "watch_connection",
    "watch_idle",
]

QUEUE_LIMIT = 1 << 20
"""Bytes of the line that a client may leave unread before it is cut."""

_PIECE = 4096
"""Bytes up to which small waiting pieces are joined, because each piece costs memory of its own."""

LINGER = 2.0
"""Seconds of silence after which a client that ended its sending is done, unless its port sets another time."""
_LINGERS = 4
"""The most times of that for the whole wait: a line that is never silent would keep the client for ever."""

RESET_PATIENCE = 0.5
"""Seconds without progress after which the bytes of a client that reset its connection are given up."""

_FLUSH = 1.5
"""Seconds for a client to take what waits for it at the end."""


@final
@frozen
class Manner:
    """How the clients of a port are served, as its owner wants it.

    ``linger`` is the seconds of silence after which a client that ended its sending is done. With ``drop_oldest`` a
    client that reads too slowly loses the oldest bytes of its queue, and not its connection. ``history`` holds what a
    client hears first; None for nothing.
    """

    linger: float = LINGER
    drop_oldest: bool = False
    history: History | None = None
    limit: int = QUEUE_LIMIT
    """Bytes of the line that a client may leave unread."""


_PLAIN = Manner()


@final
class Outbox:
    """The bytes of the line that one client has not taken yet, at most ``limit``.

    ``overflow`` is called when there would be more. It may ``drop_oldest``, or end the client.
    """

    def __init__(self, stream: Stream, overflow: Callable[[], None], limit: int = QUEUE_LIMIT) -> None:
        self._stream = stream
        self._limit = limit
        self._overflow = overflow
        self._chunks: deque[bytes] = deque()
        self._filled = trio.Event()
        self._emptied = trio.Event()
        self._gap = 0
        """Bytes that were dropped right after the head."""
        self.size = 0
        """Bytes waiting."""
        self.sent = 0
        """Bytes that the client's socket took."""

    def deliver(self, data: bytes) -> None:
        """Send ``data`` at once if nothing waits before it; queue what the client does not take."""
        if not self._chunks:
            took = self._stream.send_nowait(data)
            self.sent += took
            if took == len(data):
                return
            data = data[took:]
        # Never joined to the head, because ``drain`` may be sending that.
        if len(self._chunks) > 1 and len(self._chunks[-1]) + len(data) <= _PIECE:
            self._chunks[-1] += data
        else:
            self._chunks.append(data)
        self.size += len(data)
        self._filled.set()
        if self.size > self._limit:
            self._overflow()

    def drop_oldest(self) -> int:
        """Drop the oldest bytes that are not being sent until half of the limit is left; return their number.

        Half, so that a client that stays slow has few gaps, and not one for each piece of the line.
        """
        before = self.size
        while self.size > self._limit // 2 and len(self._chunks) > 1:
            self.size -= len(self._chunks[1])
            del self._chunks[1]
        self._gap += before - self.size
        return before - self.size

    def purge(self) -> None:
        """Drop everything that is not being sent, at the client's request."""
        while len(self._chunks) > 1:
            self.size -= len(self._chunks.pop())

    async def drain(self) -> None:
        """Send what waits, until cancelled. Raises OSError when the client is gone."""
        while True:
            await self._filled.wait()
            while self._chunks:
                # It stays at the head while it is sent, so that nothing newer is sent past it.
                at_gap = self._took(await self._stream.send(self._chunks[0]))
                # A socket with room takes many small pieces, and each wait would cost a scheduler pass.
                while self._chunks and not at_gap and (took := self._stream.send_nowait(self._chunks[0])):
                    at_gap = self._took(took)
                if at_gap:
                    gap, self._gap = self._gap, 0
                    await self._stream.skip(gap)
            self._filled = trio.Event()
            self._emptied.set()
            self._emptied = trio.Event()

    def _took(self, count: int) -> bool:
        """Remove what the client took of the head; return whether the head is done and a gap comes next."""
        self.size -= count
        self.sent += count
        if rest := self._chunks.popleft()[count:]:
            self._chunks.appendleft(rest)
        return not rest and self._gap > 0

    async def empty(self) -> None:
        """Wait until the queue is empty."""
        while self._chunks:
            await self._emptied.wait()


async def relay(stream: Stream, session: Session, idle_limit: Cell[int], manner: Manner = _PLAIN) -> None:
    """Carry bytes until the client leaves, the session is ended, or it is idle for ``idle_limit`` seconds (0: no
    limit).

    Closes the session and the stream.
    """

    def overflow() -> None:
        if manner.drop_oldest:
            session.missed += outbox.drop_oldest()
            what = "%s reads too slowly: the oldest bytes that wait for it are dropped"
            session.events.log(logging.WARNING, "slow readers", what, session.holder)
        else:
            session.cut(f"it left {manner.limit} bytes unread")

    outbox = Outbox(stream, overflow, manner.limit)
    if manner.history is not None and (newest := manner.history.newest):
        outbox.deliver(newest)  # without a checkpoint before ``listen``, so that no byte comes between
    session.listen(outbox)
    try:
        with session.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_gone, session, outbox.drain)
                nursery.start_soon(watch_idle, session, idle_limit)
                if stream.connection is not None:
                    nursery.start_soon(watch_connection, session, stream.connection)
                with session.pumping:
                    await session.woken()
                    await until_gone(session, Pump(stream, session).run)
                    await _linger(session, manner.linger)
                # The client ended its sending, or the gateway stops: in both cases the client may take what waits.
                with trio.move_on_after(_FLUSH):
                    await outbox.empty()
                nursery.cancel_scope.cancel()
    finally:
        session.close()
        stream.close()


async def _linger(session: Session, seconds: float) -> None:
    """Wait until the line has been silent for ``seconds``, but at most ``_LINGERS`` times that."""
    ended = trio.current_time()
    with trio.move_on_after(_LINGERS * seconds):
        # Each byte moves the end of the wait, without waking this task.
        while (silent := max(session.active_at, ended) + seconds) > trio.current_time():  # noqa: ASYNC110
            await trio.sleep_until(silent)


async def until_gone(session: Session, carry: Callable[[], Awaitable[object]]) -> None:
    """Run ``carry``; end the session where it finds the client gone."""
    try:
        await carry()
    except OSError as exc:
        session.end(exc.strerror or str(exc))


async def watch_connection(session: Session, connection: ClientConnection) -> None:
    """End the session when its client is gone, which the pump does not notice while it waits for the line."""
    await connection.broken.wait()
    if connection.was_reset:
        await end_when_stuck(session, "it reset the connection", RESET_PATIENCE)
    else:
        await end_when_stuck(session, "it closed the connection", session.age_limit)


async def end_when_stuck(session: Session, why: str, patience: float) -> None:
    """End the session of a client that is gone once the line has taken nothing of it for ``patience`` seconds.

    What it sent before it left is written as long as the line moves. Where the line is stuck, its place must not stay
    taken.
    """
    written = -1
    while session.counters.written != written:
        written = session.counters.written
        await trio.sleep(patience)
    session.end(why)


async def watch_idle(session: Session, idle_limit: Cell[int]) -> None:
    """End the session when it is idle. Sleep until the earliest time for that, so that no byte wakes this task."""
    while True:
        seconds = idle_limit.value
        deadline = session.active_at + seconds if seconds else math.inf
        if trio.current_time() >= deadline:
            session.end(f"idle for {seconds} s")
            return
        with trio.move_on_at(deadline):
            await idle_limit.wait_for(functools.partial(operator.ne, seconds))
