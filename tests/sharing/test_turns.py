"""Masters under a turn rule share the line to the last percent, by the mock clock and a two-wire bus that collides."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from gateway.port.rights import Right
from protocol.sharing import modbus_rtu
from protocol.sharing.turn_rule import TurnRule
from tests.sharing.driver import ftdi_sio, serial_core
from tests.sharing.port import chained_port, port_on
from tests.sharing.wire import register

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sharing.driver import Driver
    from tests.sharing.port import Port


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps only when no socket of a link has anything on its way."""
    return MockClock(autojump_threshold=0.003)


RULE = TurnRule("modbus-rtu")
COUNT = 10
RATES = pytest.mark.parametrize("rate", [9600, 115200])
DRIVERS = pytest.mark.parametrize("made", [serial_core, ftdi_sio], ids=lambda made: str(made.__name__))


@dataclass
class Bus485:
    """Units that know function 3, on the two wires of ``driver``: whoever speaks beside another destroys both."""

    driver: Driver
    units: tuple[int, ...] = (1, 2, 3)
    turnaround: float = 0.003
    late: dict[int, float] = field(default_factory=dict)
    """Seconds after which a unit answers, by unit."""
    destroyed: int = 0
    """Frames that were no request, and answers that somebody spoke over."""

    async def run(self) -> None:
        """Answer what is on the wire, until cancelled."""
        async with trio.open_nursery() as nursery:
            done = 0
            while True:
                await self.driver.took.wait()
                self.driver.took = trio.Event()
                silence = max(3.5 / self.driver.rate, 0.00175)
                while len(self.driver.sent) + len(self.driver.queue) > done:
                    taken = self.driver.taken
                    await trio.sleep(len(self.driver.queue) / self.driver.rate + silence)
                    self.driver.advance()
                    if self.driver.taken == taken:
                        frame, done = self.driver.sent[done:], len(self.driver.sent)
                        nursery.start_soon(self._answer, frame)

    async def _answer(self, frame: bytes) -> None:
        if len(frame) != 8 or not modbus_rtu.has_crc(frame):
            self.destroyed += 1
            return
        unit, _, address, count = struct.unpack(">BBHH", frame[:6])
        if unit not in (*self.units, *self.late):
            return
        await trio.sleep(self.late.get(unit, self.turnaround))
        values = struct.pack(f">{count}H", *(register(unit, address + number) for number in range(count)))
        reply = modbus_rtu.framed(bytes((unit, 3, len(values))) + values)
        taken, busy = self.driver.taken, bool(self.driver.queue)
        await trio.sleep(len(reply) / self.driver.rate)
        if busy or self.driver.taken != taken:
            self.destroyed += 1
            reply = bytes(byte ^ 0x5A for byte in reply)
        self.driver.say(reply)


@dataclass
class Master:
    """A Modbus master behind a TCP socket of a port: it polls ``units`` in turn, for registers of its own."""

    port: Port
    first: int
    units: tuple[int, ...] = (1, 2, 3)
    patience: float = 1.0
    right: int = 0
    wrong: int = 0
    timeouts: int = 0
    longest: float = 0.0

    async def run(self) -> None:
        """Poll until cancelled."""
        sock, _ = self.port.client(Right.TCP)
        number = 0
        while True:
            unit, address = self.units[number % len(self.units)], self.first + number % 7
            number += 1
            await sock.send(modbus_rtu.framed(struct.pack(">BBHH", unit, 3, address, COUNT)))
            began, heard = trio.current_time(), b""
            with trio.move_on_after(self.patience):
                while len(heard) < 5 + 2 * COUNT:
                    heard += await sock.recv(4096)
            if not heard:
                self.timeouts += 1
                continue
            self.longest = max(self.longest, trio.current_time() - began)
            values = struct.pack(f">{COUNT}H", *(register(unit, address + each) for each in range(COUNT)))
            if heard == modbus_rtu.framed(bytes((unit, 3, len(values))) + values):
                self.right += 1
            else:
                self.wrong += 1


async def poll(seconds: float, *masters: Master) -> list[Master]:
    """Run masters beside each other for so many seconds."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for master in masters:
                nursery.start_soon(master.run)
    await trio.sleep(2)  # the last request is over
    return list(masters)


def assert_shared(masters: list[Master]) -> None:
    assert [(master.wrong, master.timeouts) for master in masters] == [(0, 0)] * len(masters), masters
    right = [master.right for master in masters]
    mean = sum(right) / len(right)
    assert max(abs(each - mean) for each in right) <= 0.05 * mean, right


@RATES
@DRIVERS
async def test_two_masters_have_half_of_the_line_each_and_lose_none_of_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, rate: int, made: Callable[[], Driver]
) -> None:
    driver = made()
    async with port_on(monkeypatch, driver, rate, RULE) as port:
        units = Bus485(driver)
        port.nursery.start_soon(units.run)
        seconds = 10 if rate == 9600 else 2
        (alone,) = await poll(seconds, Master(port, 100))
        masters = await poll(seconds, Master(port, 200), Master(port, 300))
    assert units.destroyed == 0
    assert_shared([alone])
    assert_shared(masters)
    assert sum(master.right for master in masters) >= 0.97 * alone.right


@RATES
@pytest.mark.parametrize("both", [False, True], ids=["one of them chained", "both chained"])
async def test_two_masters_of_which_one_is_chained_share_the_line_as_well(
    monkeypatch: pytest.MonkeyPatch, clock: MockClock, rate: int, both: bool
) -> None:
    driver = serial_core()
    async with chained_port(monkeypatch, driver, rate, RULE) as (owner, far):
        units = Bus485(driver)
        owner.nursery.start_soon(units.run)
        seconds = 5 if rate == 9600 else 1
        (alone,) = await poll(seconds, Master(owner, 100))
        masters = await poll(seconds, Master(far if both else owner, 200), Master(far, 300))
    assert units.destroyed == 0
    assert_shared(masters)
    assert sum(master.right for master in masters) >= 0.97 * alone.right


def read(unit: int, address: int) -> bytes:
    return modbus_rtu.framed(struct.pack(">BBHH", unit, 3, address, COUNT))


def answer(unit: int, address: int) -> bytes:
    values = struct.pack(f">{COUNT}H", *(register(unit, address + each) for each in range(COUNT)))
    return modbus_rtu.framed(bytes((unit, 3, len(values))) + values)


async def test_a_chained_master_that_gave_a_request_up_does_not_get_its_reply_as_that_to_the_next(
    monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> None:
    driver = serial_core()
    async with chained_port(monkeypatch, driver, 9600, RULE) as (owner, far):
        owner.nursery.start_soon(Bus485(driver).run)
        (busy, _), (sock, _) = owner.client(Right.TCP), far.client(Right.TCP)
        assert {session.is_mixed for session in owner.handle.sessions if session.writes} == {True, False}
        await busy.send(read(9, 0))  # a dead unit: the line is its for two timeouts
        await trio.sleep(0.05)
        for address in (100, 200):
            await sock.send(read(1, address))
            await trio.sleep(0.1)
        await trio.sleep(1.5)
        assert driver.sent.count(read(1, 100)) == driver.sent.count(read(1, 200)) == 1
        assert await sock.recv(4096) == answer(1, 200)
        assert (owner.bus.superseded, far.bus.superseded) == (0, 1)


async def test_without_turns_two_masters_destroy_each_others_answers(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver) as port:
        units = Bus485(driver)
        port.nursery.start_soon(units.run)
        masters = await poll(10, Master(port, 200), Master(port, 300))
    assert units.destroyed > 5
    assert sum(master.wrong + master.timeouts for master in masters) > sum(master.right for master in masters)


async def test_a_dead_unit_costs_the_other_its_time_and_no_wrong_answer(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver, rule=RULE) as port:
        units = Bus485(driver)
        port.nursery.start_soon(units.run)
        healthy, unlucky = await poll(30, Master(port, 100), Master(port, 200, units=(1, 9), patience=2.0))
    assert units.destroyed == 0
    assert_shared([healthy])
    assert unlucky.wrong == 0
    assert abs(unlucky.right - unlucky.timeouts) <= 1
    assert healthy.longest < 2 * RULE.reply_timeout + 0.15


async def test_a_unit_that_answers_50_ms_after_the_timeout_is_taken_for_no_other(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver, rule=RULE) as port:
        units = Bus485(driver, late={7: RULE.reply_timeout + 0.05})
        port.nursery.start_soon(units.run)
        masters = await poll(30, Master(port, 100, units=(1, 7)), Master(port, 200, units=(1, 2, 7)))
    assert units.destroyed == 0
    for master in masters:
        assert master.wrong == 0
        assert master.right > 10


async def test_five_masters_whose_timeouts_are_longer_than_their_cycle_all_live(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = ftdi_sio()
    async with port_on(monkeypatch, driver, rule=RULE) as port:
        units = Bus485(driver)
        port.nursery.start_soon(units.run)
        masters = await poll(30, *(Master(port, 100 * number, patience=0.35) for number in range(1, 6)))
    assert units.destroyed == 0
    assert_shared(masters)
