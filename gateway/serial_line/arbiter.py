"""Give the writers of one serial line their turns, and finish every message that was begun, even if its writer leaves.

What must hold
    A message goes to the line whole, without another writer's bytes in it; so does each portion of a transfer. Every
    byte that the tty took is reported to its claim (``wrote``) exactly once, and so is every byte of a message that was
    begun and cannot be finished (``lost``). No scheduler step is taken that the kernel does not demand.

    Nothing is written while more than 20 ms of line wait in the device (``pace``). So a command waits for what is on
    the wire and not for a whole transfer: the next writer is chosen when the wire is nearly free, not before. PTZ goes
    before the other classes, at most four times in a row while one of those waits. Within a class the writer that has
    waited longest goes first.

    No writer waits longer than its message may grow old, or the rule's ``max_wait``. If what is ahead of it is sure to
    take longer, it is refused at once.

    Under a rule (``protocol.sharing``) each message is a request with its reply, and nobody else writes or hears in
    between. The reply belongs to the request, not to a task: if the writer leaves, the line is still kept until the
    reply is over, or the next writer would get it.

The turn
    It belongs to the message, not to a task, and is always in one of five states:

        FREE       nobody has it; a waiting writer waits for the wire, and ``run`` hands the turn on when that is ready
        HELD       a writer has it, between ``_take`` and ``give_back``, and writes for itself
        FINISHING  its writer was cancelled in mid-message; ``run`` writes the rest
        ANSWERING  its message is written, and the reply is awaited, or a quarantine; ``run`` looks at the time
        ENDED      the device is gone, and the turn with it

        FREE      --_take-->     HELD
        FREE      --write_nowait--> HELD      it has written a part already, so nobody else may
        HELD      --_abandon-->  FINISHING    the writer leaves; its give_back changes nothing then
        HELD      --_await-->    ANSWERING    under a rule, once the message is written; nor does it here
        HELD      --close-->     ANSWERING    under a rule, a turn of serial.cgi ended before its reply
        HELD      --give_back--> HELD         handed straight to the next, past anybody who comes just now
        HELD      --give_back--> FREE         nobody waits, or the wire is not ready
        FINISHING --give_back--> HELD, FREE   as above, from ``run``; under a rule ANSWERING comes before
        ANSWERING --over-->      HELD, FREE   as above; then the rule's quiet goes before the next
        any       --end-->       ENDED        at once where it is free, else when it is given back

    ``end`` sets ``_down`` and refuses all waiting writers. The one that has the turn may still finish while the device
    takes bytes (a port that is disabled is ended long before its tty is closed).

    A turn of serial.cgi is HELD by its task until the reply is whole. A long one is ended for a command: one second
    after a PTZ message began to wait, the line goes on to that (``LineTurn.ended_early``).

Why there is one task beside the writers
    Shielding the writer would keep a revoked client alive on a stuck line, and one writing task for all would cost
    every message two scheduler steps. So the usual message is one ``write()`` in its client's own task. A second task
    (``run``) is needed only for a message whose writer was cancelled, one that has to wait for the wire, and the time
    of a reply.

The shortest way
    If the turn is FREE, the wire is ready, and the tty takes all bytes at once, the writer never takes the turn: it
    does not wait, so nobody can come in between (``write_nowait``). No task is needed for that: a step of
    ``tasks.ready`` reads a client's bytes and has them in the tty before any task runs.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.serial_line.controls import Controls
from gateway.serial_line.hearing import Hearing
from gateway.serial_line.pace import Pace
from gateway.serial_line.settings import message_limit, message_portion
from gateway.serial_line.sharing import Sharing
from gateway.serial_line.uart import UartError
from gateway.serial_line.waiting import Waiter, Waiting
from gateway.tasks.ready import run_clock
from protocol.link.message_rules import PTZ_AGE_LIMIT
from protocol.link.reasons import Reason
from protocol.sharing.exchange import Audience, Ending, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.port.bus import Bus
    from gateway.port.control import Step
    from gateway.port.line import Claim, ModemLines, Reply
    from gateway.port.log import PortLogger
    from gateway.port.receive_buffer import ReceiveBuffer
    from gateway.serial_line.uart import Uart
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["Arbiter", "LineTurn"]

logger = logging.getLogger(__name__)

_STALL: Final = 2.0
"""Seconds without progress, beyond the rest's line time, after which an abandoned message is given up."""
_STUCK: Final = 1.0
"""Seconds without progress of a message, after which its writer waits for the device to be writable."""
_NO_TIME: Final = 1e-6
"""Seconds that are too short for a wait: added to a clock they may vanish."""
_LATER: Final = 0.001
"""Seconds after its age limit at which a waiting message is certainly stale."""
_LONGEST_HOLD: Final = 1.0
"""Seconds for which a PTZ message waits for a reply to serial.cgi; it is stale after two."""


@final
class _Turn(enum.Enum):
    """The state of the turn; see the top of the file."""

    FREE = enum.auto()
    HELD = enum.auto()
    FINISHING = enum.auto()
    ANSWERING = enum.auto()
    ENDED = enum.auto()


@final
class LineTurn:
    """One writer's hold on the line, until ``close()``."""

    def __init__(self, turns: Arbiter, claim: Claim, accepted: float, message: bytes) -> None:
        self._turns = turns
        self.claim = claim
        self._accepted = accepted
        self._message = message
        self.since = trio.current_time()
        """When the line was taken."""
        self.exchange: Exchange | None = None
        """Under a rule, the exchange of request and reply, which may outlast its writer."""
        self.written = False
        """The message is in the tty, and the reply is awaited."""
        self.answered = False
        """The reply was whole."""
        self.ended_early = False
        """The line went on to a command before the reply was whole; the reply may still be heard."""

    async def write(self, began: Callable[[], None]) -> None:
        """Write the message that the turn was taken for, once. Raises PortDown, or what the claim raises.

        ``began`` is called before the first byte that may answer it is heard.
        """
        message, self._message = self._message, b""
        began()
        await self._turns.put(memoryview(message), len(message), self.claim, self._accepted)
        self.written = True
        self._turns.written_in(self)
        self._turns.reconsider()  # a command may have waited for long already

    async def replied(self, heard: ReceiveBuffer, reply: Reply) -> None:
        """Wait until the reply is whole, or its time is over. The line may go on to a command before."""
        with trio.move_on_after(reply.seconds) as patience:
            await heard.wait_for(reply.length, reply.until)
        self.answered = not patience.cancelled_caught

    def end_early(self) -> None:
        """End the turn for a command, before the reply is whole."""
        self.ended_early = True
        self.close()

    def close(self) -> None:
        """Let the next writer in, once the message that was begun is whole. Idempotent."""
        self._turns.close_turn(self)


@final
class Arbiter:
    """The writing half of one open device: ``run()`` while it is open, ``end()`` when it is gone.

    ``bus`` gets the line's bytes, and the turns of ``sharing``'s rule.
    """

    def __init__(
        self,
        uart: Uart,
        bus: Bus,
        sharing: Sharing | None = None,
        log: logging.Logger | PortLogger = logger,
        controls: Controls | None = None,
    ) -> None:
        self._uart = uart
        self._controls = Controls(uart) if controls is None else controls
        self._bus = bus
        self._sharing = Sharing(None) if sharing is None else sharing
        self._rule: TurnRule | None = self._sharing.rule
        self._char_gap = self._sharing.char_gap
        self._logger = log
        self._turn = _Turn.FREE
        self._down: str | None = None
        """Why no turn follows the present one; None while the device is there."""
        self._rest: memoryview = memoryview(b"")
        """In FINISHING, what is left of the message ..."""
        self._rest_claim: Claim | None = None
        """... and its writer."""
        self._waiting = Waiting()
        self._line_turn: LineTurn | None = None
        """In HELD, the turn of a writer that itself waits for its reply."""
        self._exchange: Exchange | None = None
        """Under a rule, the request that has the line: being written in HELD and FINISHING, answered in ANSWERING."""
        self._hearing = Hearing(bus, self._sharing)
        self._quiet_until = -math.inf
        """Under a rule, the line must be left alone until then."""
        self._news = trio.lowlevel.ParkingLot()
        self._moment = -math.inf
        """The time until which ``run`` waits for news, while it does."""
        self._idlers = trio.lowlevel.ParkingLot()
        self._pace = Pace(uart)
        self._now = run_clock()
        self.update_rate()
        self.written = 0
        """Bytes that the kernel's tty took."""
        self.unfinished = 0
        """Bytes of abandoned messages that the tty has not taken, and may never take."""
        if self._sharing.late_until > trio.current_time():
            self._isolate(self._sharing.late_until)

    # -- writing

    def write_nowait(self, data: bytes, claim: Claim, accepted: float, *, whole: bool) -> int:
        """Write what the tty takes at once of a message that need not wait; return the number of bytes.

        0: it has to wait, and nothing has happened. If the tty took only a part, the message has the turn from this
        instant, and ``write`` or ``transfer`` must go on with it, with this count as ``done``. Of a transfer (not
        ``whole``) only the first portion is written on a line that has a rate. Raises PortDown, or what the claim
        raises.
        """
        if self._rule is not None or self._char_gap or not data or not self._is_ready(self._now()):
            return 0
        claim.check(accepted)
        paced = self._pace.is_paced
        cut = paced and not whole and len(data) > self._limit
        took = self._send(data[: self._portion] if cut else data, claim, accepted)
        if 0 < took < len(data) and not paced:
            took += self._send_more(memoryview(data)[took:], claim, accepted)
        if 0 < took < len(data):
            self._turn = _Turn.HELD
        return took

    def _send_more(self, data: memoryview, claim: Claim, accepted: float) -> int:
        """Write on while the device takes more at once; return the number of bytes.

        A pty takes a few KiB at a time, and more as soon as its reader has them, so no task has to be woken.
        """
        took = 0
        with contextlib.suppress(PortDown):  # the write of the rest meets it too
            while took < len(data) and (more := self._send(data[took:], claim, accepted)):
                took += more
        return took

    async def write(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> None:
        """Write one message (under a rule: one request) whole, in its turn; return when the kernel has it.

        ``done`` of its bytes are written already: see ``write_nowait``. Raises PortDown, or what the claim raises.
        """
        if self._rule is None or done:
            await self._write(data, claim, accepted, done, len(data))
        else:
            await self._request(data, claim, accepted)

    async def transfer(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> None:
        """Write a piece of a byte stream; a long piece takes one turn for each portion. Otherwise as ``write``.

        A pty has no rate: there it is cut into portions only while another writer waits. Under a rule it is cut into
        requests no longer than a message, so that no turn holds the line longer than a second and its reply.
        """
        if self._rule is None or done:
            await self._write(data, claim, accepted, done, len(data) if len(data) <= self._limit else self._portion)
            return
        for start in range(0, len(data), self._limit):
            await self._request(data[start : start + self._limit], claim, accepted)
            accepted = trio.current_time()  # as in _write

    async def _write(self, data: bytes, claim: Claim, accepted: float, done: int, portion: int) -> None:
        if not data:  # nothing to write, so nothing to wait for; and no portion is 0 bytes long
            claim.check(accepted)
            return
        rest, begun_before = memoryview(data), done > 0
        if not begun_before:
            done = self.write_nowait(data, claim, accepted, whole=portion == len(data))
        while done < len(rest):
            if not done:
                await self._take(claim, accepted, rest[:portion])
            try:
                done = await self.put(rest, portion, claim, accepted, done, begun_before=begun_before)
            finally:
                self.give_back()
            rest, done, begun_before = rest[done:], 0, False
            accepted = trio.current_time()  # the transfer moves, if slowly, so its rest must not count as stale

    async def turn(self, claim: Claim, accepted: float, message: bytes = b"", _: Reply | None = None) -> LineTurn:
        """Wait for the line and hold it, to write ``message`` in the turn. Raises PortDown, or what the claim raises.

        The turn ends when it is closed; the caller hears the reply, and closes it.
        """
        await self._take(claim, accepted, message)
        self._line_turn = LineTurn(self, claim, accepted, message)
        if self._rule is not None and message:
            self._line_turn.exchange = Exchange(self._rule, message, self._pace.character)
            self._hearing.begin(claim)
        return self._line_turn

    def written_in(self, turn: LineTurn) -> None:
        """Note that the message of ``turn`` is in the tty."""
        if turn.exchange is not None:
            turn.exchange.sent(self._pace.clear_at(trio.current_time()))

    async def put(
        self,
        data: memoryview,
        portion: int,
        claim: Claim,
        accepted: float,
        done: int = 0,
        *,
        begun_before: bool = False,
    ) -> int:
        """Write within a turn the bytes after the first ``done``, which may have been written ``begun_before`` this
        step.

        Return how many bytes are written by then: all, or whole portions where another writer's turn comes first.
        """
        paced = self._pace.is_paced
        progress = trio.current_time()
        try:
            if begun_before:
                claim.check(math.inf)  # begun a scheduler step ago, so it may have been revoked since
            while done < len(data) and not (done and done % portion == 0 and (paced or self._waiting)):
                # While another writer waits, never write into the next portion: the tty's bytes cannot be taken back.
                end = (done // portion + 1) * portion if paced or self._waiting else len(data)
                end = done + 1 if self._char_gap else min(end, len(data))
                took = self._send(data[done:end], claim, accepted)
                done += took
                if took and paced:
                    progress = trio.current_time()
                if took == 0 or (done < len(data) and (self._char_gap or (paced and done % portion))):
                    await self._room(max(end - done, 1) if took else 0, progress)
                    # The writer may have been revoked meanwhile, and a message that has not begun may have grown stale.
                    claim.check(math.inf if done else accepted)
        except PortDown:
            raise
        except BaseException:
            # Abandon nothing of a message that was not begun, and no more of a transfer than its portion.
            begun = min(-(-done // portion) * portion, len(data))
            self._abandon(data[done:begun], claim)
            raise
        return done

    async def _room(self, count: int, progress: float) -> None:
        """Wait until the device may take ``count`` bytes more (0: it has just taken none). Raises PortDown."""
        if self._char_gap and count:
            pause = self._pace.character + self._char_gap
        elif self._pace.is_paced and trio.current_time() - progress <= _STUCK:
            pause = self._pace.room_in(count)
        else:
            await self._writable()
            return
        epoch = self._uart.epoch
        await trio.sleep(pause)
        if epoch != self._uart.epoch:
            raise PortDown(self._down or "the device was closed")

    @property
    def is_ready(self) -> bool:
        """Return whether whoever comes now may write at once."""
        return self._is_ready(trio.current_time())

    def _is_ready(self, now: float) -> bool:
        """Return whether whoever comes now may write at once."""
        return self._turn is _Turn.FREE and not self._waiting and self._quiet_until <= now and self._pace.wait(now) <= 0

    # -- waiting

    async def _take(self, claim: Claim, accepted: float, message: bytes | memoryview) -> bytes | memoryview:
        """Wait for the turn and take it; return the message, or the one that has replaced it.

        Raises PortDown, or what the claim raises, without the turn. Without a message it is taken before the wire is
        ready.
        """
        if self._down is not None:
            raise PortDown(self._down)
        if self._is_ready(trio.current_time()) or (not message and self._turn is _Turn.FREE and not self._waiting):
            self._turn = _Turn.HELD
        else:
            message = await self._wait(claim, accepted, message)
        try:
            claim.check(accepted)
        except BaseException:
            self.give_back()
            raise
        return message

    async def _wait(self, claim: Claim, accepted: float, message: bytes | memoryview) -> bytes | memoryview:
        now = trio.current_time()
        claim.check(accepted, self._certain_wait(claim, now))
        waiter = Waiter(claim, message, now)
        self._waiting.add(waiter)
        self.reconsider()
        longest = math.inf if self._rule is None else self._rule.max_wait
        try:
            with trio.move_on_at(min(accepted + claim.age_limit + _LATER, now + longest)):
                await waiter.decided.wait()
        except BaseException:
            self._waiting.remove(waiter)
            if waiter.granted:  # while the cancellation was on its way
                waiter.granted = False
                self.give_back()
            raise
        if waiter.granted:
            self._sharing.waited(trio.current_time() - now)
            return waiter.message
        self._waiting.remove(waiter)
        if self._down is not None:
            raise PortDown(self._down)
        self._sharing.refused += 1
        claim.check(accepted)
        raise PortDown(f"the line was busy for more than {trio.current_time() - now:g} s", Reason.TOO_OLD)

    def _certain_wait(self, claim: Claim, now: float) -> float:
        """Return the least seconds that a message which comes now has to wait for what is ahead of it."""
        if not self._pace.is_paced:
            return 0.0
        return self._pace.ahead(now) + self._waiting.before(claim) / self._pace.bytes_per_second

    def supersede(self, claim: Claim, data: bytes) -> int:
        """Replace this claim's request that has not begun by ``data``; return how many bytes the old one had.

        Return 0 where none waits, or the rule keeps both.
        """
        waiter = self._waiting.of(claim)
        if self._rule is None or waiter is None or not self._rule.supersedes(data, bytes(waiter.message)):
            return 0
        before, waiter.message = len(waiter.message), data
        self._bus.superseded += 1
        return before

    def give_back(self) -> None:
        """End the turn, unless its message or the reply goes on without its writer."""
        if self._turn in (_Turn.FINISHING, _Turn.ANSWERING):
            return
        if self._down is None:
            self._turn = _Turn.FREE
            self._hand_on()
        else:
            self._turn = _Turn.ENDED
            self.reconsider()
        if self._turn is not _Turn.HELD and self._idlers:
            self._idlers.unpark_all()

    def _hand_on(self) -> None:
        """Give the free turn to the next writer, if one waits and the wire is ready; otherwise wake ``run``."""
        if not self._waiting:
            return
        now = trio.current_time()
        if self._ready_in(now) > 0:
            self.reconsider()
            return
        waiter = self._waiting.take()
        # HELD at once, or another writer could take it before that task runs.
        self._turn = _Turn.HELD
        waiter.granted = True
        waiter.decided.set()

    def _ready_in(self, now: float) -> float:
        """Return the seconds until the next writer may have the free turn, or until this should be called again."""
        if not self._waiting.next.message:
            return 0.0
        wait = max(self._quiet_until - now, self._pace.wait(now))
        return wait if wait > _NO_TIME else 0.0

    def _send(self, data: bytes | memoryview, claim: Claim, accepted: float = math.inf) -> int:
        """Write what the tty takes of ``data`` now, and report it to the claim. Raises PortDown."""
        try:
            took = self._uart.send_nowait(data)
        except UartError as exc:
            raise PortDown(str(exc)) from exc
        if not took:  # first, because every second call is so for a pty in bulk
            return 0
        self.written += took
        self._pace.wrote(took)
        if claim.traffic is Right.PTZ:
            self._pace.wrote_command(accepted)
        if self._bus.watchers:
            self._bus.wrote(bytes(data[:took]), claim.holder)
        # The bytes are in the tty, so they count as done whatever the claim does. Otherwise they would be written
        # twice.
        try:
            claim.wrote(took)
        except Exception:  # a writer's bug must not end the task that writes for others
            self._logger.exception("a bug: a writer cannot be told what is written")
        return took

    async def _writable(self) -> None:
        try:
            await self._uart.writable()
        except trio.ClosedResourceError:
            raise PortDown(self._down or "the device was closed") from None

    # -- the task beside the writers

    def begun(self, claim: Claim) -> int:
        """Return how many bytes of this writer's abandoned message are still to be written."""
        return len(self._rest) if self._rest_claim is claim else 0

    def reconsider(self) -> None:
        """Wake ``run`` if there is something to do before the moment that it waits for.

        It wakes at that moment anyway, so what is due later costs no scheduler step.
        """
        if self._turn in (_Turn.FINISHING, _Turn.ENDED) or self._next_moment(trio.current_time()) < self._moment:
            self._news.unpark_all()

    async def run(self) -> None:
        """Do what no writer's task does, until ``end()`` was called and the last turn has been given back."""
        while self._turn is not _Turn.ENDED:
            if self._turn is _Turn.FINISHING:
                await self._finish()
                continue
            self._moment = self._next_moment(trio.current_time())
            with trio.move_on_at(self._moment):
                await self._news.park()
            now = trio.current_time()
            if self._next_moment(now) <= now:
                self._at_moment()

    def _next_moment(self, now: float) -> float:
        """Return the time at which there is something to do next."""
        if self._turn is _Turn.FREE and self._waiting:
            return now + self._ready_in(now)
        if self._turn is _Turn.ANSWERING and self._exchange is not None:
            return self._exchange.deadline
        turn, command = self._line_turn, self._waiting.first_command
        if self._turn is _Turn.HELD and turn is not None and turn.written and command is not None:
            return command.since + _LONGEST_HOLD
        if self._turn is _Turn.HELD and turn is None and self._rule is not None:
            return now + self._rule.reply_timeout  # the reply to what is being written now cannot be due before that
        return math.inf

    def _at_moment(self) -> None:
        if self._turn is _Turn.FREE:
            self._hand_on()
        elif self._turn is _Turn.ANSWERING and self._exchange is not None:
            self._deliver(self._exchange.expire(trio.current_time()))
        elif self._turn is _Turn.HELD and self._line_turn is not None:
            self._line_turn.end_early()

    def _abandon(self, rest: memoryview, claim: Claim) -> None:
        if rest:
            self._turn = _Turn.FINISHING
            self._rest, self._rest_claim = rest, claim
            self.unfinished += len(rest)
            self.reconsider()

    async def _finish(self) -> None:
        """Write the rest of an abandoned message or give it up, then give the turn back."""
        claim = self._rest_claim
        assert claim is not None
        why = "the line takes nothing"
        progress = trio.current_time()
        try:
            while self._rest:
                # Send before the wait, because the device may have been closed since the writer left.
                took = self._send(self._rest[:1] if self._char_gap else self._rest, claim)
                self.unfinished -= took
                self._rest = self._rest[took:]
                if took:
                    progress = trio.current_time()
                stalled = progress + _STALL + len(self._rest) / self._pace.bytes_per_second
                with trio.move_on_at(stalled) as patience:
                    if self._rest:
                        await self._room(len(self._rest) if took else 0, progress)
                if patience.cancelled_caught:
                    break
        except PortDown as exc:
            why = str(exc)
        except trio.Cancelled:
            why = "the port closes"
            raise
        except Exception:  # all writers share this task: an error in one message ends that message alone
            self._logger.exception("a bug ended a message that was begun")
            why = "a bug ended it"
        finally:
            lost = len(self._rest)
            self._rest, self._rest_claim = memoryview(b""), None
            self._turn = _Turn.HELD
            if lost:
                try:
                    claim.lost(lost, Reason.INCOMPLETE)
                except Exception:  # as in _send(): the next writer gets its turn in any case
                    self._logger.exception("a bug: a writer cannot be told what is lost")
                self._logger.warning("%d bytes of a message begun were not written: %s", lost, why)
            if self._exchange is not None:
                self._await_reply()
            else:
                self.give_back()

    # -- turns under a rule

    async def _request(self, data: bytes, claim: Claim, accepted: float) -> None:
        """Write a request in its turn. The turn goes on without this task until the reply is over."""
        assert self._rule is not None
        data = bytes(await self._take(claim, accepted, data))
        self._exchange = Exchange(self._rule, data, self._pace.character)
        self._hearing.begin(claim)
        try:
            await self.put(memoryview(data), len(data), claim, accepted)
        except BaseException:
            if self._turn is _Turn.HELD:  # nothing of it was written, or the device has gone
                self._deliver(self._exchange.abort(trio.current_time()))
                self._end_exchange(self._exchange, Ending.ABORTED)
            raise
        self._await_reply()

    def _await_reply(self) -> None:
        assert self._exchange is not None
        self._exchange.sent(self._pace.clear_at(trio.current_time()))
        self._turn = _Turn.ANSWERING
        self._deliver([])
        self.reconsider()

    def heard(self, data: bytes) -> None:
        """Hand what the line says to the readers that it is for."""
        if self._exchange is not None:
            self._deliver(self._exchange.hear(data, trio.current_time()))
            self.reconsider()
            return
        if self._rule is not None:
            self._leave_quiet(trio.current_time())
        if self._line_turn is not None and self._line_turn.exchange is not None:
            self._line_turn.exchange.hear(data, trio.current_time())
        self._hearing.say(data)

    def _deliver(self, heard: list[tuple[Audience, bytes]]) -> None:
        """Hand on what was heard in a turn under a rule, and end the turn if that was its end."""
        exchange = self._exchange
        assert exchange is not None
        self._hearing.tell(heard, exchange.ending)
        # If the reply is whole before the writer has let go of its request, the turn ends when it does.
        if exchange.ending is not None and self._turn is _Turn.ANSWERING:
            self._end_exchange(exchange, exchange.ending)

    def _end_exchange(self, exchange: Exchange, ending: Ending) -> None:
        """Report how the turn ended; free the line unless a late reply may still come."""
        self._hearing.answered(ending)
        if not exchange.over:
            self._hearing.isolate()
            return
        self._hearing.end(ending)
        self._exchange = None
        if ending is not Ending.ABORTED:
            self._leave_quiet(max(exchange.deadline, self._pace.clear_at(trio.current_time())))
        self._turn = _Turn.HELD
        self.give_back()

    def _leave_quiet(self, since: float) -> None:
        """Let nothing begin before the rule's quiet after ``since`` is over."""
        assert self._rule is not None
        self._quiet_until = since + self._rule.quiet(self._pace.character)

    def close_turn(self, turn: LineTurn) -> None:
        """End a turn whose writer waited for the reply itself; under a rule, the rest of the reply is for nobody."""
        if self._line_turn is not turn:
            return
        self._line_turn = None
        begun = turn.written or self._turn is _Turn.FINISHING
        if self._rule is None or turn.exchange is None or not begun or self._down is not None:
            self._hearing.withdraw()
            self.give_back()
            return
        self._hearing.answered(Ending.WHOLE if turn.answered else Ending.TIME)
        if turn.answered:
            self._leave_quiet(trio.current_time())
            self.give_back()
        else:
            self._outlive(turn.exchange, self._rule, written=turn.written)

    def _outlive(self, exchange: Exchange, rule: TurnRule, *, written: bool) -> None:
        """Go on with a turn whose writer no longer waits for the reply, which is for nobody now."""
        now = trio.current_time()
        exchange.all_told()
        exchange.expire(now)
        if exchange.ending is not None and not exchange.over:
            self._isolate(now + rule.reply_timeout)
        else:
            self._exchange = exchange
            self._hearing.isolate()
            if written:  # otherwise ``run`` writes the rest first
                self._turn = _Turn.ANSWERING
                self._deliver([])
        self.reconsider()

    def _isolate(self, until: float) -> None:
        """Keep all writers from the line while a reply may come that is for nobody."""
        assert self._rule is not None
        self._exchange = Exchange.isolated(self._rule, self._pace.character, until)
        self._turn = _Turn.ANSWERING
        self._hearing.isolate()

    def status(self) -> dict[str, object]:
        """Return the holder of the line (for a reply), for how many milliseconds it has it, and how many wait."""
        holder, since = None, trio.current_time()
        if self._line_turn is not None:
            holder, since = self._line_turn.claim.holder, self._line_turn.since
        elif self._exchange is not None:
            asker, since = self._hearing.asker, self._hearing.since
            holder = "nobody: a late reply may come" if asker is None else asker.holder
        held = trio.current_time() - since
        return {"holder": holder, "held_ms": round(held * 1000), "waiting": len(self._waiting)}

    # -- the end

    def end(self, why: str) -> None:
        """Refuse all writers, also those that wait. The one that has the turn may finish while the device is there."""
        self._down = why
        self._controls.end()
        if self._hearing.asker is not None or self._exchange is not None:
            self._sharing.lost(trio.current_time())
        while self._waiting:
            self._waiting.take().decided.set()
        if self._turn is _Turn.ANSWERING and self._exchange is not None:
            self._deliver(self._exchange.abort(trio.current_time()))
        if self._turn is _Turn.FREE:
            self._turn = _Turn.ENDED
        self.reconsider()

    async def idle(self) -> None:
        """Wait until no message is being written."""
        while self._turn in (_Turn.HELD, _Turn.FINISHING):
            await self._idlers.park()

    # -- beside the data

    async def control(self, steps: Sequence[Step], claim: Claim, accepted: float) -> None:
        """Carry out ``steps`` in one turn. Raises UartError, PortDown, or what the claim raises."""
        with contextlib.closing(await self.turn(claim, accepted)):
            for step in steps:
                claim.check(math.inf)
                await self._controls.carry_out(step, claim)

    def let_go(self, claim: Claim) -> None:
        """End what this writer's steps still hold."""
        self._controls.let_go(claim)

    def modem_lines(self) -> ModemLines:
        """Return the lines as they are now. Raises UartError."""
        return self._uart.modem_lines()

    async def look_at_lines(self) -> ModemLines:
        """See Line: they are ours."""
        await trio.lowlevel.checkpoint()
        return self.modem_lines()

    def has_stale_command(self) -> bool:
        """Return whether flow control holds a PTZ command in the driver that is too old to fire. Raises UartError."""
        return trio.current_time() - self._pace.oldest_command() >= PTZ_AGE_LIMIT / 1000 and self._uart.is_held()

    def forget_commands(self) -> None:
        """Note that what waited in the driver was thrown away."""
        self._pace.forget()

    def update_rate(self) -> None:
        """Take up the line's rate, when its settings have changed."""
        self._pace.update_rate()
        self._portion = message_portion(self._uart.settings.timing)
        self._limit = message_limit(self._uart.settings.timing)
