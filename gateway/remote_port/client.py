"""A remote port client as the device of a port manager (RemotePort.R#): the way to a line that another CPU owns.

It dials the server, proves the key, and keeps one session over all connections, so that a link that drops and comes
back costs no byte. A connection ends by an exception, after which ``supervise`` pauses and dials again. An unexpected
exception may leave a session with a wrong state, so then the whole session is thrown away, and what it owed is
UNCERTAIN.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.remote_port import controls
from gateway.remote_port.candidates import NobodyError
from gateway.remote_port.chain import ChainLink
from gateway.remote_port.line import ENDINGS, RemoteLine
from gateway.remote_port.link import HANDSHAKE_DEADLINE, Link, LinkCutError, now_ms, reason_text
from gateway.remote_port.told_keys import ToldKeys
from gateway.tasks.load import load
from gateway.tasks.root_cause import root_cause
from gateway.tasks.supervise import Backoff, supervise
from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import Picture, Survey
from protocol.link.chain_tree import NO_PORT, UNKNOWN, Alarm, Cpu, Hop, Seen, Way
from protocol.link.connection import Connection
from protocol.link.control_frames import LineReport
from protocol.link.handshake import Initiator, OwnNodeError, Peer, WrongKeyError, key_point
from protocol.link.header import CutError
from protocol.link.key_frames import KEYS, Rekey
from protocol.link.port_state import MAX_PATH
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import Close, Port
from protocol.link.stream_frames import DownData, Gap, Turn
from protocol.link.turn_parameters import TurnPhase, TurnStatus
from protocol.session.client import ClientSession
from protocol.session.send_stream import Settled
from protocol.session.session import NO_SESSION, Resumed, SessionLimits
from protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gateway.port.bus import Bus
    from gateway.port.device import Refusal
    from gateway.remote_port.candidates import Candidates, Target
    from gateway.remote_port.chain import Chain
    from gateway.remote_port.told_keys import TakeKey
    from gateway.tasks.reconcile import Unit
    from protocol.link.frames import Frame
    from protocol.link.identity import NodeKey
    from protocol.link.key_frames import Rekeyed
    from protocol.link.port_state import PortState
    from protocol.parameters.settings import RemotePort, Settings
    from protocol.session.client import ClientEvent

__all__ = ["RemotePortClient"]

RESUME_WINDOW: Final = 60.0
"""Seconds for which a session waits for its next connection."""
_WINDOW: Final = 1 << 20
"""The most bytes of the line on their way to us: the bus takes them at once, so none of them waits here."""
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 15.0
_SHORT: Final = 1.0
"""Seconds; a link that was cut before is one of those that are dialled again at once only so often."""
_AT_ONCE: Final = 20
"""As often without a pause: a server that hangs up as soon as it has answered is dialled by the backoff after that."""
_REGAIN: Final = 3.0
"""Seconds in which one of them is regained."""
_CONNECT: Final = 10.0
_RETIRE: Final = 1.5
"""Seconds for the owner to write what was taken, when the device closes."""
_SHORTEST_AGE: Final = 2.0
"""The least seconds after which a message taken now may be too old."""
_REKEY: Final = 24 * 3600.0
"""Seconds after which the connection is replaced, and with it its keys."""
_FAILURES: Final = (OSError, LinkCutError, NobodyError, RemoteProtocolError)
"""Expected ends of a connection, or of an attempt at one."""


@final
class RemotePortClient:
    """RemotePort.R# ``index``, the device of its bus while ``run()`` runs; ``node`` is our own key pair."""

    def __init__(
        self,
        bus: Bus,
        node: NodeKey,
        index: int,
        settings: RemotePort,
        candidates: Candidates,
        chain: Callable[[], Chain],
        take_key: TakeKey,
    ) -> None:
        self._bus = bus
        self._logger = PortLogger(logging.getLogger(__name__), bus.name)
        self._node = node
        self._index = index
        self._settings = settings
        self._candidates = candidates
        self._point = key_point(settings.authentication_key)
        self._limits = SessionLimits(window=_WINDOW)
        self._session = ClientSession(node.id, self._limits)
        self._line = RemoteLine(self._session, self._flush, self._limits.age, bus)
        self._link: Link | None = None
        self._attempt = trio.CancelScope()
        self._carrying = trio.CancelScope()
        """Cancelled to renew the connection."""
        self._knows_us = False
        """The server has met us: it may accept two keys, and judge us by the other one next time."""
        self._backoff = Backoff(_FIRST_RETRY, _LAST_RETRY)
        self._short_links = TokenBucket(_AT_ONCE, _REGAIN, trio.current_time())
        """Those that may be dialled again without a pause."""
        self._expiry = trio.Event()
        self._wake_at = math.inf
        self._abandon_at = math.inf
        self._told: tuple[bytes, bytes, LineReport] | None = None
        """What a server has reported of the line last: which node, and in which session."""
        self._in_turn = False
        """The bus was told that a turn began, but not yet that it ended."""
        self.chain_link = ChainLink(self._known, chain, self._flush)
        """The link as the chain of CPUs sees it."""
        self.told_keys = ToldKeys(node, take_key, self._say_key, self._logger)
        """The keys that the server tells."""
        self._address = ""
        """Where a server was dialled last."""
        self._alarm: Alarm | None = None
        """What an operator has to mend before the link can work."""
        self.peer: Peer | None = None
        """The server that answered last; None before the first handshake."""
        self._resumes = self._resent = 0
        """The counts of sessions that were thrown away."""
        self.links_lost = 0
        """Connections that ended."""

    async def run(self, unit: Unit) -> None:
        """Keep the link up until the unit's scope is cancelled; then let what was taken arrive, and send CLOSE."""
        unit.began()
        self._disconnect(f"RemotePort.R{self._index} has not been connected yet")
        if self.keyless:
            self._logger.warning(
                "remote port: RemotePort.R%d.AuthenticationKey is empty: anybody may be the server", self._index
            )
        unit.settled.set()  # a server that is not there yet is no reason to refuse the settings
        try:
            async with trio.open_nursery() as self._tasks:
                self._tasks.start_soon(self._keep_time)
                self._tasks.start_soon(self._keep_linked, unit)
                self._tasks.start_soon(self._have_looked)
                with unit.scope:
                    await trio.sleep_forever()
                await self._retire()
                self._tasks.cancel_scope.cancel()
        finally:
            self._give_up(Reason.CLOSED, self._closing)

    async def _keep_linked(self, unit: Unit) -> None:
        backoff = self._backoff = Backoff(_FIRST_RETRY, _LAST_RETRY)
        while True:
            with trio.CancelScope() as self._attempt, self._candidates.looking(self._settings):
                live = functools.partial(self._live, unit)
                await supervise(live, _FAILURES, functools.partial(self._down, unit, backoff), backoff)
            self._give_up(Reason.CLOSED, f"the settings of RemotePort.R{self._index} changed")
            backoff.reset()

    async def _have_looked(self) -> None:
        """Have the owner look at the modem lines while anybody here wants to know of them."""
        async for lookers in self._bus.lookers.changes():
            self._session.look(lookers > 0)
            self._flush()

    async def _retire(self) -> None:
        self._bus.disconnect(self._closing)
        if self._session.resumed:
            with trio.move_on_after(_RETIRE):
                await self._line.still()

    @property
    def _closing(self) -> str:
        return f"RemotePort.R{self._index} is closing"

    def _down(self, unit: Unit, backoff: Backoff, why: str) -> None:
        unit.failing(why)
        self.chain_link.why = why
        if self._candidates.failed():
            backoff.reset()  # an untried server is there
        if self._session.id == NO_SESSION:
            self._disconnect(why)

    async def adjust(self, settings: Settings) -> tuple[Refusal, ...]:
        """Take up other settings: any difference ends the session and dials at once. Nothing is refused.

        If only the key is another, the connection is renewed, and the session goes on if the server accepts that key
        too.
        """
        await trio.lowlevel.checkpoint()
        own, before = settings.remote_ports[self._index], self._settings
        if own != before:
            self._settings = own
            if own.authentication_key != before.authentication_key:
                self._point = key_point(own.authentication_key)
                self._knows_us = True
            same = replace(before, authentication_key=own.authentication_key) == own
            if same and before.authentication_key and own.authentication_key and self._session.id != NO_SESSION:
                self._carrying.cancel()
            else:
                self._attempt.cancel()
        return ()

    async def insist(self, names: Collection[str]) -> None:
        """See PortDevice: there is nothing to try again."""
        await trio.lowlevel.checkpoint()

    def not_in_force(self) -> tuple[Refusal, ...]:
        """See PortDevice; the line's settings are its owner's."""
        return ()

    def status(self) -> dict[str, object]:
        """See PortDevice: the link to the server, once there was one, and while it is down the servers to dial."""
        candidates: dict[str, object] = {}
        if not self.linked:
            candidates["remote_port_candidates"] = self._candidates.status(self._settings, self._backoff.due)
        if self.peer is None:
            return candidates
        shown: dict[str, object] = {
            "linked": self.linked,
            "server_node": self.peer.node.hex(),
            "server_name": self.peer.name,
            "server_port": f"P{self.peer.index}",
            "server_chassis": self.peer.chassis,
            "round_trip_ms": self.round_trip,
            "links_lost": self.links_lost,
            "resumes": self._resumes + self._session.resumes,
            "bytes_resent": self._resent + self._session.resent,
            "bytes_written": self._line.written,
            "bytes_lost": {reason.name.lower(): self.losses.get(reason, 0) for reason in Reason},
        }
        if self.keyless:
            shown["warning"] = "the AuthenticationKey is empty: anybody may be at the other end"
        return {"remote_port_client": shown, **candidates}

    @property
    def round_trip(self) -> int | None:
        """Return the best round trip to the server in milliseconds, None before it is known."""
        return self._session.round_trip

    @property
    def linked(self) -> bool:
        """Return whether a connection carries the session now."""
        return self._link is not None

    @property
    def losses(self) -> Mapping[Reason, int]:
        """Return how many bytes were taken and not written, or may not have been, by reason."""
        return self._line.losses

    @property
    def keyless(self) -> bool:
        """Return whether anybody may be the server."""
        return not self._settings.authentication_key

    @property
    def alarms(self) -> list[tuple[Alarm, str]]:
        """Return what an operator has to mend, and at which CPU."""
        who = self._address or "the CPU above"
        alarms = [] if self._alarm is None else [(self._alarm, who)]
        return [*alarms, (Alarm.NO_KEY, who)] if self.keyless else alarms

    def _known(self, seen: Seen) -> tuple[Hop, Cpu]:
        """Describe the link and the server for the chain."""
        link, peer = self.chain_link, self.peer
        lost = sum(self.losses.values())
        resumes = self._resumes + self._session.resumes
        why = link.why if seen is Seen.GONE else ""
        hop = Hop(Way.UP, seen, self.round_trip, link.seconds, resumes, lost, self._address, why)
        return hop, Cpu(UNKNOWN, NO_PORT) if peer is None else Cpu(peer.node, peer.index, peer.name)

    async def _live(self, unit: Unit, backoff: Backoff) -> None:
        """Be connected once. Raises one of _FAILURES."""
        try:
            await self._be_connected(unit, backoff)
        except _FAILURES:
            raise
        except Exception as exc:  # even a bug must end only this connection, and never the port manager
            self._logger.exception("remote port: a bug ended the link")
            self._start_over()
            raise LinkCutError(f"a bug ended the link: {root_cause(exc)!r}") from exc

    async def _be_connected(self, unit: Unit, backoff: Backoff) -> None:
        target = await self._candidates.next(self._settings, resuming=self._session.id != NO_SESSION)
        try:
            await self._meet(target, unit, backoff)
        except _FAILURES as exc:
            self._candidates.note(str(exc))
            self._note_alarm(exc)
            raise

    def _note_alarm(self, error: BaseException) -> None:
        reason = error.reason if isinstance(error, LinkCutError) else None
        if isinstance(error, WrongKeyError) or reason is CloseReason.WRONG_KEY:
            self._alarm = Alarm.WRONG_KEY
        elif isinstance(error, OwnNodeError) or reason in (CloseReason.OWN_NODE, CloseReason.DUPLICATE):
            self._alarm = Alarm.CLONED

    async def _meet(self, target: Target, unit: Unit, backoff: Backoff) -> None:
        self._address = target.host
        try:
            sock = await self._connected(target)
        except OSError:
            self._candidates.no_guess()
            raise
        scalar, fresh = os.urandom(32), os.urandom(16)
        link = Link(sock, Connection(Initiator(self._point, self._node, self._index, scalar, fresh)))
        try:
            await self._greet(link, target)
            await self._carry(link, unit, backoff)
        except WrongKeyError:
            if not self._knows_us:
                self._candidates.wrong_key()
            self._knows_us = False
            backoff.reset()  # this server is paused, so that any other is dialled at once
            raise
        finally:
            link.close()

    async def _connected(self, target: Target) -> socket.socket:
        await load("encodings.idna")  # by which trio writes a host's name
        with trio.move_on_after(_CONNECT):
            stream = await trio.open_tcp_stream(target.host, target.port)
            return socket.socket(fileno=stream.socket.detach())
        raise TimeoutError(f"{target.host} port {target.port} did not answer within {_CONNECT:g} s")

    async def _greet(self, link: Link, target: Target) -> None:
        try:
            with trio.fail_after(HANDSHAKE_DEADLINE):
                peer = await link.handshake(_not_called)
        except trio.TooSlowError:
            raise LinkCutError(f"no handshake within {HANDSHAKE_DEADLINE:g} s") from None
        if target.identity not in (None, (peer.node, peer.index)):
            self._candidates.no_guess()
            raise LinkCutError(f"{target.host} port {target.port} is not the server that Bonjour announced there")
        if self.peer is not None and (peer.node, peer.index) != (self.peer.node, self.peer.index):
            self._logger.warning("remote port: R%d: another server answers at the same address", self._index)
        self.peer, self._knows_us = peer, True
        if (content := self._candidates.answered((peer.node, peer.index))) is not None:
            self._tasks.start_soon(self._keep, content)

    async def _keep(self, content: bytes) -> None:
        await trio.to_thread.run_sync(self._candidates.keep, content, abandon_on_cancel=True)

    async def _carry(self, link: Link, unit: Unit, backoff: Backoff) -> None:
        """Carry frames of a new connection until it ends. Raises LinkCutError or RemoteProtocolError."""
        assert self.peer is not None, "the handshake came first"
        number = self._session.attach(self.peer.node, self.peer.features)
        self._link = link
        since = trio.current_time()
        opened = False

        def take(frame: Frame) -> None:
            nonlocal opened
            for event in self._session.receive(number, frame, link.now):
                if isinstance(event, Resumed):
                    opened = True
                    self._resumed(unit)
                self._handle(event, opened)

        say = functools.partial(self._next_frame, link, number)
        why = "it is renewed, because its keys are a day old or AuthenticationKey has changed"
        try:
            with trio.move_on_after(_REKEY) as self._carrying:
                await link.carry(say, take, self._session.ping)
        except* (LinkCutError, CutError) as group:
            why = str(root_cause(group))
        except* RemoteProtocolError as group:
            why = f"the server broke the protocol: {root_cause(group)}"
            link.refuse(Close(CloseReason.PROTOCOL))
            self._give_up(Reason.CLOSED, why)
        finally:
            self._detach(link)
        # A session that the server closed would be closed again. So only a link that was cut, or that lived for long,
        # is dialled again at once.
        now = trio.current_time()
        lasted = now - since
        was_cut = opened and self._session.id != NO_SESSION
        if lasted > _LAST_RETRY or (was_cut and (lasted > _SHORT or self._short_links.try_take(now))):
            backoff.reset()
        raise LinkCutError(why)

    def _next_frame(self, link: Link, number: int) -> Frame | None:
        return self._session.next_frame(number, link.now)

    def _resumed(self, unit: Unit) -> None:
        self._abandon_at = math.inf
        self._line.away(math.inf)
        self._candidates.worked()
        unit.up()
        assert self.peer is not None, "the handshake came first"
        if not self._session.takes_controls:
            self._told = None
            self._line.follow(Right(0), None)
            self._bus.permit_controls(Right(0))
            self._bus.beside(None, None)
        self._alarm = None
        self.chain_link.stands(self._session.inquiry, self.peer.features, self.peer.node)
        self.told_keys.answer()

    def _detach(self, link: Link) -> None:
        """Note that the connection has gone; without a CLOSE its session may go on for a while."""
        if self._session.resumed:
            if trio.current_effective_deadline() == -math.inf:  # it is we who end it
                self._session.close(CloseReason.STOPPING)
                link.leave(functools.partial(self._next_frame, link, self._session.number))
            now = trio.current_time()
            self._abandon_at = now + RESUME_WINDOW
            self._line.away(now)
        self._link = None
        self.chain_link.fell()
        self._session.detach()
        self.links_lost += 1
        self._expiry.set()

    def _handle(self, event: ClientEvent, opened: bool) -> None:
        match event:
            case DownData():
                if event.asker is None:
                    self._bus.deliver(event.data)
                else:
                    self._bus.deliver_in_turn(event.data, self._line.asker(*event.asker))
            case Settled():
                self._line.settled(event)
            case Gap():
                self._bus.miss(event.count, event.reason)
            case Turn():
                self._turned(event)
            case Survey() | Picture():
                self.chain_link.heard(event, self._session.inquiry, self._tasks)
            case Rekey():
                self.told_keys.heard(event, self._tasks)
            case LineReport():
                self._follow_line(event)
            case Resumed() | Port():
                self._follow_port(event.port if isinstance(event, Resumed) else event.state)
            case Close():
                self._closed(event.reason, opened)

    def _say_key(self, answer: Rekeyed) -> None:
        """Send the answer to a key over the present connection, if there is one that knows the feature."""
        if self.peer is not None and self.peer.features & KEYS and self._session.resumed:
            self._session.inquiry.tell(answer)
            self._flush()

    def _turned(self, turn: Turn) -> None:
        """Report the beginning or end of a turn to its asker or, for a turn by the owner's rule, to the bus."""
        self._line.turned(turn)
        asker = self._line.asker(turn.channel, turn.offset)
        if asker is None or not asker.by_rule:
            return
        if turn.phase is TurnPhase.END:
            self._end_turn(turn.status)
            return
        self._end_turn(TurnStatus.ABORTED)  # a full ring has dropped the end of the turn before
        self._in_turn = True
        self._bus.turn_begins(asker)

    def _end_turn(self, status: TurnStatus) -> None:
        if self._in_turn:
            self._in_turn = False
            self._bus.turn_ends(ENDINGS[status])

    def _follow_port(self, port: PortState) -> None:
        self._line.set_rate(port.rate)
        self._line.permit(port.rights)
        told = None if self._told is None else controls.in_force(self._told[-1])
        self._bus.adjusted(port.rate, port.line, told)
        self._bus.share(port.turn, port.message)
        self._line.set_rule(port.turn)
        path = (*port.path, self._node.id) if port.path else ()
        # A path of the longest length can be used, but not by a CPU further down.
        self._bus.route(*path if len(path) <= MAX_PATH else (), rights=port.rights)
        if not port.up or not path:
            self._bus.disconnect(port.why or "the server has no way to the line")
        elif self._bus.down is not None:
            self._line.begin()
            self._bus.connect(self._line)

    def _follow_line(self, report: LineReport) -> None:
        """Take up how the line is, and what may be asked of it.

        Breaks that came while there was no session are counted where the same node tells them: never one too many, for
        where its count is smaller than before it was restarted, and began at 0. What another node has counted by then
        may be known already, and is left in the gap of unknown size that every new session begins with.
        """
        assert self.peer is not None, "the handshake came first"
        before, self._told = self._told, (self.peer.node, self._session.id, report)
        lines = controls.modem_lines(report)
        self._line.follow(controls.rights_of(report), lines, report.answered)
        self._bus.permit_controls(controls.rights_of(report))
        self._bus.beside(lines, report.errors)
        now = self._bus.state.value
        self._bus.adjusted(now.rate, now.settings, controls.in_force(report))
        if before is None or before[0] != self.peer.node:
            return
        if before[1] == self._session.id or report.breaks >= before[2].breaks:
            self._bus.broke((report.breaks - before[2].breaks) % 2**32)
        else:
            self._bus.broke(report.breaks)

    def _closed(self, reason: CloseReason, opened: bool) -> NoReturn:
        """End the connection: the peer sent CLOSE, or the path is a loop, which the peer does not know yet.

        A CLOSE in place of OPENED ends only the connection; an earlier session may go on with another.
        """
        if self._link is not None:
            self._link.flush(at_once=True)  # what the session has to say, before it is over
        what = "the session is over" if opened or reason is CloseReason.LOOP else "the server refuses the link"
        why = f"{what}: {reason_text(reason)}"
        if reason is CloseReason.LOOP or self._session.id == NO_SESSION:
            self._give_up(Reason.CLOSED, why)
        self._note_alarm(LinkCutError(why, reason))
        raise LinkCutError(why)

    def _give_up(self, reason: Reason, why: str) -> None:
        """End the session: give all its bytes an outcome now, and refuse writes."""
        self._abandon_at = math.inf
        self._line.away(math.inf)
        self._line.let_all_go()
        for settled in self._session.abandon(reason):
            self._line.settled(settled)
        self._end_turn(TurnStatus.ABORTED)
        self._disconnect(why)

    def _start_over(self) -> None:
        """Throw the session away in whatever state it is; what it owed is UNCERTAIN."""
        number = self._session.number
        self._resumes += self._session.resumes
        self._resent += self._session.resent
        self._session = ClientSession(self._node.id, self._limits)
        self._session.look(self._bus.lookers.value > 0)
        self._session.number = number  # so that nothing of a connection before is taken for one of this session
        self._line.abandon(self._session)
        self._end_turn(TurnStatus.ABORTED)
        self._abandon_at = math.inf
        self._line.away(math.inf)
        self._bus.miss(0, Reason.RESTARTED)
        self._disconnect("a bug ended the link")

    def _disconnect(self, why: str) -> None:
        self._bus.route()
        self._bus.disconnect(why)

    def _flush(self) -> None:
        if self._link is not None:
            self._link.flush()
        if self._session.holding and self._wake_at > trio.current_time() + _SHORTEST_AGE:
            self._expiry.set()

    async def _keep_time(self) -> None:
        """Drop what grows too old, and the session when its resume window is over."""
        while True:
            self._expiry = trio.Event()
            try:
                self._wake_at = self._drop_what_is_old(trio.current_time())
            except Exception as exc:  # as for connections
                self._logger.exception("remote port: a bug ended the session")
                if self._link is not None:
                    self._link.fail(exc)
                self._start_over()
                self._wake_at = trio.current_time() + _SHORTEST_AGE
            with trio.move_on_at(self._wake_at):
                await self._expiry.wait()

    def _drop_what_is_old(self, now: float) -> float:
        """Settle what is too old to be written; return when to look again."""
        for settled in self._session.expire(now_ms()):
            self._line.settled(settled)
        self._line.refuse_stale()
        if now >= self._abandon_at:
            self._give_up(Reason.PORT_DOWN, "the server was away for longer than the resume window")
        expiry = self._session.next_expiry(now_ms())
        oldest = math.inf if expiry is None else expiry / 1000
        return min(self._abandon_at, oldest, self._line.next_refusal(now))


def _not_called(_: object) -> None:
    raise AssertionError("a client is sent no hello")
