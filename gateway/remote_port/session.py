"""One session of a remote-port client at the CPU that it is linked to: its messages to the bus, the line's bytes to it.

A session outlives its connections for as long as it may be resumed. What the client sends goes to the writer of its
traffic class (``class_writer``). What the line says goes to the client, each byte with the message that it answers
where the line has a turn rule, so that the CPUs below know whose it is.

Much of this is called from elsewhere: the line's bytes come from the task of the UART, outcomes from whatever task
writes. An unexpected exception must not reach those, so it is logged, and ends this session through ``failed``.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.port.rights import Right
from gateway.remote_port.chain import ChainLink
from gateway.remote_port.class_writer import ClassWriter, ReplyBuffer
from gateway.remote_port.controls import LinkControls
from gateway.remote_port.key_news import KeyLink
from gateway.remote_port.line import CHANNELS, Taken
from gateway.remote_port.link import now_ms
from protocol.link.chain_frames import Picture, Survey
from protocol.link.chain_tree import NO_PORT, Cpu, Hop, Seen, Way
from protocol.link.control_frames import Look
from protocol.link.key_frames import Rekeyed
from protocol.link.session_frames import Pong
from protocol.link.stream_frames import OTHERS, Gap
from protocol.link.stream_frames import Asker as WireAsker
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from protocol.session.inbox import Message
from protocol.sharing.exchange import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.port.line import Asker
    from gateway.port.log import PortLogger
    from gateway.port.router import Handle
    from gateway.remote_port.chain import Chain
    from gateway.remote_port.class_writer import Pace
    from gateway.remote_port.key_news import KeyNews
    from gateway.remote_port.link import Link
    from gateway.tasks.event_log import EventLog
    from protocol.link.frames import Frame
    from protocol.link.port_state import PortState
    from protocol.link.reasons import Reason
    from protocol.session.server import ServerSession

__all__ = ["RemoteSession"]

_STATUSES: Final = {
    Ending.WHOLE: TurnStatus.RULE,
    Ending.NONE: TurnStatus.RULE,
    Ending.SILENCE: TurnStatus.SILENCE,
    Ending.TIME: TurnStatus.TIME,
    Ending.ABORTED: TurnStatus.ABORTED,
}


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
        """The features that both sides of its last connection know."""
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
        self._runs = trio.Event()
        """Set when there is a nursery for what the client asks."""
        self._carrying = trio.CancelScope()
        self._answered = trio.lowlevel.ParkingLot()
        self._held = trio.lowlevel.ParkingLot()
        self._is_timed = True
        """``_tell_in_time`` looks at the outcomes that are held, and need not be woken."""
        self.sent = 0
        """As a Reader: bytes of the line that were sent to it, or are kept for it."""
        self.gaps = 0
        """Bytes that the client announced as a GAP: it will not send them after all."""
        self._logger = logger
        self._events = events
        self._failed = failed
        self._reply = reply = ReplyBuffer()
        self._line = handle.attenuate(Right.READ, handle.holder).open(Right(0), needs=True)
        self._controls = controls = LinkControls(session, handle, self._line, self, self.flush)
        self._writers = {
            channel: ClassWriter(session, channel, reply, controls, pace, self.flush, self.fail)
            for channel in CHANNELS.values()
        }
        self._line.listen(self)
        self._line.listen_for_gaps(self.missed)
        self._line.listen_for_turns(self.turned)
        self._set_rate(self._line.state.value.rate)
        self._in_turn: tuple[ClassWriter, Message] | None = None
        """This client's message that has its turn by the owner's rule, and the writer of its class."""

    @property
    def received(self) -> int:
        """Return how many bytes the client sent."""
        return sum(writer.received for writer in self._writers.values())

    @property
    def dropped(self) -> int:
        """Return how many of these will never be written."""
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
        """Tell the client where turns of its messages by the owner's rule begin and end."""
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

    def _writer(self, asker: Asker | None) -> ClassWriter | None:
        """Return the writer of ours that asked, if one did."""
        claim = asker.claim if isinstance(asker, Taken) else asker
        return next((each for each in self._writers.values() if claim is not None and each.line is claim), None)

    def _named(self, asker: Asker | None) -> WireAsker:
        """Return how the client knows the asker of a reply."""
        writer = self._writer(asker)
        message = None if writer is None else writer.asked(asker if isinstance(asker, Taken) else None)
        return OTHERS if message is None else WireAsker(message.channel, message.offset)

    def missed(self, count: int, reason: Reason) -> None:
        """Tell the client that bytes of the line are missing."""
        try:
            self.session.gap(count, reason)
        except Exception as exc:  # noqa: BLE001  # as in deliver()
            self.fail(exc)
            return
        self.flush()

    def flush(self) -> None:
        """Make the link send what the session has."""
        if self.link is not None:
            self.link.flush()

    def permit(self, rights: Right) -> None:
        """Let only the classes in ``rights`` write, and clients ask only for what is in it."""
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
        """Log an unexpected exception, and end the session for it, without a CLOSE.

        A CLOSE would tell the client which bytes were written, but no number of this session can be trusted now. The
        client learns that the session is gone when it asks for it, and what it sent is UNCERTAIN.
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
        """End everything that the client does here, and tell it so after the outcomes of its bytes."""
        self.handle.revoke(why)
        for writer in self._writers.values():
            try:
                writer.give_up()
            except Exception:  # the session is over in any case, but its numbers cannot be trusted: see fail()
                self.session.detach(now_ms())
                self._logger.exception("remote-port server: %s: a bug at the end of the session", self.handle.holder)
        self.flush()
        self._carrying.cancel()
        self.scope.cancel()

    async def answers(self, seconds: float) -> bool:
        """Send the client a PING; return whether it answers in time."""
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
        """Carry frames of a new connection for at most ``most`` seconds; return whether the client sent CLOSE.

        The connection before it is dropped. Raises LinkCutError, CutError or RemoteProtocolError, in an exception
        group.
        """
        await self._runs.wait()
        self._carrying.cancel()
        self.link = link
        self._controls.look(Look(wanted=False))  # as a connection begins; its client says otherwise
        self._controls.report()
        self.chain_link.stands(self.session.inquiry, self.features, self.session.key[0])
        self.key_link.stands(self.session.inquiry, self.features, self.name, self.point)
        number = self.session.number

        def say() -> Frame | None:
            frame = self.session.next_frame(number, link.now)
            if frame is None and not self._is_timed and self.session.next_tell is not None:
                self._is_timed = True
                self._held.unpark()
            return frame

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

    async def _tell_in_time(self) -> None:
        """Have outcomes told whose time to be held is over."""
        while True:
            due = self.session.next_tell
            if due is None or due <= now_ms():  # told, or the socket takes nothing: then ``say`` comes again
                self._is_timed = False
                await self._held.park()
            else:
                await trio.sleep_until((due + 1) / 1000)
                self.flush()

    def _take(self, number: int, frame: Frame, now: int) -> None:
        if isinstance(frame, Pong):
            self._answered.unpark_all()
        for event in self.session.receive(number, frame, now):
            match event:
                case Message():
                    self._writers[event.channel].post(event)
                case Look():
                    self._controls.look(event)
                    self._tasks.start_soon(self._controls.answer)
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
        """Write what the client sends, until ``scope`` is cancelled. The line is heard since the construction."""
        with self.scope, contextlib.closing(self._line):
            async with trio.open_nursery() as self._tasks:
                self._runs.set()
                self._tasks.start_soon(self._tell_in_time)
                for writer in self._writers.values():
                    self._tasks.start_soon(writer.run)
