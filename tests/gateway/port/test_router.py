"""Handles and sessions: what is not granted cannot be had, what is revoked is gone at once, what passes is counted."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.lowlevel
import trio.testing

from gateway.port.bus import Bus
from gateway.port.control import Break, SetLines
from gateway.port.line import LineError, PortDown
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
    service = Router({"P0": bus}).grant("P0", ALL, "service")
    return service.attenuate(Right.READ | Right.LINES | write, "client").open(write)


# Permission -------------------------------------------------------------------------------------------------


async def test_a_handle_can_be_narrowed_and_never_widened() -> None:
    service = Router({"P0": Bus("P0")}).grant("P0", Right.READ | Right.PTZ, "PTZServer")
    listener = service.attenuate(Right.READ, "listener")
    with pytest.raises(Forbidden, match=r"^listener has no right to Right\.PTZ on P0$"):
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


@pytest.mark.parametrize("how", ["it is revoked", "it leaves"])
async def test_nothing_of_the_line_is_heard_once_a_session_is_over(how: str) -> None:
    bus, ear = Bus("P0"), Ear()
    gaps: list[int] = []
    handle = Router({"P0": bus}).grant("P0", ALL, "service")
    session = handle.open(Right.TCP)
    session.listen(ear)
    session.listen_for_gaps(lambda count, _: gaps.append(count))
    bus.deliver(b"before")
    bus.miss(1, Reason.OVERFLOW)
    if how == "it leaves":
        session.close()
    else:
        handle.revoke("gone")
    bus.deliver(b"after")
    bus.miss(2, Reason.OVERFLOW)
    assert (ear.heard, gaps) == (b"before", [1])
    assert session.reader is ear  # the status asks what it has heard


async def test_who_is_too_slow_is_ended_and_told_of_at_the_port_once() -> None:
    bus = Bus("P0")
    session = opened(bus)
    session.cut("it left 9 bytes unread")
    session.cut("it left 10 bytes unread")
    assert (session.ended, session.scope.cancel_called) == ("it left 9 bytes unread", True)
    assert (bus.state.value.cuts, bus.state.value.last_cut) == (1, "client: it left 9 bytes unread")


async def test_who_has_ended_is_not_cut_as_well() -> None:
    bus = Bus("P0")
    session = opened(bus)
    session.end("idle")
    session.cut("it left 9 bytes unread")
    assert (session.ended, bus.state.value.cuts) == ("idle", 0)


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
            await line.unplug()
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
    assert (session.counters.written, session.counters.dropped) == (7 * 96, 5000 - 7 * 96)


async def test_a_turn_is_counted_as_any_other_write() -> None:
    bus, _ = narrow_port(NarrowTty(100))
    session = opened(bus, Right.CGI)
    async with session.turn(b"request", None) as turn:
        assert (session.counters.received, session.counters.written, session.counters.dropped) == (7, 0, 0)
        await turn.write(lambda: None)
    assert (session.counters.received, session.counters.written, session.counters.dropped) == (7, 7, 0)


@pytest.mark.parametrize("leaves", ["before its turn", "in its turn", "in the middle", "unwritten"])
async def test_a_message_whose_turn_comes_to_nothing_is_dropped_at_once(
    leaves: str, autojump_clock: trio.testing.MockClock
) -> None:
    tty = NarrowTty(2 if leaves == "in the middle" else 0)
    bus, turns = narrow_port(tty)
    session, other = opened(bus, Right.CGI), opened(bus)

    async def converse() -> None:
        async with session.turn(b"12345", None) as turn:
            if leaves != "unwritten":
                await turn.write(lambda: None)

    async with contextlib.AsyncExitStack() as before, trio.open_nursery() as client:
        if leaves == "before its turn":
            await before.enter_async_context(other.turn(b"", None))
        client.start_soon(converse)
        await blocked()
        client.cancel_scope.cancel()
    # What the line has begun is its to finish: that may still be written.
    dropped = 0 if leaves == "in the middle" else 5
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


async def test_a_session_says_whose_it_is_where_since_when_and_in_which_class_it_writes() -> None:
    bus = Bus("P0")
    session = opened(bus, Right.PTZ)
    assert (session.holder, session.port, session.traffic, session.writes) == ("client", "P0", Right.PTZ, True)
    assert session.events is bus.events
    assert session.since > 1.6e9
    listener = opened(bus, Right(0))
    assert (listener.traffic, listener.writes) == (Right(0), False)


async def test_a_session_that_has_written_nothing_has_nothing_on_its_way() -> None:
    session = opened(Bus("P0"))
    assert session.on_its_way == 0
    with pytest.raises(PortDown):
        await session.write(b"lost")
    assert session.on_its_way == 0


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
async def test_a_session_that_cannot_be_told_an_outcome_ends_and_the_line_goes_on(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
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
    session.lost(1, Reason.INCOMPLETE)  # it is told nothing that comes later
    assert caplog.text.count("it cannot be told the outcome of its bytes") == 1
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


@pytest.mark.parametrize("by", ["write", "turn"])
async def test_a_message_is_as_old_as_its_sender_says_and_may_be_as_old_as_its_class(
    by: str, autojump_clock: trio.testing.MockClock
) -> None:
    tty = NarrowTty(100)
    bus, _ = narrow_port(tty)
    session = opened(bus, Right.PTZ)

    async def send(data: bytes, accepted: float | None) -> None:
        if by == "write":
            await session.write(data, accepted)
        else:
            async with session.turn(data, None, accepted) as turn:
                await turn.write(lambda: None)

    await trio.sleep(10)
    with pytest.raises(PortDown, match="busy for more than 2 s") as refused:
        await send(b"late", trio.current_time() - 2.001)
    assert refused.value.reason is Reason.TOO_OLD
    await send(b"in time", trio.current_time() - 2)
    await send(b", new", None)
    assert tty.taken == b"in time, new"


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


# Beside the data --------------------------------------------------------------------------------------------


class Modem(NarrowTty):
    """A tty with modem lines; ``set`` notes what was asked of it."""

    def __init__(self) -> None:
        super().__init__(100)
        self.asked: list[object] = []
        self.refuses = False

    async def send_break(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise LineError("no breaks here")
        self.asked.append(seconds)

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        self.asked.append((dtr, rts))


@pytest.mark.parametrize("who", ["may only read", "is revoked"])
async def test_who_may_not_write_moves_no_modem_line_and_sends_no_break(who: str) -> None:
    tty = Modem()
    bus, _ = narrow_port(tty)
    session = opened(bus, Right.TCP if who == "is revoked" else Right(0))
    if who == "is revoked":
        session.end("idle")
    with pytest.raises(Forbidden):
        await session.control(SetLines(True, None))
    with pytest.raises(Forbidden):
        await session.control(Break(0.1))
    assert tty.asked == []


async def test_who_may_write_moves_the_modem_lines_and_sends_breaks_and_the_line_is_free_after_each() -> None:
    tty = Modem()
    bus, _ = narrow_port(tty)
    session, other = opened(bus), opened(bus)
    await session.control(SetLines(True, None))
    with trio.fail_after(5):
        for tty.refuses in (False, True):
            with pytest.raises(LineError) if tty.refuses else contextlib.nullcontext():
                await session.control(Break(0.1))
            await other.write(b"next")
    assert tty.asked == [(True, None), 0.1]
    assert tty.taken == b"nextnext"


# Watching ---------------------------------------------------------------------------------------------------


async def test_a_watcher_is_told_what_the_tty_took_and_of_whom_until_it_leaves() -> None:
    tty = NarrowTty(3)
    bus, _ = narrow_port(tty)
    router = Router({"P0": bus})
    watcher = router.grant("P0", Right.READ | Right.WATCH, "a watcher").open(Right(0))
    told: list[tuple[bytes, str]] = []
    watcher.listen_for_writing(lambda data, holder: told.append((data, holder)))
    writer = opened(bus)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, b"abcdef")
        await blocked()
        assert told == [(b"abc", "client")]
        tty.make_room(10)
    assert told == [(b"abc", "client"), (b"def", "client")]
    watcher.close()
    await writer.write(b"x")
    assert len(told) == 2


async def test_who_was_not_granted_to_watch_hears_nobody_write() -> None:
    bus, _ = narrow_port(NarrowTty(9))
    session = opened(bus)
    with pytest.raises(Forbidden, match=r"^client has no right to Right\.WATCH on P0$"):
        session.listen_for_writing(lambda _data, _holder: None)
    assert bus.watchers == ()


async def test_a_watcher_that_fails_is_detached_and_the_writer_and_the_others_go_on() -> None:
    tty = NarrowTty(9)
    bus, _ = narrow_port(tty)
    grant = Router({"P0": bus}).grant
    failing, other = (grant("P0", Right.READ | Right.WATCH, name).open(Right(0)) for name in ("failing", "other"))
    told: list[bytes] = []

    def fail(_data: bytes, _holder: str) -> None:
        raise ZeroDivisionError

    failing.listen_for_writing(fail)
    other.listen_for_writing(lambda data, _: told.append(data))
    await opened(bus).write(b"abc")
    assert tty.taken == b"abc"
    assert told == [b"abc"]
    assert failing.ended == "a bug ended it"
    assert len(bus.watchers) == 1
