"""The console page as people use it: a real Chromium, a running gateway, a pty as the line."""

from __future__ import annotations

import json
import re
import shutil
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.from_thread import run as in_trio

from gateway.host.config import PortConfig
from protocol.parameters.hardware import ManagerHardware
from tests.helpers import PASSWORD, free_port, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page, WebSocketRoute

    from tests.helpers import Gateway

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    needs_curl,
    pytest.mark.clients,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]

# Without them Chromium looks for its maker's hosts, and as root it does not start at all.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 10_000
"""Milliseconds for what should take a fraction of one; Chromium starts slowly on a busy machine."""


async def visit(gateway: Gateway, look: Callable[[Page], None], user: str = "admin", **how: Any) -> None:
    """Log in to the page as ``user`` and ``look`` at it, in a thread; Chromium must report nothing."""
    login = {"username": user, "password": PASSWORD}
    errors = await trio.to_thread.run_sync(_visit, gateway, look, {"http_credentials": login} | how)
    assert errors == []


def _visit(gateway: Gateway, look: Callable[[Page], None], how: dict[str, Any]) -> list[str]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(base_url=f"http://127.0.0.1:{gateway.http_port}", **how).new_page()
        page.set_default_timeout(PATIENCE)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto("/")
        look(page)
        browser.close()
    return errors


def saved(page: Page) -> list[str]:
    """The lines of the file that the page makes of what it shows."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    return download.value.path().read_text().splitlines()


def shows(page: Page, selector: str, text: str) -> None:
    page.locator(selector).filter(has_text=text).first.wait_for()


def tab_to(page: Page, element: str) -> None:
    """Press Tab until the element has the focus, as somebody without a mouse does."""
    for _ in range(40):
        if page.evaluate("document.activeElement.id") == element:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab never comes to {element}")


async def test_the_line_is_shown_as_text_and_hex_and_is_written_to_with_the_keyboard_alone(tmp_path: Path) -> None:
    def look(page: Page) -> None:
        shows(page, "#state", "up")
        in_trio(gateway.lines[0].say, b"<b>21\xc2\xb0</b>\r\n\x90\xff")
        shows(page, ".received .text", "<b>21°</b>\\r\\n")
        shows(page, ".received .hex", "3C 62 3E 32 31 C2 B0 3C 2F 62 3E 0D 0A")
        shows(page, ".received .hex", "90 FF")
        assert page.locator(".received time").first.inner_text().count(":") == 2

        tab_to(page, "what")
        page.keyboard.type("status?")
        page.keyboard.press("Enter")
        assert in_trio(gateway.lines[0].hear, 8) == b"status?\r"
        shows(page, ".sent .text", "status?\\r")

        page.get_by_label("Send as").select_option("Hex")
        page.get_by_label("Send", exact=True).fill("81 0")
        page.keyboard.press("Enter")
        shows(page, "#send-error", "Each byte must have two hexadecimal digits")
        page.get_by_label("Send", exact=True).fill("0x81, 0x01 fF")
        page.keyboard.press("Enter")
        assert in_trio(gateway.lines[0].hear, 3) == b"\x81\x01\xff"
        page.keyboard.press("ArrowUp")
        assert page.get_by_label("Send", exact=True).input_value() == "0x81, 0x01 fF"

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            await visit(gateway, look)


async def test_what_every_client_writes_is_shown_with_its_name_and_time_and_saved_and_is_never_markup(
    tmp_path: Path,
) -> None:
    lies = "<img src=x onerror=alert(1)>\u202e"

    def tell(trace: WebSocketRoute) -> None:
        """Be a port that remembers, whose clock is another, and who has not been read for a while."""
        time = 1764116000123456
        written = {"time": time, "way": "to line", "text": "anna\u202e at 192.0.2.7:40000", "data": "6c730a"}
        missing = {"time": time, "way": "note", "text": "512 bytes not shown", "data": ""}
        trace.send(json.dumps({"event": "history", "data": b"login: ".hex()}))
        trace.send(json.dumps({"event": "trace", "time": time, "pieces": [written, missing]}))

    def look(page: Page) -> None:
        shows(page, ".note", "P0 is up")
        before = time.time()
        client = in_trio(trio.open_tcp_stream, "127.0.0.1", port)
        in_trio(client.send_all, lies.encode())
        address = "{}:{}".format(*client.socket.getsockname())
        written = page.locator(".row.sent").filter(has_text=address)
        written.filter(has_text="<img src=x onerror=alert(1)>\\u{202e}").wait_for()
        page.get_by_label("Send", exact=True).fill("mine")
        page.keyboard.press("Enter")
        shows(page, ".row.sent", "mine\\r")
        assert page.locator(".row.sent").filter(has_text="mine").locator(".who").inner_text() == "admin"
        in_trio(gateway.lines[0].say, lies.encode())
        shows(page, ".received .text", "<img src=x onerror=alert(1)>\\u{202e}")
        assert page.locator("#log img").count() == 0
        when = datetime.fromisoformat(written.locator("time").get_attribute("datetime") or "")
        assert before - 1 < when.timestamp() < time.time() + 1

        page.get_by_role("img", name=re.compile("to the line at most [1-9]")).wait_for()
        assert page.locator("#to-line").get_attribute("points")

        head, *rows = saved(page)
        assert head.startswith("# P0 of cpu1: ")
        hexadecimal = lies.encode().hex(" ").upper()
        stamp = written.locator("time").get_attribute("datetime")
        assert f"{stamp} > [{address}] {hexadecimal}  <img src=x onerror=alert(1)>\\u{{202e}}" in rows
        assert any(" - P0 is up" in row for row in rows)
        page.get_by_role("button", name="Hex").click()
        page.get_by_role("button", name="Written").click()
        assert page.locator(".row .hex").first.is_hidden()
        assert f"{stamp} > [{address}] <img src=x onerror=alert(1)>\\u{{202e}}" in saved(page)
        in_trio(client.send_all, b"unseen")
        assert in_trio(gateway.lines[0].hear, len(lies.encode()) + 11).endswith(b"unseen")
        in_trio(gateway.lines[0].say, b"last\n")
        shows(page, ".received .text", "last")
        assert page.locator(".row").filter(has_text="unseen").count() == 0
        in_trio(client.aclose)

        page.route_web_socket("**/daisyport/ports/P0?trace=1", tell)
        page.reload()
        shows(page, ".received .text", "login: ")
        shows(page, ".note", "512 bytes not shown")
        row = page.locator(".row.sent").filter(has_text="ls\\n")
        assert row.locator(".who").inner_text() == "anna\\u{202e}"
        assert row.locator("time").get_attribute("datetime") == "2025-11-26T00:13:20.123456Z"

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            await visit(gateway, look)


async def test_the_baud_rate_is_changed_in_a_form_that_offers_what_the_hardware_has(tmp_path: Path) -> None:
    def look(page: Page) -> None:
        rate = page.get_by_label("Baud rate")
        rate.wait_for()
        offered = rate.locator("option").all_inner_texts()
        assert "115200" in offered
        assert "230400" not in offered  # this port has no RS-485
        assert page.get_by_label("Port mode").locator("option").all_inner_texts() == ["RS232"]
        assert page.get_by_label("Termination").count() == 0

        save = page.get_by_role("button", name="Save")
        assert save.is_disabled()
        rate.select_option("19200")
        save.click()
        shows(page, "#settings-note", "Saved.")
        shows(page, ".note", "The line is set to RS232 19200 8N1")
        shows(page, "#facts", "RS232 19200 8N1")

        page.get_by_text("TCP server", exact=True).click()
        addresses = page.get_by_label("Allowed IP addresses").first
        addresses.fill("300.1.1.1")
        save.click()
        shows(page, "#settings-note", "Refused; nothing was changed.")
        shows(page, ".field .error", "300.1.1.1 was refused")
        page.get_by_role("button", name="Undo").click()
        assert addresses.input_value() == ""

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            await visit(gateway, look)
            assert "BaudRate=19200\n" in await gateway.curl(
                "/axis-cgi/param.cgi?action=list&group=Serial.Ser1.BaudRate"
            )


async def test_a_client_appears_with_its_bytes_and_is_gone_when_it_leaves(tmp_path: Path) -> None:
    def look(page: Page) -> None:
        shows(page, "#clients", "Browser")
        client = in_trio(trio.open_tcp_stream, "127.0.0.1", port)
        in_trio(client.send_all, b"hello")
        address = "{}:{}".format(*client.socket.getsockname())
        row = page.get_by_role("row").filter(has_text=address)
        row.filter(has_text="5 B").wait_for()
        assert "TCP" in row.inner_text()
        in_trio(client.aclose)
        row.wait_for(state="detached")

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            await visit(gateway, look)


async def test_where_all_places_are_taken_an_operator_sees_all_that_passes_and_writes_once_one_is_free(
    tmp_path: Path,
) -> None:
    def look(page: Page) -> None:
        opened: list[str] = []
        page.goto("about:blank")
        page.on("websocket", lambda socket: opened.append(socket.url))
        page.goto("/")
        shows(page, "#state", "not connected: the port takes no more clients")
        for asked in (1, 2, 3):
            while sum(not url.endswith("?trace=1") for url in opened) < asked:
                page.wait_for_timeout(50)
            in_trio(gateway.lines[0].say, b"%d\n" % asked)
            shows(page, ".received .text", f"{asked}\\n")
        assert sum(url.endswith("?trace=1") for url in opened) == 1, "its ear stays open meanwhile: no byte is missed"
        in_trio(client.aclose)
        shows(page, "#state", "up")
        page.get_by_label("Send", exact=True).fill("now")
        page.keyboard.press("Enter")
        assert in_trio(gateway.lines[0].hear, 4) == b"now\r"
        shows(page, ".row.sent", "now\\r")

    with trio.fail_after(60):
        async with running_gateway(tmp_path, sharing=(PortConfig(max_clients=1),)) as gateway:
            client = await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp())
            await client.send_all(b"mine")
            await gateway.lines[0].hear(4)
            await visit(gateway, look)


async def test_a_device_that_is_unplugged_and_back_is_seen_to_be(tmp_path: Path) -> None:
    def look(page: Page) -> None:
        shows(page, "#state", "up")
        shows(page, "#beside-note", "this device has no modem lines, nor a break")
        gateway.lines[0].unplug()
        shows(page, "#state.down", str(gateway.lines[0].path))
        assert page.locator("#send button").is_disabled()
        gateway.lines[0].plug()
        shows(page, "#state.up", "up")
        assert page.locator("#send button").is_enabled()

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            await visit(gateway, look)


async def test_where_the_device_has_modem_lines_they_are_shown_and_set_and_a_break_is_sent(tmp_path: Path) -> None:
    lines = {"dtr": True, "rts": True, "cts": False, "dsr": True, "ri": False, "dcd": False}
    asked: list[dict[str, Any]] = []

    def answer(socket: WebSocketRoute) -> None:
        """Be a port whose device has what a pty lacks."""

        def reply(text: str | bytes) -> None:
            if isinstance(text, bytes):
                return
            request = json.loads(text)
            asked.append(request)
            lines.update({name: request[name] for name in lines if name in request})
            done = {"milliseconds": request["milliseconds"]} if request["request"] == "break" else {"lines": lines}
            socket.send(json.dumps({"answer": request["request"], **done}))

        socket.on_message(reply)
        socket.send(json.dumps({"event": "port", "state": "up", "reason": ""}))

    def look(page: Page) -> None:
        page.route_web_socket("**/daisyport/ports/P0", answer)
        page.route_web_socket("**/daisyport/ports/P0?trace=1", lambda trace: trace.close(code=1001))
        page.reload()
        page.get_by_label("Send", exact=True).fill("untraced")
        page.get_by_role("button", name="Send", exact=True).click()
        shows(page, ".sent .text", "untraced\\r")  # without a trace what is sent from here is shown all the same
        page.get_by_role("button", name="DTR", pressed=True).click()
        page.get_by_role("button", name="DTR", pressed=False).wait_for()
        shows(page, "#modem .on", "DSR")
        page.get_by_label("Length of the break").fill("40")
        page.get_by_role("button", name="Send break").click()
        shows(page, ".note", "A break of 40 ms was sent")

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            await visit(gateway, look)
    assert {"request": "set", "dtr": False} in asked
    assert {"request": "break", "milliseconds": 40} in asked


async def test_a_viewer_reads_the_line_and_is_offered_nothing_else(tmp_path: Path) -> None:
    def look(page: Page) -> None:
        shows(page, "#reads-only", "you can read the line, not write to it")
        shows(page, "#state", "up")
        client = in_trio(trio.open_tcp_stream, "127.0.0.1", port)
        in_trio(client.send_all, b"secret")
        assert in_trio(gateway.lines[0].hear, 6) == b"secret"
        in_trio(gateway.lines[0].say, b"seen")
        shows(page, ".received .text", "seen")
        assert page.locator(".row.sent").count() == 0
        for offered in ("#send", "#break", "#settings", "#clients", "#throughput", "#chain", "#written"):
            assert page.locator(offered).is_hidden()
        in_trio(client.aclose)

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            await visit(gateway, look, user="viewer")


async def test_an_operator_sees_the_settings_which_an_admin_may_change(tmp_path: Path) -> None:
    def look(page: Page) -> None:
        shows(page, "#settings-note", "can be changed by an admin")
        assert page.get_by_label("Baud rate").is_disabled()
        assert page.get_by_label("Send", exact=True).is_enabled()

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            await visit(gateway, look, user="operator")


async def test_a_chained_node_shows_the_line_that_another_owns_and_the_chain_with_the_link_that_goes_down(
    tmp_path: Path,
) -> None:
    def look(page: Page) -> None:
        page.goto(f"http://127.0.0.1:{owner.http_port}/")
        look_at_the_owner(page)
        page.goto("/")
        shows(page, "#state", "up")
        shows(page, "#device", "remote port R0")
        shows(page, "#facts", "P0 of cpu1")
        shows(page, "#chain .here", "<b>far</b>?")
        assert page.locator("#chain li").count() == 2
        assert page.locator("#chain .hop.up").count() == 1
        in_trio(owner.lines[0].say, b"from afar")
        shows(page, ".received .text", "from afar")
        page.get_by_label("Send", exact=True).fill("back")
        page.keyboard.press("Enter")
        assert in_trio(owner.lines[0].hear, 5) == b"back\r"
        shows(page, ".row.sent", "back\\r")
        shows(page, "#beside-note", "the line has no modem lines")
        trio.from_thread.run_sync(owner.stop.set)
        shows(page, "#chain .hop.down", "down")
        shows(page, "#chain .bad", "no link to cpu1")
        shows(page, "#chain-told", "no link to cpu1")

    def look_at_the_owner(page: Page) -> None:
        shows(page, "#clients", "Remote port")
        shows(page, "#state", "up")
        tcp = in_trio(trio.open_tcp_stream, "127.0.0.1", tcp_port)
        in_trio(tcp.send_all, b"from the far end")
        row = page.locator(".row.sent").filter(has_text="from the far end")
        assert row.locator(".who").inner_text() == "via <b>far</b>? TCP"
        assert in_trio(owner.lines[0].hear, 16) == b"from the far end"
        assert not re.search("[0-9a-f]{32}", page.locator("body").inner_text())
        in_trio(tcp.aclose)

    port, key = free_port(), "a-key-that-nobody-knows"
    server = {"Enabled": "yes", "AuthenticationKey": key, "Listener.Enabled": "yes", "Listener.Port": port}
    client = {"AutoConf": "no", "Host": "127.0.0.1", "Port": port, "AuthenticationKey": key}
    (tmp_path / "two").mkdir()
    with trio.fail_after(60):
        async with running_gateway(tmp_path) as owner:
            await owner.set({f"PortManager.P0.RemotePortServer.{name}": value for name, value in server.items()})
            async with running_gateway(
                tmp_path / "two", ports=0, managers=(ManagerHardware(remote_port=0),), node_name="<b>far</b>\u202e"
            ) as chained:
                await chained.set({f"RemotePort.R0.{name}": value for name, value in client.items()})
                tcp_port = await chained.open_tcp()
                await visit(chained, look)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_nothing_is_cut_off_and_everything_has_a_name(tmp_path: Path, scheme: str) -> None:
    def look(page: Page) -> None:
        shows(page, "#state", "up")
        page.get_by_label("Baud rate").wait_for()
        in_trio(gateway.lines[0].say, b"W" * 300)
        shows(page, ".received .text", "WWW")
        assert page.evaluate("document.scrollingElement.scrollWidth") == 360
        grounds = {"light": "rgb(245, 246, 244)", "dark": "rgb(18, 23, 26)"}
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[scheme]
        nameless = """[...document.querySelectorAll("input, select, button, a")]
            .filter((it) => !(it.labels?.length || it.ariaLabel || it.textContent.trim())).map((it) => it.outerHTML)"""
        assert page.evaluate(nameless) == []

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            await visit(gateway, look, viewport={"width": 360, "height": 740}, color_scheme=scheme)


async def test_when_the_gateway_stops_the_page_says_so(tmp_path: Path) -> None:
    def look(page: Page) -> None:
        shows(page, "#state", "up")
        trio.from_thread.run_sync(gateway.stop.set)
        shows(page, "#state.down", "not connected: the gateway stops")
        shows(page, "#trouble", "The gateway does not answer; trying again.")

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            login = {"username": "admin", "password": PASSWORD}
            errors = await trio.to_thread.run_sync(_visit, gateway, look, {"http_credentials": login})
            assert [why for why in errors if "ERR_CONNECTION" not in why] == []


async def test_a_page_that_offers_binary_gets_it_and_every_byte_both_ways(tmp_path: Path) -> None:
    every = bytes(range(256))

    def look(page: Page) -> None:
        opened = """url => new Promise((resolve, reject) => {
            window.line = new WebSocket(url.replace("http", "ws"), ["wsSerial", "binary"]);
            window.line.binaryType = "arraybuffer";
            window.heard = [];
            window.line.onmessage = event => {
                window.heard.push(...(event.data instanceof ArrayBuffer ? new Uint8Array(event.data) : [event.data]));
                document.body.dataset.heard = window.heard.length;
            };
            window.line.onopen = () => resolve(window.line.protocol);
            window.line.onerror = () => reject(new Error("refused"));
        })"""
        assert page.evaluate(opened, f"http://127.0.0.1:{gateway.http_port}/daisyport/ports/P0") == "binary"
        page.evaluate("() => line.send(new Uint8Array(Array.from({length: 256}, (_, value) => value)))")
        assert in_trio(gateway.lines[0].hear, 256) == every
        in_trio(gateway.lines[0].say, every)
        # Not by wait_for_function, whose second look is an eval, which the page's policy forbids.
        page.locator('body[data-heard="256"]').wait_for()
        assert page.evaluate("heard") == list(every)  # bytes, and no JSON beside them
        page.evaluate("() => line.send('gr\\u00f6\\u00dfe\\r')")
        assert in_trio(gateway.lines[0].hear, 8) == "größe\r".encode()
        page.evaluate("() => line.close()")

    with trio.fail_after(60):
        async with running_gateway(tmp_path) as gateway:
            await visit(gateway, look)
