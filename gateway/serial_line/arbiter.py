"""Writers of one serial line take turns; what one of them began is finished, whatever becomes of that writer.

A turn belongs to the message, not to a task. The writer that has the turn writes for itself: one ``write()`` where the
tty takes it all, which is nearly always. Only a writer that is cancelled in the middle of a message leaves the rest
to the finisher task, together with the turn; so no message is ever cut, nothing is shielded, and the usual byte pays
for no second task. This room must not know who the writers are: they bring a Claim.
"""

from __future__ import annotations

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
    from gateway.port.receive_buffer import ReceiveBuffer
    from gateway.serial_line.uart import Uart

__all__ = ["Arbiter", "LineTurn"]

logger = logging.getLogger(__name__)

_STALL = 2.0
"""Seconds without progress, besides the rest's line time, after which an abandoned message is given up."""


@final
class LineTurn:
    """One writer's hold on the line, until ``close()``; closing twice is closing once."""

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
        """Let the next writer in, once the message that was begun is whole."""
        if not self._closed:
            self._closed = True
            self._turns.give_back()


@final
class Arbiter:
    """The writing half of one open device: ``run()`` while it is open, ``end()`` when it is gone."""

    def __init__(self, uart: Uart) -> None:
        self._uart = uart
        self._taken = False
        self._queue = trio.lowlevel.ParkingLot()
        self._refused: list[trio.lowlevel.Task] = []
        self._idlers = trio.lowlevel.ParkingLot()
        self._abandoned: tuple[memoryview, Claim] | None = None
        self._work = trio.Event()
        self._down: str | None = None
        self.reckon()
        self.written = 0
        """Bytes that the kernel's tty took."""
        self.unfinished = 0
        """Bytes of messages begun whose writers have left, and that the tty has not taken, nor ever may."""

    async def write(self, data: bytes, claim: Claim, accepted: float) -> None:
        """Write one message whole, in its turn, and return when the kernel has it.

        Raises PortDown, or what the claim says.
        """
        await self.transfer(data, claim, accepted, len(data))

    async def transfer(self, data: bytes, claim: Claim, accepted: float, portion: int = 0) -> None:
        """Write a piece of a byte stream: at full speed where nobody waits, else a portion a turn.

        A portion is 512 bytes, or 100 ms of line where that is more. Raises PortDown, or what the claim says.
        """
        done = 0
        if not self._taken and self._down is None:
            claim.check(accepted)
            done = self._offer(data, claim)
            if done == len(data):
                return  # who need not wait needs no turn: nobody could have come in between
        await self._in_turns(memoryview(data), done, portion or self._portion, claim, accepted)

    async def _in_turns(self, rest: memoryview, done: int, portion: int, claim: Claim, accepted: float) -> None:
        while True:
            await self._take(claim, math.inf if done else accepted)
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

        When the turn is over is for whoever closes it: the reply is heard here.
        """
        await self._take(claim, accepted)
        return LineTurn(self, claim, accepted, message)

    async def put(self, data: memoryview, portion: int, claim: Claim, accepted: float, done: int = 0) -> int:
        """Write within a turn all but the first ``done`` bytes, which are written.

        Return how much is written then: all of it, or whole portions where another writer waits by then.
        """
        try:
            while done < len(data) and not (done and done % portion == 0 and self._queue):
                end = (done // portion + 1) * portion if self._queue else len(data)
                took = self._offer(data[done:end], claim)
                done += took
                if not took:
                    await self._writable()
                    # Who was woken may have been revoked since; and what has not begun may have grown stale.
                    claim.check(math.inf if done else accepted)
        except PortDown:
            raise
        except BaseException:
            begun = -(-done // portion) * portion
            self._abandon(data[done:begun], claim)
            raise
        return done

    def give_back(self) -> None:
        """End the turn, unless a message that was abandoned in its middle still needs it."""
        if self._abandoned is None:
            if self._queue:
                self._queue.unpark(count=1)  # the turn goes straight to the longest waiting
            else:
                self._taken = False
                if self._idlers:
                    self._idlers.unpark_all()
                if self._down is not None:
                    self._work.set()

    def begun(self, claim: Claim) -> int:
        """Return how many bytes of a message that this writer has just left in its middle are still to be written."""
        return len(self._abandoned[0]) if self._abandoned is not None and self._abandoned[1] is claim else 0

    async def run(self) -> None:
        """Finish what cancelled writers began, until ``end()`` and whoever had the turn then has given it back."""
        while self._down is None or self._taken:
            await self._work.wait()
            self._work = trio.Event()
            if self._abandoned is not None:
                await self._finish(*self._abandoned)
                self.give_back()

    def end(self, why: str) -> None:
        """Refuse everybody who waits or will ask; who has the turn may finish, while the device is there."""
        self._down = why
        self._refused += self._queue.unpark_all()
        self._work.set()

    async def idle(self) -> None:
        """Wait until nobody has the turn."""
        while self._taken:
            await self._idlers.park()

    async def send_break(self, seconds: float) -> None:
        """Hold the line in break, within a turn. Raises UartError."""
        await self._uart.send_break(seconds)

    def modem_lines(self) -> ModemLines:
        """Return the lines as they are now. Raises UartError."""
        return self._uart.modem_lines()

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        """Assert or release DTR and RTS. Raises UartError."""
        self._uart.set_modem_lines(dtr, rts)

    def reckon(self) -> None:
        """Take up the line's rate, when its settings have changed."""
        self._portion = message_portion(self._uart.pace)
        self._bytes_per_second = bytes_per_second(self._uart.pace)

    async def _take(self, claim: Claim, accepted: float) -> None:
        if self._down is not None:
            raise PortDown(self._down)
        if self._taken:
            await self._queue.park()
            # Who was handed the turn just before the end has it, and must use it or give it back.
            if trio.lowlevel.current_task() in self._refused:
                raise PortDown(self._down or "")
        self._taken = True
        try:
            claim.check(accepted)
        except BaseException:
            self.give_back()
            raise

    def _offer(self, data: bytes | memoryview, claim: Claim) -> int:
        try:
            took = self._uart.send_nowait(data)
        except UartError as exc:
            raise PortDown(str(exc)) from exc
        self.written += took
        claim.wrote(took)
        return took

    async def _writable(self) -> None:
        try:
            await self._uart.writable()
        except trio.ClosedResourceError:
            raise PortDown(self._down or "the device was closed") from None

    def _abandon(self, rest: memoryview, claim: Claim) -> None:
        if rest:
            self._abandoned = rest, claim
            self.unfinished += len(rest)
            self._work.set()

    async def _finish(self, rest: memoryview, claim: Claim) -> None:
        why = "the line takes nothing"
        try:
            while rest:
                # Offered before it waits: the device may have been closed since the writer left.
                took = self._offer(rest, claim)
                self.unfinished -= took
                rest = rest[took:]
                with trio.move_on_after(_STALL + len(rest) / self._bytes_per_second) as patience:
                    if rest:
                        await self._writable()
                if patience.cancelled_caught:
                    break
        except PortDown as exc:
            why = str(exc)
        except trio.Cancelled:
            why = "the port closes"
            raise
        finally:
            self._abandoned = None
            if rest:
                claim.lost(len(rest), Reason.INCOMPLETE)
                logger.warning("%d bytes of a message begun were not written: %s", len(rest), why)
