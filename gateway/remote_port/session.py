"""One session of a remote-port client at the owner, or at a CPU on the way: its messages to the bus, the line to it.

A seat outlives its connections, for as long as its session may be resumed. Each traffic class has its own writer, so
that none waits for another but for the line itself. This room must not know who may connect, nor of sockets.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.port.line import PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.port.router import Forbidden
from gateway.remote_port.line import CHANNELS
from gateway.remote_port.link import now_ms
from gateway.remote_port.throughput import Throughput
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel, Gap
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from protocol.session.inbox import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.port.router import Handle, Session
    from gateway.remote_port.link import Link
    from protocol.link.frames import Frame
    from protocol.link.port_state import PortState
    from protocol.link.turn_parameters import TurnParameters
    from protocol.session.server import ServerSession

__all__ = ["RemoteSession"]

logger = logging.getLogger(__name__)

_AHEAD: Final = 0.25
"""Seconds of line that may wait for it on each class."""
_LEAST: Final = {Channel.PTZ: 2048, Channel.TCP: 2048, Channel.CGI: 4096}
_MOST: Final = 65536


@final
class _UnderWay:
    """A message that was begun, and how far its fate is known."""

    def __init__(self, message: Message) -> None:
        self.start = self.position = message.offset
        self.end = message.end


@final
class _Writer:
    """One traffic class of a session: its messages, in order, each to its fate."""

    def __init__(self, session: ServerSession, channel: Channel, heard: _Heard, flush: Callable[[], None]) -> None:
        self._session = session
        self._channel = channel
        self._heard = heard
        self._flush = flush
        self._under_way: deque[_UnderWay] = deque()
        self._moved = trio.lowlevel.ParkingLot()
        self._pace = Throughput(0.0)
        self._taken = 0
        self._retired = False
        session.window(channel, _LEAST[channel])
        self._inbox: deque[Message] = deque()  # the session's credit bounds it
        self._posted = trio.lowlevel.ParkingLot()
        self.received = 0
        self.dropped = 0
        self.line: Session | None = None
        """The line as this class may write to it; None while it has no right to."""

    def post(self, message: Message) -> None:
        """Have it written after those before it."""
        self._inbox.append(message)
        self._posted.unpark()

    async def run(self) -> None:
        """Write what comes, until cancelled or retired; what the line takes at once costs no scheduler pass each."""
        while True:
            while not self._inbox:
                await self._posted.park()
            if self._retired:
                return
            message = self._inbox.popleft()
            self.received += len(message.data)
            self._under_way.append(_UnderWay(message))
            line = self.line
            try:
                await self._write(message, line)
            except PortDown as exc:
                await self._refuse(line, exc.reason)
            except Forbidden:
                await self._refuse(line, Reason.FORBIDDEN)

    def retire(self) -> None:
        """Begin no other message."""
        self._retired = True

    async def idle(self) -> None:
        """Wait until every message that was begun has its fate."""
        while self._under_way:
            await self._moved.park()

    def give_up(self) -> None:
        """The session is over: what may still be written is uncertain, the rest never will be."""
        if self._under_way:
            first = self._under_way[0]
            begun = first.end if first.position > first.start else first.start
            if (end := max(self._taken, begun)) > first.position:
                self._session.lost(self._channel, end, Reason.UNCERTAIN)
        self._under_way.clear()
        self._moved.unpark_all()

    def settle(self, count: int, reason: Reason | None) -> None:
        """Tell the session the fate of the next ``count`` bytes: in the tty, or lost for ``reason``."""
        if not self._under_way:
            return  # the session is over, and was told so
        message = self._under_way[0]
        message.position += count
        if reason is None:
            self._session.handed(self._channel, message.position)
            self._pace.passed(count)
            ahead = int(self._pace.bytes_per_second * _AHEAD)
            self._session.window(self._channel, min(max(ahead, _LEAST[self._channel]), _MOST))
        else:
            self.dropped += count
            self._session.lost(self._channel, message.position, reason)
        if message.position == message.end:
            self._under_way.popleft()
        self._moved.unpark_all()
        self._flush()

    async def _write(self, message: Message, line: Session | None) -> None:
        if line is None:
            raise Forbidden("the right to this traffic class was withdrawn")
        with trio.CancelScope() as line.scope:
            if message.turn is None:
                await line.write(message.data, message.accepted / 1000)
                self._taken = message.end
            else:
                await self._converse(message, message.turn, line)
            return
        raise Forbidden(line.ended or "the session ended")

    async def _converse(self, message: Message, parameters: TurnParameters, line: Session) -> None:
        """Write in a turn, and hold it until the reply is over."""
        reply = Reply(parameters.length or math.inf, parameters.end or None, parameters.time / 1000)
        turn = await line.turn(message.data, reply, message.accepted / 1000)
        with contextlib.closing(turn), self._hearing():
            self._taken = message.end
            await turn.write(lambda: self._mark(message, TurnPhase.BEGIN, TurnStatus.RUNNING))
            await turn.replied(self._heard.buffer, reply)
            self._mark(message, TurnPhase.END, _status(self._heard.buffer, reply))

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[None]:
        self._heard.wanted = True
        try:
            yield
        finally:
            self._heard.wanted = False
            self._heard.buffer.clear()

    def _mark(self, message: Message, phase: TurnPhase, status: TurnStatus) -> None:
        if phase is TurnPhase.BEGIN:
            self._heard.buffer.clear()
        self._session.turn(self._channel, message.offset, phase, status)
        self._flush()

    async def _refuse(self, line: Session | None, reason: Reason) -> None:
        """Lose what is left of a message, after all that came before it, or is on its way, has its fate."""
        while len(self._under_way) > 1 or (self._under_way and line is not None and line.on_its_way):
            await self._moved.park()
        if self._under_way:
            last = self._under_way[0]
            self.settle(last.end - last.position, Reason.INCOMPLETE if last.position > last.start else reason)


@final
class _Heard:
    """What answers the turn that a client has; the line itself lets only one have it at a time."""

    def __init__(self) -> None:
        self.buffer = ReceiveBuffer()
        self.wanted = False


def _status(heard: ReceiveBuffer, reply: Reply) -> TurnStatus:
    if reply.until is not None and heard.has(reply.until):
        return TurnStatus.DELIMITER
    return TurnStatus.LENGTH if heard.size >= reply.length else TurnStatus.TIME


@final
class RemoteSession:
    """What a session has at the line: ``handle`` is its permission, with a right for each traffic class.

    As a Reader it sends the line's bytes to the client, or keeps them while the link is away.
    """

    def __init__(self, session: ServerSession, handle: Handle) -> None:
        self.session = session
        self.handle = handle
        self.scope = trio.CancelScope()
        """All of the seat's tasks; cancelled when the session is over."""
        self.link: Link | None = None
        """The connection that it has now."""
        self._carrying = trio.CancelScope()
        self.sent = 0
        """As a Reader: bytes of the line that it was told, or is kept for it."""
        self.gaps = 0
        """Bytes that the client told us it would not send after all."""
        heard = _Heard()
        self._heard = heard
        self._writers = {channel: _Writer(session, channel, heard, self.flush) for channel in CHANNELS.values()}
        self._line = handle.attenuate(Right.READ, handle.holder).open(Right(0))
        self._line.listen(self)
        self._line.listen_for_gaps(self.missed)

    @property
    def received(self) -> int:
        """Bytes that the client sent."""
        return sum(writer.received for writer in self._writers.values())

    @property
    def dropped(self) -> int:
        """Bytes of these that were not written, and never will be."""
        return sum(writer.dropped for writer in self._writers.values())

    @property
    def size(self) -> int:
        """As a Reader: bytes that wait for the client; they are in the session's ring."""
        return 0

    def deliver(self, data: bytes) -> None:
        """As a Reader: pass on what the line said."""
        self.sent += len(data)
        self.session.line(data)
        if self._heard.wanted:
            self._heard.buffer.deliver(data)
        self.flush()

    def missed(self, count: int, reason: Reason) -> None:
        """As a Reader: pass on that some of the line never came."""
        self.session.gap(count, reason)
        self.flush()

    def flush(self) -> None:
        """Have the link look at the session again."""
        if self.link is not None:
            self.link.flush()

    def permit(self, rights: Right) -> None:
        """Let the classes in ``rights`` write, and the others no more."""
        for right, channel in CHANNELS.items():
            writer = self._writers[channel]
            if right in rights and writer.line is None:
                writer.line = self.handle.attenuate(right | Right.READ, f"{self.handle.holder} {right.name}").open(
                    right
                )
                writer.line.outcome = writer.settle
            elif right not in rights and writer.line is not None:
                line, writer.line = writer.line, None
                line.end("the right to this traffic class was withdrawn")
                line.close()

    def tell(self, port: PortState) -> None:
        """Tell the client the port's state."""
        self.session.port(port)
        self.flush()

    def retire(self) -> None:
        """Begin nothing new: the gateway stops."""
        for writer in self._writers.values():
            writer.retire()

    async def idle(self) -> None:
        """Wait until all that was begun has its fate."""
        for writer in self._writers.values():
            await writer.idle()

    def end(self, why: str) -> None:
        """The session is over: tell the client so, after what became of its bytes, and end all that it does here."""
        self.handle.revoke(why)
        for writer in self._writers.values():
            writer.give_up()
        self.flush()
        self._carrying.cancel()
        self.scope.cancel()

    async def carry(self, link: Link, most: float) -> bool:
        """Carry frames of a new connection for ``most`` seconds at most; return whether the client said CLOSE.

        The connection before it is dropped: nothing of it is read any more. Raises RemoteProtocolError, in a group.
        """
        self._carrying.cancel()
        self.link = link
        number = self.session.number

        def say() -> Frame | None:
            return self.session.next_frame(number, now_ms())

        def take(frame: Frame) -> None:
            self._take(number, frame)

        try:
            with trio.move_on_after(most) as self._carrying:
                await link.carry(say, take, self.session.ping)
                return True
        finally:
            if self.link is link:
                self.link = None
                self.session.detach(now_ms())
        return False

    def _take(self, number: int, frame: Frame) -> None:
        for event in self.session.receive(number, frame, now_ms()):
            match event:
                case Message():
                    self._writers[event.channel].post(event)
                case Gap():
                    self.gaps += event.count
                    logger.info("%s gave up %d bytes: %s", self.handle.holder, event.count, event.reason.name.lower())

    async def run(self) -> None:
        """Write what the client sends, until the seat's scope is cancelled; it hears the line from the first."""
        with self.scope, contextlib.closing(self._line):
            async with trio.open_nursery() as nursery:
                for writer in self._writers.values():
                    nursery.start_soon(writer.run)
