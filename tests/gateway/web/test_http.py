"""One connection, on memory streams with a mock clock, so that every deadline is tested and none is waited for."""

from __future__ import annotations

import contextlib
import logging
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import h11
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    MockClock,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from gateway.clients.connections import Connections
from gateway.web.http import Held, HttpLimits, Respond, serve
from gateway.web.message import Handover, Request, Response, explain
from gateway.web.pace import Pace
from gateway.web.places import Places
from protocol.endpoint import Endpoint
from protocol.parameters.addresses import AddressList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PEER = Endpoint("192.0.2.7", 40000)
LIMITS = HttpLimits()
GET = b"GET /%b HTTP/1.1\r\nHost: cam\r\n\r\n"

MemoryStream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


async def echo(request: Request) -> Response:
    said = f"{request.method} {request.path} {request.query!r} {request.body!r}"
    return Response(200, said.encode())


async def never(_: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


@asynccontextmanager
async def connected(respond: Respond = echo) -> AsyncIterator[MemoryStream]:
    """A client's end; at the block's end the connection must have ended, by itself or because the client left."""
    near, far = memory_stream_pair()
    with trio.fail_after(100):  # of the mock clock: nothing lasts longer than its deadlines allow
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_and_close, near, respond)
            yield far
            await far.aclose()


async def serve_and_close(near: MemoryStream, respond: Respond) -> None:
    async with near:
        await serve(near, PEER, respond, LIMITS)


async def rest(far: MemoryStream) -> bytes:
    """All that still comes."""
    return b"".join([bytes(piece) async for piece in far])


async def answer(far: MemoryStream) -> bytes:
    """One answer, when its length is declared."""
    got = b""
    while not (head := re.match(rb"(?s)(.*?\r\n)\r\n", got)):
        got += await far.receive_some() or pytest.fail(f"closed after {got!r}")
    declared = re.search(rb"(?i)content-length: (\d+)\r\n", head[1])
    whole = head.end() + (int(declared[1]) if declared else 0)
    while len(got) < whole:
        got += await far.receive_some()
    assert len(got) == whole, "more than one answer came"
    return got


async def exchange(raw: bytes, respond: Respond = echo) -> bytes:
    """Send it all and close the sending half: all that is answered."""
    async with connected(respond) as far:
        await far.send_all(raw)
        await far.send_eof()
        return await rest(far)


def status_of(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1])


# --- what goes well ---


async def test_a_request_is_answered_and_the_connection_kept(autojump_clock: MockClock) -> None:
    async with connected() as far:
        for name in (b"one", b"two"):
            await far.send_all(GET % name)
            got = await answer(far)
            assert got.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" not in got.lower()
            assert got.endswith(b"GET /" + name + b" b'' b''")


async def test_a_request_in_single_bytes_is_the_same_request(autojump_clock: MockClock) -> None:
    async with connected() as far:
        for byte in GET % b"slow?a=1":
            await far.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        assert (await answer(far)).endswith(b"GET /slow b'a=1' b''")


async def test_pipelined_requests_are_answered_in_their_order(autojump_clock: MockClock) -> None:
    got = await exchange(b"".join(GET % b"%d" % n for n in range(200)))
    assert re.findall(rb"GET /(\d+)", got) == [b"%d" % n for n in range(200)]


async def test_pipelined_requests_survive_work_that_takes_its_time(autojump_clock: MockClock) -> None:
    async def slow(request: Request) -> Response:
        await trio.sleep(1)
        return await echo(request)

    async with connected(slow) as far:
        await far.send_all(GET % b"1" + GET % b"2")
        await wait_all_tasks_blocked()
        await far.send_all(GET % b"3")
        for name in (b"1", b"2", b"3"):
            got = b""
            while not got.endswith(b"GET /" + name + b" b'' b''"):
                got += await far.receive_some()


async def test_a_kept_connection_says_how_long_it_waits_and_a_closed_one_does_not(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(GET % b"")
        assert b"\r\nkeep-alive: timeout=15\r\n" in (await answer(far)).lower()
        await far.send_all(b"GET / HTTP/1.1\r\nHost: cam\r\nConnection: TE, Close\r\n\r\n")
        assert b"keep-alive:" not in (await rest(far)).lower()
    assert b"keep-alive:" not in (await exchange(b"GET / HTTP/1.0\r\n\r\n")).lower()
    assert b"keep-alive:" not in (await exchange(b"rubbish\r\n\r\n")).lower()


async def test_an_http_1_0_client_gets_its_answer_and_the_close(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"GET /old HTTP/1.0\r\n\r\n")
        got = await rest(far)
    assert status_of(got) == 200
    assert b"connection: close" in got.lower()
    assert got.endswith(b"GET /old b'' b''")


async def test_connection_close_is_honoured(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"GET / HTTP/1.1\r\nHost: cam\r\nConnection: close\r\n\r\n")
        assert status_of(await rest(far)) == 200


async def test_a_body_is_read_whole_by_length_and_in_chunks(autojump_clock: MockClock) -> None:
    head = b"POST /p HTTP/1.1\r\nHost: cam\r\n"
    async with connected() as far:
        await far.send_all(head + b"Content-Length: 5\r\n\r\nhello")
        assert (await answer(far)).endswith(b"b'hello'")
        await far.send_all(head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
        assert (await answer(far)).endswith(b"b'hello'")


async def test_who_asks_before_sending_a_body_is_told_to_go_on(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await answer(far)).startswith(b"HTTP/1.1 100 ")
        await far.send_all(b"hi")
        assert (await answer(far)).endswith(b"b'hi'")


async def test_an_answer_without_a_body_says_so(autojump_clock: MockClock) -> None:
    async def nothing(_: Request) -> Response:
        return Response(204)

    async with connected(nothing) as far:
        await far.send_all(GET % b"")
        got = await answer(far)
        assert status_of(got) == 204
        assert b"content-length" not in got.lower()
        assert b"\r\ncontent-type:" not in got.lower()
        await far.send_all(GET % b"")
        assert status_of(await answer(far)) == 204


async def test_an_answer_to_head_has_no_body(autojump_clock: MockClock) -> None:
    async def refuse(request: Request) -> Response:
        return explain(405, "Use GET.", ("Allow", "GET"))

    got = await exchange(b"HEAD / HTTP/1.1\r\nHost: cam\r\n\r\n", refuse)
    assert status_of(got) == 405
    assert b"allow: get\r\n" in got.lower()
    assert got.endswith(b"\r\n\r\n")


async def test_a_refusal_after_an_answered_head_has_its_body(autojump_clock: MockClock) -> None:
    got = await exchange(b"HEAD / HTTP/1.1\r\nHost: cam\r\n\r\nrubbish\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d\d\d) ", got) == [b"200", b"400"]
    assert b"illegal request line" in got


async def test_headers_are_found_by_their_lower_case_name(autojump_clock: MockClock) -> None:
    async def show(request: Request) -> Response:
        assert request.header(b"absent") is None
        return Response(200, request.header(b"x-thing") or b"")

    got = await exchange(b"GET / HTTP/1.1\r\nHost: cam\r\nX-Thing: first\r\nx-thing: second\r\n\r\n", show)
    assert got.endswith(b"\r\n\r\nfirst")


async def test_no_answer_is_kept_by_a_cache_or_taken_for_a_page(autojump_clock: MockClock) -> None:
    got = (await exchange(GET % b"")).lower()
    assert b"cache-control: no-store\r\n" in got
    assert b"x-content-type-options: nosniff\r\n" in got
    assert re.search(rb"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d gmt\r\n", got)


EMPTY_LINES = [b"\r\n", b"\n", b"\r\n\r\n"]


@pytest.mark.parametrize("empty", EMPTY_LINES)
@pytest.mark.parametrize("framing", [b"Content-Length: 2\r\n\r\nhi", b"Content-Length: 0\r\n\r\n"])
async def test_empty_lines_before_a_request_are_skipped_whole_and_byte_by_byte(
    empty: bytes, framing: bytes, autojump_clock: MockClock
) -> None:
    one = b"POST / HTTP/1.1\r\nHost: cam\r\n" + framing
    sent = empty + one + empty + one + empty
    assert re.findall(rb"HTTP/1.1 (\d\d\d) ", await exchange(sent)) == [b"200", b"200"]
    async with connected() as far:
        for byte in sent:
            await far.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        await far.send_eof()
        assert re.findall(rb"HTTP/1.1 (\d\d\d) ", await rest(far)) == [b"200", b"200"]


async def test_empty_lines_alone_do_not_keep_a_connection(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"\r\n")
        await trio.sleep(LIMITS.idle_seconds - 1)
        await far.send_all(b"\r\n")
        begun = trio.current_time()
        assert await rest(far) == b""
        assert trio.current_time() - begun < 2


# --- limits ---


async def test_a_head_within_the_limit_passes_and_one_beyond_is_refused(autojump_clock: MockClock) -> None:
    frame = len(b"GET / HTTP/1.1\r\nHost: cam\r\nX: \r\n\r\n")
    fits = b"GET / HTTP/1.1\r\nHost: cam\r\nX: %b\r\n\r\n" % (b"x" * (LIMITS.head - frame))
    assert len(fits) == LIMITS.head
    assert status_of(await exchange(fits)) == 200
    got = await exchange(fits.replace(b"X: ", b"X: yy"))
    assert status_of(got) == 431
    assert b"connection: close" in got.lower()
    assert b"longer than 16384 bytes: send fewer or shorter headers" in got


async def test_an_endless_head_is_refused_once_and_read_no_further_than_the_linger(
    autojump_clock: MockClock,
) -> None:
    async with connected() as far, trio.open_nursery() as nursery:

        async def pour() -> None:
            await far.send_all(b"GET / HTTP/1.1\r\n")
            while True:
                await far.send_all(b"X: " + b"y" * 1000 + b"\r\n")
                await trio.sleep(0.001)

        nursery.start_soon(pour)
        got = await rest(far)
        nursery.cancel_scope.cancel()
        assert status_of(got) == 431
        assert len(re.findall(rb"HTTP/1.1 \d\d\d ", got)) == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 65537\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n10001\r\n"])
async def test_a_body_beyond_the_limit_is_refused(framing: bytes, autojump_clock: MockClock) -> None:
    got = await exchange(b"POST / HTTP/1.1\r\nHost: cam\r\n" + framing + b"x" * 65537)
    assert status_of(got) == 413
    assert b"connection: close" in got.lower()
    assert b"longer than 65536 bytes" in got


async def test_a_body_of_just_the_limit_passes(autojump_clock: MockClock) -> None:
    raw = b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536
    assert status_of(await exchange(raw)) == 200


async def test_who_asks_whether_to_send_too_large_a_body_is_told_no(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 65537\r\nExpect: 100-continue\r\n\r\n")
        assert status_of(await rest(far)) == 413


# --- deadlines ---


async def test_who_connects_and_says_nothing_is_let_go(autojump_clock: MockClock) -> None:
    async with connected() as far:
        assert await rest(far) == b""
        assert trio.current_time() == pytest.approx(LIMITS.idle_seconds)


async def test_the_limits_are_those_that_the_connection_was_given(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    async with near, far:
        await serve(near, PEER, echo, HttpLimits(idle_seconds=3))
        assert 3 <= trio.current_time() < 3.1


async def test_a_connection_that_we_end_is_read_from_until_its_last_answer_can_have_arrived(
    autojump_clock: MockClock,
) -> None:
    async with connected() as far:
        await far.send_all(b"GET / HTTP/1.1\r\nHost: cam\r\nConnection: close\r\n\r\n")
        assert status_of(await rest(far)) == 200
        begun = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await far.send_all(b"more")
                await trio.sleep(0.1)
        assert LIMITS.linger_seconds <= trio.current_time() - begun < LIMITS.linger_seconds + 0.3


async def test_who_idles_between_requests_is_let_go(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(GET % b"")
        await answer(far)
        assert await rest(far) == b""
        assert trio.current_time() == pytest.approx(LIMITS.idle_seconds)


async def test_half_a_head_gets_its_deadline_and_the_reason(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"GET / HT")
        got = await rest(far)
        assert status_of(got) == 408
        assert b"request head did not arrive within 10 s" in got


async def test_dripping_bytes_does_not_stretch_the_deadline(autojump_clock: MockClock) -> None:
    async with connected() as far, trio.open_nursery() as nursery:

        async def drip() -> None:
            while True:
                await far.send_all(b"G")
                await trio.sleep(1)

        nursery.start_soon(drip)
        assert status_of(await answer(far)) == 408
        assert trio.current_time() < LIMITS.head_seconds + 2
        nursery.cancel_scope.cancel()


async def test_half_a_body_gets_its_deadline_and_the_reason(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 9\r\n\r\nhalf")
        got = await rest(far)
        assert status_of(got) == 408
        assert b"request body did not arrive within 20 s" in got


async def test_who_never_reads_its_answer_is_cut_at_the_deadline(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    near.send_stream.send_all_hook = trio.sleep_forever  # the far window is closed
    await far.send_all(GET % b"")
    with trio.fail_after(LIMITS.write_seconds + 1):
        await serve(near, PEER, echo, LIMITS)
    assert trio.current_time() == pytest.approx(LIMITS.write_seconds)


# --- bad input ---


@pytest.mark.parametrize(
    ("raw", "status", "words"),
    [
        (b"nonsense\r\n\r\n", 400, b"illegal request line"),
        (b"GET  / HTTP/1.1\r\n\r\n", 400, b"illegal request line"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"Host"),
        (b"GET / HTTP/1.1\r\nHost: cam\r\nno colon\r\n\r\n", 400, b"illegal header line"),
        (b"GET / HTTP/1.1\r\nHost: cam\r\nContent-Length: -1\r\n\r\n", 400, b"Content-Length"),
        (b"GET / HTTP/1.1\r\nHost: cam\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, b"conflicting"),
        (b"POST / HTTP/1.1\r\nHost: cam\r\nTransfer-Encoding: gzip\r\n\r\n", 501, b"chunked"),
        (b"POST / HTTP/1.1\r\nHost: cam\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"chunk header: (b'zz"),
        (
            b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            b"two lengths of one body",
        ),
        (b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 9\r\n\r\nhalf", 400, b"received 4 bytes, expected 9"),
        (b"GET / HTT", 400, b"closed"),
        (b"PRI * HTTP/2.0\r\nHost: cam\r\n\r\n", 505, b"use HTTP/1.1"),
        (b"POST / HTTP/1.0\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b"two lengths"),
        (b"CONNECT cam:23 HTTP/1.1\r\nHost: cam\r\n\r\n", 405, b"not a proxy"),
        (b"\x00\xff\xfe\x80", 400, b"illegal request line"),
    ],
)
async def test_what_is_no_request_is_told_so_and_ends_the_connection(
    raw: bytes, status: int, words: bytes, autojump_clock: MockClock
) -> None:
    got = await exchange(raw + GET % b"smuggled" if raw.endswith(b"\n") else raw)
    assert status_of(got) == status
    assert words in got
    assert b"connection: close" in got.lower()
    assert len(re.findall(rb"HTTP/1.1 \d\d\d ", got)) == 1
    assert b"Traceback" not in got


@pytest.mark.parametrize(
    "host",
    [
        b"cam evil",
        b"cam/path",
        b"cam?query",
        b"cam#fragment",
        b"user@cam",
        b"cam:80:80",
        b"cam:http",
        b"http://cam",
        b"fe80::1",
        b"[fe80::1",
        b"fe80::1]",
        b"[cam]",
        b"[]",
        b"cam\\evil",
        b"cam%zz",
        b"cam%2",
        b"<script>",
        b'"cam"',
        b"k\xc3\xa4se.example",
        b"cam, evil",
        b"cam\tevil",
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_host_that_is_none_is_refused(host: bytes, version: bytes, autojump_clock: MockClock) -> None:
    got = await exchange(b"GET / HTTP/%b\r\nHost: %b\r\n\r\n" % (version, host) + GET % b"smuggled")
    assert status_of(got) == 400
    assert b"Host is no host and port" in got
    assert len(re.findall(rb"HTTP/1.1 \d\d\d ", got)) == 1


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"cam",
        b"cam:",
        b"cam:8080",
        b":8080",
        b"my_cam.local.",
        b"192.0.2.7:80",
        b"[2001:db8::7]:8080",
        b"[::ffff:192.0.2.7]",
        b"[fe80::1%eth0]:80",
        b"[fe80::1%25eth0.1]",
        b"k%C3%A4se.example",
    ],
)
async def test_a_host_of_any_legal_form_is_taken(host: bytes, autojump_clock: MockClock) -> None:
    assert status_of(await exchange(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host)) == 200


async def test_a_tls_hello_is_closed_with_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    assert await exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") == b""
    assert [record.message for record in caplog.records] == [
        "192.0.2.7:40000 speaks TLS, and there is no certificate here: use http://"
    ]


async def test_a_tls_handshake_that_does_not_end_is_given_up(autojump_clock: MockClock) -> None:
    async def secure(_: trio.abc.HalfCloseableStream) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()
        raise AssertionError

    near, far = memory_stream_pair()
    await far.send_all(b"\x16\x03\x01")
    began = trio.current_time()
    with trio.fail_after(100):
        await serve(near, PEER, never, LIMITS, secure)
    assert trio.current_time() - began == LIMITS.handshake_seconds


async def test_a_request_over_tls_is_known_to_be_secure(autojump_clock: MockClock) -> None:
    """With a cipher that takes the first byte away."""
    seen: list[bool] = []

    async def note(request: Request) -> Response:
        seen.append(request.secure)
        return Response(200)

    async def secure(stream: trio.abc.HalfCloseableStream) -> trio.abc.HalfCloseableStream:
        assert await stream.receive_some(1) == b"\x16"
        return stream

    for first in (b"\x16", b""):
        near, far = memory_stream_pair()
        await far.send_all(first + GET % b"")
        await far.send_eof()
        with trio.fail_after(100):
            await serve(near, PEER, note, LIMITS, secure)
    assert seen == [True, False]


async def test_an_upgrade_that_nobody_takes_up_is_a_plain_request(autojump_clock: MockClock) -> None:
    async with connected() as far:
        await far.send_all(b"GET /a HTTP/1.1\r\nHost: cam\r\nConnection: Upgrade\r\nUpgrade: rubbish\r\n\r\n")
        assert (await answer(far)).endswith(b"GET /a b'' b''")
        await far.send_all(GET % b"b")
        assert (await answer(far)).endswith(b"GET /b b'' b''")


async def test_a_connection_that_is_handed_over_is_http_no_more(autojump_clock: MockClock) -> None:
    async def take(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"another protocol: ")
        await stream.send_all(await stream.receive_some())

    async def hand_over(_: Request) -> Handover:
        return Handover(take)

    async with connected(hand_over) as far:
        await far.send_all(GET % b"")
        assert await far.receive_some() == b"another protocol: "
        await far.send_all(GET % b"raw")
        assert await far.receive_some() == GET % b"raw"
        assert await far.receive_some() == b""


async def test_who_took_a_connection_over_may_close_it(autojump_clock: MockClock) -> None:
    async def hand_over(_: Request) -> Handover:
        return Handover(trio.abc.HalfCloseableStream.aclose)

    async with connected(hand_over) as far:
        await far.send_all(GET % b"")
        assert await far.receive_some() == b""


async def test_bytes_that_came_too_early_for_the_next_protocol_are_refused(autojump_clock: MockClock) -> None:
    async def hand_over(_: Request) -> Handover:
        return Handover(trio.abc.HalfCloseableStream.aclose)

    assert (await exchange(GET % b"" + b"early", hand_over)).startswith(b"HTTP/1.1 400 ")


async def test_a_fault_of_ours_is_logged_told_without_details_and_ends_that_connection_only(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def faulty(_: Request) -> Response:
        raise ZeroDivisionError("details")

    got = await exchange(GET % b"x", faulty)
    assert status_of(got) == 500
    assert b"details" not in got
    assert b"connection: close" in got.lower()
    assert "no answer to GET '/x'" in caplog.text


# --- its place ---


async def test_a_place_is_a_proven_callers_from_the_first_right_login_on_and_in_work_for_a_request(
    autojump_clock: MockClock,
) -> None:
    places, connections = Places(), Connections()
    place = places.take("192.0.2.7", trio.current_time())
    assert place is not None
    held = Held(places, place, connections.open(0, "192.0.2.7"), AddressList(), Pace())

    async def login(request: Request) -> Response:
        assert place.working
        return Response(200, proven=request.path == "/right")

    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, near, PEER, login, LIMITS, None, held)
        for path, proven in ((b"wrong", False), (b"right", True), (b"wrong", True)):
            await trio.sleep(1)
            await far.send_all(GET % path)
            assert status_of(await answer(far)) == 200
            assert (place.proven, place.working, place.since) == (proven, False, trio.current_time())
        assert place in places.held
        await far.send_eof()
        await rest(far)
        assert place not in places.held
        await far.aclose()


# --- its turns ---


class Passes(trio.abc.Instrument):
    """Notes how much was done in each pass of the scheduler."""

    def __init__(self) -> None:
        self.done = 0
        self.most = 0

    def before_io_wait(self, timeout: float) -> None:
        self.most = max(self.most, self.done)
        self.done = 0


@asynccontextmanager
async def crowd(sent: bytes, passes: Passes, respond: Respond = echo) -> AsyncIterator[None]:
    """Twenty connections that have sent the same, and end when it is answered."""
    places, connections, pace = Places(), Connections(), Pace(20)
    with trio.fail_after(100):
        trio.lowlevel.add_instrument(passes)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    near, far = memory_stream_pair()
                    place = places.take("192.0.2.7", 0.0)
                    assert place is not None
                    held = Held(places, place, connections.open(1000 + number, "192.0.2.7"), AddressList(), pace)
                    await far.send_all(sent)
                    await far.send_eof()
                    nursery.start_soon(serve, near, PEER, respond, LIMITS, None, held)
                    nursery.start_soon(rest, far)
                yield
        finally:
            trio.lowlevel.remove_instrument(passes)


async def test_of_a_crowd_that_never_stops_asking_one_request_is_answered_between_two_looks_at_the_lines(
    autojump_clock: MockClock,
) -> None:
    passes = Passes()

    async def work(request: Request) -> Response:
        passes.done += 1
        return await echo(request)

    async with crowd(GET % b"x" * 50, passes, work):
        pass
    assert passes.most == 1


async def test_of_a_crowd_whose_bodies_come_in_tiny_pieces_few_are_read_between_two_looks_at_the_lines(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes()
    read = h11.Connection.next_event

    def counted(conn: h11.Connection) -> object:
        passes.done += 1
        return read(conn)

    monkeypatch.setattr(h11.Connection, "next_event", counted)
    async with crowd(CHUNKED + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n", passes):
        pass
    assert passes.most <= 20 + 2 * 16  # each has one look at nothing, when it has come


CHUNKED = b"POST /x HTTP/1.1\r\nHost: cam\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_body_has_so_many_chunks_and_no_more(autojump_clock: MockClock) -> None:
    chunks = b"1\r\nx\r\n" * LIMITS.chunks
    assert status_of(await exchange(CHUNKED + chunks + b"0\r\n\r\n")) == 200
    refused = await exchange(CHUNKED + chunks + b"1\r\nx\r\n")
    assert status_of(refused) == 413
    assert b"more than 1024 chunks" in refused


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
async def test_a_head_has_so_many_lines_and_no_more(autojump_clock: MockClock, end: bytes) -> None:
    head = b"GET /x HTTP/1.1" + end + b"Host: cam" + end
    line = b"a: b" + end
    behind = end + (GET % b"y") * 40  # what is pipelined behind it does not count
    got = await exchange(head + line * (LIMITS.lines - 2) + behind)
    assert got.count(b"HTTP/1.1 200 ") == 41
    refused = await exchange(head + line * (LIMITS.lines - 1) + end)
    assert status_of(refused) == 431
    assert b"more than 128 lines" in refused
    assert status_of(await exchange((GET % b"x") + head + line * 3000 + end)) == 200


async def test_an_upgrade_in_http_1_0_is_ignored(autojump_clock: MockClock) -> None:
    async def upgraded(request: Request) -> Response:
        return Response(200, repr(request.header(b"upgrade")).encode())

    for version, seen in ((b"1.0", b"None"), (b"1.1", b"b'websocket'")):
        head = b"GET / HTTP/%b\r\nHost: cam\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        assert (await exchange(head % version, upgraded)).endswith(seen)


# --- callers who leave ---


async def test_work_for_a_caller_that_closed_is_cancelled(autojump_clock: MockClock) -> None:
    async with connected(never) as far:
        await far.send_all(GET % b"")
        await wait_all_tasks_blocked()
        await far.aclose()
    assert trio.current_time() <= LIMITS.half_closed_seconds


async def test_who_half_closes_still_gets_what_is_answered_soon(autojump_clock: MockClock) -> None:
    async def soon(request: Request) -> Response:
        await trio.sleep(LIMITS.half_closed_seconds / 2)
        return await echo(request)

    got = await exchange(GET % b"1" + GET % b"2", soon)
    assert re.findall(rb"GET /(\d)", got) == [b"1", b"2"]


async def test_a_caller_that_pipelines_without_end_is_read_no_further_while_work_goes_on(
    autojump_clock: MockClock,
) -> None:
    async def slow(request: Request) -> Response:
        await trio.sleep(5)
        return await echo(request)

    async with connected(slow) as far:
        await far.send_all(GET % b"1" + GET % (b"x" * 20_000))
        assert status_of(bytes(await far.receive_some())) == 200
        assert status_of(await rest(far)) == 431


# --- anything at all ---

FRAGMENTS = [
    GET % b"",
    GET % b"axis-cgi/param.cgi?action=list",
    b"GET / HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: cam\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: cam\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: cam\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"HEAD / HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"Host: cam\r\n",
    b"Connection: close\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: 70000\r\n",
    b"\r\n",
    b"\x16\x03\x01",
    b" folded\r\n",
    b"x" * 17_000,
]

pieces = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=30)), max_size=8)


async def throw(respond: Respond, sent: list[bytes], pauses: list[float], *, half_close: bool) -> tuple[bytes, float]:
    """Throw pieces at a connection; what it answered until it ended, and when that was."""
    near, far = memory_stream_pair()
    got: list[bytes] = []

    async def read() -> None:
        got.extend([bytes(piece) async for piece in far])

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_and_close, near, respond)
            nursery.start_soon(read)
            try:
                for piece, pause in zip(sent, pauses, strict=False):
                    await far.send_all(piece)
                    await trio.sleep(pause)
                if half_close:
                    await far.send_eof()
            except trio.BrokenResourceError:
                pass  # it closed, which is one of the two clean ends
    return b"".join(got), trio.current_time()


def is_answers(raw: bytes) -> bool:
    """Nothing but whole answers, none of them of ours to be ashamed of."""
    while raw:
        head = re.match(rb"(?s)HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n", raw)
        if head is None or head[1] == b"500":
            return False
        raw = raw[head.end() :]
        declared = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head[0])
        if declared and raw and not raw.startswith(b"HTTP/1.1 "):  # which is how an answer to HEAD goes on
            if len(raw) < int(declared[1]):
                return False
            raw = raw[int(declared[1]) :]
    return True


@given(
    sent=pieces,
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.1, 12.0]), min_size=8, max_size=8),
    half_close=st.booleans(),
)
@example(sent=[b"\r\n"], pauses=[0.0], half_close=False)
@example(sent=[GET % b"", b"x" * 17_000], pauses=[0.0, 0.0], half_close=False)
def test_whatever_is_thrown_at_it_a_connection_answers_or_closes(
    sent: list[bytes], pauses: list[float], half_close: bool
) -> None:
    clock = MockClock(autojump_threshold=0)
    respond = echo

    async def run() -> tuple[bytes, float]:
        return await throw(respond, sent, pauses, half_close=half_close)

    got, _ = trio.run(run, clock=clock)
    assert is_answers(got), got
