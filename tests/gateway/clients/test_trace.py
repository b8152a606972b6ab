"""A trace shows what passes at a port in its order, keeps nobody waiting, and says what it does not show."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.clients.trace import Piece, Trace, Way
from gateway.port.rights import Right
from gateway.port.router import Forbidden, Router, Session
from protocol.link.reasons import Reason
from tests.gateway.line import ALL, NarrowTty, narrow_port

if TYPE_CHECKING:
    from gateway.port.bus import Bus


def watching(bus: Bus, rights: Right = Right.READ | Right.WATCH) -> Session:
    return Router({"P0": bus}).grant("P0", rights, "trace").open(Right(0))


def shown(pieces: list[Piece]) -> list[tuple[Way, str, bytes]]:
    return [(piece.way, piece.text, piece.data) for piece in pieces]


async def test_it_shows_who_wrote_what_and_what_the_line_said_in_its_order_and_with_the_time() -> None:
    bus, turns = narrow_port(NarrowTty(99))
    trace = Trace(watching(bus))
    writer = Router({"P0": bus}).grant("P0", ALL, "192.0.2.7:40000").open(Right.TCP)
    before = time.time_ns() // 1000
    await writer.write(b"\x81\x01")
    turns.heard(b"\x90")
    bus.miss(7, Reason.OVERFLOW)
    bus.miss(0, Reason.RESTARTED)
    pieces = await trace.take()
    assert shown(pieces) == [
        (Way.TO_LINE, "192.0.2.7:40000", b"\x81\x01"),
        (Way.FROM_LINE, "", b"\x90"),
        (Way.NOTE, "7 bytes of the line are missing: overflow", b""),
        (Way.NOTE, "an unknown number of bytes of the line are missing: restarted", b""),
    ]
    times = [piece.microseconds for piece in pieces]
    assert [before, *times] == sorted([before, *times])
    assert times[-1] <= time.time_ns() // 1000
    assert (trace.size, trace.sent) == (0, 3)


async def test_what_there_is_no_room_for_is_counted_in_its_place_and_nobody_waits() -> None:
    bus, _ = narrow_port(NarrowTty(999))
    trace = Trace(watching(bus), limit=200)
    for data in (b"first", b"second", b"x" * 100, b"third"):
        bus.deliver(data)
    assert trace.size <= 200
    assert shown(await trace.take())[:2] == [(Way.FROM_LINE, "", b"first"), (Way.FROM_LINE, "", b"second")]
    bus.deliver(b"y" * 400)
    bus.deliver(b"z")  # nothing is kept behind what is hidden, though there is room
    assert shown(await trace.take()) == [(Way.NOTE, "401 bytes not shown", b"")]
    bus.deliver(b"after")
    trace.hide(3)
    assert shown(await trace.take()) == [(Way.FROM_LINE, "", b"after"), (Way.NOTE, "3 bytes not shown", b"")]


async def test_the_mark_stands_behind_what_was_kept() -> None:
    bus, _ = narrow_port(NarrowTty(999))
    trace = Trace(watching(bus), limit=200)
    for data in (b"first", b"x" * 200, b"third"):
        bus.deliver(data)
    assert shown(await trace.take()) == [(Way.FROM_LINE, "", b"first"), (Way.NOTE, "205 bytes not shown", b"")]


async def test_it_tells_how_the_port_is_and_how_that_changes_until_it_is_ended() -> None:
    bus, _ = narrow_port(NarrowTty(99))
    session = watching(bus)
    trace = Trace(session)
    notes: list[str] = []

    async def show(pieces: list[Piece]) -> None:
        notes.extend(piece.text for piece in pieces)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trace.run, show)
            await trio.testing.wait_all_tasks_blocked()
            bus.adjusted(9600, "RS232 9600 8N1")
            await trio.testing.wait_all_tasks_blocked()
            bus.broke(2)
            await trio.testing.wait_all_tasks_blocked()
            bus.disconnect("the cable is out")
            await trio.testing.wait_all_tasks_blocked()
            session.end("somebody kicked it")
    assert notes == [
        "the port is up",
        "the line is set to RS232 9600 8N1",
        "2 breaks came from the line",
        "the port is down: the cable is out",
    ]
    assert bus.watchers == ()
    bus.deliver(b"unheard")
    assert trace.size == 0


async def test_a_trace_of_the_line_alone_needs_no_right_to_watch_writers() -> None:
    bus, _ = narrow_port(NarrowTty(99))
    with pytest.raises(Forbidden):
        Trace(watching(bus, Right.READ))
    Trace(watching(bus, Right.READ), writing=False)
    assert bus.watchers == ()
