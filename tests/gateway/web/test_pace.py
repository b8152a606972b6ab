"""The turns of connections, and a stream in small pieces."""

from __future__ import annotations

import pytest
import trio
from trio.testing import memory_stream_pair

from gateway.web.pace import Pace, PacedStream


async def test_turns_are_taken_one_after_the_other_in_the_order_of_coming() -> None:
    pace, order = Pace(3), []

    async def work(number: int) -> None:
        for _ in range(3):
            await pace.turn()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(work, number)
    assert sorted(order) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


async def test_a_few_connections_wait_for_no_turn() -> None:
    with trio.testing.assert_no_checkpoints():
        await Pace(2).turn()


async def test_whoever_leaves_while_it_waits_keeps_nobody_waiting() -> None:
    pace = Pace(3)
    with trio.CancelScope() as gone:
        gone.cancel()
        await pace.turn()
    assert gone.cancelled_caught
    await pace.turn()


@pytest.mark.parametrize("asked", [None, 10_000])
async def test_a_long_piece_is_received_in_short_ones(asked: int | None) -> None:
    near, far = memory_stream_pair()
    stream = PacedStream(near, Pace(3))
    await far.send_all(bytes(1000))
    assert [len(await stream.receive_some(asked)) for _ in range(2)] == [512, 488]
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"back")
    await stream.send_eof()
    assert bytes(await far.receive_some()) == b"back"
    assert await far.receive_some() == b""
    await far.aclose()
    assert await stream.receive_some(1) == b""
    await stream.aclose()
