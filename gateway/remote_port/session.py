"""One session of a remote-port client at the CPU that it is linked to: its messages to the bus, the line's bytes to it.

A session outlives its connections for as long as it may be resumed. Each traffic class has a writer of its own, so
that none waits for another, only for the line. Of each class these hold:

- Messages are written in the order in which they came, and their outcomes are told in that order.
- A message that waits for nobody is written in the step that read it from the link (``_Writer.post``); only what has to
  wait, or was taken in part, is its class's task's.
- ``_under_way`` holds the messages that were begun and whose outcome is not known yet. The first of them is the one
  whose bytes the line settles next: the line settles in order too.
- A message that is refused is settled behind all those before it, however early the refusal is known.
- When the session ends, bytes that the line may still write are UNCERTAIN; the client's stream settles the rest.

On a line with a turn rule each byte is told with the message that it answers, so that the CPUs below know whose it is.
The line names the asker: of our own tty that is the session of a class, and the message the one that was being written
when the turn began; of a line further away it is a message that was taken there (``_asked``), since many may be on
their way at once.

Much of this is called from elsewhere: the line's bytes come from the task of the UART, outcomes from whatever task
writes. An unexpected exception must not reach those, so it is logged, and ends this session through ``failed``.
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
from gateway.remote_port.chain import ChainLink
from gateway.remote_port.controls import LinkControls
from gateway.remote_port.key_news import KeyLink
from gateway.remote_port.line import CHANNELS, Taken
from gateway.remote_port.link import now_ms
from gateway.remote_port.throughput import Throughput
from protocol.link.chain_frames import Picture, Survey
from protocol.link.chain_tree import NO_PORT, Cpu, Hop, Seen, Way
from protocol.link.control_frames import Look
from protocol.link.key_frames import Rekeyed
from protocol.link.message_rules import MAX_WAITING
from protocol.link.reasons import Reason
from protocol.link.session_frames import Pong
from protocol.link.stream_frames import OTHERS, Channel, Gap
from protocol.link.stream_frames import Asker as WireAsker
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from protocol.session.inbox import Message
from protocol.session.progress import Progress
from protocol.sharing.exchange import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.port.line import Asker
    from gateway.port.log import PortLogger
    from gateway.port.router import Handle, Session
    from gateway.remote_port.chain import Chain
    from gateway.remote_port.key_news import KeyNews
    from gateway.remote_port.link import Link
    from gateway.tasks.event_log import EventLog
    from protocol.link.control_steps import ControlRequest
    from protocol.link.frames import Frame
    from protocol.link.port_state import PortState
    from protocol.link.turn_parameters import TurnParameters
    from protocol.session.server import ServerSession

__all__ = ["Pace", "RemoteSession"]

_AHEAD: Final = 0.25
"""Seconds of line that a class may send ahead of it: what waits here can no longer be overtaken in its own class."""
_LEAST_WINDOW: Final = 64
"""Bytes; a longer message comes in two parts, since a receiver of the first grants the rest of it at once."""
_BITS: Final = 10
"""Bits of a character, more or less."""
_STATUSES: Final = {
    Ending.WHOLE: TurnStatus.RULE,
    Ending.NONE: TurnStatus.RULE,
    Ending.SILENCE: TurnStatus.SILENCE,
    Ending.TIME: TurnStatus.TIME,
    Ending.ABORTED: TurnStatus.ABORTED,
}
_TRAFFIC: Final = {channel: right for right, channel in CHANNELS.items()}
_MOST_WINDOW: Final = 65536
_AT_A_TIME: Final = 0.002
"""Seconds of writing, for all sessions of a port together, before other tasks get their turn."""
_LONGEST: Final = 0.001
"""What a message is charged at most: what takes longer has waited for the line, and let others run meanwhile."""


@final
class Pace:
    """Lets the writers of a port pause together, where a fast line takes without a wait whatever they have.

    So whoever sends thousands of tiny messages in many sessions delays the port's other clients by no more than one
    round at a time. A message for which nobody competes does not pause.
    """

    def __init__(self) -> None:
        self._round = 0
        self._spent = 0.0
        self._last = trio.current_time()

    async def allow(self) -> None:
        """Wait until there is time for another message in this round."""
        while self.is_over:
            ended = self._round
            await trio.lowlevel.checkpoint()
            if ended == self._round:
                self._round += 1
                self._spent = 0.0

    @property
    def is_over(self) -> bool:
        """Return whether the time of this round is used up, and others had no turn since."""
        return self._spent >= _AT_A_TIME and trio.current_time() - self._last <= _LONGEST

    def charge(self, since: float) -> None:
        """Count a message that was begun at ``since``."""
        if since - self._last > _LONGEST:
            self._spent = 0.0  # others had their turn before it
        self._last = trio.current_time()
        self._spent += min(self._last - since, _LONGEST)


@final
class _ReplyBuffer:
    """Collects the reply to the turn that a client has; the line lets only one of its classes have one at a time."""

    def __init__(self) -> None:
        self.heard = ReceiveBuffer()
        self.wanted = False

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect what the line says while the block runs."""
        self.wanted = True
        try:
            yield
        finally:
            self.wanted = False
            self.heard.clear()


@final
class _Writer:
    """Writes the messages of one traffic class, and tells the session the outcome of each."""

    def __init__(
        self,
        session: ServerSession,
        channel: Channel,
        reply: _ReplyBuffer,
        controls: LinkControls,
        pace: Pace,
        flush: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._session = session
        self._channel = channel
        self._reply = reply
        self._controls = controls
        self._pace = pace
        self._flush = flush
        self._failed = failed
        self._inbox: deque[Message] = deque()  # the session's credit bounds it
        self._is_idle = False
        """``run`` waits for a message."""
        self._begun: tuple[Message, Session, int] | None = None
        """The message of which ``post`` wrote so many bytes, and not all; ``run`` goes on with it."""
        self._posted = trio.lowlevel.ParkingLot()
        self._under_way: deque[Progress] = deque()
        self._settled = trio.lowlevel.ParkingLot()
        self._taken = 0
        """The line has charge of everything before this offset, and may write it though this writer is gone."""
        self._throughput = Throughput(0.0)
        self._retired = False
        session.window(channel, _LEAST_WINDOW)
        self._current: Message | None = None
        """The message that was begun last."""
        self._answered: Message | None = None
        """The message whose turn the line of our own began last."""
        self._asked: dict[Taken, Message] = {}
        """The messages that another CPU's line took, and that may have their turn yet, in their order."""
        self.received = 0
        self.dropped = 0
        self.line: Session | None = None
        """The line as this class may write to it; None while it has no right to."""

    def post(self, message: Message) -> None:
        """Have a message written after those before it: at once, where none is and the line is free."""
        if not self._write_nowait(message):
            self._inbox.append(message)
            self._posted.unpark()

    def _write_nowait(self, message: Message) -> bool:
        """Write what waits for nobody, in the step that brought it, as a client's own; return whether it was begun."""
        line = self.line
        if (
            line is None
            or message.turn is not None
            or message.control is not None
            or not self._is_idle
            or self._inbox
            or self._retired
        ):
            return False
        if self._begun is not None or self._pace.is_over:
            return False
        began = trio.current_time()
        self._under_way.append(Progress(message.offset, message.end))  # its outcome may be told before it returns
        try:
            took = line.write_nowait(message.data, whole=True, accepted=message.accepted / 1000)
        except Exception as exc:  # noqa: BLE001  # as in settle(): the link has done nothing wrong
            self._failed(exc)
            return True
        if not took:
            self._under_way.pop()
            return False
        self._current = message
        self.received += len(message.data)
        if took < len(message.data):
            self._begun = message, line, took
            self._posted.unpark()
        else:
            self._taken = message.end
        self._pace.charge(began)
        return True

    async def run(self) -> None:
        """Write what comes, until cancelled or retired."""
        while True:
            self._is_idle = True
            while not self._inbox and self._begun is None:
                await self._posted.park()
            self._is_idle = False
            message: Message
            line: Session | None
            if self._begun is not None:  # it has the turn, so nothing may come before the line has it back
                (message, line, done), self._begun = self._begun, None
            else:
                done = 0
                await self._pace.allow()
                if self._retired:
                    return
                # The right may be withdrawn while we wait for the line; it is then judged by this session of it.
                message, line = self._inbox.popleft(), self.line
                self._under_way.append(Progress(message.offset, message.end))
                if message.control is not None:
                    await self._carry_out(message, message.control)
                    continue
                self._current = message
                self.received += len(message.data)
            began = trio.current_time()
            try:
                await self._write(message, line, done)
            except PortDown as exc:
                await self._refuse(line, exc.reason)
            except Forbidden:
                await self._refuse(line, Reason.FORBIDDEN)
            self._pace.charge(began)

    def turn_begins(self) -> None:
        """Note that the line of our own begins the turn of the message that is being written."""
        self._answered = self._current

    def asked(self, asker: Taken | None) -> Message | None:
        """Return the message that a reply is for: ``asker`` of another CPU's line, None of our own."""
        if asker is None:
            return self._answered
        if not asker.by_rule:
            return self._current  # its writer waits for the reply
        if asker not in self._asked:
            return None
        while (oldest := next(iter(self._asked))) is not asker:  # a class has one turn after the other
            del self._asked[oldest]
        return self._asked[asker]

    def mark(self, message: Message, phase: TurnPhase, status: TurnStatus) -> None:
        """Tell the client where a turn of its message begins or ends. Never raises, as ``settle``."""
        try:
            self._session.turn(self._channel, message.offset, phase, status)
        except Exception as exc:  # noqa: BLE001  # it is logged by failed()
            self._failed(exc)
        self._flush()

    def set_rate(self, bits_per_second: int) -> None:
        """Take up the line's rate."""
        self._throughput.floor = bits_per_second / _BITS
        self._adjust_window()

    def retire(self) -> None:
        """Begin no other message."""
        self._retired = True

    async def idle(self) -> None:
        """Wait until every message that was begun has its outcome."""
        while self._under_way:
            await self._settled.park()

    def give_up(self) -> None:
        """End with the session: bytes that may still be written are uncertain, the rest never will be."""
        if self._under_way:
            first = self._under_way[0]
            # A message of which the line took a part is finished by the line, whoever has left.
            begun = first.end if first.begun else first.start
            if (end := max(self._taken, begun)) > first.position:
                self._session.lost(self._channel, end, Reason.UNCERTAIN)
        self._under_way.clear()
        self._settled.unpark_all()

    def settle(self, count: int, reason: Reason | None) -> None:
        """Tell the session the outcome of the next ``count`` bytes: in the tty, or lost for ``reason``.

        Never raises: whatever task writes to the line must not pay for this session.
        """
        if not self._under_way:
            return  # the session is over, and was told so
        try:
            self._settle(count, reason)
        except Exception as exc:  # noqa: BLE001  # it is logged by failed()
            self._failed(exc)

    def _settle(self, count: int, reason: Reason | None) -> None:
        message = self._under_way[0]
        # The session is told first: if that fails, the bytes still have no outcome, and give_up() makes them uncertain.
        end = message.position + count
        if reason is None:
            self._session.handed(self._channel, end)
            self._throughput.add(count)
            self._adjust_window()
        else:
            self.dropped += count
            self._session.lost(self._channel, end, reason)
        message.settle(count)
        if not message.left:
            self._under_way.popleft()
        self._settled.unpark_all()
        self._flush()

    def _adjust_window(self) -> None:
        ahead = int(self._throughput.bytes_per_second * _AHEAD)
        self._session.window(self._channel, min(max(ahead, _LEAST_WINDOW), _MOST_WINDOW))

    async def _write(self, message: Message, line: Session | None, done: int) -> None:
        if line is None:
            raise Forbidden("the right to this traffic class was withdrawn")
        with trio.CancelScope() as line.scope:
            if message.turn is None:
                taken = await line.write(message.data, message.accepted / 1000, done)
                if isinstance(taken, Taken) and line.state.value.turn_rule is not None:
                    self._asked[taken] = message
                    if len(self._asked) > MAX_WAITING + 1:
                        del self._asked[next(iter(self._asked))]
                self._taken = message.end
            else:
                await self._converse(message, message.turn, line)
            return
        raise Forbidden(line.ended or "the session ended")

    async def _carry_out(self, message: Message, request: ControlRequest) -> None:
        """Do what is asked beside the bytes, in its place among them, and tell its outcome."""
        self._taken = message.end  # it may be done, though nobody is told any more
        reason = await self._controls.carry_out(request, _TRAFFIC[self._channel], message.accepted / 1000)
        while len(self._under_way) > 1:
            await self._settled.park()
        if not self._under_way:
            return  # the session is over, and was told so
        if reason is None:
            self._session.handed(self._channel, message.end)
        else:
            self._session.lost(self._channel, message.end, reason)
        self._under_way.clear()
        self._settled.unpark_all()
        self._flush()

    async def _converse(self, message: Message, parameters: TurnParameters, line: Session) -> None:
        """Write in a turn, and hold it until the reply is over."""
        reply = Reply(parameters.length or math.inf, parameters.end or None, parameters.time / 1000)

        begun = False

        def began() -> None:
            nonlocal begun
            begun = True
            self._reply.heard.clear()  # what came before is no answer
            self.mark(message, TurnPhase.BEGIN, TurnStatus.RUNNING)

        status = TurnStatus.ABORTED
        try:
            async with line.turn(message.data, reply, message.accepted / 1000) as turn:
                with self._reply.collecting():
                    self._taken = message.end
                    await turn.write(began)
                    await turn.replied(self._reply.heard, reply)
                    status = _status(self._reply.heard, reply, line.state.value.down)
        finally:
            if begun:
                self.mark(message, TurnPhase.END, status)

    async def _refuse(self, line: Session | None, reason: Reason) -> None:
        """Lose what is left of the last message, once everything before it and on its way has its outcome."""
        while len(self._under_way) > 1 or (self._under_way and line is not None and line.on_its_way):
            await self._settled.park()
        if self._under_way:
            last = self._under_way[0]
            self.settle(last.left, Reason.INCOMPLETE if last.begun else reason)


def _status(heard: ReceiveBuffer, reply: Reply, down: str | None = None) -> TurnStatus:
    if down is not None:
        return TurnStatus.ABORTED
    if reply.until is not None and heard.has(reply.until):
        return TurnStatus.DELIMITER
    return TurnStatus.LENGTH if heard.size >= reply.length else TurnStatus.TIME


@final
class RemoteSession:
    """A client's session at the line: ``handle`` is its permission, with a right for each traffic class.

    As a Reader it sends the line's bytes to the client, or keeps them while the link is away.
    """

    def __init__(
        self,
        session: ServerSession,
        handle: Handle,
        logger: PortLogger,
        events: EventLog,
        pace: Pace,
        chain: Callable[[], Chain],
        keys: KeyNews,
        failed: Callable[[RemoteSession], None] = lambda _: None,
    ) -> None:
        self.session = session
        self.chain_link = ChainLink(self._known, chain, self.flush)
        """The link as the chain of CPUs sees it."""
        self.key_link = KeyLink(keys, session.key, self.flush)
        """The link as a new key on its way down sees it."""
        self.features = 0
        """Those that both sides of its last connection know."""
        self.handle = handle
        self.address = ""
        """The IP address of its last connection."""
        self.name = ""
        """The name that the client gave itself there."""
        self.point = b""
        """The key that it proved there, as a point."""
        self.scope = trio.CancelScope()
        """All of its tasks; cancelled when the session is over."""
        self.link: Link | None = None
        """The connection that it has now, if any."""
        self._carrying = trio.CancelScope()
        self._answered = trio.lowlevel.ParkingLot()
        self.sent = 0
        """As a Reader: bytes of the line that it was told, or is kept for it."""
        self.gaps = 0
        """Bytes that the client told us it would not send after all."""
        self._logger = logger
        self._events = events
        self._failed = failed
        self._reply = reply = _ReplyBuffer()
        self._line = handle.attenuate(Right.READ, handle.holder).open(Right(0), needs=True)
        self._controls = controls = LinkControls(session, handle, self._line, self)
        self._writers = {
            channel: _Writer(session, channel, reply, controls, pace, self.flush, self.fail)
            for channel in CHANNELS.values()
        }
        self._line.listen(self)
        self._line.listen_for_gaps(self.missed)
        self._line.listen_for_turns(self.turned)
        self._set_rate(self._line.state.value.rate)
        self._in_turn: tuple[_Writer, Message] | None = None
        """The message of this client that has its turn by the owner's rule, and whose it is."""

    @property
    def received(self) -> int:
        """Return how many bytes the client sent."""
        return sum(writer.received for writer in self._writers.values())

    @property
    def dropped(self) -> int:
        """Return how many of these were not written, and never will be."""
        return sum(writer.dropped for writer in self._writers.values())

    @property
    def size(self) -> int:
        """See Reader; what waits for the client is in the session's ring."""
        return 0

    def deliver(self, data: bytes) -> None:
        """See Reader."""
        self.sent += len(data)
        try:
            asker = self._named(self._line.asker) if self._line.is_reply else None
            self.session.line(data, asker)
        except Exception as exc:  # noqa: BLE001  # it is logged by fail(); the line's other readers must not pay for it
            self.fail(exc)
            return
        if self._reply.wanted:
            self._reply.heard.deliver(data)
        self.flush()

    def turned(self, asker: Asker | None, ending: Ending | None) -> None:
        """Tell the client where the turns of its messages by the owner's rule begin and end."""
        if self._in_turn is not None:
            marking, marked = self._in_turn
            self._in_turn = None
            marking.mark(marked, TurnPhase.END, _STATUSES[ending or Ending.ABORTED])
        writer = self._writer(asker)
        if writer is None:
            return
        if not isinstance(asker, Taken):
            writer.turn_begins()
        message = writer.asked(asker if isinstance(asker, Taken) else None)
        if message is not None and message.turn is None:
            self._in_turn = writer, message
            writer.mark(message, TurnPhase.BEGIN, TurnStatus.RUNNING)

    def _writer(self, asker: Asker | None) -> _Writer | None:
        """Return which of our writers asked, if one did."""
        claim = asker.claim if isinstance(asker, Taken) else asker
        return next((each for each in self._writers.values() if claim is not None and each.line is claim), None)

    def _named(self, asker: Asker | None) -> WireAsker:
        """Return how the client knows the asker of a reply."""
        writer = self._writer(asker)
        message = None if writer is None else writer.asked(asker if isinstance(asker, Taken) else None)
        return OTHERS if message is None else WireAsker(message.channel, message.offset)

    def missed(self, count: int, reason: Reason) -> None:
        """Pass on to the client that some of the line never came."""
        try:
            self.session.gap(count, reason)
        except Exception as exc:  # noqa: BLE001  # as in deliver()
            self.fail(exc)
            return
        self.flush()

    def flush(self) -> None:
        """Have the link look at the session again."""
        if self.link is not None:
            self.link.flush()

    def permit(self, rights: Right) -> None:
        """Let the classes in ``rights`` write, and the others no longer; and what clients may ask beside."""
        self._controls.permit(rights)
        for right, channel in CHANNELS.items():
            writer = self._writers[channel]
            if right in rights and writer.line is None:
                writer.line = self.handle.attenuate(right | Right.READ, f"{self.handle.holder} {right.name}").open(
                    right, kin=self
                )
                writer.line.outcome = writer.settle
                writer.line.is_mixed = True
            elif right not in rights and writer.line is not None:
                line, writer.line = writer.line, None
                line.end("the right to this traffic class was withdrawn")
                line.close()

    def tell(self, port: PortState) -> None:
        """Tell the client the port's state."""
        self._set_rate(port.rate)
        self.session.port(port)
        self._controls.report()
        self.flush()

    def _set_rate(self, bits_per_second: int) -> None:
        for writer in self._writers.values():
            writer.set_rate(bits_per_second)

    def _known(self, seen: Seen) -> tuple[Hop, Cpu]:
        """Describe the link and the client for the chain."""
        link, session = self.chain_link, self.session
        lost = self.dropped + session.dropped
        why = link.why if seen is Seen.GONE else ""
        hop = Hop(Way.DOWN, seen, session.round_trip, link.seconds, session.resumes, lost, self.address, why)
        return hop, Cpu(session.key[0], NO_PORT, self.name)

    def fail(self, error: BaseException) -> None:
        """Log an unexpected exception, and have the session ended for it, without a word.

        A CLOSE would tell the client which bytes were written, and no number of this session can be trusted now. The
        client finds out that the session is gone when it asks for it, and what it sent is UNCERTAIN.
        """
        self._logger.error("remote-port server: %s: a bug ended the session", self.handle.holder, exc_info=error)
        self.session.detach(now_ms())
        self._failed(self)

    def retire(self) -> None:
        """Begin no other message: the gateway stops."""
        for writer in self._writers.values():
            writer.retire()

    async def idle(self) -> None:
        """Wait until every message that was begun has its outcome."""
        for writer in self._writers.values():
            await writer.idle()

    def end(self, why: str) -> None:
        """End all that the client does here, and tell it so behind the outcomes of its bytes."""
        self.handle.revoke(why)
        for writer in self._writers.values():
            try:
                writer.give_up()
            except Exception:  # the session is over all the same, but says no numbers: see fail()
                self.session.detach(now_ms())
                self._logger.exception("remote-port server: %s: a bug at the end of the session", self.handle.holder)
        self.flush()
        self._carrying.cancel()
        self.scope.cancel()

    async def answers(self, seconds: float) -> bool:
        """Ask whether the client is there, and return whether it answers in time."""
        if self.link is None:
            await trio.lowlevel.checkpoint()
            return False
        self.session.ping()
        self.flush()
        with trio.move_on_after(seconds):
            await self._answered.park()
            return True
        return False

    async def carry(self, link: Link, most: float) -> bool:
        """Carry frames of a new connection for ``most`` seconds at most; return whether the client said CLOSE.

        The connection before it is dropped: nothing of it is read any more. Raises LinkCutError, CutError or
        RemoteProtocolError, in an exception group.
        """
        self._carrying.cancel()
        self.link = link
        self._controls.look(wanted=False)  # as a connection begins; its client says otherwise
        self._controls.report()
        self.chain_link.stands(self.session.inquiry, self.features, self.session.key[0])
        self.key_link.stands(self.session.inquiry, self.features, self.name, self.point)
        number = self.session.number

        def say() -> Frame | None:
            return self.session.next_frame(number, link.now)

        def take(frame: Frame) -> None:
            self._take(number, frame, link.now)

        try:
            with trio.move_on_after(most) as self._carrying:
                await link.carry(say, take, self.session.ping)
                return True
        finally:
            if self.link is link:
                self.link = None
                self.chain_link.fell()
                self.key_link.fell()
                self.session.detach(now_ms())
        return False

    def _take(self, number: int, frame: Frame, now: int) -> None:
        if isinstance(frame, Pong):
            self._answered.unpark_all()
        for event in self.session.receive(number, frame, now):
            match event:
                case Message():
                    self._writers[event.channel].post(event)
                case Look():
                    self._controls.look(event.wanted)
                case Survey() | Picture():
                    self.chain_link.heard(event, self.session.inquiry, self._tasks)
                case Rekeyed():
                    self.key_link.heard(event)
                case Gap():
                    self.gaps += event.count
                    reason = event.reason.name.lower()
                    kind, message = "remote-port server: gaps", "remote-port server: %s gave up %d bytes: %s"
                    self._events.log(logging.INFO, kind, message, self.handle.holder, event.count, reason)

    async def run(self) -> None:
        """Write what the client sends, until ``scope`` is cancelled; the line is heard from construction on."""
        with self.scope, contextlib.closing(self._line):
            async with trio.open_nursery() as self._tasks:
                for writer in self._writers.values():
                    self._tasks.start_soon(writer.run)
