"""Write the messages of one traffic class that a linked CPU sends, and tell its session what became of each byte.

Each class of a session has a writer of its own, so that none waits for another, only for the line. Of each these hold:

- Messages are written in the order in which they came, and their outcomes are told in that order.
- A message that waits for nobody is written in the step that read it from the link (``post``). Only a message that has
  to wait, or of which the line took a part, is left to the writer's task (``run``).
- ``_under_way`` holds the messages that were begun and whose outcome is not known yet. The first of them is the one
  whose bytes the line settles next, because the line settles in order too.
- A message that is refused is settled after all those before it, however early the refusal is known.
- When the session ends, bytes that the line may still write are UNCERTAIN; the client's stream settles the rest.

On a line with a turn rule a reply is told with the message that it answers. On our own tty that is the message that was
being written when the turn began (``_answered``). Another CPU's line takes many messages before their turns come, so it
names the message itself, and ``_asked`` finds it again.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.port.line import PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.router import Forbidden
from gateway.remote_port.line import CHANNELS, Taken
from gateway.remote_port.throughput import Throughput
from gateway.tasks.ready import run_clock
from protocol.link.message_rules import MAX_WAITING
from protocol.link.reasons import Reason
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from protocol.session.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.port.router import Session
    from gateway.remote_port.controls import LinkControls
    from protocol.link.control_steps import ControlRequest
    from protocol.link.stream_frames import Channel
    from protocol.link.turn_parameters import TurnParameters
    from protocol.session.inbox import Message
    from protocol.session.server import ServerSession

__all__ = ["ClassWriter", "Pace", "ReplyBuffer"]

_AHEAD: Final = 0.25
"""Seconds of line that a class may send ahead: what waits here can no longer be overtaken in its own class."""
_LEAST_WINDOW: Final = 64
"""Bytes. A longer message comes in two parts, because the rest is granted as soon as the first has come."""
_MOST_WINDOW: Final = 65536
_BITS: Final = 10
"""The approximate bits of a character."""
_TRAFFIC: Final = {channel: right for right, channel in CHANNELS.items()}
_AT_A_TIME: Final = 0.002
"""Seconds of writing, for all sessions of a port together, before other tasks get their turn."""
_LONGEST: Final = 0.001
"""The most seconds charged for a message: a longer one has waited for the line, and let others run meanwhile."""


@final
class Pace:
    """Makes the writers of a port pause together on a fast line, which takes everything without a wait.

    So a client that sends thousands of tiny messages in many sessions delays the port's other clients by no more than
    one round at a time. A single message does not pause.
    """

    def __init__(self) -> None:
        self._round = 0
        self._spent = 0.0
        self._now = run_clock()
        self._last = self._now()

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
        """Return whether the time of this round is used up, and other tasks had no turn since."""
        return self._spent >= _AT_A_TIME and self._now() - self._last <= _LONGEST

    def charge(self, since: float) -> None:
        """Count a message that was begun at ``since``."""
        if since - self._last > _LONGEST:
            self._spent = 0.0  # others had their turn before it
        self._last = self._now()
        self._spent += min(self._last - since, _LONGEST)


@final
class ReplyBuffer:
    """Collects the reply to a client's turn; the line gives a turn to only one of its classes at a time."""

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
class ClassWriter:
    """Writes the messages of one traffic class, and tells the session the outcome of each."""

    def __init__(
        self,
        session: ServerSession,
        channel: Channel,
        reply: ReplyBuffer,
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
        """A message of which ``post`` wrote only that many bytes; ``run`` goes on with it."""
        self._posted = trio.lowlevel.ParkingLot()
        self._under_way: deque[Progress] = deque()
        self._settled = trio.lowlevel.ParkingLot()
        self._taken = 0
        """The line has everything before this offset, and may write it even after this writer has gone."""
        self._throughput = Throughput(0.0)
        self._now = run_clock()
        self._retired = False
        session.window(channel, _LEAST_WINDOW)
        self._current: Message | None = None
        """The message that was begun last."""
        self._answered: Message | None = None
        """The message whose turn our own line began last."""
        self._asked: dict[Taken, Message] = {}
        """The messages that another CPU's line took and that may still have their turn, in order."""
        self.received = 0
        self.dropped = 0
        self.line: Session | None = None
        """The line as this class may write to it; None while it has no right to."""

    def post(self, message: Message) -> None:
        """Write a message after those before it: at once, if there are none and the line is free."""
        if not self._write_nowait(message):
            self._inbox.append(message)
            self._posted.unpark()

    def _write_nowait(self, message: Message) -> bool:
        """Write a message that need not wait, in the step that brought it; return whether it was begun."""
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
        began, end = self._now(), message.end
        self._under_way.append(Progress(message.offset, end))  # its outcome may be told before it returns
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
            self._taken = end
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
        """Note that our own line begins the turn of the message that is being written."""
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
            # The line finishes a message that it took in part, even without its writer.
            begun = first.end if first.begun else first.start
            if (end := max(self._taken, begun)) > first.position:
                self._session.lost(self._channel, end, Reason.UNCERTAIN)
        self._under_way.clear()
        self._settled.unpark_all()

    def settle(self, count: int, reason: Reason | None) -> None:
        """Report the outcome of the next ``count`` bytes to the session: in the tty, or lost for ``reason``.

        Never raises, because a bug here must not end the task that writes to the line.
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
            if self._throughput.add(count):
                self._adjust_window()
        else:
            self.dropped += count
            self._session.lost(self._channel, end, reason)
        message.settle(count)
        if not message.left:
            self._under_way.popleft()
        if self._settled:
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
        """Carry out a request in its place among the messages, and report its outcome."""
        self._taken = message.end  # it may be carried out even if nobody hears of it any more
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
