"""Handles and sessions: what is not granted cannot be had, what is revoked is gone at once, what passes is counted."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.lowlevel
import trio.testing

from gateway.port.bus import Bus
from gateway.port.line import PortDown
from gateway.port.rights import Right
from gateway.port.router import Forbidden, Revoked, Router, Session
from protocol.link.reasons import Reason
from tests.gateway.line import ALL, NarrowTty, narrow_port, serial_line


class Ear:
    size = 0
    sent = 0

    def __init__(self) -> None:
        self.heard = b""

    def deliver(self, data: bytes) -> None:
        self.heard += data


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


def opened(bus: Bus, write: Right = Right.TCP) -> Session:
    return Router({"P0": bus}).grant("P0", ALL, "service").attenuate(Right.READ | write, "client").open(write)


# Permission -------------------------------------------------------------------------------------------------


async def test_a_handle_can_be_narrowed_and_never_widened() -> None:
    service = Router({"P0": Bus("P0")}).grant("P0", Right.READ | Right.PTZ, "PTZServer")
    listener = service.attenuate(Right.READ, "listener")
    with pytest.raises(Forbidden, match=r"listener has no right to .*PTZ.* on P0"):
        listener.attenuate(Right.READ | Right.PTZ, "intruder")
    with pytest.raises(Forbidden):
        listener.open(Right.PTZ)
    with pytest.raises(Forbidden):
        service.attenuate(Right.PTZ, "mute").open(Right.PTZ)  # a right to write alone opens no session


async def test_revoking_reaches_everything_that_was_narrowed_from_it() -> None:
    bus = Bus("P0")
    root = Router({"P0": bus}).grant("P0", ALL, "root")
    service, other = root.attenuate(ALL, "service"), root.attenuate(ALL, "other")
    handle = service.attenuate(ALL, "handle")
    session, beside = handle.open(Right.TCP), other.open(Right.TCP)
    service.revoke("the service is closed")
    assert session.ended == "the service is closed"
    assert session.scope.cancel_called
    assert beside.ended is None
    assert root.children == (other,)
    assert tuple(root.sessions) == (beside,)
    for each in (service, handle):
        with pytest.raises(Revoked, match="the service is closed"):
            each.attenuate(Right.READ, "late")
        with pytest.raises(Revoked):
            each.open(Right.TCP)


async def test_a_handle_that_was_left_is_no_longer_held_and_no_way_around_its_service() -> None:
    service = Router({"P0": Bus("P0")}).grant("P0", ALL, "service")
    handle = service.attenuate(ALL, "client")
    session = handle.open(Right.TCP)
    assert list(service.children) == [handle]
    session.close()
    session.close()
    assert list(service.children) == []
    with pytest.raises(Revoked, match="left"):
        handle.attenuate(ALL, "child out of sight")


async def test_a_session_that_is_ended_twice_keeps_its_first_reason() -> None:
    session = opened(Bus("P0"))
    session.end("idle")
    session.end("the service is closed")
    assert session.ended == "idle"


async def test_a_handle_has_one_session_or_revoking_would_miss_one() -> None:
    handle = Router({"P0": Bus("P0")}).grant("P0", ALL, "service")
    handle.open(Right.TCP)
    with pytest.raises(AssertionError):
        handle.open(Right.TCP)


async def test_nothing_of_the_line_is_heard_once_revoke_has_returned() -> None:
    bus, ear = Bus("P0"), Ear()
    handle = Router({"P0": bus}).grant("P0", ALL, "service")
    handle.open(Right.TCP).listen(ear)
    bus.deliver(b"before")
    handle.revoke("gone")
    bus.deliver(b"after")
    assert ear.heard == b"before"


@pytest.mark.parametrize("waiting_for", ["the turn", "the tty"])
async def test_nothing_is_written_once_revoke_has_returned_even_by_who_was_woken_before(waiting_for: str) -> None:
    tty = NarrowTty(0)
    bus, turns = narrow_port(tty)
    handle = Router({"P0": bus}).grant("P0", ALL, "service")
    session = handle.open(Right.TCP)

    async def pump() -> None:
        with pytest.raises(Revoked, match="no longer welcome"):
            await session.transfer(b"evil")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            turn = await turns.turn(opened(bus), trio.current_time()) if waiting_for == "the turn" else None
            nursery.start_soon(pump)
            await blocked()
            tty.make_room(100)
            if turn is not None:
                turn.close()
            handle.revoke("no longer welcome")  # after the wake, before the pump runs
        await turns.idle()
    assert tty.taken == b""
    assert (session.counters.received, session.counters.written, session.counters.dropped) == (4, 0, 4)


# Counting ---------------------------------------------------------------------------------------------------


async def test_every_byte_of_a_client_is_on_the_line_or_dropped_or_on_its_way() -> None:
    async with serial_line() as line:
        session = line.handle.open(Right.TCP)
        with trio.fail_after(5):
            await session.write(b"PTZ")
            await session.transfer(b"TCP!")
            assert await line.hear(7) == b"PTZTCP!"
            line.unplug()
            for send in (session.write, session.transfer):
                with pytest.raises(PortDown):
                    await send(b"lost")
    assert (session.counters.received, session.counters.written, session.counters.dropped) == (15, 7, 8)


async def test_a_message_half_written_is_on_its_way_as_long_as_anybody_writes_it() -> None:
    tty = NarrowTty(3)
    bus, turns = narrow_port(tty)
    session = opened(bus)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as client:
                client.start_soon(session.write, b"pan left")
                await blocked()
                assert (session.counters.written, session.counters.dropped) == (3, 0)
                client.cancel_scope.cancel()
            await blocked()
            assert (session.counters.written, session.counters.dropped) == (3, 0)
            tty.make_room(100)
            await blocked()
            assert (session.counters.written, session.counters.dropped) == (8, 0)
            turns.end("over")


async def test_what_a_cancelled_client_had_not_begun_is_dropped() -> None:
    tty = NarrowTty(600)
    bus, turns = narrow_port(tty)
    session = opened(bus)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as client:
                client.start_soon(session.transfer, bytes(5000))
                await blocked()
                client.cancel_scope.cancel()
            tty.make_room(10_000)
            await blocked()
            turns.end("over")
    assert (session.counters.written, session.counters.dropped) == (1024, 5000 - 1024)


async def test_a_turn_is_counted_as_any_other_write() -> None:
    bus, _ = narrow_port(NarrowTty(100))
    session = opened(bus, Right.CGI)
    async with session.turn(b"request", None) as turn:
        assert (session.counters.received, session.counters.written, session.counters.dropped) == (7, 0, 0)
        await turn.write(lambda: None)
    assert (session.counters.received, session.counters.written, session.counters.dropped) == (7, 7, 0)


@pytest.mark.parametrize("leaves", ["before its turn", "in its turn", "in the tty's way", "too late", "unwritten"])
async def test_a_message_whose_turn_comes_to_nothing_is_dropped_at_once(
    leaves: str, autojump_clock: trio.testing.MockClock
) -> None:
    tty = NarrowTty(2 if leaves == "in the tty's way" else 0)
    bus, turns = narrow_port(tty)
    session, other = opened(bus, Right.CGI), opened(bus)

    async def converse() -> None:
        accepted = -100.0 if leaves == "too late" else None
        with contextlib.suppress(PortDown):
            async with session.turn(b"12345", None, accepted) as turn:
                if leaves != "unwritten":
                    await turn.write(lambda: None)

    async with contextlib.AsyncExitStack() as before, trio.open_nursery() as client:
        if leaves == "before its turn":
            await before.enter_async_context(other.turn(b"", None))
        client.start_soon(converse)
        await blocked()
        client.cancel_scope.cancel()
    # What the line has begun is its to finish: that may still be written.
    dropped = 0 if leaves == "in the tty's way" else 5
    assert (session.counters.received, session.counters.dropped) == (5, dropped)
    assert bus.dropped == dropped
    # The session may go on, and counts right.
    turns.end("out")
    with pytest.raises(PortDown):
        await session.write(b"678")
    assert bus.dropped == session.counters.dropped == dropped + 3


async def test_what_is_lost_after_its_client_has_left_is_counted_at_the_port_all_the_same() -> None:
    tty = NarrowTty(3)
    bus, turns = narrow_port(tty)
    session = opened(bus)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as client:
                client.start_soon(session.write, b"pan left")
                await blocked()
                client.cancel_scope.cancel()
            session.close()
            session.close()
            assert bus.dropped == 0
            tty.close()
            await turns.idle()
            turns.end("out")
    assert bus.dropped == session.counters.dropped == 5


async def test_a_port_counts_what_all_of_its_clients_sent_in_vain_while_they_are_connected() -> None:
    bus, _ = narrow_port(NarrowTty(100))
    one, two = opened(bus), opened(bus)
    await one.write(b"written")
    bus.disconnect("out")
    for session in (one, two, two):
        with pytest.raises(PortDown):
            await session.transfer(b"lost")
    assert bus.dropped == 12
    one.close()
    assert bus.dropped == 12


async def test_a_session_says_who_sits_where_since_when() -> None:
    session = opened(Bus("P0"))
    assert (session.holder, session.port) == ("client", "P0")
    assert session.since > 1.6e9


async def test_what_is_lost_on_its_way_is_dropped_and_told_once() -> None:
    bus, _ = narrow_port(NarrowTty(0))
    session = opened(bus)
    told: list[tuple[int, Reason | None]] = []
    session.outcome = lambda count, reason: told.append((count, reason))
    session.counters.received = 5
    session.wrote(2)
    session.lost(3, Reason.INCOMPLETE)
    assert (session.counters.written, session.counters.pending, session.counters.dropped) == (2, 0, 3)
    assert told == [(2, None), (3, Reason.INCOMPLETE)]


# Containment ------------------------------------------------------------------------------------------------


class Fault(Exception):
    """A bug of whoever uses a session."""


def fail(*_: object) -> None:
    raise Fault


class FaultyEar(Ear):
    def deliver(self, data: bytes) -> None:
        raise Fault


@pytest.mark.parametrize("what", ["bytes", "gaps"])
async def test_a_session_whose_reader_fails_is_ended_and_hears_nothing_more(what: str) -> None:
    bus, beside = Bus("P0"), Ear()
    ear = FaultyEar() if what == "bytes" else Ear()
    session, other = opened(bus), opened(bus)
    session.listen(ear)
    other.listen(beside)
    gaps: list[int] = []
    session.listen_for_gaps(fail)
    other.listen_for_gaps(lambda count, _: gaps.append(count))
    if what == "bytes":
        bus.deliver(b"x")
    else:
        bus.miss(3, Reason.OVERFLOW)
    bus.deliver(b"y")
    bus.miss(4, Reason.OVERFLOW)
    assert session.ended == "a bug ended it"
    assert session.scope.cancel_called
    assert other.ended is None
    assert beside.heard == (b"xy" if what == "bytes" else b"y")
    assert gaps == ([4] if what == "bytes" else [3, 4])
    assert ear.heard == b""


@pytest.mark.parametrize("when", ["it is written", "it is lost", "its writer has left"])
async def test_a_session_that_cannot_be_told_an_outcome_ends_and_the_line_goes_on(when: str) -> None:
    tty = NarrowTty(0 if when == "its writer has left" else 100)
    bus, turns = narrow_port(tty)
    session, other = opened(bus), opened(bus)
    session.outcome = fail
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            if when == "it is written":
                await session.write(b"whole")
            elif when == "it is lost":
                session.lost(5, Reason.INCOMPLETE)
            else:
                tty.make_room(2)
                async with trio.open_nursery() as client:
                    client.start_soon(session.write, b"whole")
                    await blocked()
                    client.cancel_scope.cancel()
                tty.make_room(100)
            await other.write(b"|next")
            turns.end("over")
    assert session.ended == "a bug ended it"
    assert other.ended is None
    assert tty.taken == (b"|next" if when == "it is lost" else b"whole|next")
    assert session.counters.written == (0 if when == "it is lost" else 5)


# Time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "limit"), [(Right.PTZ, 2), (Right.TCP, 15), (Right.CGI, 15)])
async def test_a_command_that_waited_longer_than_its_class_may_is_not_sent(
    autojump_clock: trio.testing.MockClock, right: Right, limit: int
) -> None:
    tty = NarrowTty(100)
    bus, turns = narrow_port(tty)
    turn = await turns.turn(opened(bus), trio.current_time())
    late, early = opened(bus, right), opened(bus, right)

    async def fail() -> None:
        with pytest.raises(PortDown, match=f"busy for more than {limit} s"):
            await late.write(b"late")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.sleep(1)
        nursery.start_soon(early.write, b"early")
        await trio.sleep(limit - 0.5)
        turn.close()
    assert tty.taken == b"early"
    assert late.counters.dropped == 4


async def test_a_client_is_active_when_it_speaks_when_the_line_speaks_and_when_its_bytes_move(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tty = NarrowTty(1)
    bus, _ = narrow_port(tty)
    session = opened(bus)

    def quiet() -> float:
        return round(trio.current_time() - session.active_at, 3)

    await trio.sleep(5)
    assert quiet() == 5
    bus.deliver(b"x")
    assert quiet() == 0
    await trio.sleep(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write, b"abc")
        await trio.lowlevel.checkpoint()
        await trio.sleep(7)
        assert quiet() == 7
        tty.make_room(1)  # a slow line takes its bytes: that is activity
        await trio.sleep(3)
        assert quiet() == 3
        tty.make_room(1)
    bus.disconnect("out")
    await trio.sleep(5)
    with pytest.raises(PortDown):
        await session.write(b"x")
    assert quiet() == 0
