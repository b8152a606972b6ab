"""TLS on the front door's own port: real curl, real sockets, a certificate exchanged under a connection."""

from __future__ import annotations

import hashlib
import json
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from gateway.app import run
from gateway.host.config import HttpConfig
from gateway.host.reload import Reload
from gateway.host.sdnotify import Notifier
from gateway.state.users import Users
from gateway.tasks.watch import Cell
from gateway.web.self_signed import make_certificate
from tests.helpers import PASSWORD, configuration, free_port, lines, needs_curl, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers import Gateway

LIST = "/axis-cgi/param.cgi?action=list&group=Properties.Serial.Serial"
ROOT = "Properties.Serial.Serial=yes\n"

pytestmark = needs_curl


async def curl(gateway: Gateway, target: str, *options: str) -> str:
    """What curl prints over TLS, trusting the certificate that the gateway made for itself."""
    trusted = str(gateway.config.state_dir / "tls.pem")
    command = ["curl", "-sS", "--cacert", trusted, "-u", f"admin:{PASSWORD}", *options]
    done = await trio.run_process([*command, f"https://127.0.0.1:{gateway.http_port}{target}"], capture_stdout=True)
    return done.stdout.decode()


async def test_plain_and_tls_share_one_port_and_recommended_means_basic_over_tls(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            assert await curl(gateway, LIST, "--basic") == ROOT
            assert await gateway.curl(LIST) == ROOT
            refused = await curl(gateway, LIST, "--digest", "-i")
            assert "WWW-Authenticate: Basic realm=" in refused
            assert "Digest" not in refused.split("\r\n\r\n")[0]
            refused = await gateway.curl(LIST, "--basic", "-i")
            assert "WWW-Authenticate: Digest realm=" in refused


async def test_the_status_shows_the_fingerprint_that_a_client_sees(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            stream = await trio.open_tcp_stream("127.0.0.1", gateway.http_port)
            async with trio.SSLStream(stream, unverified(), server_hostname="x") as client:
                await client.do_handshake()
                der = client.getpeercert(binary_form=True)
            shown: dict[str, Any] = json.loads(await curl(gateway, "/daisyport/status"))["tls"]
            assert shown["fingerprint_sha256"] == fingerprint(der)
            assert shown["certificate"] == str(gateway.config.state_dir / "tls.pem")
            assert shown["complaint"] == ""


async def test_serial_cgi_writes_and_reads_over_tls(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway, trio.open_nursery() as nursery:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            answers: list[str] = []

            async def ask() -> None:
                answers.append(await curl(gateway, "/axis-cgi/com/serial.cgi?write=51&read=2&timeout=9000"))

            nursery.start_soon(ask)
            assert await gateway.lines[0].hear(1) == b"Q"
            await gateway.lines[0].say(b"ok")
            while not answers:
                await trio.lowlevel.checkpoint()
            assert answers == ["#6F6B#"]


async def test_an_answer_after_an_error_arrives_whole_and_ends_with_a_close_notify(tmp_path: Path) -> None:
    """With bytes unread a plain close would reset the connection, and take the answer with it."""
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            stream = await trio.open_tcp_stream("127.0.0.1", gateway.http_port)
            async with trio.SSLStream(stream, unverified(), server_hostname="x") as client:
                await client.send_all(
                    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + bytes(100_000)
                )
                answer = b"".join([bytes(piece) async for piece in client])  # without https_compatible: strict
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert answer.endswith(b"send less.\n")


async def test_a_new_certificate_is_used_after_a_hang_up_and_open_connections_stay(tmp_path: Path) -> None:
    pem = tmp_path / "cam.pem"
    pem.write_bytes(make_certificate(("old",)))
    port, stop = free_port(), trio.Event()
    with trio.fail_after(15), lines(tmp_path, 1) as ends:
        config = configuration(tmp_path, ends, port, http=HttpConfig((("127.0.0.1", port),), tls_certificate=pem))
        reloads = Cell(Reload(config))
        Users(config.state_dir).add("admin", "admin", PASSWORD)
        async with trio.open_nursery() as nursery:
            await nursery.start(run, config, stop, Notifier(None), reloads)
            old = await connected(port)
            pem.write_bytes(b"half of a new o")
            reloads.set(Reload(config, 1))
            await presented(port, old)  # the old one stays
            pem.write_bytes(make_certificate(("new",)))
            reloads.set(Reload(config, 2))
            new = await connected(port)
            while fingerprint_of(new) == fingerprint_of(old):
                await new.aclose()
                new = await connected(port)
            for client in (old, new):
                await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await client.receive_some(1000)).startswith(b"HTTP/1.1 ")
                await client.aclose()
            stop.set()


async def presented(port: int, known: trio.SSLStream[trio.SocketStream]) -> None:
    client = await connected(port)
    assert fingerprint_of(client) == fingerprint_of(known)
    await client.aclose()


async def connected(port: int) -> trio.SSLStream[trio.SocketStream]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    client = trio.SSLStream(stream, unverified(), server_hostname="x")
    await client.do_handshake()
    return client


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint_of(client: trio.SSLStream[trio.SocketStream]) -> str:
    return fingerprint(client.getpeercert(binary_form=True))


def fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).digest().hex(":").upper()


async def test_a_reload_takes_up_the_certificate_and_the_checks_of_browsers_at_the_next_connection(
    tmp_path: Path,
) -> None:
    for name in ("old", "new"):
        (tmp_path / f"{name}.pem").write_bytes(make_certificate((name,)))
    port, stop = free_port(), trio.Event()
    http = HttpConfig((("127.0.0.1", port),), tls_certificate=tmp_path / "old.pem")
    foreign = b"GET /axis-cgi/param.cgi?action=update&a=b HTTP/1.1\r\nHost: x\r\nOrigin: https://elsewhere\r\n\r\n"
    with trio.fail_after(15), lines(tmp_path, 1) as ends:
        config = configuration(tmp_path, ends, port, http=http)
        Users(config.state_dir).add("admin", "admin", PASSWORD)
        reloads = Cell(Reload(config))
        async with trio.open_nursery() as nursery:
            await nursery.start(run, config, stop, Notifier(None), reloads)
            old = await connected(port)
            changed = replace(http, tls_certificate=tmp_path / "new.pem", browser_guard=False)
            reloads.set(Reload(replace(config, http=changed), 1))
            new = await connected(port)
            while fingerprint_of(new) == fingerprint_of(old):
                await new.aclose()
                new = await connected(port)
            await new.send_all(foreign)
            assert b"may have made it" not in await new.receive_some(4000)
            await new.aclose()
            await old.aclose()
            stop.set()
