"""A browser's way to the line: real WebSocket clients at a running gateway, and rubbish at a real socket."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import memory_stream_pair
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from gateway.clients import relay
from gateway.clients.service import Service
from gateway.clients.trace import LIMIT
from gateway.host.config import PortConfig
from gateway.port.bus import Bus
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.state.users import Users
from gateway.web import websocket
from gateway.web.message import Request
from gateway.web.websocket_handshake import replayed
from protocol.endpoint import Endpoint
from tests.gateway.line import NarrowTty, narrow_port
from tests.helpers import PASSWORD, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from tests.helpers import Gateway

BOTH = Right.READ | Right.TCP
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    (b"upgrade", b"websocket"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY),
)


def request(*headers: tuple[bytes, bytes], method: str = "GET", body: bytes = b"") -> Request:
    return Request(method, b"/daisyport/ports/P0", headers, body, Endpoint("127.0.0.1", 1))


LEFT_OUT = {b"upgrade": 426, b"connection": 426, b"sec-websocket-version": 426, b"sec-websocket-key": 400}
"""What is answered where a handshake has no such header."""
HEAD = replayed(request(*UPGRADE))


@asynccontextmanager
async def gateway_with_basic(directory: Path, shared: PortConfig | None = None) -> AsyncIterator[Gateway]:
    """A running gateway that takes Basic too, which a client can send at once."""
    with trio.fail_after(20):
        async with running_gateway(directory, sharing=(shared or PortConfig(),)) as gateway:
            assert await gateway.set({"Network.HTTP.AuthenticationPolicy": "basic_digest"}) == "OK"
            yield gateway


def login(user: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Basic " + b64encode(f"{user}:{PASSWORD}".encode())


class Browser:
    """What a page does with its WebSocket."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws

    async def send(self, data: bytes) -> None:
        await self.ws.send_message(data)

    async def hear(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            message = await self.ws.get_message()
            heard += message if isinstance(message, bytes) else b""
        return heard

    async def told(self, name: str) -> dict[str, Any]:
        """The next event, or answer, of that name."""
        while True:
            message = await self.ws.get_message()
            told: dict[str, Any] = json.loads(message) if isinstance(message, str) else {}
            if name in (told.get("event"), told.get("answer")):
                return told

    async def ask(self, **message: object) -> dict[str, Any]:
        await self.ws.send_message(json.dumps(message))
        return await self.told(str(message["request"]))

    async def end(self) -> tuple[int, str | None]:
        """The code and the reason that the gateway closes with."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.ws.get_message()
        assert self.ws.closed is not None
        return self.ws.closed.code, self.ws.closed.reason


@asynccontextmanager
async def browser(gateway: Gateway, *headers: tuple[bytes, bytes], user: str = "operator") -> AsyncIterator[Browser]:
    async with await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as stream, trio.open_nursery() as nursery:
        more = [login(user), *headers]
        ws = await wrap_client_stream(
            nursery, stream, f"127.0.0.1:{gateway.http_port}", "/daisyport/ports/P0", extra_headers=more
        )
        yield Browser(ws)
        await ws.aclose()


# -- the line ----------------------------------------------------------------------------------------------------


@needs_curl
async def test_bytes_go_both_ways_and_the_status_shows_the_client(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        await page.send(b"\x00up\xff")
        assert await gateway.lines[0].hear(4) == b"\x00up\xff"
        await gateway.lines[0].say(b"\xffdown\x00")
        assert await page.hear(6) == b"\xffdown\x00"
        (client,) = (
            await gateway.until(lambda status: bool(status["clients"]) and status["clients"][0]["bytes_out"] == 6)
        )["clients"]
        assert client["service"] == "WebSocket"
        assert client["holder"].startswith("operator at 127.0.0.1:")
        assert (client["bytes_in"], client["written"], client["dropped"], client["queue"]) == (4, 4, 0, 0)


@needs_curl
async def test_a_message_of_4096_bytes_is_written_whole_between_two_others(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as one, browser(gateway) as two:
        pages = {b"a": one, b"b": two}

        async def talk(letter: bytes) -> None:
            for _ in range(5):
                await pages[letter].send(letter * 4096)

        async with trio.open_nursery() as nursery:
            for letter in pages:
                nursery.start_soon(talk, letter)
            written = await gateway.lines[0].hear(10 * 4096)
        messages = {written[at : at + 4096] for at in range(0, len(written), 4096)}
        assert messages == {letter * 4096 for letter in pages}


@needs_curl
async def test_a_longer_message_closes_with_1009_and_nothing_of_it_is_written(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        await page.send(b"x" * 4097)
        code, reason = await page.end()
        assert (code, reason) == (1009, "Exceeded maximum message size: 4096 bytes")
        async with browser(gateway) as other:
            await other.send(b"next")
            assert await gateway.lines[0].hear(4) == b"next"


@needs_curl
async def test_an_empty_message_writes_nothing_and_ends_nothing(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        await page.send(b"")
        await page.send(b"x")
        assert await gateway.lines[0].hear(1) == b"x"


@needs_curl
async def test_a_viewer_hears_the_line_and_is_told_that_it_may_not_write(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway, user="viewer") as page:
        await page.send(b"no")
        refused = await page.told("refused")
        assert refused["reason"].endswith("may only read")
        assert (await page.ask(request="break"))["error"].endswith("may only read")
        assert (await page.ask(request="set", dtr=True))["error"].endswith("may only read")
        await gateway.lines[0].say(b"line")
        assert await page.hear(4) == b"line"
        assert (await gateway.status())["bytes_to_line"] == 0


@needs_curl
async def test_who_does_not_read_is_queued_for_alone_and_then_cut_which_others_are_told(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        sock = await trio.open_tcp_stream("127.0.0.1", gateway.http_port)
        async with sock:
            await sock.send_all(raw(gateway))
            await gateway.until(lambda status: len(status["clients"]) == 2)
            cut: dict[str, Any] = {}
            while not cut:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(gateway.lines[0].say, b"z" * 65536)
                    heard = 0
                    while heard < 65536:  # who reads, hears everything
                        message = await page.ws.get_message()
                        if isinstance(message, bytes):
                            heard += len(message)
                        elif (told := json.loads(message))["event"] == "cut":
                            cut = told
            assert cut["count"] == 1
            assert cut["reason"].endswith("it left 1048576 bytes unread")
            await gateway.until(lambda status: len(status["clients"]) == 1)


@needs_curl
async def test_a_page_that_leaves_without_a_word_gives_its_place_back(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway:
        async with await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as sock:
            await sock.send_all(raw(gateway))
            await gateway.until(lambda status: len(status["clients"]) == 1)
        await gateway.until(lambda status: not status["clients"])


@needs_curl
async def test_a_gateway_that_stops_says_so_in_the_close_frame(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        await gateway.lines[0].say(b"last words")
        assert await page.hear(10) == b"last words"
        gateway.stop.set()
        code, reason = await page.end()
        assert code == 1001
        assert reason == "the gateway stops"


@needs_curl
async def test_a_page_that_does_not_read_cannot_keep_the_gateway_from_stopping(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stays:
        async with gateway_with_basic(tmp_path) as gateway:
            sock = await stays.enter_async_context(await trio.open_tcp_stream("127.0.0.1", gateway.http_port))
            await sock.send_all(raw(gateway))
            await gateway.until(lambda status: len(status["clients"]) == 1)
            while not (await gateway.status())["clients"][0]["queue"]:
                await gateway.lines[0].say(b"z" * 65536)
            began = trio.current_time()
        assert trio.current_time() - began < 4


@needs_curl
async def test_over_tls_the_line_is_the_same(tmp_path: Path) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # its certificate is its own
    async with gateway_with_basic(tmp_path) as gateway:
        tcp = await trio.open_tcp_stream("127.0.0.1", gateway.http_port)
        async with trio.SSLStream(tcp, context, https_compatible=True) as stream, trio.open_nursery() as nursery:
            ws = await wrap_client_stream(
                nursery, stream, "127.0.0.1", "/daisyport/ports/P0", extra_headers=[login("operator")]
            )
            page = Browser(ws)
            await page.send(b"up")
            assert await gateway.lines[0].hear(2) == b"up"
            await gateway.lines[0].say(b"down" * 1000)
            assert await page.hear(4000) == b"down" * 1000
            await ws.aclose()


# -- sharing a port ----------------------------------------------------------------------------------------------


@needs_curl
async def test_while_another_client_is_the_one_that_writes_a_page_is_told_that_what_it_sends_is_dropped(
    tmp_path: Path,
) -> None:
    async with gateway_with_basic(tmp_path, PortConfig(writers="first")) as gateway:
        tcp = await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp())
        await gateway.until(lambda status: len(status["clients"]) == 1)
        async with browser(gateway) as page:
            await page.send(b"lost")
            name = f"127.0.0.1:{tcp.socket.getsockname()[1]}"
            assert (await page.told("refused"))["reason"] == f"only {name} may write now"
            assert (await page.ask(request="break", milliseconds=1))["error"] == f"only {name} may write now"
            shown = await gateway.until(lambda status: any(client["dropped"] == 4 for client in status["clients"]))
            assert {client["service"]: client["writes"] for client in shown["clients"]} == {
                "GenericTCPServer": True,
                "WebSocket": False,
            }
            await tcp.aclose()
            await gateway.until(lambda status: status["clients"][0]["writes"])
            await page.send(b"mine")
            assert await gateway.lines[0].hear(4) == b"mine"


@needs_curl
async def test_a_page_takes_over_the_line_and_the_place_where_the_last_one_does(tmp_path: Path) -> None:
    async with (
        gateway_with_basic(tmp_path, PortConfig(writers="last", max_clients=1)) as gateway,
        await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as tcp,
        browser(gateway) as page,
    ):
        assert await tcp.receive_some() == b""
        await page.send(b"mine")
        assert await gateway.lines[0].hear(4) == b"mine"
        async with browser(gateway, user="viewer") as other:
            assert await other.end() == (1001, "the port takes no more clients")


@needs_curl
async def test_a_page_hears_the_history_first(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path, PortConfig(history_bytes=8)) as gateway:
        async with browser(gateway) as page:
            await gateway.lines[0].say(b"Linux 6.1\r\nlogin: ")
            await page.hear(18)
        async with browser(gateway) as late:
            await gateway.lines[0].say(b"root")
            assert await late.hear(12) == b"\nlogin: root"


@needs_curl
async def test_a_page_that_reads_too_slowly_is_told_of_the_gap_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "QUEUE_LIMIT", 1 << 16)
    async with (
        gateway_with_basic(tmp_path, PortConfig(slow_reader="drop_oldest")) as gateway,
        browser(gateway) as page,
    ):
        said = missed = 0
        while not missed:
            await gateway.lines[0].say(b"z" * 65536)
            said += 65536
            missed = (await gateway.status())["clients"][0]["missed"]
        await gateway.lines[0].say(b"end")
        heard, gaps = b"", []
        while not heard.endswith(b"end"):
            message = await page.ws.get_message()
            if isinstance(message, bytes):
                heard += message
            elif (event := json.loads(message))["event"] == "gap":
                gaps.append(event["count"])
        assert len(heard) + sum(gaps) == said + 3
        assert sum(gaps) >= missed


# -- events and requests -----------------------------------------------------------------------------------------


@needs_curl
async def test_the_port_tells_when_it_goes_down_when_it_is_back_and_how_it_is_set(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        assert await page.told("port") == {"event": "port", "state": "up", "reason": ""}
        assert (await page.told("line"))["settings"]["BaudRate"] == 9600
        assert await gateway.set({"Serial.Ser1.BaudRate": 19200}) == "OK"
        assert (await page.told("line"))["settings"]["BaudRate"] == 19200
        gateway.lines[0].unplug()
        down = await page.told("port")
        assert down["state"] == "down"
        assert str(gateway.lines[0].path) in down["reason"]
        gateway.lines[0].plug()
        while (await page.told("port"))["state"] == "down":  # it may be told again, with another reason
            pass


@needs_curl
async def test_a_viewer_is_told_of_the_port_but_not_of_settings_that_param_cgi_keeps_from_it(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway, user="viewer") as page:
        assert (await page.told("port"))["state"] == "up"
        assert await gateway.set({"Serial.Ser1.BaudRate": 19200}) == "OK"
        assert "lines" not in await page.ask(request="modem")  # and no event came before the answer
        gateway.lines[0].unplug()
        assert json.loads(str(await page.ws.get_message()))["event"] == "port"


@needs_curl
async def test_a_pty_answers_that_it_has_neither_modem_lines_nor_a_break(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        for asked in ({"request": "break", "milliseconds": 10}, {"request": "modem"}, {"request": "set", "rts": False}):
            answer = await page.ask(**asked, id=7)
            assert answer["id"] == 7
            assert answer["error"].endswith("this device has no modem lines, nor a break")
        gateway.lines[0].unplug()
        while (await page.told("port"))["state"] == "up":
            pass
        assert str(gateway.lines[0].path) in (await page.ask(request="break"))["error"]


@needs_curl
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "it must be JSON"),
        ("[]", "it must be a JSON object"),
        ("{}", "request must be one of break, modem, set"),
        ('{"request": "reboot"}', "request must be one of break, modem, set"),
        ('{"request": "break", "milliseconds": 0}', "milliseconds must be an integer from 1 to 5000"),
        ('{"request": "break", "milliseconds": 9000}', "milliseconds must be an integer from 1 to 5000"),
        ('{"request": "set", "dtr": "yes"}', "dtr must be true, false or null"),
        ('{"request": "modem", "more": 1}', "modem has no argument 'more'"),
    ],
)
async def test_a_text_that_is_no_request_is_answered_with_what_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    async with gateway_with_basic(tmp_path) as gateway, browser(gateway) as page:
        await page.ws.send_message(text)
        while "error" not in (answer := json.loads(str(await page.ws.get_message()))):
            pass
        assert answer["answer"] is None
        assert why in answer["error"]


# -- who may come, and how ---------------------------------------------------------------------------------------


def raw(
    gateway: Gateway,
    *more: bytes,
    without: bytes = b"",
    method: bytes = b"GET",
    user: str = "operator",
    port: bytes = b"P0",
) -> bytes:
    headers = [b"%s: %s" % header for header in (*UPGRADE, login(user)) if header[0] != without]
    host = b"host: 127.0.0.1:%d" % gateway.http_port
    return b"\r\n".join([b"%s /daisyport/ports/%s HTTP/1.1" % (method, port), host, *headers, *more, b"", b""])


async def answered(gateway: Gateway, sent: bytes) -> bytes:
    answer = b""
    async with await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as sock:
        await sock.send_all(sent)
        await sock.send_eof()
        async for piece in sock:
            answer += piece
    return answer


@needs_curl
async def test_it_takes_a_login_an_own_page_and_a_port_that_there_is(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway:
        assert (await answered(gateway, raw(gateway, user="nobody"))).startswith(b"HTTP/1.1 401 ")
        answer = await answered(gateway, raw(gateway, b"origin: http://evil.example"))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"Origin is 'http://evil.example'" in answer
        for port in (b"P1", b"P#", b"P00", b"P" + b"9" * 5000, b"x"):
            answer = await answered(gateway, raw(gateway, port=port))
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert answer.endswith(b"no such port; ports: P0\n")
        async with browser(gateway, (b"origin", f"http://127.0.0.1:{gateway.http_port}".encode())) as page:
            await page.send(b"x")
            assert await gateway.lines[0].hear(1) == b"x"


@needs_curl
async def test_a_bad_handshake_is_answered_as_http_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway:
        for left_out, status in LEFT_OUT.items():
            twice = raw(gateway, without=left_out) * 2
            assert (await answered(gateway, twice)).count(b"HTTP/1.1 %d " % status) == 2, left_out
        for wrong in (b"sec-websocket-key: short", b"sec-websocket-key: " + b"*" * 24):
            assert (await answered(gateway, raw(gateway, wrong, without=b"sec-websocket-key"))).startswith(
                b"HTTP/1.1 400 "
            )
        assert (await answered(gateway, raw(gateway, b"content-length: 1") + b"x")).startswith(b"HTTP/1.1 400 ")
        assert (await answered(gateway, raw(gateway, method=b"POST"))).startswith(b"HTTP/1.1 405 ")


@needs_curl
async def test_bytes_before_the_101_are_refused_for_they_would_be_lost(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway:
        answer = await answered(gateway, raw(gateway) + b"\x82\x80\0\0\0\0")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"wait for that" in answer
        assert not (await gateway.status())["clients"]


def test_nothing_imports_the_library_before_a_websocket_is_asked_for() -> None:
    program = (
        "import sys, gateway.cli.main, gateway.app; sys.exit(bool({'trio_websocket', 'wsproto'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@asynccontextmanager
async def terminal(
    gateway: Gateway, query: str = "", offered: tuple[str, ...] = (), user: str = "operator"
) -> AsyncIterator[Browser]:
    """A client that knows bytes only."""
    async with await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as stream, trio.open_nursery() as nursery:
        ws = await wrap_client_stream(
            nursery,
            stream,
            f"127.0.0.1:{gateway.http_port}",
            f"/daisyport/ports/P0{query}",
            subprotocols=offered,
            extra_headers=[login(user)],
        )
        yield Browser(ws)
        await ws.aclose()


@pytest.mark.parametrize(
    ("query", "offered", "chosen"),
    [("", ("binary",), "binary"), ("", ("wsSerial", "binary"), "binary"), ("?text=1", (), None)],
)
async def test_a_client_that_knows_bytes_only_gets_nothing_else(
    tmp_path: Path, query: str, offered: tuple[str, ...], chosen: str | None
) -> None:
    every_byte = bytes(range(256))
    async with gateway_with_basic(tmp_path) as gateway, terminal(gateway, query, offered) as page:
        assert page.ws.subprotocol == chosen
        await page.send(every_byte)
        assert await gateway.lines[0].hear(256) == every_byte
        await page.ws.send_message('{"request": "modem"} \u20ac')
        typed = '{"request": "modem"} \u20ac'.encode()
        assert await gateway.lines[0].hear(len(typed)) == typed
        await gateway.lines[0].say(every_byte)
        heard = b""
        while len(heard) < 256:
            message = await page.ws.get_message()
            assert isinstance(message, bytes)
            heard += message
        assert heard == every_byte


@pytest.mark.parametrize("change", ["removed", "another password", "another role", "other ports"])
async def test_a_user_who_is_removed_or_changed_loses_the_web_socket_within_a_second(
    tmp_path: Path, change: str
) -> None:
    async with (
        gateway_with_basic(tmp_path) as gateway,
        browser(gateway) as page,
        browser(gateway, user="admin") as other,
    ):
        await page.told("port")
        users = Users(gateway.config.state_dir)
        if change == "another password":
            users.set_password("operator", "another")
        else:
            users.remove("operator")
            if change == "another role":
                users.add("operator", "viewer", PASSWORD)
            elif change == "other ports":
                users.add("operator", "operator", PASSWORD, frozenset({1}))
        begun = trio.current_time()
        why = (
            "the user operator was removed"
            if change == "removed"
            else "the role, the password or the ports of operator were changed"
        )
        assert await page.end() == (1001, why)
        assert trio.current_time() - begun < 1
        await other.send(b"still here")
        assert await gateway.lines[0].hear(10) == b"still here"


async def test_other_subprotocols_are_not_chosen_and_json_goes_on(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, terminal(gateway, "?text=0", ("wsSerial", "BINARY")) as page:
        assert page.ws.subprotocol is None
        assert (await page.told("port"))["state"] == "up"


async def test_a_text_that_is_too_long_in_bytes_closes_the_connection(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, terminal(gateway, "?text=1") as page:
        await page.ws.send_message("\u20ac" * 1366)  # 4098 bytes
        assert await page.end() == (1009, "a message has at most 4096 bytes")
        assert (await gateway.status())["bytes_to_line"] == 0


async def test_a_viewer_that_knows_bytes_only_is_not_told_that_it_may_only_read(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, terminal(gateway, "", ("binary",), "viewer") as page:
        await page.send(b"typed")
        await gateway.lines[0].say(b"heard")
        assert await page.ws.get_message() == b"heard"
        assert (await gateway.status())["bytes_to_line"] == 0


@needs_curl
async def test_a_monitor_hears_the_line_and_may_not_write_whoever_it_is(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, terminal(gateway, "?monitor=1") as page:
        await page.send(b"no")
        assert (await page.told("refused"))["reason"].endswith("may only read")
        await gateway.lines[0].say(b"line")
        assert await page.hear(4) == b"line"
        assert (await gateway.status())["bytes_to_line"] == 0


# -- a trace: all that passes, with its times, and for operators with the writers -----------------------------------


async def traced(page: Browser, count: int, way: str) -> list[dict[str, Any]]:
    """The next pieces that went this way, until they have so many bytes."""
    pieces: list[dict[str, Any]] = []
    while sum(len(piece["data"]) // 2 for piece in pieces) < count:
        event = await page.told("trace")
        pieces += [piece for piece in event["pieces"] if piece["way"] == way]
    return pieces


@needs_curl
async def test_an_operator_s_trace_shows_what_every_client_writes_with_its_name_and_the_time(tmp_path: Path) -> None:
    async with (
        gateway_with_basic(tmp_path) as gateway,
        browser(gateway, user="admin") as writer,
        terminal(gateway, "?trace=1") as page,
    ):
        tcp = await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp(SerialCGI_Enabled="yes"))
        before = time.time_ns() // 1000
        first = await page.told("trace")
        assert first["pieces"] == []
        assert first["time"] <= time.time_ns() // 1000
        await tcp.send_all(b"\x81\x01")
        (piece,) = await traced(page, 2, "to line")
        assert piece["text"] == f"127.0.0.1:{tcp.socket.getsockname()[1]}"
        assert piece["data"] == "8101"
        assert before <= piece["time"] <= time.time_ns() // 1000
        await writer.send(b"page")
        (piece,) = await traced(page, 4, "to line")
        assert piece["text"].startswith("admin at 127.0.0.1:")
        assert await gateway.curl("/axis-cgi/com/serial.cgi?write=414243") == ""
        (piece,) = await traced(page, 3, "to line")
        assert piece["text"].startswith("admin at 127.0.0.1:")
        await gateway.lines[0].say(b"\x90")
        assert (await traced(page, 1, "from line"))[0]["text"] == ""
        assert (await page.ask(request="break"))["error"].endswith("may only read")
        await page.send(b"no")
        assert (await page.told("refused"))["reason"].endswith("may only read")
        await tcp.aclose()


@needs_curl
async def test_a_viewer_s_trace_has_the_times_of_the_line_and_nothing_of_who_writes(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path) as gateway, terminal(gateway, "?trace=1", user="viewer") as page:
        tcp = await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp())
        await tcp.send_all(b"secret")
        assert await gateway.lines[0].hear(6) == b"secret"
        assert await gateway.set({"Serial.Ser1.BaudRate": 19200}) == "OK"
        await gateway.lines[0].say(b"end")
        heard, events = b"", set()
        while not heard.endswith(b"end"):
            message = json.loads(str(await page.ws.get_message()))
            events.add(message["event"])
            for piece in message.get("pieces", ()):
                assert (piece["way"], piece["text"]) == ("from line", "")
                assert abs(piece["time"] - time.time_ns() // 1000) < 20_000_000
                heard += bytes.fromhex(piece["data"])
        await tcp.aclose()
        assert heard == b"end"
        assert events == {"trace", "port"}


@needs_curl
async def test_the_status_shows_who_traces_which_takes_no_place_of_a_client_and_can_be_kicked(tmp_path: Path) -> None:
    async with (
        gateway_with_basic(tmp_path, PortConfig(writers="first", max_clients=1)) as gateway,
        terminal(gateway, "?trace=1") as page,
        browser(gateway) as writer,
    ):
        await writer.send(b"mine")
        (piece,) = await traced(page, 4, "to line")
        assert piece["data"] == b"mine".hex()
        clients = (await gateway.status())["clients"]
        assert {client["service"] for client in clients} == {"Trace", "WebSocket"}
        shown = {client["holder"]: client["writes"] for client in clients}
        (trace,) = (holder for holder in shown if holder.startswith("trace of operator at 127.0.0.1:"))
        assert shown == {trace: False, piece["text"]: True}
        query = trace.replace(" ", "%20")
        assert await gateway.curl(f"/daisyport/kick?holder={query}", "-X", "POST") == f"ended: {trace}\n"
        code, why = await page.end()
        assert code == 1001
        assert str(why).startswith("ended by admin at 127.0.0.1:")


@needs_curl
async def test_a_trace_begins_with_what_the_port_remembers_and_no_byte_comes_twice(tmp_path: Path) -> None:
    async with gateway_with_basic(tmp_path, PortConfig(history_bytes=8)) as gateway:
        async with browser(gateway) as page:
            await gateway.lines[0].say(b"Linux 6.1\r\nlogin: ")
            await page.hear(18)
        async with terminal(gateway, "?trace=1") as late:
            assert await late.told("history") == {"event": "history", "data": b"\nlogin: ".hex()}
            await gateway.lines[0].say(b"root")
            assert "".join(piece["data"] for piece in await traced(late, 4, "from line")) == b"root".hex()


@needs_curl
@pytest.mark.parametrize(("query", "offered"), [("?trace=1&text=1", ()), ("?trace=1", ("binary",))])
async def test_a_trace_is_refused_to_who_knows_bytes_only(tmp_path: Path, query: str, offered: tuple[str, ...]) -> None:
    async with gateway_with_basic(tmp_path) as gateway:
        with pytest.raises(BaseExceptionGroup) as refused:
            async with terminal(gateway, query, offered):
                pass
        assert refused.group_contains(ConnectionRejected)


# -- without a daemon: a clock that jumps, a full service, rubbish --------------------------------------------------


@asynccontextmanager
async def served(bus: Bus, head: bytes = b"") -> AsyncIterator[tuple[trio.abc.HalfCloseableStream, Service]]:
    """What is at the far end of a stream whose near end is being served, and the service; it waits until that ends."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        service = Service("P0", Router({"P0": bus}).grant("P0", BOTH, "WebSocket"), Right.TCP, nursery)
        nursery.start_soon(websocket.serve, near, head, service, BOTH, "somebody", lambda: None)
        yield far, service
    assert not service.handle.children


@asynccontextmanager
async def greeted(bus: Bus) -> AsyncIterator[tuple[Browser, Service]]:
    """A page that was connected, and its service."""
    async with served(bus) as (far, service), trio.open_nursery() as nursery:
        ws = await wrap_client_stream(nursery, cast("trio.SocketStream", far), "host", "/")
        await trio.testing.wait_all_tasks_blocked()
        yield Browser(ws), service
        await ws.aclose()


@asynccontextmanager
async def tracing(bus: Bus) -> AsyncIterator[tuple[Browser, trio.testing.MemorySendStream, Service]]:
    """A page whose trace has begun, what the gateway sends to it by, and the service."""
    near, far = memory_stream_pair()
    rights = Right.READ | Right.WATCH
    async with trio.open_nursery() as nursery:
        service = Service("P0", Router({"P0": bus}).grant("P0", rights, "WebSocket"), Right(0), nursery)
        serve = partial(websocket.serve, near, b"", service, rights, "trace of anna", lambda: None, traces=True)
        nursery.start_soon(serve)
        ws = await wrap_client_stream(nursery, cast("trio.SocketStream", far), "host", "/")
        page = Browser(ws)
        assert (await page.told("trace"))["pieces"] == []
        yield page, near.send_stream, service
        await ws.aclose()


async def test_a_page_that_reads_its_trace_too_slowly_is_told_what_is_missing_and_keeps_nobody_waiting() -> None:
    bus, turns = narrow_port(NarrowTty(room=9))
    with trio.fail_after(10):
        async with tracing(bus) as (page, sending, service):
            reads, passes_on = trio.Event(), sending.send_all_hook

            async def pass_on_late() -> None:
                await reads.wait()
                assert passes_on is not None
                await passes_on()

            sending.send_all_hook = pass_on_late
            for _ in range(1024):
                turns.heard(b"z" * 1024)
                bus.wrote(b"w" * 1024, "192.0.2.7:40000")
            await trio.testing.wait_all_tasks_blocked()
            (client,) = service.handle.children
            assert client.session is not None
            assert client.session.reader is not None
            assert client.session.reader.size <= LIMIT
            reads.set()
            pieces: list[dict[str, Any]] = []
            while not pieces or pieces[-1]["way"] != "note":
                pieces += (await page.told("trace"))["pieces"]
            shown = sum(len(piece["data"]) // 2 for piece in pieces)
            assert pieces[-1]["text"] == f"{2 * 1024 * 1024 - shown} bytes not shown"
            turns.heard(b"now")
            assert (await traced(page, 3, "from line"))[0]["data"] == b"now".hex()


async def test_a_busy_line_costs_a_trace_some_messages_a_second_and_not_one_for_each_read(
    autojump_clock: MockClock,
) -> None:
    bus, turns = narrow_port(NarrowTty(room=9))
    messages = heard = 0
    with trio.fail_after(60):
        async with tracing(bus) as (page, _, _), trio.open_nursery() as nursery:

            async def speak() -> None:
                for _ in range(200):
                    turns.heard(b"z")
                    await trio.sleep(0.001)

            nursery.start_soon(speak)
            while heard < 200:
                pieces = (await page.told("trace"))["pieces"]
                heard += sum(len(piece["data"]) // 2 for piece in pieces)
                messages += 1
    assert heard == 200
    assert messages <= 12  # two of 32 pieces at most in 50 ms


async def test_an_idle_page_that_answers_pings_stays(autojump_clock: MockClock) -> None:
    with trio.fail_after(7200):
        async with greeted(Bus("P0")) as (_, service):
            await trio.sleep(3605)
            assert len(service.handle.children) == 1


async def test_a_page_that_answers_no_ping_is_gone_after_two_of_its_deadlines(autojump_clock: MockClock) -> None:
    with trio.fail_after(60):
        async with served(Bus("P0"), HEAD) as (far, _):
            received = b"".join([bytes(piece) async for piece in far])
    assert received.endswith(b"\x03\xe9no answer to a ping within 20 s")
    assert trio.current_time() < 60


async def test_a_page_whose_message_waits_for_the_line_is_not_taken_for_dead(autojump_clock: MockClock) -> None:
    tty = NarrowTty(room=1)
    bus, _ = narrow_port(tty)
    with trio.fail_after(7200):
        async with greeted(bus) as (page, service):
            for _ in range(4):  # the one that waits, and those that the library keeps
                await page.send(b"xy")
            await trio.sleep(100)
            assert len(service.handle.children) == 1
            tty.make_room(100)
            await trio.sleep(105)
            assert len(service.handle.children) == 1


async def test_a_message_begun_before_its_page_left_is_still_written(autojump_clock: MockClock) -> None:
    tty = NarrowTty(room=1)
    bus, _ = narrow_port(tty)
    with trio.fail_after(7200):
        async with greeted(bus) as (page, _):
            await page.send(b"xy")
            await page.ws.aclose()
            await trio.sleep(10)
            tty.make_room(1)
    assert tty.taken == b"xy"


async def test_a_page_that_leaves_while_the_port_changes_is_simply_gone(autojump_clock: MockClock) -> None:
    bus = Bus("P0")
    with trio.fail_after(5):
        async with greeted(bus) as (page, _):
            bus.cut("somebody else: too slow")
            await page.ws.aclose()
            bus.cut("a third: too slow")


async def test_where_the_service_was_closed_meanwhile_the_page_is_told(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            service = Service("P0", Router({"P0": Bus("P0")}).grant("P0", BOTH, "WebSocket"), Right.TCP, nursery)
            service.revoke("the port manager failed")
            nursery.start_soon(websocket.serve, near, b"", service, BOTH, "somebody", lambda: None)
            ws = await wrap_client_stream(nursery, cast("trio.SocketStream", far), "host", "/")
            assert await Browser(ws).end() == (1001, "the port takes no more clients")


async def test_a_revoked_client_ends_with_its_reason(autojump_clock: MockClock) -> None:
    with trio.fail_after(5):
        async with greeted(Bus("P0")) as (page, service):
            service.revoke("ä" * 100)
            assert await page.end() == (1001, "ä" * 61)


async def test_a_ping_that_crosses_our_close_frame_is_no_fault(autojump_clock: MockClock) -> None:
    with trio.fail_after(60):
        async with served(Bus("P0"), HEAD) as (far, service):
            await trio.testing.wait_all_tasks_blocked()
            service.revoke("the port is closed")
            await trio.testing.wait_all_tasks_blocked()
            await far.send_all(b"\x89\x80\0\0\0\0")
            received = b"".join([bytes(piece) async for piece in far])
    assert received.endswith(b"the port is closed")


async def test_a_greeting_that_nobody_takes_is_given_up(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    near.send_stream.send_all_hook = trio.sleep_forever
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            service = Service("P0", Router({"P0": Bus("P0")}).grant("P0", BOTH, "WebSocket"), Right.TCP, nursery)
            await websocket.serve(near, HEAD, service, BOTH, "somebody", lambda: None)
    assert trio.current_time() < 10
    await far.aclose()


@settings(max_examples=50)
@given(pieces=st.lists(st.binary(max_size=200), max_size=6), framed=st.booleans())
async def test_rubbish_after_the_handshake_ends_the_page_and_nothing_else(pieces: list[bytes], framed: bool) -> None:
    with trio.fail_after(5):
        async with served(Bus("P0"), HEAD) as (far, _):
            while b"\r\n\r\n" not in await far.receive_some():
                pass
            for piece in pieces:
                head = bytes([0x82, 0x80 | min(len(piece), 125)]) + b"\0\0\0\0" if framed else b""
                with contextlib.suppress(trio.BrokenResourceError):  # it has had enough
                    await far.send_all(head + piece)
                await trio.testing.wait_all_tasks_blocked()
            await far.aclose()


async def test_a_message_in_pieces_without_bytes_that_never_ends_is_ended(tmp_path: Path) -> None:
    """The library bounds the bytes of a message, and empty pieces have none."""
    with trio.fail_after(30):
        async with (
            gateway_with_basic(tmp_path) as gateway,
            await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as stream,
        ):
            await stream.send_all(raw(gateway))
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"\x02\x80\x00\x00\x00\x00" + b"\x00\x80\x00\x00\x00\x00" * 10_000)
                said = b"".join([bytes(piece) async for piece in stream])
            assert b"its message came in more pieces than a message has bytes" in said
