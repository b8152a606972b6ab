"""Requests beside the bytes: steps in one turn, settings that a session holds, breaks that end."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.host.config import SerialConfig
from gateway.port.bus import Bus
from gateway.port.control import Break, Configure, HoldBreak, Pause, Purge, SetLines, checked
from gateway.port.line import ModemLines, PortDown
from gateway.port.rights import Right
from gateway.port.router import Forbidden, Revoked, Router
from gateway.serial_line.arbiter import Arbiter
from gateway.serial_line.beside import look_beside
from gateway.serial_line.controls import Controls
from gateway.serial_line.device import SerialDevice
from gateway.serial_line.uart import UartError
from gateway.tasks.reconcile import Unit
from protocol.parameters.hardware import SerialHardware
from protocol.parameters.settings import Serial, SerialPort, Settings
from tests.gateway.line import ALL, NarrowTty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from trio.testing import MockClock

    from gateway.port.control import Step
    from gateway.port.router import Session
    from gateway.serial_line.tty import Counters


class Modem(NarrowTty):
    """A tty that takes all, and notes what it is told, with the time."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.log: list[tuple[str, float]] = []
        self.lines = ModemLines(dtr=True, rts=True, cts=False, dsr=False, ri=False, dcd=False)
        self.counted: Counters | None = None
        self.looks = 0
        self.takes_breaks = True

    def _note(self, what: str) -> None:
        self.log.append((what, round(trio.current_time(), 3)))

    async def send_break(self, seconds: float) -> None:
        await self.begin_break()
        await trio.sleep(seconds)
        self.end_break()

    async def begin_break(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.takes_breaks:
            raise UartError("no break was sent, because the line does not take what was written before")
        self._note("break")

    def end_break(self) -> None:
        self._note("no break")

    def modem_lines(self) -> ModemLines:
        self.looks += 1
        return self.lines

    def counters(self) -> Counters | None:
        return self.counted

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        self._note(f"dtr {dtr} rts {rts}")
        now = self.lines
        self.lines = replace(now, dtr=now.dtr if dtr is None else dtr, rts=now.rts if rts is None else rts)

    async def purge(self) -> int:
        await trio.lowlevel.checkpoint()
        self._note("purge")
        return 0


@contextlib.asynccontextmanager
async def port() -> AsyncIterator[tuple[Modem, Router]]:
    tty, bus = Modem(), Bus("P0")
    controls = Controls(tty.as_uart)
    turns = Arbiter(tty.as_uart, bus, controls=controls)
    bus.connect(turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        nursery.start_soon(controls.run)
        nursery.start_soon(look_beside, tty.as_uart, bus, trio.CancelScope())
        yield tty, Router({"P0": bus})
        nursery.cancel_scope.cancel()


def session(router: Router, name: str = "a", rights: Right = ALL, write: Right = Right.TCP) -> Session:
    return router.grant("P0", rights, name).open(write)


RESET = (SetLines(dtr=False, rts=True), Pause(0.1), SetLines(dtr=True, rts=False), Pause(0.05), SetLines(dtr=False))


async def test_a_reset_is_one_request_that_meets_no_other_writer(autojump_clock: MockClock) -> None:
    async with port() as (tty, router):
        mine, other = session(router), session(router, "b")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.control, *RESET)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(other.write, b"x")
            await trio.sleep(0.14)
            assert tty.taken == b""
        assert tty.taken == b"x"
    steps = [(what, round(when - began, 3)) for what, when in tty.log]
    assert steps == [("dtr False rts True", 0), ("dtr True rts False", 0.1), ("dtr False rts None", 0.15)]


async def test_a_control_neither_overtakes_its_senders_bytes_nor_is_overtaken(autojump_clock: MockClock) -> None:
    async with port() as (tty, router):
        mine = session(router)
        await mine.write(b"before")
        tty.log.append((f"{tty.taken!r}", 0))
        await mine.control(Break(0.25))
        await mine.write(b"after")
    assert [what for what, _ in tty.log] == ["b'before'", "break", "no break"]
    assert tty.log[2][1] - tty.log[1][1] == pytest.approx(0.25)


async def test_a_break_that_is_held_ends_by_request_by_time_and_with_its_session(autojump_clock: MockClock) -> None:
    async with port() as (tty, router):
        mine = session(router)
        began = trio.current_time()
        await mine.control(HoldBreak(on=True))
        await trio.sleep(0.3)
        await mine.control(HoldBreak(on=False))
        await mine.control(HoldBreak(on=True))
        await trio.sleep(9)
        await mine.control(HoldBreak(on=True))
        mine.close()
        await trio.sleep(9)
    ends = [round(when - began, 3) for what, when in tty.log if what == "no break"]
    assert ends == [0.3, 5.3, 9.3]


@pytest.mark.parametrize(
    "steps", [(Break(5.01),), (Break(0),), (Pause(1), Pause(1.1)), (Pause(-1),)], ids=["long", "none", "sum", "less"]
)
async def test_a_request_that_lasts_too_long_is_refused(steps: Sequence[Step]) -> None:
    with pytest.raises(ValueError, match="last"):
        checked(steps)


async def test_each_right_is_asked_for_and_a_revoked_session_moves_nothing(autojump_clock: MockClock) -> None:
    async with port() as (tty, router):
        only_lines = session(router, rights=Right.READ | Right.TCP | Right.LINES)
        with pytest.raises(Forbidden, match="CONFIGURE"):
            await only_lines.control(Configure((("BaudRate", "300"),)))
        neither = session(router, rights=Right.READ | Right.TCP)
        with pytest.raises(Forbidden, match="LINES"):
            await neither.control(SetLines(dtr=True))
        gone = session(router)
        async with trio.open_nursery() as nursery:

            async def reset() -> None:
                with contextlib.suppress(Revoked):
                    await gone.control(*RESET)

            nursery.start_soon(reset)
            await trio.sleep(0.05)
            gone.end("somebody said so")
    assert [what for what, _ in tty.log] == ["dtr False rts True"]


async def test_the_driver_is_purged_only_for_a_client_that_is_alone(autojump_clock: MockClock) -> None:
    async with port() as (tty, router):
        mine = session(router)
        await mine.control(Purge())
        other = session(router, "b")
        await mine.control(Purge())
        session(router, "viewer", Right.READ, Right(0))
        other.close()
        await mine.control(Purge())
    assert [what for what, _ in tty.log] == ["purge", "purge"]


async def test_a_purge_that_is_left_out_waits_for_no_turn(autojump_clock: MockClock) -> None:
    async with port() as (_, router):
        mine, other = session(router), session(router, "b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.control, Pause(2))
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await mine.control(Purge())
            assert trio.current_time() == began


async def test_who_moved_the_lines_last_is_told_to_all(autojump_clock: MockClock) -> None:
    async with port() as (_, router):
        first, second = session(router, "first"), session(router, "second")
        await first.control(SetLines(dtr=True))
        await second.control(SetLines(dtr=False))
        assert (first.state.value.controls, first.state.value.controlled_by) == (2, "second")


# Settings that a session holds ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def line(path: str, hardware: SerialHardware | None = None) -> AsyncIterator[tuple[SerialDevice, Bus, Router]]:
    bus = Bus("P0")
    device = SerialDevice(bus, 1, SerialConfig(path, hardware or SerialHardware()), SerialPort())
    async with trio.open_nursery() as nursery:
        unit = Unit("P0 Ser1", lambda: None)
        nursery.start_soon(device.run, unit)
        await bus.state.wait_for(lambda state: state.down is None)
        yield device, bus, Router({"P0": bus})
        unit.scope.cancel()


def rate(bus: Bus) -> object:
    assert bus.state.value.in_force is not None
    return bus.state.value.in_force["BaudRate"]


def tree(**line: object) -> Settings:
    return Settings(serial=Serial(ports=(replace(SerialPort(), **line),)))  # type: ignore[arg-type]


@pytest.fixture
def path() -> Iterator[str]:
    ends = os.openpty()
    yield os.ttyname(ends[1])
    for end in ends:
        os.close(end)


async def test_a_session_holds_settings_until_it_ends_and_then_they_are_put_back(path: str) -> None:
    with trio.fail_after(5):
        async with line(path) as (device, bus, router):
            mine = session(router, "mine")
            await mine.control(Configure((("BaudRate", "19200"), ("StopBits", "2"))))
            assert rate(bus) == 19200
            assert device.status()["settings_held"] == {
                "holder": "mine",
                "values": {"BaudRate": "19200", "StopBits": "2"},
            }
            mine.close()
            await bus.state.wait_for(lambda state: (state.in_force or {})["BaudRate"] == 9600)
            assert device.status()["settings_held"] == {"holder": None, "values": {}}


async def test_one_session_at_a_time_holds_settings_and_the_next_may_when_it_has_left(path: str) -> None:
    with trio.fail_after(5):
        async with line(path) as (_, bus, router):
            first, second = session(router, "first"), session(router, "second")
            await first.control(Configure((("BaudRate", "19200"),)))
            await second.control(Configure((("BaudRate", "300"),)))
            assert rate(bus) == 19200
            first.close()
            await second.control(Configure((("BaudRate", "300"),)))
            assert rate(bus) == 300


async def test_what_the_rules_refuse_is_not_taken_and_the_rest_is(path: str) -> None:
    with trio.fail_after(5):
        async with line(path, SerialHardware(rates=(1_000_000,))) as (_, bus, router):
            mine = session(router)
            await mine.control(Configure((("BaudRate", "123"), ("StopBits", "2"))))
            assert (rate(bus), (bus.state.value.in_force or {})["StopBits"]) == (9600, 2)
            await mine.control(Configure((("BaudRate", "1000000"),)))
            assert rate(bus) == 1_000_000


async def test_what_the_driver_refuses_is_not_held_and_the_rest_is(path: str) -> None:
    with trio.fail_after(5):
        async with line(path) as (device, _, router):
            mine = session(router, "mine")
            await mine.control(Configure((("StopBits", "2"),)))
            await mine.control(Configure((("BaudRate", "300"), ("Parity", "Even"), ("StopBits", "1"))))
            held = {"BaudRate": "300", "StopBits": "1"}
            assert device.status()["settings_held"] == {"holder": "mine", "values": held}, "a pty has no parity"


@pytest.mark.parametrize("how", ["another value", "the same value"])
async def test_an_admins_update_ends_the_hold_of_that_parameter_and_of_no_other(path: str, how: str) -> None:
    with trio.fail_after(5):
        async with line(path) as (device, bus, router):
            mine = session(router)
            await mine.control(Configure((("BaudRate", "19200"), ("StopBits", "2"))))
            if how == "another value":
                assert await device.adjust(tree(baud_rate=4800)) == ()
            else:
                (held, _) = device.not_in_force()
                assert (held.name, held.why) == ("Serial.Ser1.BaudRate", "a holds it at 19200")
                await device.insist({"Serial.Ser1.BaudRate"})
            assert rate(bus) == (4800 if how == "another value" else 9600)
            assert device.status()["settings_held"] == {"holder": "a", "values": {"StopBits": "2"}}


async def test_without_the_device_nothing_is_held(path: str) -> None:
    bus = Bus("P0")
    with pytest.raises(PortDown):
        await session(Router({"P0": bus})).control(Configure((("BaudRate", "300"),)))
