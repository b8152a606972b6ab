from __future__ import annotations

from typing import TypeVar

import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from gateway.tasks.watch import Cell

T = TypeVar("T")


async def collect(cell: Cell[T], seen: list[T], last: T) -> None:
    """Note what one reader sees, up to and with ``last``."""
    with trio.fail_after(5):
        async for value in cell.changes():
            seen.append(value)
            if value == last:
                return


async def test_a_reader_gets_the_current_value_at_once() -> None:
    cell = Cell("first")
    async for value in cell.changes():
        assert value == "first"
        break


async def test_a_reader_gets_the_newest_value_and_not_what_came_and_went() -> None:
    cell, seen = Cell(0), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, cell, seen, 3)
        await wait_all_tasks_blocked()
        cell.set(1)
        cell.set(2)
        await wait_all_tasks_blocked()
        cell.set(3)
    assert seen == [0, 2, 3]


async def test_an_equal_value_wakes_nobody() -> None:
    cell, seen = Cell[tuple[int, ...]]((1, 2)), list[tuple[int, ...]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, cell, seen, ())
        await wait_all_tasks_blocked()
        cell.set((1, 2))
        await wait_all_tasks_blocked()
        cell.set(())
    assert seen == [(1, 2), ()]


async def test_a_value_that_came_back_before_the_reader_looked_is_no_change() -> None:
    cell, seen = Cell("a"), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, cell, seen, "end")
        await wait_all_tasks_blocked()
        cell.set("b")
        cell.set("a")
        await wait_all_tasks_blocked()
        cell.set("end")
    assert seen == ["a", "end"]


async def test_a_change_made_while_the_reader_is_busy_is_not_lost() -> None:
    cell, seen = Cell(0), list[int]()
    async for value in cell.changes():
        seen.append(value)
        if value == 2:
            break
        cell.set(value + 1)
    assert seen == [0, 1, 2]


async def test_every_reader_gets_every_last_value() -> None:
    cell, all_seen = Cell(0), [list[int]() for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for seen in all_seen:
            nursery.start_soon(collect, cell, seen, 1)
        await wait_all_tasks_blocked()
        cell.set(1)
    assert all_seen == [[0, 1]] * 5


async def test_a_reader_that_comes_late_sees_only_the_newest() -> None:
    cell, seen = Cell(0), list[int]()
    cell.set(7)
    await collect(cell, seen, 7)
    assert seen == [7]


async def test_wait_for_returns_the_value_that_satisfies() -> None:
    cell, found = Cell(0), list[int]()

    async def wait() -> None:
        with trio.fail_after(5):
            found.append(await cell.wait_for(lambda value: value > 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for value in (1, 2):
            await wait_all_tasks_blocked()
            assert not found
            cell.set(value)
    assert found == [2]


async def test_wait_for_is_a_checkpoint_even_when_there_is_nothing_to_wait_for() -> None:
    with assert_checkpoints():
        assert await Cell(1).wait_for(lambda value: value == 1) == 1


async def test_a_cancelled_reader_leaves_nothing_behind() -> None:
    cell = Cell(0)
    with trio.move_on_after(0):
        await cell.wait_for(bool)
    cell.set(1)
    assert cell.value == 1


def test_a_cell_may_be_made_and_set_outside_trio() -> None:
    cell = Cell("a")
    cell.set("b")
    assert cell.value == "b"


async def test_a_value_that_is_equal_to_the_last_wakes_nobody() -> None:
    cell, looks = Cell("same"), 0

    def look(value: str) -> bool:
        nonlocal looks
        looks += 1
        return value == "other"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cell.wait_for, look)
        await wait_all_tasks_blocked()
        cell.set("same")
        await wait_all_tasks_blocked()
        assert looks == 1
        cell.set("other")
