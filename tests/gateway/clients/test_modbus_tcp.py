"""Modbus TCP on a line of Modbus RTU: what a master is answered, whatever becomes of its request."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from gateway.clients.modbus_tcp import converse
from gateway.port.bus import Bus
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.tasks.watch import Cell
from protocol.link.reasons import Reason
from protocol.sharing.exchange import Ending
from protocol.sharing.modbus_rtu import framed
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.line import ALL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.clients.connections import ClientConnection
    from gateway.port.line import Asker, Claim, Line
    from gateway.port.router import Session

MODBUS = TurnRule("modbus-rtu")
READ = bytes([3, 0, 0, 0, 1])
FOUND = bytes([3, 2, 0xAB, 0xCD])
NO_PATH, NO_ANSWER, BUSY = 0x0A, 0x0B, 0x06


def adu(number: int, unit: int, pdu: bytes) -> bytes:
    return struct.pack("!HHHB", number, 0, 1 + len(pdu), unit) + pdu


def refused(number: int, unit: int, function: int, why: int) -> bytes:
    return adu(number, unit, bytes([function | 0x80, why]))


@dataclass
class Far:
    """A request that another CPU's line has."""

    holder: str = "a master"
    party: object = None


@dataclass
class Master:
    """A client's stream, by TCP."""

    exact: bool = False
    connection: ClientConnection | None = None
    words: list[bytes] = field(default_factory=list)
    got: bytes = b""
    most: int = 65536
    closed: bool = False
    lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def say(self, *words: bytes) -> None:
        self.words += words
        self.lot.unpark_all()

    async def receive(self) -> bytes:
        while not self.words:
            await self.lot.park()
        return self.words.pop(0)

    def send_nowait(self, data: bytes) -> int:
        raise AssertionError("answers wait for their client")

    async def send(self, data: bytes) -> int:
        await trio.lowlevel.checkpoint()
        self.got += data[: self.most]
        return len(data[: self.most])

    async def skip(self, count: int) -> None: ...

    def close(self) -> None:
        self.closed = True


@dataclass
class Bench:
    """A port whose line says what the test has it say, in turns as the test begins and ends them."""

    bus: Bus
    master: Master
    session: Session
    asked: list[bytes] = field(default_factory=list)
    asker: Claim | None = None
    refusal: PortDown | None = None
    far: Asker | None = None
    """How another CPU's line names the request, whose turn begins later."""

    async def write(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> Asker | None:
        await trio.lowlevel.checkpoint()
        claim.check(accepted)
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(data)
        self.asker = claim
        if self.far is None:
            self.bus.turn_begins(claim)
        return self.far

    def begun(self, _: Claim) -> int:
        return 0

    def end(self, _: str) -> None: ...

    def reply(self, data: bytes, ending: Ending = Ending.WHOLE) -> None:
        assert self.asker is not None
        if data:
            self.bus.deliver_in_turn(data, self.asker)
        self.bus.turn_ends(ending)


@contextlib.asynccontextmanager
async def bench(rule: TurnRule | None = MODBUS, units: tuple[int, ...] = (), idle: int = 0) -> AsyncIterator[Bench]:
    bus, master = Bus("P0"), Master()
    session = Router({"P0": bus}).grant("P0", ALL, "service").attenuate(ALL, "a master").open(Right.TCP)
    port = Bench(bus, master, session)
    bus.connect(cast("Line", port))
    bus.share(rule, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(converse, master, session, Cell(idle), units)
        await settled()
        yield port
        await settled()
        nursery.cancel_scope.cancel()
    assert master.closed


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_request_goes_out_as_a_frame_and_its_reply_comes_back_with_its_number() -> None:
    async with bench() as port:
        port.master.say(adu(7, 1, READ))
        await settled()
        assert port.asked == [framed(bytes([1]) + READ)]
        reply = framed(bytes([1]) + FOUND)
        port.bus.deliver_in_turn(reply[:3], port.asker)
        port.reply(reply[3:])
    assert port.master.got == adu(7, 1, FOUND)


async def test_an_exception_of_the_unit_is_its_reply() -> None:
    async with bench() as port:
        port.master.say(adu(7, 1, READ))
        await settled()
        port.reply(framed(bytes([1, 0x83, 2])))
    assert port.master.got == refused(7, 1, 3, 2)


async def test_requests_of_one_read_are_asked_one_after_the_other() -> None:
    async with bench() as port:
        port.master.most = 4
        port.master.say(adu(1, 1, READ) + adu(2, 2, READ)[:5], adu(2, 2, READ)[5:])
        await settled()
        assert len(port.asked) == 1
        port.reply(framed(bytes([1]) + FOUND))
        await settled()
        assert len(port.asked) == 2
        port.reply(framed(bytes([2]) + FOUND))
    assert port.master.got == adu(1, 1, FOUND) + adu(2, 2, FOUND)


@pytest.mark.parametrize("ending", [Ending.TIME, Ending.SILENCE])
@pytest.mark.parametrize("heard", [b"", framed(bytes([2]) + FOUND), framed(bytes([1]) + FOUND)[:-1] + b"?"])
async def test_a_unit_that_does_not_answer_or_answers_rubbish_is_told(ending: Ending, heard: bytes) -> None:
    async with bench() as port:
        port.master.say(adu(7, 1, READ))
        await settled()
        port.reply(heard, ending)
    assert port.master.got == refused(7, 1, 3, NO_ANSWER)


async def test_what_is_heard_outside_its_turn_is_no_reply() -> None:
    async with bench() as port:
        port.far = Far()
        port.master.say(adu(7, 1, READ))
        await settled()
        other = Router({"P0": port.bus}).grant("P0", ALL, "other").open(Right.TCP)
        port.bus.turn_begins(other)
        port.bus.deliver_in_turn(framed(bytes([1, 3, 2, 0, 0])), other)
        port.bus.turn_ends(Ending.WHOLE)
        port.bus.deliver(framed(bytes([1, 3, 2, 0, 0])))
        await settled()
        assert port.master.got == b""
        port.bus.turn_begins(port.far)
        port.bus.deliver(framed(bytes([1]) + FOUND))
        port.bus.turn_ends(Ending.WHOLE)
    assert port.master.got == adu(7, 1, FOUND)


async def test_a_broadcast_is_answered_by_nobody() -> None:
    async with bench() as port:
        port.master.say(adu(7, 0, bytes([6, 0, 1, 0, 3])))
        await settled()
        port.reply(b"", Ending.NONE)
    assert (len(port.asked), port.master.got) == (1, b"")


async def test_other_units_than_those_that_are_served_have_no_path() -> None:
    async with bench(units=(1, 2)) as port:
        port.master.say(adu(7, 3, READ))
    assert (port.asked, port.master.got) == ([], refused(7, 3, 3, NO_PATH))


async def test_a_request_that_no_unit_could_read_is_told_what_is_wrong() -> None:
    async with bench() as port:
        port.master.say(adu(7, 1, bytes([0x83])), adu(8, 1, READ + b"?"))
    assert port.asked == []
    assert port.master.got == refused(7, 1, 0x83, 1) + refused(8, 1, 3, 3)


async def test_while_the_port_is_down_there_is_no_path() -> None:
    async with bench() as port:
        port.bus.disconnect("the cable is out")
        port.master.say(adu(7, 1, READ))
    assert port.master.got == refused(7, 1, 3, NO_PATH)


@pytest.mark.parametrize("rule", [None, TurnRule("visca"), TurnRule("modbus-rtu", reply_to="all")])
async def test_without_turns_of_modbus_there_is_no_path_and_the_log_says_why_once(
    rule: TurnRule | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(rule) as port:
        port.master.say(adu(7, 1, READ), adu(8, 1, READ))
    assert port.asked == []
    assert port.master.got == refused(7, 1, 3, NO_PATH) + refused(8, 1, 3, NO_PATH)
    assert caplog.text.count("a master: its requests are refused: its line has no turns of Modbus RTU") == 1


@pytest.mark.parametrize(
    ("reason", "exception"), [(Reason.TOO_OLD, BUSY), (Reason.PORT_DOWN, NO_PATH), (Reason.FORBIDDEN, NO_PATH)]
)
async def test_a_request_that_the_port_refuses_is_told_why(reason: Reason, exception: int) -> None:
    async with bench() as port:
        port.refusal = PortDown("not now", reason)
        port.master.say(adu(7, 1, READ))
    assert port.master.got == refused(7, 1, 3, exception)


async def test_a_request_that_is_lost_on_its_way_is_told() -> None:
    async with bench() as port:
        port.far = Far()
        port.master.say(adu(7, 1, READ))
        await settled()
        port.session.lost(8, Reason.TOO_OLD)
    assert port.master.got == refused(7, 1, 3, BUSY)


async def test_a_turn_that_the_device_ended_had_no_path() -> None:
    async with bench() as port:
        port.master.say(adu(7, 1, READ))
        await settled()
        port.reply(b"", Ending.ABORTED)
    assert port.master.got == refused(7, 1, 3, NO_PATH)


async def test_a_turn_whose_end_is_never_told_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with bench() as port:
        port.far = Far()
        port.master.say(adu(7, 1, READ))
        await trio.sleep(30)
    assert port.master.got == refused(7, 1, 3, NO_ANSWER)


async def test_who_speaks_another_protocol_is_ended() -> None:
    async with bench() as port:
        port.master.say(b"GET / HTTP/1.1\r\n\r\n")
    assert port.session.ended is not None
    assert port.session.ended.startswith("it does not speak Modbus TCP: ")


async def test_who_is_silent_for_longer_than_the_idle_limit_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with bench(idle=5) as port:
        await trio.sleep(6)
    assert port.session.ended == "idle for 5 s"


async def test_who_ends_its_sending_is_answered_all_that_it_asked() -> None:
    async with bench() as port:
        port.master.say(adu(1, 1, READ), b"")
        await settled()
        port.reply(framed(bytes([1]) + FOUND))
    assert (port.master.got, port.session.ended) == (adu(1, 1, FOUND), None)


async def test_who_is_revoked_while_it_waits_is_told_nothing() -> None:
    async with bench() as port:
        port.master.say(adu(1, 1, READ))
        await settled()
        port.session.end("its address is not allowed any more")
    assert port.master.got == b""
