"""Give the writers of one serial line their turns, and finish what one of them began, whatever becomes of it.

What must hold
    A message is on the line whole, next to nobody else's bytes; a transfer is, portion by portion. Every byte that
    the tty took is told to its claim (``wrote``) exactly once, and so is every byte of a message that was begun and
    cannot be finished (``lost``). Nobody is asked for a scheduler step that the kernel does not demand.

The turn
    It belongs to the message, not to a task, and is always in one of four states:

        FREE       nobody has it
        HELD       a writer has it, between ``_take`` and ``give_back``, and writes for itself
        FINISHING  its writer was cancelled in mid-message; the finisher (``run``) writes the rest
        ENDED      the device is gone, and the turn with it

        FREE      --_take-->     HELD
        FREE      --transfer-->  HELD         it has written a part already, so nobody else may
        HELD      --_abandon-->  FINISHING    the writer leaves; its give_back changes nothing then
        HELD      --give_back--> HELD         handed straight to the longest waiting, past anybody who comes just now
        HELD      --give_back--> FREE         nobody waits
        FINISHING --give_back--> HELD, FREE   as above, from the finisher
        any       --end-->       ENDED        at once where it is free, else when it is given back

    ``end`` sets ``_down`` and refuses all who wait; who has the turn may still finish, for as long as the device
    takes bytes (a port that is disabled is ended long before its tty is closed).

Why there is a finisher
    Shielding the writer would keep a revoked client alive on a stuck line, and one writing task for all would cost
    every message two scheduler steps. So the usual message is one ``write()`` in its client's own task, and only
    one that is cancelled in its middle pays for a second task.

The shortest way
    A writer that finds the turn FREE and all of its bytes taken at once never takes the turn: it does not wait, so
    nobody can come in between (``transfer``).
"""

from __future__ import annotations

import enum
import logging
import math
from typing import TYPE_CHECKING, final

import trio

from gateway.port.line import PortDown
from gateway.serial_line.settings import bytes_per_second, message_portion
from gateway.serial_line.uart import UartError
from protocol.link.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.port.line import Claim, ModemLines, Reply
    from gateway.port.log import PortLogger
    from gateway.port.receive_buffer import ReceiveBuffer
    from gateway.serial_line.uart import Uart

__all__ = ["Arbiter", "LineTurn"]

logger = logging.getLogger(__name__)

_STALL = 2.0
"""Seconds without progress, besides the rest's line time, after which an abandoned message is given up."""


@final
class _Turn(enum.Enum):
    """The state of the turn; see the top of the file."""

    FREE = enum.auto()
    HELD = enum.auto()
    FINISHING = enum.auto()
    ENDED = enum.auto()


@final
class LineTurn:
    """One writer's hold on the line, until ``close()``."""

    def __init__(self, turns: Arbiter, claim: Claim, accepted: float, message: bytes) -> None:
        self._turns = turns
        self._claim = claim
        self._accepted = accepted
        self._message = message
        self._closed = False

    async def write(self, began: Callable[[], None]) -> None:
        """Write the message that the turn was taken for, once. Raises PortDown, or what the claim says.

        ``began`` is called before the first byte that may answer it is heard.
        """
        message, self._message = self._message, b""
        began()
        await self._turns.put(memoryview(message), len(message), self._claim, self._accepted)

    async def replied(self, heard: ReceiveBuffer, reply: Reply) -> None:
        """Wait until the reply is whole, or its time is over."""
        with trio.move_on_after(reply.seconds):
            await heard.wait_for(reply.length, reply.until)

    async def send_break(self, seconds: float) -> None:
        """Hold the line in break for ``seconds``. Raises UartError."""
        await self._turns.send_break(seconds)

    def close(self) -> None:
        """Let the next writer in, once the message that was begun is whole. Idempotent."""
        if not self._closed:
            self._closed = True
            self._turns.give_back()


@final
class Arbiter:
    """The writing half of one open device: ``run()`` while it is open, ``end()`` when it is gone."""

    def __init__(self, uart: Uart, log: logging.Logger | PortLogger = logger) -> None:
        self._uart = uart
        self._logger = log
        self._turn = _Turn.FREE
        self._down: str | None = None
        """Why the turn ends with whoever has it; None while the device is there."""
        self._rest: memoryview = memoryview(b"")
        """In FINISHING, what is left of the message ..."""
        self._rest_claim: Claim | None = None
        """... and whose it is."""
        self._queue = trio.lowlevel.ParkingLot()
        self._heir: trio.lowlevel.Task | None = None
        """The task that was handed the turn and has not run since; all others who wake up were refused."""
        self._finisher = trio.lowlevel.ParkingLot()
        self._idlers = trio.lowlevel.ParkingLot()
        self.update_rate()
        self.written = 0
        """Bytes that the kernel's tty took."""
        self.unfinished = 0
        """Bytes of messages begun whose writers have left, and that the tty has not taken, nor ever may."""

    # -- writing

    async def write(self, data: bytes, claim: Claim, accepted: float) -> None:
        """Write one message whole, in its turn, and return when the kernel has it.

        Raises PortDown, or what the claim says.
        """
        await self.transfer(data, claim, accepted, len(data))

    async def transfer(self, data: bytes, claim: Claim, accepted: float, portion: int = 0) -> None:
        """Write a piece of a byte stream: at full speed where nobody waits, else a portion a turn.

        A portion is that of the line's rate (``protocol.link.message_rules``). Raises PortDown, or what the claim
        says.
        """
        done = 0
        if self._turn is _Turn.FREE:
            claim.check(accepted)
            done = self._send(data, claim)
            if done == len(data):
                return
        rest, portion = memoryview(data), portion or self._portion
        while True:
            if done and self._turn is _Turn.FREE:
                # It has begun, so it has the turn, wanted or not: its rest is written here, or by the finisher.
                self._turn = _Turn.HELD
            else:
                await self._take(claim, accepted)
            try:
                done = await self.put(rest, portion, claim, accepted, done)
            finally:
                self.give_back()
            rest = rest[done:]
            if not rest:
                return
            done = 0
            accepted = trio.current_time()  # it moves, if slowly: the rest is not stale for its share of turns

    async def turn(self, claim: Claim, accepted: float, message: bytes = b"", _: Reply | None = None) -> LineTurn:
        """Wait for the line and hold it, to write ``message`` in it. Raises PortDown, or what the claim says.

        The turn is over when it is closed; whoever took it hears the reply, and closes it.
        """
        await self._take(claim, accepted)
        return LineTurn(self, claim, accepted, message)

    async def put(self, data: memoryview, portion: int, claim: Claim, accepted: float, done: int = 0) -> int:
        """Write within a turn all but the first ``done`` bytes, which are written.

        Return how much is written then: all of it, or whole portions where another writer waits by then.
        """
        try:
            while done < len(data) and not (done and done % portion == 0 and self._queue):
                # Where somebody waits, never into the next portion: what the tty takes now cannot be taken back.
                end = (done // portion + 1) * portion if self._queue else len(data)
                took = self._send(data[done:end], claim)
                done += took
                if not took:
                    await self._writable()
                    # Who was woken may have been revoked since; and what has not begun may have grown stale.
                    claim.check(math.inf if done else accepted)
        except PortDown:
            raise
        except BaseException:
            # Nothing of a message that was not begun, and no more of a transfer than its portion.
            begun = -(-done // portion) * portion
            self._abandon(data[done:begun], claim)
            raise
        return done

    async def _take(self, claim: Claim, accepted: float) -> None:
        """Wait for the turn and have it. Raises PortDown, or what the claim says; then somebody else has it."""
        if self._down is not None:
            raise PortDown(self._down)
        if self._turn is not _Turn.FREE:
            await self._queue.park()
            # Who was handed the turn just before the end has it, and must use it or give it back.
            if self._heir is not trio.lowlevel.current_task():
                raise PortDown(self._down or "")
            self._heir = None
        self._turn = _Turn.HELD
        try:
            claim.check(accepted)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """End the turn, unless a message that was abandoned in its middle still needs it."""
        if self._turn is _Turn.FINISHING:
            return
        if self._queue:
            # Straight to the longest waiting: it stays HELD, or whoever comes before that task runs would take it.
            (self._heir,) = self._queue.unpark(count=1)
        else:
            self._turn = _Turn.FREE if self._down is None else _Turn.ENDED
            if self._idlers:
                self._idlers.unpark_all()
            if self._turn is _Turn.ENDED:
                self._finisher.unpark_all()

    def _send(self, data: bytes | memoryview, claim: Claim) -> int:
        """Write what the tty takes of ``data`` now, and tell its claim. Raises PortDown."""
        try:
            took = self._uart.send_nowait(data)
        except UartError as exc:
            raise PortDown(str(exc)) from exc
        self.written += took
        # The bytes are in the tty, so whatever its claim does about it, they count as done: or the finisher would
        # write them a second time.
        try:
            claim.wrote(took)
        except Exception:  # a writer's error must not end the task that writes for others
            self._logger.exception("a bug: a writer cannot be told what is written")
        return took

    async def _writable(self) -> None:
        try:
            await self._uart.writable()
        except trio.ClosedResourceError:
            raise PortDown(self._down or "the device was closed") from None

    # -- finishing

    def begun(self, claim: Claim) -> int:
        """Return how many bytes of a message that this writer has just left in its middle are still to be written."""
        return len(self._rest) if self._rest_claim is claim else 0

    async def run(self) -> None:
        """Finish what cancelled writers began, until ``end()`` and whoever had the turn then has given it back."""
        while self._turn is not _Turn.ENDED:
            if self._turn is _Turn.FINISHING:
                await self._finish()
            else:
                await self._finisher.park()

    def _abandon(self, rest: memoryview, claim: Claim) -> None:
        if rest:
            self._turn = _Turn.FINISHING
            self._rest, self._rest_claim = rest, claim
            self.unfinished += len(rest)
            self._finisher.unpark_all()

    async def _finish(self) -> None:
        """Write the rest of an abandoned message, or give it up, and the turn back."""
        claim = self._rest_claim
        assert claim is not None
        why = "the line takes nothing"
        try:
            while self._rest:
                # It sends before it waits: the device may have been closed since the writer left.
                took = self._send(self._rest, claim)
                self.unfinished -= took
                self._rest = self._rest[took:]
                with trio.move_on_after(_STALL + len(self._rest) / self._bytes_per_second) as patience:
                    if self._rest:
                        await self._writable()
                if patience.cancelled_caught:
                    break
        except PortDown as exc:
            why = str(exc)
        except trio.Cancelled:
            why = "the port closes"
            raise
        except Exception:  # the finisher is everybody's: what goes wrong with one message ends that message
            self._logger.exception("a bug ended a message that was begun")
            why = "a bug ended it"
        finally:
            lost = len(self._rest)
            self._rest, self._rest_claim = memoryview(b""), None
            self._turn = _Turn.HELD
            if lost:
                try:
                    claim.lost(lost, Reason.INCOMPLETE)
                except Exception:  # as in _send(): the turn goes on to the next writer all the same
                    self._logger.exception("a bug: a writer cannot be told what is lost")
                self._logger.warning("%d bytes of a message begun were not written: %s", lost, why)
            self.give_back()

    # -- the end

    def end(self, why: str) -> None:
        """Refuse everybody who waits or will ask; who has the turn may finish, while the device is there."""
        self._down = why
        self._queue.unpark_all()
        if self._turn is _Turn.FREE:
            self._turn = _Turn.ENDED
            self._finisher.unpark_all()

    async def idle(self) -> None:
        """Wait until nobody has the turn."""
        while self._turn in (_Turn.HELD, _Turn.FINISHING):
            await self._idlers.park()

    # -- beside the data

    async def send_break(self, seconds: float) -> None:
        """Hold the line in break, within a turn. Raises UartError."""
        await self._uart.send_break(seconds)

    def modem_lines(self) -> ModemLines:
        """Return the lines as they are now. Raises UartError."""
        return self._uart.modem_lines()

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        """Assert or release DTR and RTS. Raises UartError."""
        self._uart.set_modem_lines(dtr, rts)

    def update_rate(self) -> None:
        """Take up the line's rate, when its settings have changed."""
        self._portion = message_portion(self._uart.timing)
        self._bytes_per_second = bytes_per_second(self._uart.timing)
