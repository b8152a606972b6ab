"""What the line says reaches every reader, whoever comes and goes."""

from __future__ import annotations

import pytest
import trio

from gateway.port.bus import Bus
from gateway.port.line import PortDown
from gateway.serial_line.arbiter import Arbiter
from tests.gateway.line import NarrowTty


class Ear:
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def take(self, data: bytes) -> None:
        self.heard.append(data)


async def test_every_reader_gets_the_very_same_bytes_object() -> None:
    bus, ears = Bus("P0"), [Ear() for _ in range(3)]
    for ear in ears:
        bus.attach(ear.take)
    said = bytes(range(200))
    bus.deliver(said)
    assert all(ear.heard[0] is said for ear in ears)
    assert bus.received == 200


async def test_a_reader_hears_from_when_it_came_until_it_left() -> None:
    bus, ear, other = Bus("P0"), Ear(), Ear()
    bus.attach(other.take)
    bus.deliver(b"before")
    bus.attach(ear.take)
    bus.deliver(b"meanwhile")
    bus.detach(ear.take)
    bus.detach(ear.take)
    bus.deliver(b"after")
    assert ear.heard == [b"meanwhile"]
    assert other.heard == [b"before", b"meanwhile", b"after"]


async def test_a_reader_that_leaves_while_it_hears_keeps_nothing_from_the_others() -> None:
    bus, ear = Bus("P0"), Ear()

    def leave(_: bytes) -> None:
        bus.detach(leave)

    bus.attach(leave)
    bus.attach(ear.take)
    bus.deliver(b"a")
    bus.deliver(b"b")
    assert ear.heard == [b"a", b"b"]


async def test_when_the_line_last_spoke_is_known(autojump_clock: trio.testing.MockClock) -> None:
    bus = Bus("P0")
    await trio.sleep(5)
    bus.deliver(b"x")
    await trio.sleep(5)
    assert trio.current_time() - bus.heard_at == pytest.approx(5)


async def test_a_port_without_a_device_says_why_and_outlives_each() -> None:
    bus, ear = Bus("P0"), Ear()
    bus.attach(ear.take)
    with pytest.raises(PortDown, match="not been opened yet"):
        _ = bus.line
    turns = Arbiter(NarrowTty().as_uart)
    bus.connect(turns)
    assert bus.line is turns
    assert bus.down is None
    bus.disconnect("the cable is out")
    assert bus.down == "the cable is out"
    with pytest.raises(PortDown, match="the cable is out"):
        _ = bus.line
    bus.disconnect("the port is disabled")
    assert bus.down == "the port is disabled"
    bus.connect(Arbiter(NarrowTty().as_uart))
    bus.deliver(b"back")
    assert ear.heard == [b"back"]
