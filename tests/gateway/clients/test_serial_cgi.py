"""serial.cgi's requests on a real line, one at a time and against each other."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.clients.serial_cgi import SerialCgi
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.port.router import Router
from protocol.http.serial_cgi import CgiError, SerialRequest
from tests.gateway.line import NarrowTty, narrow_port, serial_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.port.bus import Bus
    from gateway.port.router import Handle
    from tests.gateway.line import Line


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


def grant(bus: Bus) -> Handle:
    return Router({"P0": bus}).grant("P0", Right.READ | Right.CGI, "SerialCGI")


@asynccontextmanager
async def serving(bus: Bus) -> AsyncIterator[tuple[SerialCgi, Handle]]:
    service = grant(bus)
    server = SerialCgi(service)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await blocked()
        yield server, service
        nursery.cancel_scope.cancel()
    assert service.children == ()


async def said(line: Line, data: bytes) -> None:
    """Let the line say ``data``, and wait until it was heard."""
    before = line.bus.received
    line.say(data)
    while line.bus.received < before + len(data):
        await blocked()


async def ask(server: SerialCgi, request: SerialRequest) -> bytes | None:
    received = await server.perform(request, "192.0.2.7")
    return None if received is None else received.data


# One request ------------------------------------------------------------------------------------------------


async def test_what_came_before_is_read_and_taken_out() -> None:
    async with serial_line() as line, serving(line.bus) as (server, _):
        with trio.fail_after(5):
            await said(line, b"abcdef")
            assert await ask(server, SerialRequest(read=4)) == b"abcd"
            assert await ask(server, SerialRequest(read=9, timeout=0)) == b"ef"
            assert await ask(server, SerialRequest(read=9, timeout=0)) == b""
            assert (server.size, server.sent) == (0, 6)


async def test_a_write_is_on_the_line_and_answers_nothing() -> None:
    async with serial_line() as line, serving(line.bus) as (server, _):
        with trio.fail_after(5):
            assert await ask(server, SerialRequest(output=b"\x81\x01\xff")) is None
            assert await line.hear(3) == b"\x81\x01\xff"


async def test_a_write_forgets_what_came_before_and_a_later_read_gets_the_reply() -> None:
    async with serial_line() as line, serving(line.bus) as (server, _):
        with trio.fail_after(5):
            await said(line, b"stale")
            await ask(server, SerialRequest(output=b"?"))
            await said(line, b"reply")
            assert await ask(server, SerialRequest(read=5)) == b"reply"


async def test_write_then_read_answers_with_the_reply_and_leaves_the_rest_for_the_next_read() -> None:
    async with serial_line() as line, serving(line.bus) as (server, _):
        answers: list[bytes | None] = []

        async def exchange() -> None:
            answers.append(await ask(server, SerialRequest(output=b"?", read=3, timeout=9)))

        with trio.fail_after(5):
            await said(line, b"stale")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange)
                assert await line.hear(1) == b"?"
                line.say(b"abcde")
            assert answers == [b"abc"]
            assert await ask(server, SerialRequest(read=9, timeout=0)) == b"de"


async def test_a_read_ends_at_its_delimiter_or_its_length_whichever_comes_first() -> None:
    async with serial_line() as line, serving(line.bus) as (server, _):
        with trio.fail_after(5):
            await said(line, b"one\r\ntwo\r\nthree")
            assert await ask(server, SerialRequest(read=100, until=b"\r\n")) == b"one\r\n"
            assert await ask(server, SerialRequest(read=2, until=b"\r\n")) == b"tw"
            assert await ask(server, SerialRequest(read=100, until=b"\r\n")) == b"o\r\n"
            assert await ask(server, SerialRequest(read=100, until=b"\r\n", timeout=0)) == b"three"


async def test_a_flush_forgets_what_came_before() -> None:
    async with serial_line() as line, serving(line.bus) as (server, _):
        with trio.fail_after(5):
            await said(line, b"stale")
            assert await ask(server, SerialRequest(flush=True)) is None
            assert await ask(server, SerialRequest(read=9, timeout=0)) == b""


async def test_a_read_whose_time_is_over_answers_with_what_there_is(autojump_clock: trio.testing.MockClock) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with serving(bus) as (server, _):
        bus.deliver(b"ab")
        start = trio.current_time()
        assert await ask(server, SerialRequest(read=3, timeout=2.5)) == b"ab"
        assert trio.current_time() - start == pytest.approx(2.5)


# The buffer -------------------------------------------------------------------------------------------------


async def test_the_newest_4096_bytes_are_kept() -> None:
    buffer = ReceiveBuffer()
    buffer.deliver(b"old" + bytes(4000))
    buffer.deliver(b"new" * 100)
    assert buffer.size == 4096
    assert buffer.take(5000, None).endswith(b"\0" + b"new" * 100)


@pytest.mark.parametrize("most", [10, 10_000])
async def test_the_first_bytes_that_a_read_waits_for_are_not_pushed_out_by_a_burst(most: int) -> None:
    bus, _ = narrow_port(NarrowTty())
    stream = bytes(range(250)) * 60
    answers: list[bytes | None] = []
    async with serving(bus) as (server, _):

        async def read() -> None:
            answers.append(await ask(server, SerialRequest(read=most, timeout=9)))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await blocked()
                bus.deliver(stream[: most - 1])
                bus.deliver(stream[most - 1 : most + 4095])
    assert answers == [stream[:most]]


async def test_two_reads_at_once_both_wake_for_what_they_wait_for() -> None:
    bus, _ = narrow_port(NarrowTty())
    answers: list[bytes | None] = []
    async with serving(bus) as (server, _):

        async def read() -> None:
            answers.append(await ask(server, SerialRequest(read=1, timeout=9)))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(read)
                await blocked()
                bus.deliver(b"ab")
    assert sorted(answers, key=str) == [b"a", b"b"]


# Against each other -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rival",
    [SerialRequest(read=100, timeout=0), SerialRequest(flush=True), SerialRequest(read=1, timeout=9)],
    ids=["a read that is over", "a flush", "a read that waits"],
)
async def test_nobody_takes_the_reply_to_anothers_request(rival: SerialRequest) -> None:
    bus, _ = narrow_port(NarrowTty(100))
    answers: list[bytes | None] = []
    async with serving(bus) as (server, _):

        async def exchange() -> None:
            answers.append(await ask(server, SerialRequest(output=b"?", read=5, timeout=9)))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as exchanging:
                    exchanging.start_soon(exchange)
                    await blocked()
                    bus.deliver(b"re")
                    nursery.start_soon(ask, server, rival)
                    await blocked()
                    bus.deliver(b"ply!")
                bus.deliver(b"more")
    assert answers == [b"reply"]


async def test_a_write_waits_for_the_end_of_anothers_turn_and_spoils_nothing() -> None:
    tty = NarrowTty(100)
    bus, _ = narrow_port(tty)
    answers: list[bytes | None] = []
    async with serving(bus) as (server, _):

        async def exchange() -> None:
            answers.append(await ask(server, SerialRequest(output=b"?", read=5, timeout=9)))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange)
                await blocked()
                bus.deliver(b"re")
                nursery.start_soon(ask, server, SerialRequest(output=b"next"))
                await blocked()
                assert tty.taken == b"?"
                bus.deliver(b"ply")
    assert answers == [b"reply"]
    assert tty.taken == b"?next"


async def test_a_caller_that_leaves_frees_the_line_at_once_and_what_it_did_not_hear_is_kept() -> None:
    tty = NarrowTty(100)
    bus, turns = narrow_port(tty)
    async with serving(bus) as (server, _):
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, server, SerialRequest(output=b"?", read=50, timeout=9))
                await blocked()
                bus.deliver(b"half")
                nursery.cancel_scope.cancel()
            await turns.idle()
            assert await ask(server, SerialRequest(read=50, timeout=0)) == b"half"


# What goes wrong --------------------------------------------------------------------------------------------


async def test_a_port_that_is_down_is_an_error_with_its_reason() -> None:
    bus, _ = narrow_port(NarrowTty())
    bus.disconnect("the cable is out")
    async with serving(bus) as (server, _):
        for read in (None, 3):
            with pytest.raises(CgiError, match="the cable is out"):
                await ask(server, SerialRequest(output=b"x", read=read))


async def test_a_server_that_was_switched_off_is_an_error_with_its_reason() -> None:
    bus, _ = narrow_port(NarrowTty())
    service = grant(bus)
    server = SerialCgi(service)
    service.revoke("SerialCGI.Enabled is no")
    with pytest.raises(CgiError, match=r"SerialCGI\.Enabled is no"):
        await ask(server, SerialRequest(read=1))


async def test_a_read_from_a_device_that_is_away_answers_what_came_before_and_then_with_the_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with serving(bus) as (server, _):
        bus.deliver(b"last words")
        bus.disconnect("the cable is out")
        assert await ask(server, SerialRequest(read=99, timeout=1)) == b"last words"
        with pytest.raises(CgiError, match="the cable is out"):
            await ask(server, SerialRequest(read=99, timeout=1))


async def test_the_receive_buffer_hears_the_line_again_after_a_bug_ended_it() -> None:
    bus, _ = narrow_port(NarrowTty())
    with trio.fail_after(5):
        async with serving(bus) as (server, service):
            (listener,) = service.children
            assert listener.session is not None
            listener.session.end("a bug ended it")
            bus.deliver(b"nobody hears")
            await blocked()
            bus.deliver(b"heard")
            assert await ask(server, SerialRequest(read=5)) == b"heard"
            assert service.children != (listener,)
            assert len(service.children) == 1


async def test_a_read_hears_the_line_while_the_line_takes_nothing_of_anothers_write() -> None:
    bus, _ = narrow_port(NarrowTty())
    with trio.fail_after(5):
        async with serving(bus) as (server, _), trio.open_nursery() as nursery:
            nursery.start_soon(ask, server, SerialRequest(output=b"stuck"))
            await blocked()
            bus.deliver(b"alarm")
            assert await ask(server, SerialRequest(read=5)) == b"alarm"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("by", ["its handle", "its owner"])
async def test_switching_the_server_off_ends_the_request_under_way(by: str) -> None:
    bus, turns = narrow_port(NarrowTty(10))

    async def fail(server: SerialCgi) -> None:
        with pytest.raises(CgiError, match="switched off"):
            await ask(server, SerialRequest(output=b"x", read=5, timeout=9))

    with trio.fail_after(5):
        async with serving(bus) as (server, service), trio.open_nursery() as nursery:
            nursery.start_soon(fail, server)
            await blocked()
            (service if by == "its handle" else server).revoke("switched off")
        await turns.idle()


async def test_a_line_that_others_hold_is_an_error_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    tty = NarrowTty(10)
    bus, turns = narrow_port(tty)
    holder = grant(bus).open(Right.CGI)
    async with serving(bus) as (server, _):
        async with holder.turn(b"", None):
            with pytest.raises(CgiError, match="busy for more than 15 s; nothing was written"):
                await ask(server, SerialRequest(output=b"x"))
        await turns.idle()
    assert tty.taken == b""


async def test_a_line_that_takes_nothing_is_an_error_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    tty = NarrowTty(3)
    bus, turns = narrow_port(tty)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        async with serving(bus) as (server, _):
            with pytest.raises(CgiError, match="did not take all of it within 15 s"):
                await ask(server, SerialRequest(output=b"pan left", read=3))
        await turns.idle()
        assert turns.unfinished == 5
        turns.end("over")


# Counting ---------------------------------------------------------------------------------------------------


async def test_a_write_whose_caller_leaves_before_its_turn_is_dropped_and_counted_at_the_port() -> None:
    bus, turns = narrow_port(NarrowTty(10))
    async with serving(bus) as (server, _):
        turn = await turns.turn(grant(bus).open(Right.CGI), trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, server, SerialRequest(output=b"pan left", read=3))
            await blocked()
            assert bus.dropped == 0
            nursery.cancel_scope.cancel()
        assert bus.dropped == 8
        turn.close()
    assert bus.dropped == 8


async def test_what_the_line_gives_up_after_its_caller_left_is_counted_at_the_port() -> None:
    bus, turns = narrow_port(NarrowTty(3))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, serving(bus) as (server, _):
            nursery.start_soon(turns.run)
            async with trio.open_nursery() as caller:
                caller.start_soon(ask, server, SerialRequest(output=b"pan left"))
                await blocked()
                caller.cancel_scope.cancel()
            assert bus.dropped == 0  # the line has charge of the rest
            nursery.cancel_scope.cancel()
    assert bus.dropped == 5
