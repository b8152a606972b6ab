from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.tasks.reconcile import Unit, Units

EVENTS = list[str]


def order(spec: str) -> int:
    return ("service", "listen").index(spec.split()[0])


async def grow(events: EVENTS, spec: str, unit: Unit) -> None:
    events.append(f"+{spec}")
    unit.began()
    unit.up()
    try:
        with unit.scope:
            await trio.sleep_forever()
    finally:
        events.append(f"-{spec}")


async def test_only_what_differs_starts_and_stops_and_in_order() -> None:
    events: EVENTS = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            units: Units[str] = Units(nursery, lambda spec, unit: grow(events, spec, unit), order)
            await units.apply(frozenset({"listen 1", "service a"}))
            assert events == ["+service a", "+listen 1"]
            await units.apply(frozenset({"listen 2", "service a"}))
            assert events[2:] == ["-listen 1", "+listen 2"]
            await units.apply(frozenset())
            assert events[4:] == ["-listen 2", "-service a"]


async def test_what_stops_has_ended_before_what_is_new_starts() -> None:
    events: EVENTS = []

    async def tidy(spec: str, unit: Unit) -> None:
        await grow(events, spec, unit)
        await trio.lowlevel.checkpoint()
        events.append(f"tidied {spec}")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            units: Units[str] = Units(nursery, tidy, order)
            await units.apply(frozenset({"listen 1"}))
            await units.apply(frozenset({"listen 2"}))
            assert events == ["+listen 1", "-listen 1", "tidied listen 1", "+listen 2"]
            await units.apply(frozenset())


async def test_settled_waits_for_each_to_be_up_or_known_not_to_be() -> None:
    reports: dict[str, Unit] = {}

    async def wait(spec: str, unit: Unit) -> None:
        reports[spec] = unit
        unit.began()
        with unit.scope:
            await trio.sleep_forever()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            units: Units[str] = Units(nursery, wait, order)
            await units.apply(frozenset({"listen 1", "listen 2"}))
            done = trio.Event()

            async def settle() -> None:
                await units.settled()
                done.set()

            nursery.start_soon(settle)
            reports["listen 1"].up()
            await trio.testing.wait_all_tasks_blocked()
            assert not done.is_set()
            reports["listen 2"].refused("taken")
            await done.wait()
            assert {spec: (unit.state, unit.refusal) for spec, unit in units} == {
                "listen 1": ("up", None),
                "listen 2": ("taken", "taken"),
            }
            await units.apply(frozenset())


async def test_a_state_is_told_once_however_often_it_is_met(caplog: pytest.LogCaptureFixture) -> None:
    unit = Unit("P0 Ser1", lambda: None)
    for _ in range(3):
        unit.failing("there is no such device")
    assert caplog.text.count("no such device") == 1
    assert unit.refusal is None


async def test_a_unit_is_up_once_it_says_so_and_not_before() -> None:
    unit = Unit("P0 Ser1", lambda: None)
    unit.failing("there is no such device")
    assert unit.settled.is_set()
    unit.refused("taken")
    assert not unit.is_up.is_set()
    unit.up()
    assert unit.is_up.is_set()
    assert (unit.state, unit.refusal) == ("up", None)


async def test_nobody_waits_for_ever_for_a_unit_that_a_bug_ended() -> None:
    async def bug(_: str, unit: Unit) -> None:
        unit.began()
        await trio.lowlevel.checkpoint()
        raise KeyError("bug")

    done = trio.Event()

    async def settle(units: Units[str]) -> None:
        await units.settled()
        await units.apply(frozenset())
        done.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as waiting:
            with pytest.RaisesGroup(KeyError):
                async with trio.open_nursery() as nursery:
                    units: Units[str] = Units(nursery, bug, order)
                    await units.apply(frozenset({"listen 1"}))
                    waiting.start_soon(settle, units)
            await done.wait()


async def test_a_bug_in_a_leaf_ends_the_nursery() -> None:
    async def bug(_: str, unit: Unit) -> None:
        unit.began()
        raise KeyError("bug")

    with pytest.RaisesGroup(KeyError):
        async with trio.open_nursery() as nursery:
            units: Units[str] = Units(nursery, bug, order)
            await units.apply(frozenset({"listen 1"}))
