"""The line as a chained CPU has it: writers of a bus, over the session of a remote-port link.

There is a queue for each traffic class and no lock: turns belong to the owner alone. A message is taken as soon as
the session has room for it; what becomes of its bytes is told to its writer's Claim, in order, when the owner says.
This room must not know of connections.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from gateway.pace import Pace
from gateway.router import Right
from gateway.turns import PortDown
from gateway.uart import UartError
from protocol.stream_frames import Channel
from protocol.turns import TurnParameters, TurnPhase

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.receive_buffer import ReceiveBuffer
    from gateway.turns import Claim, Reply
    from protocol.client_session import ClientSession
    from protocol.reasons import Reason
    from protocol.stream_frames import Turn
    from protocol.upflow import Settled

__all__ = ["CHANNELS", "RemoteLine", "RemoteTurn"]

CHANNELS: Final = {Right.PTZ: Channel.PTZ, Right.TCP: Channel.TCP, Right.CGI: Channel.CGI}

_LONGEST_LENGTH: Final = 65535
_LONGEST_END: Final = 249
_BITS: Final = 10
"""Bits of a character, more or less."""
_AHEAD: Final = 5.0
"""Seconds of line that may be taken before they are written: well within the age limit, or they would grow stale."""
_GRACE: Final = 2.0
"""Seconds that the way back may add to a reply's time."""


@final
class _Fate:
    """A message that was taken, until it is known what became of all its bytes."""

    def __init__(self, start: int, end: int, claim: Claim) -> None:
        self.start = start
        self.end = end
        self.claim = claim
        self.known = trio.Event()
        self.lost: Reason | None = None


@final
class RemoteLine:
    """The writing half of a remote port; ``flush`` has the link look at the session again."""

    def __init__(self, session: ClientSession, flush: Callable[[], None]) -> None:
        self._session = session
        self._flush = flush
        self._fates: dict[Channel, deque[_Fate]] = {channel: deque() for channel in CHANNELS.values()}
        self._owed: Counter[Claim] = Counter()
        self._turns: dict[tuple[Channel, int], RemoteTurn] = {}
        self._writers = {channel: trio.lowlevel.ParkingLot() for channel in CHANNELS.values()}
        self._down: str | None = None
        self._waiting = dict.fromkeys(CHANNELS.values(), 0)
        self._pace = Pace(0.0)
        self._portion = 512

    async def write(self, data: bytes, claim: Claim, accepted: float) -> None:
        """Take one message for the line. Raises PortDown, or what the claim says."""
        await self.put(data, claim, accepted, None)

    async def transfer(self, data: bytes, claim: Claim, accepted: float) -> None:
        """Take a piece of a byte stream, a portion a message. Raises PortDown, or what the claim says."""
        portion = self._portion
        for start in range(0, len(data), portion):
            await self.put(data[start : start + portion], claim, accepted, None)
            accepted = trio.current_time()  # it moves, if slowly: the rest is not stale for its share of the line

    async def turn(self, claim: Claim, accepted: float, message: bytes, reply: Reply | None) -> RemoteTurn:
        """Prepare a turn of the owner's line for one message."""
        await trio.lowlevel.checkpoint()
        claim.check(accepted)
        return RemoteTurn(self, claim, accepted, message, reply)

    async def put(self, data: bytes, claim: Claim, accepted: float, turn: TurnParameters | None) -> _Fate:
        """Wait for room, and take one message."""
        channel = CHANNELS[claim.traffic]
        writers = self._writers[channel]
        try:
            if writers:
                await writers.park()
            while (offset := self._begin(channel, data, claim, accepted, turn)) is None:
                await writers.park()
        finally:
            writers.unpark()  # there may be room for the next as well
        self._waiting[channel] += len(data)
        fate = _Fate(offset, offset + len(data), claim)
        self._fates[channel].append(fate)
        self._owed[claim] += len(data)
        self._flush()
        return fate

    def settled(self, settled: Settled) -> None:
        """Tell the writers what became of their bytes."""
        self._waiting[settled.channel] -= settled.count
        if settled.reason is None:
            self._pace.passed(settled.count)
        fates = self._fates[settled.channel]
        while fates and fates[0].start < settled.end:
            fate = fates[0]
            count = min(fate.end, settled.end) - fate.start
            fate.start += count
            self._owed[fate.claim] -= count
            if settled.reason is None:
                fate.claim.wrote(count)
            else:
                fate.lost = settled.reason
                fate.claim.lost(count, settled.reason)
            if fate.start == fate.end:
                fates.popleft()
                fate.known.set()
                if not self._owed[fate.claim]:
                    del self._owed[fate.claim]
        self._writers[settled.channel].unpark()

    def turned(self, turn: Turn) -> None:
        """Tell whoever asked for a turn that it began or ended at the owner."""
        asker = self._turns.get((turn.channel, turn.offset))
        if asker is not None:
            asker.turned(turn.phase)

    def begun(self, claim: Claim) -> int:
        """Return how many bytes of this writer have no fate yet."""
        return self._owed[claim]

    def begin(self) -> None:
        """Take messages: the owner's device is there."""
        self._down = None

    def end(self, why: str) -> None:
        """Refuse everybody who waits for room or will ask; what was taken keeps its fate."""
        self._down = why
        for writers in self._writers.values():
            writers.unpark_all()

    def reckon(self, bits_per_second: int) -> None:
        """Take up the rate of the owner's line: a portion is 512 bytes, or 100 ms of it where that is more."""
        bytes_per_second = bits_per_second / _BITS
        self._pace.floor = bytes_per_second
        self._portion = int(min(max(512, bytes_per_second / 10), 4096))

    @property
    def uart(self) -> NoReturn:
        """What is beside the data stays with the owner. Raises UartError."""
        raise UartError("the line is another CPU's: its modem lines and breaks are to be had there")

    def ask(self, turn: RemoteTurn, channel: Channel, offset: int) -> None:
        """Tell ``turn`` when the owner begins and ends it."""
        self._turns[channel, offset] = turn

    def withdraw(self, channel: Channel, offset: int) -> None:
        """Whoever asked for a turn has gone: do not send its message, unless it is on its way."""
        self._turns.pop((channel, offset), None)
        for settled in self._session.withdraw(channel, offset):
            self.settled(settled)

    def _begin(
        self, channel: Channel, data: bytes, claim: Claim, accepted: float, turn: TurnParameters | None
    ) -> int | None:
        if self._down is not None:
            raise PortDown(self._down)
        claim.check(accepted)
        if self._waiting[channel] and self._waiting[channel] + len(data) > self._pace.bytes_per_second * _AHEAD:
            return None
        return self._session.write(channel, data, int(accepted * 1000), turn)


@final
class RemoteTurn:
    """A turn of the owner's line, asked for from here; ``turns.Turn`` for a chained CPU."""

    def __init__(self, line: RemoteLine, claim: Claim, accepted: float, message: bytes, reply: Reply | None) -> None:
        self._line = line
        self._claim = claim
        self._accepted = accepted
        self._message = message
        self._parameters = None if reply is None else _parameters(reply)
        self._place: tuple[Channel, int] | None = None
        self._began: Callable[[], None] = _nothing
        self._over = trio.Event()

    async def write(self, began: Callable[[], None]) -> None:
        """Have the message written; return when it is in the owner's tty. Raises PortDown, or what the claim says.

        ``began`` is called when the turn begins, before the first byte that answers it is heard.
        """
        self._began = began
        fate = await self._line.put(self._message, self._claim, self._accepted, self._parameters)
        self._place = CHANNELS[self._claim.traffic], fate.start
        self._line.ask(self, *self._place)
        await fate.known.wait()
        if fate.lost is not None:
            raise PortDown(lost_text(fate.lost), fate.lost)

    async def replied(self, heard: ReceiveBuffer, reply: Reply) -> None:
        """Wait until the reply is whole, or its time is over at the owner."""
        with trio.move_on_after(reply.seconds + _GRACE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, self._over, nursery.cancel_scope)
                await heard.wait_for(reply.length, reply.until)
                nursery.cancel_scope.cancel()

    async def send_break(self, seconds: float) -> None:
        """Raise UartError: a break is the owner's to send."""
        await trio.lowlevel.checkpoint()
        _ = self._line.uart

    def turned(self, phase: TurnPhase) -> None:
        """The owner began or ended it."""
        if phase is TurnPhase.BEGIN:
            self._began()
        else:
            self._over.set()

    def close(self) -> None:
        """Want no more of it."""
        if self._place is not None:
            self._line.withdraw(*self._place)
            self._place = None


def lost_text(reason: Reason) -> str:
    """Say why bytes were not written, in words."""
    return f"the owner of the line did not write it: {reason.name.lower().replace('_', ' ')}"


def _parameters(reply: Reply) -> TurnParameters:
    """Say a reply in the wire's terms; a delimiter too long for it is left to our own ear."""
    length = int(min(reply.length, _LONGEST_LENGTH))
    end = reply.until if reply.until is not None and len(reply.until) <= _LONGEST_END else b""
    return TurnParameters(length, end, int(reply.seconds * 1000))


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _nothing() -> None:
    pass
