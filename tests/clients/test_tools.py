"""Clients that people use every day, unmodified, at a live daemon: command lines, libraries, TLS stacks, terminals."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import PASSWORD, FarEnd, free_port, needs_curl, running_gateway
from tests.hostile.siege import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.helpers import Gateway

pytestmark = [needs_curl, pytest.mark.clients]

HERE = Path(__file__).parent
BASIC = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
LISTED = "Serial.Ser1.BaudRate=9600\nSerial.Ser1.DataBits=8\n"
TARGET = "/axis-cgi/param.cgi?action=list&group=Serial.Ser1.BaudRate,Serial.Ser1.DataBits"
EVERY_BYTE = bytes(range(256))
NPM = ("request@2.88.2", "needle@3.3.1", "digest-fetch@3.1.1", "ws@8.18.0")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def needs_package(name: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(name)
    return pytest.mark.skipif(found is None, reason=f"{name} is not installed: pip install -e '.[clients]'")


@contextlib.asynccontextmanager
async def serving(directory: Path, policy: str = "basic_digest") -> AsyncIterator[Gateway]:
    with trio.fail_after(50):
        async with running_gateway(directory) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            assert await gateway.set({"Network.HTTP.AuthenticationPolicy": policy}) == "OK"
            yield gateway


async def ran(command: Sequence[object], terminal: int | None = None) -> None:
    """Run a program until it is cancelled; whatever it does then is well done.

    It has a session of its own: picocom ends with a signal to its whole group.
    """
    words, given = list(map(str, command)), terminal or b""
    await trio.run_process(words, stdin=given, stdout=terminal, stderr=terminal, check=False, start_new_session=True)


async def said(*command: object, check: bool = True, stdin: bytes = b"") -> str:
    done = await trio.run_process(
        list(map(str, command)), capture_stdout=True, capture_stderr=True, check=check, stdin=stdin
    )
    return done.stdout.decode()


# -- command lines -----------------------------------------------------------------------------------------------------

LOGIN = f"admin:{PASSWORD}"
COMMANDS = {
    "curl digest": ["curl", "-s", "--digest", "-u", LOGIN, "URL"],
    "curl basic": ["curl", "-s", "-u", LOGIN, "URL"],
    "curl anyauth": ["curl", "-s", "--anyauth", "-u", LOGIN, "URL"],
    "curl http2": ["curl", "-s", "--http2", "--digest", "-u", LOGIN, "URL"],
    "curl http1.0": ["curl", "-s", "--http1.0", "--digest", "-u", LOGIN, "URL"],
    "wget": ["wget", "-q", "-O", "-", "--user=admin", f"--password={PASSWORD}", "URL"],
    "busybox wget": ["busybox", "wget", "-q", "-O", "-", "--header", f"Authorization: Basic {BASIC}", "URL"],
    "lwp-request": ["lwp-request", "-C", LOGIN, "URL"],
    "lynx": ["lynx", "-source", f"-auth={LOGIN}", "URL"],
}


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=needs(each[0])) for each in COMMANDS.values()], ids=COMMANDS
)
async def test_a_command_line_lists_parameters(tmp_path: Path, command: list[str]) -> None:
    async with serving(tmp_path) as gateway:
        url = f"http://127.0.0.1:{gateway.http_port}{TARGET}"
        assert await said(*(url if word == "URL" else word for word in command)) == LISTED


@pytest.mark.parametrize("command", [pytest.param(COMMANDS["wget"], marks=needs("wget"))])
async def test_wget_logs_in_by_digest_alone(tmp_path: Path, command: list[str]) -> None:
    async with serving(tmp_path, "digest") as gateway:
        url = f"http://127.0.0.1:{gateway.http_port}{TARGET}"
        assert await said(*(url if word == "URL" else word for word in command)) == LISTED


@pytest.mark.parametrize("scheme", ["--anyauth", "--digest"])
async def test_curl_posts_a_form_after_an_empty_first_request(tmp_path: Path, scheme: str) -> None:
    async with serving(tmp_path, "digest") as gateway:
        url = f"http://127.0.0.1:{gateway.http_port}/axis-cgi/param.cgi"
        form = "action=list&group=Serial.Ser1.BaudRate,Serial.Ser1.DataBits"
        assert await said("curl", "-s", scheme, "-u", LOGIN, "-d", form, url) == LISTED


@pytest.mark.parametrize("scheme", ["--ntlm", "--negotiate"])
async def test_a_scheme_that_is_not_offered_is_asked_for_one_that_is_and_the_next_request_works(
    tmp_path: Path, scheme: str
) -> None:
    async with serving(tmp_path) as gateway:
        url = f"http://127.0.0.1:{gateway.http_port}{TARGET}"
        assert "401" in await said("curl", "-s", scheme, "-u", LOGIN, "-w", "%{http_code}", url, check=False)
        posted = await said("curl", "-s", scheme, "-u", LOGIN, "-d", "a=b", "-w", "%{http_code}", url, check=False)
        assert "401" in posted
        assert await said("curl", "-s", "--digest", "-u", LOGIN, url) == LISTED


async def test_urllib_logs_in_by_digest(tmp_path: Path) -> None:
    script = (
        "import sys, urllib.request as u\n"
        "known = u.HTTPPasswordMgrWithDefaultRealm()\n"
        "known.add_password(None, sys.argv[1], 'admin', sys.argv[2])\n"
        "print(u.build_opener(u.HTTPDigestAuthHandler(known)).open(sys.argv[1]).read().decode(), end='')"
    )
    async with serving(tmp_path, "digest") as gateway:
        url = f"http://127.0.0.1:{gateway.http_port}{TARGET}"
        assert await said(sys.executable, "-c", script, url, PASSWORD) == LISTED


@needs_package("aiohttp")
async def test_aiohttp_logs_in_by_digest(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, aiohttp\n"
        "async def main():\n"
        "    login = aiohttp.DigestAuthMiddleware('admin', sys.argv[2])\n"
        "    async with aiohttp.ClientSession(middlewares=[login]) as session:\n"
        "        for _ in range(5):\n"
        "            async with session.get(sys.argv[1]) as answer:\n"
        "                print(answer.status, await answer.text(), end='')\n"
        "asyncio.run(main())"
    )
    async with serving(tmp_path, "digest") as gateway:
        url = f"http://127.0.0.1:{gateway.http_port}{TARGET}"
        assert await said(sys.executable, "-c", script, url, PASSWORD) == f"200 {LISTED}" * 5


# -- digest headers by hand --------------------------------------------------------------------------------------------


def hashed(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode()).hexdigest()


HEADERS = {
    "quoted": (
        'username="admin", realm="{realm}", nonce="{nonce}", uri="{uri}", qop="auth", nc="{nc}", cnonce="{cnonce}", '
        'response="{proof}"'
    ),
    "bare": (
        "username=admin, realm={realm}, nonce={nonce}, uri={uri}, qop=auth, nc={nc}, cnonce={cnonce}, response={proof}"
    ),
    "no blanks": (
        'username="admin",realm="{realm}",nonce="{nonce}",uri="{uri}",response="{proof}",algorithm=MD5,qop=auth,nc={nc},'
        'cnonce="{cnonce}"'
    ),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
async def test_digest_headers_of_old_and_small_clients_are_understood(tmp_path: Path, header: str) -> None:
    async with serving(tmp_path, "digest") as gateway:
        for nc in ("00000001", "1", "0001", "0000000A"):
            await header_is_understood(gateway, header, nc)


async def header_is_understood(gateway: Gateway, header: str, nc: str) -> None:
    nonce, cnonce = await fresh_nonce(gateway), "cn" if "cnonce={cnonce}" in header else "c,n"
    uri = "/daisyport/ports" if "uri={uri}" in header else TARGET  # a bare one has no comma in it
    proof = hashed(hashed("admin", "cpu1", PASSWORD), nonce, nc, cnonce, "auth", hashed("GET", uri))
    written = header.format(realm="cpu1", nonce=nonce, uri=uri, nc=nc, cnonce=cnonce, proof=proof)
    assert await asked(gateway, written, uri) == (LISTED if uri == TARGET else await gateway.curl(uri))


async def test_a_digest_header_without_qop_is_understood(tmp_path: Path) -> None:
    async with serving(tmp_path, "digest") as gateway:
        nonce = await fresh_nonce(gateway)
        proof = hashed(hashed("admin", "cpu1", PASSWORD), nonce, hashed("GET", TARGET))
        written = f'username="admin", realm="cpu1", nonce="{nonce}", uri="{TARGET}", response="{proof}"'
        assert await asked(gateway, written) == LISTED


async def fresh_nonce(gateway: Gateway) -> str:
    head = await said("curl", "-s", "-i", f"http://127.0.0.1:{gateway.http_port}{TARGET}")
    return head.partition('nonce="')[2].partition('"')[0]


async def asked(gateway: Gateway, digest: str, target: str = TARGET) -> str:
    url = f"http://127.0.0.1:{gateway.http_port}{target}"
    return await said("curl", "-s", "-H", f"Authorization: Digest {digest}", url)


async def test_an_upgrade_to_http_2_with_a_body_is_answered_in_http_1(tmp_path: Path) -> None:
    body = b'{"apiVersion":"1.0","method":"getApiList"}'
    head = (
        b"POST /axis-cgi/apidiscovery.cgi HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\n"
        b"Host: cam\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
        b"User-Agent: Java-http-client/17\r\n\r\n" % len(body)
    )
    async with serving(tmp_path) as gateway, await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as stream:
        for _ in range(2):
            await stream.send_all(head + body)
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


# -- npm ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *NPM]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {NPM}: {done.stderr[-200:]}")
    return folder


@pytest.mark.parametrize("client", ["request", "needle", "digest-fetch"])
async def test_an_npm_client_logs_in_by_digest(tmp_path: Path, node_modules: Path, client: str) -> None:
    async with serving(tmp_path, "digest") as gateway:
        assert await said("node", HERE / "tools.mjs", node_modules, client, gateway.http_port, PASSWORD) == LISTED


async def test_ws_offers_binary_and_carries_every_byte_both_ways(tmp_path: Path, node_modules: Path) -> None:
    async with serving(tmp_path) as gateway:
        command = ["node", HERE / "tools.mjs", node_modules, "ws", gateway.http_port, PASSWORD]
        assert await echoed(gateway, command) == f"binary {EVERY_BYTE.hex()}"


@needs_package("websocket")
async def test_websocket_client_offers_binary_and_carries_every_byte_both_ways(tmp_path: Path) -> None:
    script = (
        "import sys, websocket\n"
        "page = websocket.create_connection(f'ws://127.0.0.1:{sys.argv[1]}/daisyport/ports/P0',\n"
        "    subprotocols=['binary'], header=[f'Authorization: Basic {sys.argv[2]}'])\n"
        "page.send_binary(bytes(range(256)))\n"
        "heard = b''\n"
        "while len(heard) < 256: heard += page.recv()\n"
        "print(page.subprotocol, heard.hex(), end='')\n"
        "page.close()"
    )
    async with serving(tmp_path) as gateway:
        command = [sys.executable, "-c", script, gateway.http_port, BASIC]
        assert await echoed(gateway, command) == f"binary {EVERY_BYTE.hex()}"


async def echoed(gateway: Gateway, command: list[object]) -> str:
    """What a client prints whose bytes come back from the line."""
    found: list[str] = []

    async def client() -> None:
        found.append(await said(*command))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        heard = await gateway.lines[0].hear(256)
        assert heard == EVERY_BYTE
        await gateway.lines[0].say(heard)
    return found[0]


# -- TLS stacks --------------------------------------------------------------------------------------------------------


async def test_the_self_signed_certificate_stands_under_strict_rules_in_every_tls_stack(
    tmp_path: Path, node_modules: Path
) -> None:
    async with serving(tmp_path) as gateway:
        ca, port = gateway.config.state_dir / "tls.pem", gateway.http_port
        strict = ["-x509_strict", "-verify_return_error", "-verify_ip", "127.0.0.1"]
        shown = await said("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", ca, *strict)
        assert "Verify return code: 0 (ok)" in shown
        assert await said("node", HERE / "tools.mjs", node_modules, "https", port, PASSWORD, ca) == LISTED
        url = f"https://127.0.0.1:{port}{TARGET}"
        assert await said("curl", "-s", "--cacert", ca, "-u", LOGIN, url) == LISTED


@needs("gnutls-cli")
async def test_gnutls_verifies_the_self_signed_certificate(tmp_path: Path) -> None:
    async with serving(tmp_path) as gateway:
        ca = gateway.config.state_dir / "tls.pem"
        shown = await said("gnutls-cli", "--x509cafile", ca, "-p", gateway.http_port, "localhost")
        assert "Status: The certificate is trusted." in shown


# -- what expects a serial port ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["serial", pytest.param("serialx", marks=needs_package("serialx"))])
async def test_a_serial_library_talks_through_a_socket(tmp_path: Path, library: str) -> None:
    script = (
        f"import sys, {library} as library\n"
        "with library.serial_for_url(f'socket://127.0.0.1:{sys.argv[1]}', baudrate=9600) as port:\n"
        "    port.write(bytes(range(256)))\n"
        "    heard = b''\n"
        "    while len(heard) < 256: heard += port.read(256 - len(heard))\n"
        "    print(heard.hex(), end='')"
    )
    async with serving(tmp_path) as gateway:
        port = await gateway.open_tcp()
        assert await echoed(gateway, [sys.executable, "-c", script, port]) == EVERY_BYTE.hex()


@contextlib.asynccontextmanager
async def socat_pty(directory: Path, port: int) -> AsyncIterator[Path]:
    """A pty that socat makes of the gateway's TCP port."""
    link = directory / "pty"
    ends = [f"pty,raw,echo=0,link={link}", f"tcp:127.0.0.1:{port}"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ran, ["socat", *ends])
        while not link.exists():  # noqa: ASYNC110 -- socat tells by the link, and no other way
            await trio.sleep(0.01)
        yield link
        nursery.cancel_scope.cancel()


MODBUS = bytes.fromhex("010302002a")
"""The answer of the slave 1 that its holding register is 42, without its check sum."""


def with_crc(message: bytes) -> bytes:
    crc = 0xFFFF
    for byte in message:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return message + crc.to_bytes(2, "little")


@needs("mbpoll")
@needs("socat")
async def test_mbpoll_reads_a_register_over_a_pty_of_socat(short_path: Path) -> None:
    async with serving(short_path) as gateway, socat_pty(short_path, await gateway.open_tcp()) as pty:
        found: list[str] = []

        async def poll() -> None:
            found.append(await said("mbpoll", "-m", "rtu", "-a", "1", "-r", "1", "-1", "-b", "9600", "-P", "none", pty))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            assert await gateway.lines[0].hear(8) == with_crc(bytes.fromhex("010300000001"))
            await gateway.lines[0].say(with_crc(MODBUS))
        assert "[1]: \t42" in found[0]


@pytest.mark.parametrize("terminal", [pytest.param(name, marks=needs(name)) for name in ("picocom", "tio")])
@needs("socat")
async def test_a_terminal_shows_the_line_over_a_pty_of_socat(short_path: Path, terminal: str) -> None:
    options = {"picocom": ["-q", "-r", "-b", "9600"], "tio": ["-b", "9600"]}[terminal]
    async with serving(short_path) as gateway, socat_pty(short_path, await gateway.open_tcp()) as pty:
        # A terminal wants one of its own.
        near, far = os.openpty()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ran, [terminal, *options, pty], far)
                shown = b""
                os.set_blocking(near, False)
                while b"the line" not in shown:
                    await gateway.lines[0].say(b"the line\r\n")
                    with trio.move_on_after(0.2):
                        await trio.lowlevel.wait_readable(near)
                        shown += os.read(near, 65536)
                nursery.cancel_scope.cancel()
        finally:
            os.close(near)
            os.close(far)


@needs("gpsd")
async def test_gpsd_has_its_fix_from_the_line(tmp_path: Path) -> None:
    nmea = (
        b"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
        b"GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W",
    )
    said_by_it = b"".join(b"$%b*%02X\r\n" % (each, xor(each)) for each in nmea)
    async with serving(tmp_path) as gateway:
        port, control = await gateway.open_tcp(), free_port()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ran, ["gpsd", "-N", "-n", "-b", "-S", control, f"tcp://127.0.0.1:{port}"])

            async def speak() -> None:
                while True:
                    await gateway.lines[0].say(said_by_it)
                    await trio.sleep(0.2)

            nursery.start_soon(speak)
            async with await connected(control) as watcher:
                await watcher.send_all(b'?WATCH={"enable":true,"json":true}\n')
                shown = b""
                while b'"class":"TPV"' not in shown or b'"lat":48.117' not in shown:
                    shown += await watcher.receive_some(4096)
            nursery.cancel_scope.cancel()


def xor(sentence: bytes) -> int:
    value = 0
    for byte in sentence:
        value ^= byte
    return value


@needs("ser2net")
async def test_connect_to_reaches_ser2net_and_finds_it_again_after_its_restart(short_path: Path) -> None:
    far, port, config = FarEnd(short_path / "far"), free_port(), short_path / "ser2net.yaml"
    connector = f"serialdev,{os.readlink(far.path)},9600n81,local"
    config.write_text(f"connection: &c\n    accepter: tcp,127.0.0.1,{port}\n    connector: {connector}\n")
    async with serving(short_path) as gateway, trio.open_nursery() as nursery:
        for _ in range(2):
            process = await trio.lowlevel.open_process(["ser2net", "-n", "-c", str(config)])
            answer = await gateway.update(
                GenericTCPServer_Enabled="yes",
                GenericTCPServer_ConnectTo_Enabled="yes",
                GenericTCPServer_ConnectTo_Host="127.0.0.1",
                GenericTCPServer_ConnectTo_Port=port,
            )
            assert answer == "OK"
            heard = b""
            while b"ping" not in heard:
                await gateway.lines[0].say(b"ping")
                with trio.move_on_after(0.3):
                    heard += await far.hear_some()
            await far.say(b"pong")
            assert await gateway.lines[0].hear(4) == b"pong"
            process.kill()
            await process.wait()
        nursery.cancel_scope.cancel()
    far.unplug()
