"""What the line said and nobody took: bounded, in order, and whole for whoever waits."""

from __future__ import annotations

import math

import trio
import trio.testing

from gateway.port.receive_buffer import ReceiveBuffer


def test_the_newest_4096_bytes_are_kept() -> None:
    buffer = ReceiveBuffer()
    buffer.deliver(b"a" * 4000)
    buffer.deliver(b"b" * 200)
    assert buffer.size == 4096
    assert buffer.take(10_000, None) == b"a" * 3896 + b"b" * 200
    assert buffer.size == 0


def test_no_more_is_taken_than_asked_for_and_nothing_behind_the_end() -> None:
    buffer = ReceiveBuffer()
    buffer.deliver(b"one\rtwo\rthree")
    assert buffer.has(b"two")
    assert buffer.take(100, b"\r") == b"one\r"
    assert buffer.take(2, b"\r") == b"tw"
    assert buffer.take(100, b"#") == b"o\rthree"
    assert not buffer.has(b"o")


def test_clearing_empties_it() -> None:
    buffer = ReceiveBuffer()
    buffer.deliver(b"old")
    buffer.clear()
    assert buffer.size == 0


async def test_a_wait_ends_with_the_length_or_the_end_whichever_comes_first() -> None:
    with trio.fail_after(5):
        for most, until, pieces in ((3, None, [b"a", b"bc"]), (math.inf, b"\r", [b"abc", b"\r"]), (9, b"c", [b"abc"])):
            buffer = ReceiveBuffer()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(buffer.wait_for, most, until)
                await trio.testing.wait_all_tasks_blocked()
                for piece in pieces:
                    assert nursery.child_tasks
                    buffer.deliver(piece)


async def test_nothing_that_a_waiting_read_asked_for_is_left_out() -> None:
    with trio.fail_after(5):
        buffer = ReceiveBuffer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buffer.wait_for, 10_000, None)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(10):
                buffer.deliver(bytes(1000))
        assert len(buffer.take(10_000, None)) == 10_000
        buffer.deliver(bytes(5000))
        assert buffer.size == 4096


async def test_a_read_without_a_length_keeps_no_more_than_usual() -> None:
    buffer = ReceiveBuffer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.wait_for, math.inf, b"\r")
        await trio.testing.wait_all_tasks_blocked()
        buffer.deliver(bytes(5000))
        assert buffer.size == 4096
        buffer.deliver(b"\r")
