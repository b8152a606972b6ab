"""The way of one client's bytes to the line: cut by the rules of the port, and counted whatever becomes of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from gateway.clients.pump import AHEAD, Pump
from gateway.clients.streams import TooLong
from gateway.port.bus import Bus
from gateway.port.rights import Right
from gateway.port.router import Router
from protocol.sharing.message_rule import MAX_GAP, MessageRule
from protocol.sharing.modbus_rtu import framed
from protocol.sharing.request_splitter import PATIENCE
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.line import ALL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.clients.connections import ClientConnection
    from gateway.port.line import Claim, Line
    from gateway.port.router import Session

MODBUS, VISCA = TurnRule("modbus-rtu"), TurnRule("visca")
END, GAP = MessageRule(end=b"\xff"), MessageRule(gap=0.02)
READ = framed(bytes([1, 3, 0, 0, 0, 10]))
WRITE = framed(bytes([2, 6, 0, 1, 0, 3]))
FOCUS = bytes.fromhex("81 01 04 07 02 ff")
STOP = bytes.fromhex("81 01 06 01 00 00 03 03 ff")


@dataclass
class Client:
    """A stream whose client says what ``say`` is told, as soon as it is read."""

    exact: bool = False
    connection: ClientConnection | None = None
    words: list[bytes | Exception] = field(default_factory=list)
    lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def say(self, *words: bytes | Exception) -> None:
        self.words += words
        self.lot.unpark_all()

    async def receive(self) -> bytes:
        while not self.words:
            await self.lot.park()
        word = self.words.pop(0)
        if isinstance(word, Exception):
            raise word
        return word

    def send_nowait(self, data: bytes) -> int:
        return len(data)

    async def send(self, data: bytes) -> int:
        return len(data)

    async def skip(self, count: int) -> None: ...

    def close(self) -> None: ...


@dataclass
class Taken:
    """A line that takes messages, and parts of transfers, one at a time while ``open``."""

    messages: list[bytes] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    open: bool = True
    gives_way: int = 0
    """Bytes of a request that waits and gives way to a newer one."""
    newer: list[bytes] = field(default_factory=list)
    lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    @property
    def is_ready(self) -> bool:
        return self.open

    async def write(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> None:
        await self._take(self.messages, data, claim, accepted)

    async def transfer(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> None:
        await self._take(self.parts, data, claim, accepted)

    async def _take(self, where: list[bytes], data: bytes, claim: Claim, accepted: float) -> None:
        while not self.open:
            await self.lot.park()
        claim.check(accepted)
        data = self.newer.pop() if self.newer else data
        where.append(data)
        self.ages.append(trio.current_time() - accepted)
        claim.wrote(len(data))

    def begun(self, _: Claim) -> int:
        return 0

    def supersede(self, _: Claim, data: bytes) -> int:
        if not self.gives_way or self.open:
            return 0
        self.newer.append(data)
        return self.gives_way

    def end(self, _: str) -> None: ...

    def shut(self) -> None:
        self.open = False

    def go_on(self) -> None:
        self.open = True
        self.lot.unpark_all()


@dataclass
class Pumped:
    client: Client
    line: Taken
    session: Session
    bus: Bus


@contextlib.asynccontextmanager
async def pumped(
    turn: TurnRule | None = None, message: MessageRule | None = None, exact: bool = False, traffic: Right = Right.TCP
) -> AsyncIterator[Pumped]:
    """Pump what a client says to a line with these rules; at the end nothing of it may be uncounted."""
    bus, line, client = Bus("P0"), Taken(), Client(exact)
    bus.connect(cast("Line", line))
    bus.share(turn, message)
    session = Router({"P0": bus}).grant("P0", ALL, "service").attenuate(ALL, "somebody").open(traffic)
    said = 0
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with session.scope, contextlib.suppress(OSError):
                await Pump(client, session).run()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield Pumped(client, line, session, bus)
        nursery.cancel_scope.cancel()
    said += sum(map(len, line.messages + line.parts))
    assert session.counters.written == said
    assert session.counters.pending == 0


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


# Message rule -----------------------------------------------------------------------------------------------


async def test_a_command_in_two_segments_is_one_message(autojump_clock: trio.testing.MockClock) -> None:
    async with pumped(message=END) as port:
        port.client.say(FOCUS[:-1])
        await trio.sleep(0.05)
        assert port.line.messages == []
        port.client.say(FOCUS[-1:] + STOP)
        await settled()
        assert (port.line.messages, port.line.parts) == ([FOCUS, STOP], [])
        assert port.line.ages == [pytest.approx(0.05), 0]


async def test_what_has_no_end_goes_after_100_ms_as_a_transfer(autojump_clock: trio.testing.MockClock) -> None:
    async with pumped(message=END) as port:
        port.client.say(b"abc")
        await trio.sleep(MAX_GAP - 0.001)
        assert port.line.parts == []
        await trio.sleep(0.002)
        assert (port.line.messages, port.line.parts) == ([], [b"abc"])


async def test_a_gap_ends_a_message(autojump_clock: trio.testing.MockClock) -> None:
    async with pumped(message=GAP) as port:
        port.client.say(b"ab")
        await trio.sleep(0.015)
        port.client.say(b"c")
        await trio.sleep(0.03)
        assert port.line.messages == [b"abc"]


async def test_a_command_whose_end_came_while_the_line_was_busy_is_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pumped(message=END) as port:
        port.line.shut()
        port.client.say(STOP + FOCUS[:3])
        await settled()
        port.client.say(FOCUS[3:])
        await trio.sleep(1.0)
        port.line.go_on()
        await trio.sleep(0.5)
        assert (port.line.messages, port.line.parts) == ([STOP, FOCUS], [])
        assert port.line.ages == [1.0, 1.0]


async def test_what_waits_for_its_end_is_written_when_the_client_ends_its_sending() -> None:
    async with pumped(message=END) as port:
        port.client.say(b"abc", b"")
        await settled()
        assert port.line.parts == [b"abc"]


async def test_what_waits_for_its_end_is_counted_when_the_session_is_ended() -> None:
    async with pumped(message=END) as port:
        port.client.say(b"abc")
        await settled()
        port.session.end("it had to go")
        await settled()
        assert (port.session.counters.received, port.bus.dropped, port.bus.rubbish) == (3, 3, 0)


async def test_a_rule_that_changes_counts_from_the_next_read_on() -> None:
    async with pumped() as port:
        port.client.say(b"ab")
        await settled()
        port.bus.share(None, END)
        port.client.say(b"c\xffd")
        await settled()
        port.bus.share(None, None)
        port.client.say(b"e")
        await settled()
        assert (port.line.messages, port.line.parts) == ([b"c\xff"], [b"ab", b"d", b"e"])


async def test_what_has_messages_of_its_own_is_not_joined() -> None:
    async with pumped(message=END, exact=True) as port:
        port.client.say(b"a", b"b\xffc")
        await settled()
        assert port.line.messages == [b"a", b"b\xffc"]


# Turn rule --------------------------------------------------------------------------------------------------


async def test_requests_are_cut_out_of_the_stream_whatever_the_reads() -> None:
    async with pumped(MODBUS) as port:
        port.client.say(READ[:1], READ[1:7], READ[7:] + WRITE + READ[:5], READ[5:])
        await settled()
        assert port.line.messages == [READ, WRITE, READ]
        assert port.bus.rubbish == 0


async def test_rubbish_is_dropped_and_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with pumped(VISCA) as port:
        port.client.say(b"hello" + FOCUS)
        await settled()
        assert port.line.messages == [FOCUS]
        assert (port.bus.rubbish, port.session.counters.dropped) == (5, 5)
    assert "somebody: 5 bytes that are in no request are dropped" in caplog.text


async def test_half_a_request_is_rubbish_after_patience(autojump_clock: trio.testing.MockClock) -> None:
    async with pumped(MODBUS) as port:
        port.client.say(READ[:4])
        await trio.sleep(PATIENCE + 0.01)
        assert port.bus.rubbish == 4
        port.client.say(READ)
        await settled()
        assert port.line.messages == [READ]


async def test_one_read_is_made_while_a_request_waits_and_no_more() -> None:
    async with pumped(MODBUS) as port:
        port.line.shut()
        port.client.say(READ, WRITE, READ, WRITE)
        await settled()
        assert len(port.client.words) == 2
        port.line.go_on()
        await settled()
        assert port.line.messages == [READ, WRITE, READ, WRITE]


async def test_a_newer_request_takes_the_place_of_one_that_waits() -> None:
    async with pumped(MODBUS) as port:
        port.line.shut()
        port.line.gives_way = len(READ)
        port.client.say(READ, WRITE)
        await settled()
        assert port.client.words == []
        port.line.go_on()
        await settled()
        assert port.line.messages == [WRITE]
        assert (port.session.counters.received, port.bus.dropped) == (16, 8)


async def test_a_client_that_ends_its_sending_has_its_requests_written() -> None:
    async with pumped(MODBUS) as port:
        port.line.shut()
        port.client.say(READ + WRITE, b"")
        await settled()
        port.line.go_on()
        await settled()
        assert port.line.messages == [READ, WRITE]


async def test_requests_of_a_client_that_is_gone_are_written_before_its_session_ends() -> None:
    async with pumped(MODBUS) as port:
        port.line.shut()
        port.client.say(READ, ConnectionResetError())
        await settled()
        port.line.go_on()
        await settled()
        assert port.line.messages == [READ]


async def test_where_requests_have_no_form_a_read_is_one() -> None:
    async with pumped(TurnRule("silence")) as port:
        port.client.say(b"ask", b"again")
        await settled()
        assert port.line.parts == [b"ask", b"again"]


async def test_where_requests_have_no_form_the_message_rule_tells_their_end() -> None:
    async with pumped(TurnRule("line", end=b"\r"), END) as port:
        port.client.say(b"a", b"sk\xff")
        await settled()
        assert port.line.messages == [b"ask\xff"]


async def test_every_byte_is_counted_whenever_the_session_ends() -> None:
    async with pumped(MODBUS) as port:
        port.line.shut()
        port.client.say(READ + WRITE + READ + READ[:3])
        await settled()
        port.session.end("it had to go")
        await settled()
        assert port.session.counters.received == port.bus.dropped == 3 * 8 + 3


# PTZ packets ------------------------------------------------------------------------------------------------


async def test_packets_of_a_driver_are_read_while_the_line_is_busy_and_grow_stale_by_their_own_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pumped(exact=True, traffic=Right.PTZ) as port:
        port.line.shut()
        port.client.say(b"old")
        await trio.sleep(1.5)
        port.client.say(b"new")
        await trio.sleep(1.0)
        port.line.go_on()
        await settled()
        assert port.line.messages == [b"new"]
        assert port.session.counters.dropped == 3


async def test_so_many_packets_and_no_more_are_read_ahead() -> None:
    async with pumped(exact=True, traffic=Right.PTZ) as port:
        port.line.shut()
        port.client.say(*(b"%d" % number for number in range(AHEAD + 10)))
        await settled()
        assert AHEAD <= AHEAD + 10 - len(port.client.words) <= AHEAD + 1
        port.line.go_on()
        await settled()
        assert port.line.messages == [b"%d" % number for number in range(AHEAD + 10)]


async def test_a_packet_that_is_too_long_is_left_out() -> None:
    async with pumped(exact=True, traffic=Right.PTZ) as port:
        port.client.say(b"a", TooLong(), b"b")
        await settled()
        assert port.line.messages == [b"a", b"b"]


async def test_a_stream_of_a_driver_is_not_read_ahead() -> None:
    async with pumped(traffic=Right.PTZ) as port:
        port.line.shut()
        port.client.say(b"a", b"b")
        await settled()
        assert port.client.words == [b"b"]
        port.line.go_on()
        await settled()
        assert port.line.parts == [b"a", b"b"]
