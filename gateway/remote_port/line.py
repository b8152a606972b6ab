"""The line of a chained CPU: a ``Line`` for the writers of its bus, over the session of a remote-port link.

There is a queue for each traffic class and no lock, because turns are given by the owner alone. A message is taken as
soon as the session has room for it. From then on these hold, for each class:

- ``_outcomes`` holds the messages that were taken and are not settled, in the order of their offsets, without a hole.
  The owner settles in that order, so a ``Settled`` begins with the first of them, and may cover several.
- ``_owed`` counts the bytes of those messages by writer. It is 0 for a writer exactly when each of its bytes has its
  outcome, which is what ``begun`` and ``still`` tell.
- ``_waiting`` counts them by class: no more is taken than the line writes within ``_AHEAD`` seconds.

A writer's request beside its bytes is a message of its stream too (``control``), but is not counted as bytes of the
line. At the owner each writer has a number, under which it holds what it set. When a writer leaves, the owner is told,
and told again if that was lost, until it knows; or until the session ends, and all holds with it.

A reply names the message that it answers, by channel and offset. ``_asked`` finds that message again: for each class it
holds the last message that had a reply, and all after it.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.port.control import Purge, rights
from gateway.port.line import LineError, PortDown
from gateway.port.rights import Right
from gateway.remote_port.throughput import Throughput
from protocol.link.control_steps import ControlRequest
from protocol.link.message_rules import MAX_MESSAGE, MAX_WAITING, message_limit, portion
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel
from protocol.link.turn_parameters import MAX_TURN_TIME, TurnParameters, TurnPhase, TurnStatus
from protocol.session.progress import Progress
from protocol.session.send_stream import Settled
from protocol.sharing.exchange import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.port.bus import Bus
    from gateway.port.control import Step
    from gateway.port.line import Claim, ModemLines, Reply
    from gateway.port.receive_buffer import ReceiveBuffer
    from protocol.link.stream_frames import Turn
    from protocol.session.client import ClientSession
    from protocol.session.session import AgeLimits
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["CHANNELS", "ENDINGS", "RemoteLine", "RemoteTurn", "Taken"]

CHANNELS: Final = {Right.PTZ: Channel.PTZ, Right.TCP: Channel.TCP, Right.CGI: Channel.CGI}

ENDINGS: Final = {
    TurnStatus.DELIMITER: Ending.WHOLE,
    TurnStatus.LENGTH: Ending.WHOLE,
    TurnStatus.RULE: Ending.WHOLE,
    TurnStatus.SILENCE: Ending.SILENCE,
    TurnStatus.TIME: Ending.TIME,
    TurnStatus.ABORTED: Ending.ABORTED,
}
"""The ending of a turn for each status of an END frame."""

_LONGEST_LENGTH: Final = 65535
_LONGEST_END: Final = 249
_BITS: Final = 10
"""The approximate bits of a character."""
_AHEAD: Final = 0.5
"""Seconds of line that a class may take before they are written: enough to keep a line busy over a slow link.

A message cannot overtake what waits here before it, and must not grow stale behind it.
"""
_NOT_HERE: Final = "the line belongs to another CPU, whose version takes no controls over a link"
_NOT_ALLOWED: Final = "the line belongs to another CPU, where [port_manager.remote] does not let others do that"
_GRACE: Final = 2.0
"""The most seconds that the way back adds to a reply's time."""


@final
class Taken:
    """A message of ``claim`` that was taken, until all its bytes have an outcome; and the Asker of its reply.

    ``by_rule``: it has its turn by the owner's rule, if there is one, and not by parameters of its own.
    """

    def __init__(
        self, offset: int, data: bytes, claim: Claim, *, by_rule: bool, request: ControlRequest | None = None
    ) -> None:
        self.request = request
        """The request, where it is no message for the line."""
        self.progress = Progress(offset, offset + len(data))
        self.data = data
        """Its bytes, until they have an outcome."""
        self.claim = claim
        self.by_rule = by_rule
        self.known: trio.Event | None = None
        """Set when that is so, where somebody waits for it."""
        self.lost: Reason | None = None
        """The last reason for which bytes of it were lost, if any were."""
        self.given_up = False
        """Its writer has replaced it, and waits for no reply to it."""

    async def outcome(self) -> None:
        """Wait until it is known what became of all its bytes."""
        self.known = trio.Event()
        if not self.progress.left:
            self.known.set()
        await self.known.wait()

    @property
    def holder(self) -> str:
        """The name of the writer."""
        return self.claim.holder

    @property
    def party(self) -> object:
        """The party that hears the reply; once it is given up, only monitors."""
        return self if self.given_up else self.claim.party


@final
class RemoteLine:
    """The writing half of a remote port; ``flush`` makes the link send what the session has.

    ``age_limits`` are the times for which each class may be without a link before its writers are refused.
    """

    def __init__(self, session: ClientSession, flush: Callable[[], None], age_limits: AgeLimits, bus: Bus) -> None:
        self._session = session
        self._flush = flush
        self._bus = bus
        self._age_limits = {channel: limit / 1000 for channel, limit in age_limits.items()}
        self._outcomes: dict[Channel, deque[Taken]] = {channel: deque() for channel in CHANNELS.values()}
        self._owed: dict[Claim, int] = {}
        self._asked: dict[Channel, deque[Taken]] = {
            channel: deque(maxlen=MAX_WAITING + 1) for channel in CHANNELS.values()
        }
        self._rule: TurnRule | None = None
        self._turns: dict[tuple[Channel, int], RemoteTurn] = {}
        self._writers = {channel: trio.lowlevel.ParkingLot() for channel in CHANNELS.values()}
        self._down: str | None = None
        self._waiting = dict.fromkeys(CHANNELS.values(), 0)
        self._throughput = Throughput(0.0)
        self._allowed = frozenset(CHANNELS.values())
        self._away_since = math.inf
        self._may = Right(0)
        """The rights beside writing that the owner gives to our writers."""
        self._modem_lines: ModemLines | None = None
        self._answered = 0
        """The number of the last question about them that the owner has answered ..."""
        self._told = trio.lowlevel.ParkingLot()
        """... and the tasks that wait for an answer."""
        self._numbers: dict[Claim, int] = {}
        """The owner's number for each writer that may hold anything there ..."""
        self._leaving: dict[int, Claim] = {}
        """... the writers that have left, while the owner may not know that ..."""
        self._unsaid: list[int] = []
        """... and those of them that could not be reported yet, for lack of room."""
        self._count = itertools.count(1)
        self._still = trio.lowlevel.ParkingLot()
        self.written = 0
        """Bytes that are in the owner's tty."""
        self.losses: Counter[Reason] = Counter()
        """Bytes that were taken and not written, or may not have been (UNCERTAIN), by reason."""

    @property
    def is_ready(self) -> bool:
        """Return whether everything that was taken has its outcome."""
        return not any(self._outcomes.values())

    def write_nowait(self, data: bytes, claim: Claim, accepted: float, *, whole: bool) -> int:
        """Take a message, or a piece no longer than one, if there is room for all of it now; otherwise nothing.

        Raises PortDown, or what the claim says.
        """
        channel = CHANNELS[claim.traffic]
        if self._rule is not None or self._writers[channel]:
            return 0
        if not whole and len(data) > message_limit(self._throughput.steady):
            return 0
        if (offset := self._begin(channel, data, claim, accepted, None)) is None:
            return 0
        self._have(channel, Taken(offset, data, claim, by_rule=True))
        return len(data)

    async def write(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> Taken:
        """Take one message for the line. Raises PortDown, or what the claim says."""
        self.supersede(claim, data)
        return await self.put(data, claim, accepted, None)

    async def transfer(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> None:
        """Take a piece of a byte stream; of a long one, a portion is a message. Otherwise as ``write``.

        Under the owner's rule each message is a request, and then a long piece goes in as few as there may be.
        """
        start = 0
        while start < len(data):
            limit = message_limit(self._throughput.steady)
            end = start + (limit if len(data) <= limit or self._rule is not None else self._portion)
            await self.put(data[start:end], claim, accepted, None)
            start = end
            accepted = trio.current_time()  # the transfer moves, if slowly, so its rest must not count as stale

    async def turn(self, claim: Claim, accepted: float, message: bytes, reply: Reply | None) -> RemoteTurn:
        """Prepare a turn of the owner's line for one message."""
        await trio.lowlevel.checkpoint()
        claim.check(accepted)
        return RemoteTurn(self, claim, accepted, message, reply)

    async def put(
        self,
        data: bytes,
        claim: Claim,
        accepted: float,
        turn: TurnParameters | None,
        request: ControlRequest | None = None,
    ) -> Taken:
        """Wait for room, and take one message, or a request that has these bytes."""
        channel = CHANNELS[claim.traffic]
        writers = self._writers[channel]
        try:
            if writers:
                await writers.park()
            while (offset := self._begin(channel, data, claim, accepted, turn, request)) is None:
                await writers.park()
        finally:
            writers.unpark()  # there may be room for the next as well
        taken = Taken(offset, data, claim, by_rule=turn is None and request is None, request=request)
        if self._rule is not None and request is None:
            self._asked[channel].append(taken)
        self._have(channel, taken)
        return taken

    def _have(self, channel: Channel, taken: Taken) -> None:
        """Make the link send what was taken, and expect its outcome."""
        size = len(taken.data)
        self._waiting[channel] += size
        self._outcomes[channel].append(taken)
        if taken.request is None:
            self._owed[taken.claim] = self._owed.get(taken.claim, 0) + size
        self._flush()

    def settled(self, settled: Settled) -> None:
        """Tell the writers what became of their bytes."""
        self._waiting[settled.channel] -= settled.count
        of_the_line = 0
        outcomes = self._outcomes[settled.channel]
        while outcomes and outcomes[0].progress.position < settled.end:
            outcome = outcomes[0]
            count = outcome.progress.settle_to(settled.end)
            if outcome.request is not None:
                self._settle_control(outcome, settled)
                continue
            of_the_line += count
            self._owed[outcome.claim] -= count
            if settled.reason is None:
                if self._bus.watchers:
                    end = outcome.progress.position - outcome.progress.start
                    self._bus.wrote(outcome.data[end - count : end], outcome.holder)
                outcome.claim.wrote(count)
            else:
                outcome.lost = settled.reason
                outcome.claim.lost(count, settled.reason)
            if not outcome.progress.left:
                outcomes.popleft()
                outcome.data = b""  # the reply may take long, and the bytes are not needed any more
                if outcome.known is not None:
                    outcome.known.set()
                if not self._owed[outcome.claim]:
                    del self._owed[outcome.claim]
        if of_the_line and settled.reason is None:
            self.written += of_the_line
            self._throughput.add(of_the_line)
        elif of_the_line:
            self._note_loss(settled, of_the_line)
        if self._unsaid:
            unsaid, self._unsaid = self._unsaid, []
            for number in unsaid:
                self._say_left(number)
        if writers := self._writers[settled.channel]:
            writers.unpark()
        if self._still and self.is_ready:
            self._still.unpark_all()

    def _settle_control(self, control: Taken, settled: Settled) -> None:
        """Note the outcome of a request, a part of which may have no outcome yet."""
        control.lost = settled.reason or control.lost
        if control.progress.left:
            return
        self._outcomes[settled.channel].popleft()
        if control.known is not None:
            control.known.set()
        assert control.request is not None
        number = control.request.client
        if control.request.steps or number not in self._leaving:
            return
        if control.lost is None:
            del self._leaving[number]
        else:
            self._say_left(number)

    def abandon(self, session: ClientSession) -> None:
        """Change to another session, because the state of the present one cannot be trusted: all is UNCERTAIN."""
        self._session = session
        self.let_all_go()
        for channel, outcomes in self._outcomes.items():
            while outcomes:
                first = outcomes[0].progress
                self.settled(Settled(channel, first.position, first.left, Reason.UNCERTAIN))
            self._asked[channel].clear()  # offsets start again

    def supersede(self, claim: Claim, data: bytes) -> int:
        """Give up this writer's last request, if it is not known to have begun and ``data`` replaces it. Return 0.

        It is withdrawn if nothing of it was sent. What was sent stands in the owner's queue, where the clients of a
        link cannot be told apart: it has its turn there, and its reply is nobody's.
        """
        if self._rule is None or claim.is_mixed:
            return 0
        channel = CHANNELS[claim.traffic]
        last = next((taken for taken in reversed(self._outcomes[channel]) if taken.claim is claim), None)
        if last is None or last.given_up or not last.by_rule or not self._rule.supersedes(data, last.data):
            return 0
        self._bus.superseded += 1
        if self._session.is_sent(channel, last.progress.start):
            last.given_up = True
        else:
            self.withdraw(channel, last.progress.start)
        return 0

    def asker(self, channel: Channel, offset: int) -> Taken | None:
        """Return the message at ``offset`` that a reply is for; None where nobody here asked.

        A class has one turn after the other, so the messages before it have had theirs.
        """
        asked = self._asked.get(channel)
        if asked is None:
            return None
        while asked and asked[0].progress.start < offset:
            asked.popleft()
        return asked[0] if asked and asked[0].progress.start == offset else None

    def turned(self, turn: Turn) -> None:
        """Tell the asker of a turn that it began or ended at the owner."""
        asker = self._turns.get((turn.channel, turn.offset))
        if asker is not None:
            asker.turned(turn.phase)

    def begun(self, claim: Claim) -> int:
        """Return how many bytes of this writer have no outcome yet."""
        return self._owed.get(claim, 0)

    def begin(self) -> None:
        """Take messages again: the owner's device is there."""
        self._down = None

    def end(self, why: str) -> None:
        """Refuse every writer, also those that wait for room. What was taken is still settled."""
        self._down = why
        self._told.unpark_all()
        self._wake(self._writers)

    def away(self, since: float) -> None:
        """Note since when there has been no link (infinity: there is one)."""
        self._away_since = since

    def next_refusal(self, now: float) -> float:
        """Return when ``refuse_stale`` should be called next."""
        moments = (self._away_since + limit for limit in self._age_limits.values())
        return min((moment for moment in moments if moment > now), default=math.inf)

    def refuse_stale(self) -> None:
        """Refuse the writers of each class for which there has been no link for longer than its age limit.

        What their clients send meanwhile must be read and dropped: in the sockets its age would be unknown.
        """
        self._wake([channel for channel in self._writers if self._too_long_away(channel)])

    def permit(self, rights: int) -> None:
        """Let the classes write that the owner allows (bit ``1 << channel`` for each); refuse the others at once."""
        self._allowed = frozenset(channel for channel in self._writers if rights >> channel & 1)
        self._wake(self._writers.keys() - self._allowed)

    async def still(self) -> None:
        """Wait until everything that was taken has its outcome."""
        while not self.is_ready:
            await self._still.park()

    def set_rate(self, bits_per_second: int) -> None:
        """Take up the rate of the owner's line."""
        self._throughput.floor = bits_per_second / _BITS

    def set_rule(self, rule: TurnRule | None) -> None:
        """Take up the rule by which the owner has writers take turns."""
        self._rule = rule

    def modem_lines(self) -> ModemLines:
        """Return the lines as the owner told them last. Raises LineError where it told none."""
        if self._modem_lines is None:
            raise LineError(_NOT_HERE if not self._session.takes_controls else "the line has no modem lines")
        return self._modem_lines

    async def look_at_lines(self) -> ModemLines:
        """See Line."""
        await trio.lowlevel.checkpoint()
        if not self._session.takes_controls:
            raise LineError(_NOT_HERE)
        self._bus.look(1)
        try:
            question = self._session.ask()
            self._flush()
            # An answer to a later question is newer, and good for this one too.
            while self._down is None and (self._answered - question) % 2**32 >= 2**31:
                await self._told.park()
        finally:
            self._bus.look(-1)
            self._session.look(self._bus.lookers.value > 0)
            self._flush()
        if self._down is not None:
            raise PortDown(self._down)
        return self.modem_lines()

    def follow(self, may: Right, modem_lines: ModemLines | None, answered: int = 0) -> None:
        """Take up the rights beside writing that the owner gives to our writers, and its modem lines.

        The owner looked at the lines after it heard the question ``answered``.
        """
        self._may, self._modem_lines, self._answered = may, modem_lines, answered
        self._told.unpark_all()

    async def control(self, steps: Sequence[Step], claim: Claim, accepted: float) -> None:
        """Have the owner carry out ``steps`` in one turn, after this writer's bytes; return when it has.

        Raises LineError, PortDown, or what the claim says.
        """
        await trio.lowlevel.checkpoint()
        claim.check(accepted)
        if not self._session.takes_controls:
            raise LineError(_NOT_HERE)
        if rights(steps) not in self._may:
            raise LineError(_NOT_ALLOWED)
        channel = CHANNELS[claim.traffic]
        if any(isinstance(step, Purge) for step in steps):
            self._purge(channel, claim)
        if claim not in self._numbers:
            self._numbers[claim] = next(self._count)
        request = ControlRequest(self._numbers[claim], tuple(steps))
        taken = await self.put(request.encode(), claim, accepted, None, request)
        try:
            await taken.outcome()
        finally:
            if taken.progress.left:
                self.withdraw(channel, taken.progress.start)
        if taken.lost is Reason.INCOMPLETE:
            raise LineError("the owner of the line did not carry it out")
        if taken.lost is not None:
            raise PortDown(lost_text(taken.lost), taken.lost)

    def _purge(self, channel: Channel, claim: Claim) -> None:
        """Withdraw what is not sent yet of this writer."""
        for taken in tuple(self._outcomes[channel]):
            if taken.claim is claim and taken.request is None:
                self.withdraw(channel, taken.progress.start)

    def let_go(self, claim: Claim) -> None:
        """Have the owner end what this writer's steps hold, after everything that it wrote and asked."""
        if (number := self._numbers.pop(claim, None)) is not None:
            self._leaving[number] = claim
            self._say_left(number)

    def let_all_go(self) -> None:
        """Forget the writers that may hold anything at the owner: the session is over, and their holds with it."""
        self._numbers.clear()
        self._leaving.clear()
        self._unsaid.clear()

    def _say_left(self, number: int) -> None:
        """Tell the owner that a writer has left, if there is room for it, and the owner knows the feature."""
        claim, request = self._leaving[number], ControlRequest(number)
        if not self._session.takes_controls:
            del self._leaving[number]
            return
        channel = CHANNELS[claim.traffic]
        offset = self._session.control(channel, request, int(trio.current_time() * 1000))
        if offset is None:
            self._unsaid.append(number)
        else:
            self._have(channel, Taken(offset, request.encode(), claim, by_rule=False, request=request))

    def ask(self, turn: RemoteTurn, channel: Channel, offset: int) -> None:
        """Tell ``turn`` when the owner begins and ends it."""
        self._turns[channel, offset] = turn

    def withdraw(self, channel: Channel, offset: int) -> None:
        """Forget a turn whose asker has gone, and withdraw its message unless that is on its way."""
        self._turns.pop((channel, offset), None)
        for settled in self._session.withdraw(channel, offset):
            self.settled(settled)

    def _begin(
        self,
        channel: Channel,
        data: bytes,
        claim: Claim,
        accepted: float,
        turn: TurnParameters | None,
        request: ControlRequest | None = None,
    ) -> int | None:
        if self._down is not None:
            raise PortDown(self._down)
        if channel not in self._allowed:
            raise PortDown("the owner of the line does not let this class of traffic in", Reason.FORBIDDEN)
        if self._away_since != math.inf and self._too_long_away(channel):
            raise PortDown(f"the link has been down for {self._age_limits[channel]:g} s", Reason.TOO_OLD)
        claim.check(accepted)
        if self._waiting[channel] and self._waiting[channel] + len(data) > self._throughput.bytes_per_second * _AHEAD:
            return None
        if request is not None:
            return self._session.control(channel, request, int(accepted * 1000))
        return self._session.write(channel, data, int(accepted * 1000), turn)

    @property
    def _portion(self) -> int:
        """Return how many bytes of a transfer make one message."""
        return min(portion(self._throughput.steady), MAX_MESSAGE)

    def _too_long_away(self, channel: Channel) -> bool:
        return trio.current_time() - self._away_since >= self._age_limits[channel]

    def _wake(self, channels: Iterable[Channel]) -> None:
        for channel in channels:
            self._writers[channel].unpark_all()

    def _note_loss(self, settled: Settled, count: int) -> None:
        reason = settled.reason
        assert reason is not None
        self.losses[reason] += count
        level = logging.WARNING if reason is Reason.UNCERTAIN else logging.INFO
        channel = settled.channel.name
        message = "remote port: %d %s bytes sent: %s"
        self._bus.events.log(level, f"remote port: {reason.name}", message, count, channel, lost_text(reason))


@final
class RemoteTurn:
    """A turn of the owner's line, asked for from here: the ``Hold`` of a chained CPU."""

    def __init__(self, line: RemoteLine, claim: Claim, accepted: float, message: bytes, reply: Reply | None) -> None:
        self._line = line
        self._claim = claim
        self._accepted = accepted
        self._message = message
        self._parameters = None if reply is None else _parameters(reply)
        self._place: tuple[Channel, int] | None = None
        self._began: Callable[[], None] = _nothing
        self._over = trio.Event()
        self.ended_early = False
        """Never True here: if the owner ends a turn early, the reply still comes."""

    async def write(self, began: Callable[[], None]) -> None:
        """Write the message; return when it is in the owner's tty. Raises PortDown, or what the claim raises.

        ``began`` is called when the turn begins, before the first byte that answers it is heard.
        """
        self._began = began
        taken = await self._line.put(self._message, self._claim, self._accepted, self._parameters)
        self._place = CHANNELS[self._claim.traffic], taken.progress.start
        self._line.ask(self, *self._place)
        await taken.outcome()
        if taken.lost is not None:
            raise PortDown(lost_text(taken.lost), taken.lost)

    async def replied(self, heard: ReceiveBuffer, reply: Reply) -> None:
        """Wait until the reply is whole, or its time is over at the owner."""
        with trio.move_on_after(reply.seconds + _GRACE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, self._over, nursery.cancel_scope)
                await heard.wait_for(reply.length, reply.until)
                nursery.cancel_scope.cancel()

    def turned(self, phase: TurnPhase) -> None:
        """Note that the owner began or ended the turn."""
        if phase is TurnPhase.BEGIN:
            self._began()
        else:
            self._over.set()

    def close(self) -> None:
        """Withdraw the message if it was not sent, and stop listening for the turn. Idempotent."""
        if self._place is not None:
            self._line.withdraw(*self._place)
            self._place = None


def lost_text(reason: Reason) -> str:
    """Return why bytes were not written, in words."""
    if reason is Reason.UNCERTAIN:
        return "it is unknown whether the owner of the line wrote it; it is not sent again"
    return f"the owner of the line did not write it: {reason.name.lower().replace('_', ' ')}"


def _parameters(reply: Reply) -> TurnParameters:
    """Return a reply in the wire's terms, without a delimiter that is too long for it: we find that one here."""
    length = int(min(reply.length, _LONGEST_LENGTH))
    end = reply.until if reply.until is not None and len(reply.until) <= _LONGEST_END else b""
    return TurnParameters(length, end, min(int(reply.seconds * 1000), MAX_TURN_TIME))


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _nothing() -> None:
    pass
