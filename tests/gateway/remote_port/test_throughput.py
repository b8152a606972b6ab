"""Throughput is measured, and a buffer that was empty does not raise it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.remote_port.throughput import Throughput

if TYPE_CHECKING:
    import trio.testing


async def test_the_floor_holds_until_more_was_measured(autojump_clock: trio.testing.MockClock) -> None:
    throughput = Throughput(960.0)
    assert throughput.bytes_per_second == throughput.steady == 960.0
    throughput.add(100)
    assert throughput.bytes_per_second == 960.0
    throughput.add(10_000)
    assert throughput.bytes_per_second == 40_400.0, "one that rises need not wait for the end of its span"
    assert throughput.steady == 960.0


async def test_a_burst_into_a_buffer_is_no_steady_throughput(autojump_clock: trio.testing.MockClock) -> None:
    throughput = Throughput(960.0)
    for count in (4096, 240, 240, 240):
        autojump_clock.jump(0.25)
        throughput.add(count)
        assert throughput.steady == 960.0


async def test_two_spans_in_a_row_are_and_a_slower_one_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    throughput = Throughput(960.0)
    for count, steady in ((25_000, 960.0), (50_000, 100_000.0), (50_000, 200_000.0), (1000, 4000.0)):
        autojump_clock.jump(0.25)
        throughput.add(count)
        assert throughput.steady == steady
    assert throughput.bytes_per_second == 4000.0
