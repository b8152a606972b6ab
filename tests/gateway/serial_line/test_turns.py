"""Turns under a rule, at the owner of the line: who writes, who hears, and when the next may."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.port.bus import Bus
from gateway.port.line import PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.sharing import Sharing
from protocol.link.reasons import Reason
from protocol.sharing.exchange import Ending
from protocol.sharing.modbus_rtu import framed
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.line import ALL, NarrowTty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from gateway.port.line import Asker
    from gateway.port.router import Session

LINE = TurnRule("line", end=b"\r", reply_timeout=0.3, reply_silence=0.02, gap=0.004, max_wait=1.0)
MODBUS = TurnRule("modbus-rtu", reply_timeout=0.3, reply_silence=0.02, max_wait=1.0)


@dataclass(eq=False)
class Ear:
    heard: bytes = b""
    size: int = 0
    sent: int = 0

    def deliver(self, data: bytes) -> None:
        self.heard += data


@dataclass
class Shared:
    """A port under a rule, on a tty that takes all."""

    tty: NarrowTty
    bus: Bus
    turns: Arbiter
    sharing: Sharing
    edges: list[str | Ending] = field(default_factory=list)

    def session(self, name: str, right: Right = Right.TCP, *, monitor: bool = False) -> tuple[Session, Ear]:
        handle = Router({"P0": self.bus}).grant("P0", ALL, name)
        session, ear = handle.open(right), Ear()
        session.is_monitor = session.is_monitor or monitor
        session.listen(ear)
        return session, ear

    def edge(self, asker: Asker | None, ending: Ending | None) -> None:
        self.edges.append(ending if ending is not None else "nobody" if asker is None else asker.holder)


@contextlib.asynccontextmanager
async def shared(rule: TurnRule, room: int = 1 << 20) -> AsyncIterator[Shared]:
    tty, bus, sharing = NarrowTty(room), Bus("P0"), Sharing(rule)
    turns = Arbiter(tty.as_uart, bus, sharing)
    bus.connect(turns)
    port = Shared(tty, bus, turns, sharing)
    bus.attach_for_turns(port.edge)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        yield port
        nursery.cancel_scope.cancel()


async def test_a_reply_is_heard_by_its_asker_and_by_monitors_and_by_nobody_else(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        (asker, mine), (_, other), (_, monitor) = port.session("a"), port.session("b"), port.session("c", Right(0))
        (_, second) = port.session("console", monitor=True)
        await asker.write(b"ask\r")
        port.turns.heard(b"ans")
        port.turns.heard(b"wer\r")
        port.turns.heard(b"news")
    assert (mine.heard, other.heard) == (b"answer\rnews", b"news")
    assert monitor.heard == second.heard == b"answer\rnews"
    assert port.edges == ["a", Ending.WHOLE]
    assert port.sharing.turns == {Ending.WHOLE: 1}


async def test_who_may_hear_all_hears_all_where_the_rule_says_so(autojump_clock: MockClock) -> None:
    async with shared(TurnRule("line", end=b"\r", reply_to="all")) as port:
        (asker, _), (_, other) = port.session("a"), port.session("b")
        await asker.write(b"ask\r")
        port.turns.heard(b"answer\r")
    assert other.heard == b"answer\r"
    assert port.edges == []


async def test_the_next_request_waits_for_the_reply_and_for_the_gap(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        (first, _), (second, _) = port.session("a"), port.session("b")
        began = trio.current_time()
        await first.write(b"1\r")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.write, b"2\r")
            await trio.sleep(0.1)
            assert port.tty.taken == b"1\r"
            port.turns.heard(b"one\r")
        assert port.tty.taken == b"1\r2\r"
        assert trio.current_time() - began == pytest.approx(0.104)
    assert port.sharing.longest_wait == pytest.approx(0.104)


async def test_a_reply_that_never_comes_costs_the_next_its_time_and_no_wrong_answer(
    autojump_clock: MockClock,
) -> None:
    async with shared(LINE) as port:
        (dead, _), (good, heard), (_, monitor) = port.session("a"), port.session("b"), port.session("m", Right(0))
        began = trio.current_time()
        await dead.write(b"1\r")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(good.write, b"2\r")
            await trio.sleep(0.35)
            port.turns.heard(b"late\r")
        assert trio.current_time() - began == pytest.approx(0.374)
        port.turns.heard(b"two\r")
    assert heard.heard == b"two\r"
    assert monitor.heard == b"late\rtwo\r"
    assert port.edges == ["a", Ending.TIME, "nobody", Ending.TIME, "b", Ending.WHOLE]
    assert port.sharing.turns == {Ending.TIME: 1, Ending.WHOLE: 1}


async def test_who_leaves_before_its_first_byte_frees_the_line_at_once(autojump_clock: MockClock) -> None:
    async with shared(LINE, room=0) as port:
        (first, _), (second, _) = port.session("a"), port.session("b")
        with trio.move_on_after(1):
            await first.write(b"1\r")
        port.tty.make_room(100)
        began = trio.current_time()
        await second.write(b"2\r")
        assert trio.current_time() == began
    assert port.tty.taken == b"2\r"
    assert port.edges == ["a", Ending.ABORTED, "b"]


async def test_who_leaves_after_it_leaves_the_line_to_nobody_before_its_turn_is_over(autojump_clock: MockClock) -> None:
    async with shared(LINE, room=1) as port:
        (first, mine), (second, other) = port.session("a"), port.session("b")
        with trio.move_on_after(1):
            await first.write(b"1\r")
        first.end("it left")
        port.tty.make_room(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.write, b"2\r")
            await trio.sleep(0.01)
            assert port.tty.taken == b"1\r"
            port.turns.heard(b"one\r")
        port.turns.heard(b"two\r")
    assert port.tty.taken == b"1\r2\r"
    assert (mine.heard, other.heard) == (b"", b"two\r")


async def test_a_request_that_waits_too_long_is_refused_and_counted(autojump_clock: MockClock) -> None:
    async with shared(TurnRule("line", end=b"\r", reply_timeout=2.0, max_wait=1.0)) as port:
        (first, _), (second, _) = port.session("a"), port.session("b")
        await first.write(b"1\r")
        began = trio.current_time()
        with pytest.raises(PortDown, match="busy for more than 1 s") as refused:
            await second.write(b"2\r")
        assert trio.current_time() - began == pytest.approx(1.0)
    assert refused.value.reason is Reason.TOO_OLD
    assert port.sharing.refused == 1
    assert second.counters.dropped == 2


READ_1, READ_2 = framed(b"\x01\x03\x00\x00\x00\x01"), framed(b"\x01\x03\x00\x01\x00\x01")
REPLY = framed(b"\x07\x03\x02\x00\x05")


async def test_a_newer_request_of_a_modbus_master_takes_the_place_of_its_own(autojump_clock: MockClock) -> None:
    async with shared(MODBUS) as port:
        (busy, _), (master, _) = port.session("a"), port.session("b")
        await busy.write(framed(b"\x07\x03\x00\x00\x00\x01"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(master.write, READ_1)
            await trio.sleep(0.05)
            assert master.supersede(READ_2)
            assert not busy.supersede(READ_2)
            port.turns.heard(REPLY)
    assert port.tty.taken.endswith(READ_2)
    assert READ_1 not in port.tty.taken
    assert (master.counters.received, master.counters.written, master.counters.dropped) == (16, 8, 8)
    assert port.bus.superseded == 1


async def test_elsewhere_only_the_same_bytes_take_the_place(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        (busy, _), (client, _) = port.session("a"), port.session("b")
        await busy.write(b"1\r")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.write, b"stop\r")
            await trio.sleep(0.05)
            assert not client.supersede(b"focus\r")
            assert client.supersede(b"stop\r")
            port.turns.heard(b"one\r")
    assert port.tty.taken == b"1\rstop\r"


async def test_a_long_read_is_several_requests_so_that_no_turn_is_longer_than_a_message(
    autojump_clock: MockClock,
) -> None:
    async with shared(TurnRule("line", end=b"\r", reply_timeout=9.0, max_wait=9.0)) as port:
        (long, _), (other, _) = port.session("a"), port.session("b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(long.transfer, bytes(1200))
            await trio.sleep(1)
            assert port.tty.taken == bytes(512)
            nursery.start_soon(other.write, b"between\r")
            for _ in range(4):
                await trio.sleep(1)
                port.turns.heard(b"ok\r")
    # Its second request waited before the other came.
    assert port.tty.taken == bytes(1024) + b"between\r" + bytes(176)
    assert port.sharing.turns == {Ending.WHOLE: 4}


async def test_a_device_that_goes_ends_the_turn_and_refuses_who_waits(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        (first, _), (second, _) = port.session("a"), port.session("b")
        await first.write(b"1\r")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def refused() -> None:
                with pytest.raises(PortDown, match="the cable is out"):
                    await second.write(b"2\r")

            await trio.sleep(0.01)
            port.bus.disconnect("the cable is out")
    assert port.edges == ["a", Ending.ABORTED]
    assert port.tty.taken == b"1\r"


async def test_a_request_without_a_reply_is_followed_by_the_gap_alone(autojump_clock: MockClock) -> None:
    async with shared(TurnRule("none", gap=0.05)) as port:
        session, _ = port.session("a")
        began = trio.current_time()
        await session.write(b"1")
        await session.write(b"2")
        assert trio.current_time() - began == pytest.approx(0.05 + 1 / 960), "the line time of the first, and the gap"
    assert port.sharing.turns == {Ending.NONE: 2}


async def test_ptz_goes_first_and_lets_another_in_after_four(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        (busy, _), (tcp, _) = port.session("a"), port.session("b")
        commands = [port.session(f"ptz{number}", Right.PTZ)[0] for number in range(6)]
        await busy.write(b"0\r")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tcp.write, b"t\r")
            await trio.sleep(0.01)
            for command in commands:
                nursery.start_soon(command.write, b"p\r")
            for _ in range(8):
                await trio.sleep(0.02)
                port.turns.heard(b"ok\r")
    assert port.tty.taken == b"0\r" + b"p\r" * 4 + b"t\r" + b"p\r" * 2


async def test_a_turn_of_serial_cgi_without_its_reply_is_isolated(
    autojump_clock: MockClock,
) -> None:
    async with shared(LINE) as port:
        (cgi, heard), (other, else_heard) = port.session("cgi", Right.CGI), port.session("b")
        buffer = ReceiveBuffer()
        async with cgi.turn(b"ask", Reply(math.inf, b"!", 0.5)) as turn:
            await turn.write(lambda: None)
            port.turns.heard(b"part")
            await turn.replied(buffer, Reply(math.inf, b"!", 0.5))
        assert port.edges == ["cgi", Ending.TIME, "nobody"]
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.write, b"2\r")
            await trio.sleep(0.1)
            port.turns.heard(b"late")
        assert trio.current_time() - began == pytest.approx(0.124)
    assert heard.heard == b"part"
    assert else_heard.heard == b""


@pytest.mark.parametrize("delay", [0.01, 0.25, 0.45])
async def test_a_turn_that_serial_cgi_leaves_lasts_for_as_long_as_its_reply_may_come(
    autojump_clock: MockClock, delay: float
) -> None:
    async with shared(LINE) as port:
        (cgi, _), (other, else_heard) = port.session("cgi", Right.CGI), port.session("b")
        async with cgi.turn(b"ask", Reply(math.inf, b"!", 9.0)) as turn:
            await turn.write(lambda: None)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.write, b"2\r")
            await trio.sleep(delay)
            port.turns.heard(b"answer\r")
            assert port.tty.taken == b"ask"
        assert trio.current_time() - began == pytest.approx(delay + (0.02 if delay > 0.3 else 0.0) + 0.004)
    assert else_heard.heard == b""


async def test_a_reply_that_has_begun_when_serial_cgi_leaves_goes_on_to_nobody_and_is_told_once(
    autojump_clock: MockClock,
) -> None:
    async with shared(LINE) as port:
        (cgi, heard), (_, else_heard) = port.session("cgi", Right.CGI), port.session("b")
        _, monitor = port.session("m", Right(0))
        async with cgi.turn(b"ask", Reply(math.inf, b"!", 9.0)) as turn:
            await turn.write(lambda: None)
            port.turns.heard(b"ans")
        port.turns.heard(b"wer\r")
        port.turns.heard(b"news")
    assert (heard.heard, monitor.heard, else_heard.heard) == (b"ansnews", b"answer\rnews", b"news")


async def test_the_reply_to_what_serial_cgi_leaves_in_mid_message_is_nobodys(autojump_clock: MockClock) -> None:
    async with shared(LINE, room=2) as port:
        (cgi, _), (other, else_heard) = port.session("cgi", Right.CGI), port.session("b")
        with trio.move_on_after(0.1):
            async with cgi.turn(b"ask\r", Reply(math.inf, b"\r", 9.0)) as turn:
                await turn.write(lambda: None)
        port.tty.make_room(100)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.write, b"2\r")
            await trio.sleep(0.2)
            assert port.tty.taken == b"ask\r"
            port.turns.heard(b"answer\r")
        assert trio.current_time() - began == pytest.approx(0.204)
    assert else_heard.heard == b""
    assert port.tty.taken == b"ask\r2\r"


async def test_a_whole_reply_of_serial_cgi_lets_the_next_in_after_the_gap(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        cgi, _ = port.session("cgi", Right.CGI)
        buffer = ReceiveBuffer()
        async with cgi.turn(b"ask", Reply(math.inf, b"!", 0.5)) as turn:
            await turn.write(lambda: None)
            port.turns.heard(b"yes!")
            buffer.deliver(b"yes!")
            await turn.replied(buffer, Reply(math.inf, b"!", 0.5))
        began = trio.current_time()
        await cgi.write(b"2\r")
        assert trio.current_time() - began == pytest.approx(0.004)
    assert port.edges[:2] == ["cgi", Ending.WHOLE]


def test_who_costs_the_others_most_is_named_in_words() -> None:
    sharing = Sharing(LINE)
    for number in range(20):
        sharing.ended("192.0.2.7:1", Ending.TIME if number % 3 else Ending.WHOLE)
        sharing.ended("192.0.2.8:1", Ending.WHOLE)
    assert sharing.warnings == [
        "7 of the last 10 requests of 192.0.2.7:1 had no whole reply; each costs the others its time"
    ]
    for number in range(100):
        sharing.ended(f"192.0.2.9:{number}", Ending.TIME)
    assert sharing.warnings == []


async def test_what_a_line_says_outside_a_turn_goes_before_the_gap(
    autojump_clock: MockClock,
) -> None:
    async with shared(TurnRule("line", end=b"\r", gap=0.05)) as port:
        session, ear = port.session("a")
        port.turns.heard(b"news")
        began = trio.current_time()
        await session.write(b"1\r")
        assert trio.current_time() - began == pytest.approx(0.05)
    assert ear.heard == b"news"


async def test_a_reply_that_is_whole_before_its_request_is_ends_the_turn_when_that_is_written(
    autojump_clock: MockClock,
) -> None:
    async with shared(LINE, room=1) as port:
        (first, mine), (second, _) = port.session("a"), port.session("b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.write, b"1\r")
            await trio.sleep(0.01)
            nursery.start_soon(second.write, b"2\r")
            await trio.sleep(0.01)
            port.turns.heard(b"early\r")
            assert port.tty.taken == b"1"
            port.tty.make_room(100)
    assert port.tty.taken == b"1\r2\r"
    assert mine.heard == b"early\r"


async def test_the_status_tells_who_has_the_line_and_what_became_of_turns(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        (first, _), (second, _) = port.session("192.0.2.7:1"), port.session("b")
        assert port.turns.status() == {"holder": None, "held_ms": 0, "waiting": 0}
        await first.write(b"1\r")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.write, b"2\r")
            await trio.sleep(0.1)
            assert port.turns.status() == {"holder": "192.0.2.7:1", "held_ms": 100, "waiting": 1}
            await trio.sleep(0.25)
            assert port.turns.status()["holder"] == "nobody: a late reply may come"
        port.turns.heard(b"two\r")
    told = port.sharing.status()
    assert (told["rule"], told["turns"], told["refused"]) == ("line", {"whole": 1, "time": 1}, 0)


async def test_the_holder_of_a_turn_of_serial_cgi_is_told_too(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        cgi, _ = port.session("anna", Right.CGI)
        await trio.sleep(1)
        async with cgi.turn(b"ask", None):
            await trio.sleep(0.1)
            assert port.turns.status() == {"holder": "anna", "held_ms": 100, "waiting": 0}


async def test_a_reply_to_a_turn_that_the_device_ended_is_nobodys_when_it_is_back(autojump_clock: MockClock) -> None:
    async with shared(LINE) as port:
        (first, mine), (second, other) = port.session("a"), port.session("b")
        await first.write(b"1\r")
        port.bus.disconnect("the cable is out")
        await trio.sleep(0.1)
        port.tty.taken = b""
        turns = Arbiter(port.tty.as_uart, port.bus, port.sharing)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            port.bus.connect(turns)
            await trio.sleep(0.1)
            turns.heard(b"late\r")
            await second.write(b"2\r")
            turns.heard(b"two\r")
            nursery.cancel_scope.cancel()
    assert (mine.heard, other.heard) == (b"", b"two\r")


async def test_a_slow_device_has_its_quiet_behind_each_character_whoever_writes_them(autojump_clock: MockClock) -> None:
    tty, bus = NarrowTty(100), Bus("P0")
    turns = Arbiter(tty.as_uart, bus, Sharing(None, char_gap=0.01))
    bus.connect(turns)
    times = list[float]()
    took = tty.send_nowait

    def send(data: memoryview) -> int:
        times.append(trio.current_time())
        assert len(data) == 1
        return took(data)

    tty.send_nowait = send  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        session = Router({"P0": bus}).grant("P0", ALL, "a").open(Right.TCP)
        await session.write(b"12345")
        with trio.move_on_after(0.015):
            await session.write(b"67")
        await turns.idle()
        nursery.cancel_scope.cancel()
    assert tty.taken == b"1234567"
    gaps = [later - before for before, later in itertools.pairwise(times)]
    assert [gap for at, gap in enumerate(gaps) if at != 4] == pytest.approx([0.01 + 1 / 960] * 5)
