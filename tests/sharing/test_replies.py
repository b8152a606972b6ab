"""Under a turn rule, whatever the interleaving: one request at a time, and each reply where it belongs.

Hypothesis chooses what clients of every class ask, when they are cancelled, revoked, or leave, and how the unit out
there behaves: it answers, answers late, answers half, or is silent; the device goes, and comes back. All that is not a
client's own doing happens between two steps, or at a checkpoint that Hypothesis chooses. Time is trio's mock clock.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.port.bus import Bus
from gateway.port.line import PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.port.router import Revoked, Router
from gateway.serial_line import device, uart
from gateway.serial_line.device import SerialDevice
from gateway.serial_line.sharing import Sharing
from gateway.tasks.reconcile import Unit
from protocol.parameters.settings import SerialPort
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.line import ALL
from tests.gateway.serial_line.adapter import plug
from tests.sharing.driver import ftdi_sio, serial_core
from tests.sharing.moments import Moments
from tests.sharing.test_stateful import CallAtOnce

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.port.router import Session
    from tests.sharing.driver import Driver

RULE = TurnRule("line", end=b"\r", reply_timeout=0.3, reply_silence=0.05, max_wait=4.0)
LONGEST_TURN = 2 * RULE.reply_timeout + 0.2
"""A timeout, its quarantine, and the line time of a request and of a reply."""
MASTERS = 4
REQUEST = re.compile(rb"\?(\d)(\d\d)\n")
REPLY = re.compile(rb"=(\d)(\d\d)\r?")


class Behaviour(NamedTuple):
    """The way in which the unit answers one request."""

    delay: float
    whole: bool = True


ANSWERS = Behaviour(0.01)
SLOW = Behaviour(0.25)
LATE = Behaviour(0.45)
"""Within the quarantine, which is as long as the timeout."""
HALF = Behaviour(0.02, whole=False)
SILENT = None
BEHAVIOURS = (ANSWERS, SLOW, LATE, HALF, SILENT)
LEAST: dict[Behaviour | None, float] = {
    **{behaviour: behaviour.delay for behaviour in (ANSWERS, SLOW, LATE)},
    HALF: HALF.delay + RULE.reply_silence,
    SILENT: 2 * RULE.reply_timeout,
}
"""Seconds that the line belongs to a request at least, from when it has left the wire."""


@dataclass(eq=False)
class Master:
    """A client that asks, or only listens."""

    number: int
    session: Session
    heard: bytes = b""
    ear: ReceiveBuffer = field(default_factory=ReceiveBuffer)
    """Of what it heard, what came since its last turn of serial.cgi."""
    size: int = 0
    sent: int = 0
    asked: int = 0
    asking: trio.CancelScope | None = None
    task: trio.lowlevel.Task | None = None
    """The task that asks, once it runs."""
    nursery: trio.Nursery | None = None

    def deliver(self, data: bytes) -> None:
        self.heard += data
        self.ear.deliver(data)


@dataclass
class Line:
    """The port, its masters and its unit."""

    driver: Driver
    bus: Bus
    moments: Moments
    masters: list[Master] = field(default_factory=list)
    behaviours: list[Behaviour | None] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    losses: int = 0

    @property
    def lost(self) -> bool:
        """Whether the device was lost at all."""
        return self.losses > 0

    async def unit(self) -> None:
        """Answer each request when it has left the wire, in its own way, until cancelled."""
        answered, turn = 0, 0
        async with trio.open_nursery() as nursery:
            while True:
                await self.driver.took.wait()
                self.driver.took = trio.Event()
                while self.driver.queue and self.driver.present:
                    await trio.sleep(len(self.driver.queue) / self.driver.rate + 1e-6)
                    self.driver.advance()
                for request in REQUEST.finditer(self.driver.sent, answered):
                    answered = request.end()
                    behaviour = self.behaviours[turn % len(self.behaviours)] if self.behaviours else ANSWERS
                    turn += 1
                    if behaviour is not None:
                        nursery.start_soon(self._answer, request[1], request[2], behaviour)

    async def _answer(self, asker: bytes, number: bytes, behaviour: Behaviour) -> None:
        await trio.sleep(behaviour.delay)
        if self.driver.present and self.bus.down is None:
            self.driver.say(b"=" + asker + number + b"\r" * behaviour.whole)

    def unplug(self) -> None:
        if self.driver.present and self.bus.down is None:
            self.losses += 1
            self.driver.unplug()

    async def take_turn(self, master: Master, request: bytes) -> None:
        reply = Reply(math.inf, b"\r", 0.4)
        async with master.session.turn(request, reply) as hold:
            await hold.write(master.ear.clear)
            await hold.replied(master.ear, reply)

    async def ask(self, master: Master, what: str) -> None:
        began = trio.current_time()
        request = b"?%d%02d\n" % (master.number, master.asked)
        master.asked += 1
        try:
            match what:
                case "ask":
                    await master.session.write(request)
                case "send":
                    await master.session.transfer(request)
                case "turn":
                    await self.take_turn(master, request)
        finally:
            if not self.lost and trio.current_time() - began > RULE.max_wait + 0.1:
                self.late.append(f"a request of {master.number} took {trio.current_time() - began:.2f} s")


class Step(NamedTuple):
    what: str
    which: int
    pause: float | None
    moment: int | None = None
    """What happens to masters and to the line happens so many scheduler steps later; None: now."""


ASKS = ("ask", "send", "turn")
"""The three ways to write; a turn is serial.cgi's."""

STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from((*ASKS, "ask", "cancel", "cancel it", "revoke", "revoke it", "unplug", "plug", "wait")),
        st.integers(0, MASTERS - 1),
        st.sampled_from((None, 0.0, 0.001, 0.02, 0.3, 1.0)),
        st.none() | st.integers(0, 30),
    ),
    max_size=40,
)


async def do(line: Line, step: Step) -> None:
    master = line.masters[step.which]
    if step.what in ASKS and master.asking is None and master.session.ended is None and master.asked < 100:
        scope = master.asking = trio.CancelScope()

        async def ask() -> None:
            master.task = trio.lowlevel.current_task()
            try:
                with scope, contextlib.suppress(PortDown, Revoked):
                    await line.ask(master, step.what)
            finally:
                master.asking = master.task = None

        assert master.nursery is not None
        master.nursery.start_soon(ask)
    elif (happens := happening(line, step, master)) is not None:
        if step.moment is None:
            happens()
        else:
            line.moments.after(step.moment, happens, master.task if step.what.endswith(" it") else None)
    if step.pause is not None:
        await trio.sleep(step.pause)


def happening(line: Line, step: Step, master: Master) -> Callable[[], object] | None:
    """Return what happens to a master or to the line; None where there is nothing."""
    match step.what.removesuffix(" it"):
        case "cancel" if master.asking is not None:
            return master.asking.cancel
        case "revoke":
            return functools.partial(master.session.end, "it was revoked")
        case "unplug":
            return line.unplug
        case "plug":
            return functools.partial(setattr, line.driver, "present", True)
        case _:
            return None


async def _in_scope(master: Master, task_status: trio.TaskStatus[None]) -> None:
    with master.session.scope:
        async with trio.open_nursery() as master.nursery:
            task_status.started()
            await trio.sleep_forever()


async def live(steps: list[Step], behaviours: list[Behaviour | None], driver: Driver, moments: Moments) -> Line:
    """Live through these steps, let the line come to rest, and return what there was."""
    bus = Bus("P0")
    line_of_ours, unit = SerialDevice(bus, 1, driver.config, SerialPort()), Unit("P0 Ser1", lambda: None)
    line = Line(driver, bus, moments, behaviours=behaviours)
    async with trio.open_nursery() as nursery:
        for task in (driver.run, line.unit):
            nursery.start_soon(task)
        nursery.start_soon(line_of_ours.run, unit)
        await unit.settled.wait()
        handle = Router({"P0": bus}).grant("P0", ALL, "service")
        for number in range(MASTERS + 1):
            # The last only listens, and is a monitor by that.
            write = (Right.TCP, Right.PTZ, Right.TCP, Right.CGI, Right(0))[number]
            session = handle.attenuate(Right.READ | write, f"master {number}").open(write)
            master = Master(number, session)
            session.listen(master)
            await nursery.start(_in_scope, master)
            line.masters.append(master)
        for step in steps:
            await do(line, step)
        await trio.sleep(1)
        moments.forget()
        driver.present = True
        await trio.sleep(30)
        assert all(master.asking is None for master in line.masters)
        driver.advance()
        nursery.cancel_scope.cancel()
    return line


def assert_replies_where_they_belong(line: Line) -> None:
    """Nobody heard a reply to another, but for the monitor, which heard all."""
    *masters, monitor = line.masters
    for master in masters:
        heard = {(int(asker), int(number)) for asker, number in REPLY.findall(master.heard)}
        assert {asker for asker, _ in heard} <= {master.number}, master.heard
        replies = [int(number) for asker, number in REPLY.findall(master.heard) if int(asker) == master.number]
        assert replies == sorted(set(replies))
    assert len(monitor.heard) == line.bus.received


def assert_one_at_a_time(line: Line) -> None:
    """Between two requests there is what the rule wants: a reply, or its time."""
    starts = [when for when, data in line.driver.writes if data.startswith(b"?")]
    assert b"".join(data for _, data in line.driver.writes).count(b"?") == len(starts)
    wire = b"".join(data for _, data in line.driver.writes)
    if not line.lost:
        assert b"".join(match[0] for match in REQUEST.finditer(wire)) == wire
        for turn, (earlier, later) in enumerate(itertools.pairwise(starts)):
            behaviour = line.behaviours[turn % len(line.behaviours)] if line.behaviours else ANSWERS
            assert later - earlier >= 5 / 960 + LEAST[behaviour] - 1e-6


@given(STEPS, st.lists(st.sampled_from(BEHAVIOURS), max_size=8), st.sampled_from([serial_core, ftdi_sio]))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([Step("ask", 0, 0.0), Step("ask", 1, 0.0), Step("revoke", 0, 1.0)], [LATE, ANSWERS], serial_core)
@example([Step("ask", 0, 0.02), Step("cancel", 0, None), Step("ask", 2, 1.0)], [SLOW, ANSWERS], serial_core)
@example([Step("turn", 0, None), Step("cancel", 0, None), Step("ask", 1, 1.0)], [LATE], serial_core)
@example([Step("turn", 0, None), Step("cancel", 0, None), Step("ask", 1, 1.0)], [SILENT], serial_core)
@example([Step("ask", 0, None), Step("unplug", 0, None, 3), Step("plug", 0, None, 3)], [LATE], serial_core)
def test_whatever_masters_and_units_do_each_reply_goes_where_it_belongs(
    steps: list[Step], behaviours: list[Behaviour | None], made: Callable[[], Driver]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        driver = made()
        plug(patch, driver)
        patch.setattr(uart, "DriverCall", CallAtOnce)
        sharing = Sharing(RULE)
        patch.setattr(device, "Sharing", lambda *_: sharing)
        driver.close_waits = False
        moments, clock = Moments(), trio.testing.MockClock(autojump_threshold=0)
        try:
            line = trio.run(live, steps, behaviours, driver, moments, clock=clock, instruments=[moments])
        finally:
            driver.put_away()
        assert not moments.errors
        assert_replies_where_they_belong(line)
        assert_one_at_a_time(line)
        assert not line.late
        assert sharing.longest_wait <= RULE.max_wait + 0.001
        requests = len(REQUEST.findall(b"".join(data for _, data in driver.writes)))
        if not line.lost:
            assert sum(sharing.turns.values()) == requests
