"""The watch over port managers: who is restarted when, and what the service manager is told."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import trio

from gateway.health import Health
from gateway.port.bus import Bus, PortStatus
from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, ManagerHardware
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from trio.testing import MockClock

    from gateway.host.sdnotify import Notifier
    from gateway.manager import Manager

CATALOGUE = Catalogue(Hardware(serial=(), managers=(ManagerHardware(remote_port=0), ManagerHardware(remote_port=1))))


@dataclass
class Told:
    """A service manager that kills after 30 s of silence; ``fed`` are the times at which the watchdog was fed."""

    fed: list[float] = field(default_factory=list)
    said: list[tuple[float, str]] = field(default_factory=list)
    watchdog_seconds: float | None = 30

    def watchdog(self) -> None:
        self.fed.append(trio.current_time())

    def status(self, text: str) -> None:
        self.said.append((trio.current_time(), text))


class Port:
    """A manager that answers while ``alive``, and comes back when it is restarted, if it ``obeys``."""

    def __init__(self, name: str, *, obeys: bool = True) -> None:
        self.bus = Bus(name)
        self.alive = True
        self.restarts: list[float] = []
        self._beats = 0
        self._obeys = obeys

    @property
    def beats(self) -> int:
        self._beats += self.alive
        return self._beats

    def restart(self, _why: str) -> None:
        self.restarts.append(trio.current_time())
        self.alive = self.alive or self._obeys


@dataclass
class Watch:
    told: Told
    stop: trio.Event
    words: str = "all well"
    health: Health = field(default_factory=lambda: Health([]))

    def word(self, port: int | None = None, closed: int | None = None) -> str:
        """The health of all or one of two ports, of which one may be closed by its parameter."""
        settings = CATALOGUE.restored("").settings
        if closed is not None:
            wanted = [(f"PortManager.P{closed}.PortEnabled", "no")]
            settings = CATALOGUE.updated(settings, wanted, Role.ADMIN).settings
        return self.health.word(settings, port)


@asynccontextmanager
async def watched(*ports: Port, told: Told | None = None) -> AsyncIterator[Watch]:
    watch = Watch(told or Told(), trio.Event())
    async with trio.open_nursery() as nursery:
        watch.health = Health(cast("list[Manager]", ports))
        nursery.start_soon(watch.health.keep_watch, cast("Notifier", watch.told), lambda: watch.words, watch.stop)
        yield watch
        nursery.cancel_scope.cancel()


async def test_the_watchdog_is_fed_twice_in_its_time(autojump_clock: MockClock) -> None:
    async with watched(Port("P0")) as watch:
        await trio.sleep(60.5)
    gaps = [after - before for before, after in itertools.pairwise(watch.told.fed)]
    assert watch.told.fed[0] == 0
    assert len(gaps) >= 4
    assert max(gaps) <= 15


async def test_without_ports_the_loop_alone_is_watched(autojump_clock: MockClock) -> None:
    async with watched() as watch:
        await trio.sleep(60)
    assert len(watch.told.fed) >= 4


async def test_nobody_asks_for_life_and_none_is_told(autojump_clock: MockClock) -> None:
    async with watched(Port("P0"), told=Told(watchdog_seconds=None)) as watch:
        await trio.sleep(60)
    assert watch.told.fed == []


async def test_a_manager_that_is_silent_for_five_seconds_is_restarted_once_and_no_other(
    autojump_clock: MockClock,
) -> None:
    silent, other = Port("P0"), Port("P1")
    async with watched(silent, other) as watch:
        await trio.sleep(10.5)
        silent.alive = False
        await trio.sleep(50)
    assert len(silent.restarts) == 1
    assert 5 <= silent.restarts[0] - 10.5 <= 6
    assert other.restarts == []
    assert watch.told.fed[-1] > 40


async def test_the_only_manager_silent_stops_the_food_until_its_restart_helped(autojump_clock: MockClock) -> None:
    silent = Port("P0")
    async with watched(silent) as watch:
        await trio.sleep(10.5)
        silent.alive = False
        await trio.sleep(30)
    assert len(silent.restarts) == 1
    assert watch.told.fed[-1] > 20


async def test_a_manager_that_cannot_be_ended_starves_the_watchdog(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, other = Port("P0", obeys=False), Port("P1")
    async with watched(stuck, other) as watch:
        await trio.sleep(10.5)
        stuck.alive = False
        await trio.sleep(120)
    assert len(stuck.restarts) == 1
    assert max(watch.told.fed) < 10.5 + 12
    assert caplog.text.count("port manager P0 cannot be ended; the watchdog is not fed any more") == 1


async def test_a_process_that_was_stopped_for_a_while_finds_no_manager_at_fault(mock_clock: MockClock) -> None:
    port = Port("P0")
    async with watched(port):
        for _ in range(10):
            mock_clock.jump(100)  # SIGSTOP, SIGCONT
            await trio.testing.wait_all_tasks_blocked()
    assert port.restarts == []


async def test_while_it_stops_the_watchdog_is_fed_and_nobody_is_judged(autojump_clock: MockClock) -> None:
    port = Port("P0")
    async with watched(port) as watch:
        watch.stop.set()
        port.alive = False
        await trio.sleep(60)
    assert port.restarts == []
    assert max(watch.told.fed) > 45


async def test_the_status_follows_at_most_once_a_second_and_only_when_it_changes(autojump_clock: MockClock) -> None:
    async with watched(Port("P0")) as watch:
        await trio.sleep(5.5)
        for number in range(40):
            watch.words = f"change {number // 4}"
            await trio.sleep(0.1)
        await trio.sleep(10)
    times = [time for time, _ in watch.told.said]
    assert watch.told.said[0] == (0, "all well")
    assert watch.told.said[-1][1] == "change 9"
    assert len(times) <= 7
    assert min(after - before for before, after in itertools.pairwise(times)) >= 1


async def test_one_word_is_ok_degraded_or_down_as_the_enabled_ports_are(autojump_clock: MockClock) -> None:
    ports = Port("P0"), Port("P1", obeys=False)
    async with watched(*ports) as watch:
        await trio.sleep(0.5)
        assert (watch.word(), watch.word(0), watch.word(1)) == ("degraded", "down", "down")  # not opened yet
        for port in ports:
            port.bus.state.set(PortStatus(None))
        assert (watch.word(), watch.word(0), watch.word(1)) == ("ok", "ok", "ok")
        ports[1].bus.state.set(PortStatus("it is unplugged"))
        assert (watch.word(), watch.word(0), watch.word(1)) == ("degraded", "ok", "down")
        assert (watch.word(closed=1), watch.word(1, closed=1)) == ("ok", "disabled")
        ports[1].bus.state.set(PortStatus(None))
        ports[1].alive = False
        await trio.sleep(7)
        assert (watch.word(), watch.word(0), watch.word(1)) == ("degraded", "ok", "down")
        ports[0].alive = ports[0]._obeys = False
        await trio.sleep(7)
        assert (watch.word(), watch.word(0), watch.word(1)) == ("down", "down", "down")
        ports[0].alive = True
        await trio.sleep(1)
        assert watch.word() == "degraded"


async def test_a_gateway_without_ports_is_ok(autojump_clock: MockClock) -> None:
    async with watched() as watch:
        assert watch.word() == "ok"
