"""Users who come to a port over TLS: whom a certificate lets in, what he may do there, and what strangers cost."""

from __future__ import annotations

import logging
import select
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.app import run
from gateway.clients import tls
from gateway.clients.tls import NotAdmitted, common_name
from gateway.host.config import PortConfig, TlsConfig
from gateway.host.reload import Reload
from gateway.host.sdnotify import Notifier
from gateway.state.users import Users
from gateway.tasks.watch import Cell
from protocol.sharing.turn_rule import TurnRule
from tests.certificates import NOW, YEAR, Authority, client_context, has_the_line
from tests.helpers import PASSWORD, Gateway, configuration, free_port, lines, needs_curl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = needs_curl

TLS_1_1 = bytes.fromhex("160302002d 01000029 0302" + 32 * "5a" + "00 0002 c013 01 00".replace(" ", ""))
"""A ClientHello that offers TLS 1.1 and one cipher, and has no extensions."""
Tls = trio.SSLStream[trio.SocketStream]


@dataclass
class Cabinet:
    """A gateway with a TLS listener on P0, and the authority of those who come there."""

    gateway: Gateway
    port: int
    authority: Authority
    directory: Path
    reloads: Cell[Reload]
    users: Users
    streams: list[trio.SocketStream] = field(default_factory=list)
    """The connections of clients, which are closed in the end."""

    def certificate(self, name: str, authority: Authority | None = None, **dates: Any) -> Path:
        """Make a file with the certificate of a user, and its key."""
        path = self.directory / f"{name}.pem"
        path.write_bytes((authority or self.authority).sign(name, **dates)[0])
        return path

    async def stranger(self, source: str = "127.0.0.1") -> trio.SocketStream:
        """Connect from an address of loopback, and say nothing."""
        sock = trio.socket.socket()
        stream = trio.SocketStream(sock)
        self.streams.append(stream)
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", self.port))
        return stream

    async def connected(self, certificate: Path | None, source: str = "127.0.0.1", **versions: Any) -> Tls:
        stream = await self.stranger(source)
        client = trio.SSLStream(stream, client_context(certificate, **versions), server_hostname="cabinet")
        await client.do_handshake()
        return client

    async def come(self, name: str, **more: Any) -> Tls:
        """Connect with a new certificate for ``name``; return when it is here."""
        before = await self.holders()
        client = await self.connected(self.certificate(name), **more)
        await self.gateway.until(lambda status: len(status["clients"]) > len(before))
        return client

    async def holders(self) -> list[str]:
        return [client["holder"] for client in (await self.gateway.status())["clients"]]

    async def refusals(self) -> int:
        found = (await self.gateway.status())["clients_turned_away_by_service"]["TLS"]
        assert isinstance(found, int)
        return found

    async def is_welcome(self, certificate: Path) -> bool:
        return await has_the_line(self.gateway.lines[0], self.port, certificate)

    async def is_refused(self, certificate: Path | None, **versions: Any) -> str:
        """Connect, and be sent away; return what the client is told: an alert, or nothing."""
        before = await self.refusals()
        told = ""
        try:
            client = await self.connected(certificate, **versions)
            assert await client.receive_some() == b""
        except trio.BrokenResourceError as exc:
            told = getattr(exc.__cause__, "reason", f"{exc.__cause__!r}")
        assert await self.refusals() == before + 1
        return told


@asynccontextmanager
async def cabinet(directory: Path, **sharing: Any) -> AsyncIterator[Cabinet]:
    authority, port, http_port = Authority(), free_port(), free_port()
    clients = directory / "clients.pem"
    clients.write_bytes(authority.pem)
    served = PortConfig(tls=TlsConfig((("127.0.0.1", port),), clients), **sharing)
    with trio.fail_after(40), lines(directory, 1) as ends:
        config = configuration(directory, ends, http_port, sharing=(served,))
        users = Users(config.state_dir, config.node_name)
        for role in ("admin", "operator", "viewer"):
            users.add(role, role, PASSWORD)
        reloads = Cell(Reload(config))
        gateway = Gateway(config, ends, http_port)
        async with trio.open_nursery() as nursery:
            await nursery.start(run, config, gateway.stop, Notifier(None), reloads)
            listener = f"listen 127.0.0.1:{port} for TLS"
            await gateway.until(lambda status: status["services"].get(listener) == "up")
            here = Cabinet(gateway, port, authority, directory, reloads, users)
            yield here
            gateway.stop.set()
    for stream in here.streams:
        await stream.aclose()


# -- who comes in, and what he may do


async def test_an_operator_reads_and_writes_the_line_and_is_shown_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with cabinet(tmp_path) as here:
        client = await here.come("operator")
        await client.send_all(bytes(range(256)))
        assert await here.gateway.lines[0].hear(256) == bytes(range(256))
        await here.gateway.lines[0].say(b"answer")
        assert await client.receive_some() == b"answer"
        (shown,) = (await here.gateway.status())["clients"]
        endpoint = f"127.0.0.1:{client.transport_stream.socket.getsockname()[1]}"
        assert (shown["holder"], shown["service"]) == (f"operator at {endpoint}", "TLS")
        assert (shown["written"], shown["bytes_out"], shown["writes"]) == (256, 6, True)
        assert "operator (operator) logged in from 127.0.0.1" in caplog.text
        assert (
            await here.gateway.curl("/daisyport/kick?holder=operator", "-X", "POST")
            == f"ended: operator at {endpoint}\n"
        )
        assert await client.receive_some() == b""  # with the end of TLS, or this raises


async def test_a_viewer_hears_the_line_and_writes_nothing_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cabinet(tmp_path) as here:
        viewer = await here.come("viewer")
        await viewer.send_all(b"not mine to say")
        status = await here.gateway.until(lambda status: status["bytes_dropped"] == 15)
        assert status["clients"][0]["writes"] is False
        operator = await here.come("operator")
        await operator.send_all(b"mine")
        assert await here.gateway.lines[0].hear(4) == b"mine"
        await here.gateway.lines[0].say(b"heard")
        assert await viewer.receive_some() == b"heard"
    assert "what it sends is dropped: viewer at 127.0.0.1:" in caplog.text


async def test_a_user_who_is_bound_to_ports_comes_to_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with cabinet(tmp_path) as here:
        here.users.add("anna", "operator", PASSWORD, frozenset({0}))
        here.users.add("ben", "operator", PASSWORD, frozenset({1}))
        assert await here.is_refused(here.certificate("ben")) == ""
        await (await here.come("anna")).send_all(b"mine")
        assert await here.gateway.lines[0].hear(4) == b"mine"
    assert "refused: ben may not use P0" in caplog.text


async def test_clients_of_both_versions_come_in_and_of_none_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cabinet(tmp_path) as here:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = await here.come("operator", minimum_version=version, maximum_version=version)
            await client.send_all(b"hello")
            assert await here.gateway.lines[0].hear(5) == b"hello"
        stream = await here.stranger()
        await stream.send_all(TLS_1_1)
        assert (await stream.receive_some())[:1] == b"\x15"  # an alert
        await here.gateway.until(lambda status: status["clients_turned_away"] == 1)
    assert "refused: TLS: unsupported protocol" in caplog.text


# -- who does not


@pytest.mark.parametrize(
    ("whose", "told", "logged"),
    [
        ("nobody's", "TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLS: peer did not return a certificate"),
        ("another authority's", "TLSV1_ALERT_UNKNOWN_CA", "its certificate: unable to get local issuer certificate"),
        ("expired", "SSLV3_ALERT_CERTIFICATE_EXPIRED", "its certificate: certificate has expired"),
        ("not yet valid", "SSLV3_ALERT_BAD_CERTIFICATE", "its certificate: certificate is not yet valid"),
        ("unknown", "", "its certificate names 'mallory', who is no user"),
        ("of two names", "", "its certificate has 2 common names (CN), and one is the user's name"),
    ],
)
async def test_who_does_not_come_in_is_told_by_tls_as_far_as_that_has_words_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, whose: str, told: str, logged: str
) -> None:
    async with cabinet(tmp_path) as here:
        two = here.directory / "two.pem"
        two.write_bytes(here.authority.sign("operator", "admin")[0])
        certificate = {
            "nobody's": None,
            "another authority's": here.certificate("a", Authority("of somebody else")),
            "expired": here.certificate("b", end=NOW - YEAR / 2),
            "not yet valid": here.certificate("c", begin=NOW + YEAR / 2),
            "unknown": here.certificate("mallory"),
            "of two names": two,
        }[whose]
        assert await here.is_refused(certificate) == told
        assert f"refused: {logged}" in caplog.text
        assert await here.holders() == []


async def test_a_client_that_says_much_before_it_reads_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close with bytes unread would reset the connection, and the alert may be lost with that."""
    monkeypatch.setattr(tls, "_LINGER", 3600)
    async with cabinet(tmp_path) as here:
        client = await here.connected(None)
        await client.send_all(bytes(1_000_000))
        with pytest.raises(trio.BrokenResourceError) as told:
            await client.receive_some()
        assert "CERTIFICATE_REQUIRED" in str(told.value.__cause__)


async def test_who_may_not_come_by_his_address_gets_no_handshake(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cabinet(tmp_path) as here:
        assert await here.gateway.update(GenericTCPServer_AllowedIPAddresses="127.0.0.2") == "OK"
        with pytest.raises(trio.BrokenResourceError):
            await here.connected(here.certificate("operator"))
        client = await here.come("operator", source="127.0.0.2")
        assert "its address is not among AllowedIPAddresses" in caplog.text
        assert await here.gateway.update(GenericTCPServer_AllowedIPAddresses="127.0.0.1") == "OK"
        assert await client.receive_some() == b""


async def test_a_client_that_is_idle_for_too_long_is_ended(tmp_path: Path) -> None:
    async with cabinet(tmp_path) as here:
        client = await here.come("operator")
        assert await here.gateway.update(GenericTCPServer_Timeout=1) == "OK"
        assert await client.receive_some() == b""


async def test_clients_over_tls_count_among_the_clients_of_the_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cabinet(tmp_path, max_clients=1) as here:
        await here.come("operator")
        assert await here.is_refused(here.certificate("operator")) == ""
    assert "1 clients are connected to this port already" in caplog.text


async def test_the_reply_of_a_turn_goes_to_the_user_who_asked(tmp_path: Path) -> None:
    turn = TurnRule("line", b"\n", reply_timeout=5)
    async with cabinet(tmp_path, turn=turn) as here:
        asker, other = await here.come("operator"), await here.come("admin")
        await asker.send_all(b"ask\n")
        assert await here.gateway.lines[0].hear(4) == b"ask\n"
        await here.gateway.lines[0].say(b"answer\n")
        assert await asker.receive_some() == b"answer\n"
        await other.send_all(b"ask\n")
        assert await here.gateway.lines[0].hear(4) == b"ask\n"
        await here.gateway.lines[0].say(b"another\n")
        assert await other.receive_some() == b"another\n"


# -- what ends a user


@pytest.mark.parametrize("then", ["removed", "a viewer", "of another port"])
async def test_a_user_who_may_not_stay_is_ended_though_no_byte_passes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, then: str
) -> None:
    caplog.set_level(logging.INFO)
    async with cabinet(tmp_path) as here:
        stays = await here.come("admin")
        client = await here.come("operator")
        here.users.remove("operator")
        if then == "a viewer":
            here.users.add("operator", "viewer", PASSWORD)
        elif then == "of another port":
            here.users.add("operator", "operator", PASSWORD, frozenset({1}))
        assert await client.receive_some() == b""
        await stays.send_all(b"I stay")
        assert await here.gateway.lines[0].hear(6) == b"I stay"
    why = "the user operator was removed" if then == "removed" else "the role or the ports of operator were changed"
    assert f"gone: {why}" in caplog.text


async def test_a_new_password_or_a_role_that_may_the_same_ends_nobody(tmp_path: Path) -> None:
    async with cabinet(tmp_path) as here:
        client = await here.come("operator")
        here.users.set_password("operator", "another one")
        here.users.remove("admin")
        here.users.add("admin", "operator", PASSWORD)
        watched = await here.come("viewer")
        here.users.remove("viewer")
        assert await watched.receive_some() == b""  # so everybody was looked at
        await client.send_all(b"I stay")
        assert await here.gateway.lines[0].hear(6) == b"I stay"


# -- the certificates of this host, and their files


async def hang_up(here: Cabinet) -> None:
    before = here.reloads.value
    here.reloads.set(replace(before, count=before.count + 1))


async def test_what_the_file_of_the_authorities_says_counts_after_a_hang_up_for_new_connections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cabinet(tmp_path) as here:
        old, new = await here.come("operator"), Authority("the next one")
        clients = here.directory / "clients.pem"
        other = here.directory / "clients.new"
        other.write_bytes(new.pem)
        other.rename(clients)
        certificate = here.certificate("admin", new)
        assert await here.is_refused(certificate) == "TLSV1_ALERT_UNKNOWN_CA"
        await hang_up(here)
        while await here.is_welcome(certificate) is False:
            pass
        clients.write_bytes(b"half of a new o")
        await hang_up(here)
        status = await here.gateway.until(lambda status: bool(status["tls"]["complaint"]))
        assert status["tls"]["complaint"] == f"{clients}: no PEM certificate in it (BEGIN CERTIFICATE)"
        assert status["tls"]["client_ca"] == str(clients)
        assert await here.is_welcome(certificate)  # the one in force stays
        await old.send_all(b"I stay")
        assert await here.gateway.lines[0].hear(6) == b"I stay"
    assert f"P0 TLS: {clients}: no PEM certificate in it (BEGIN CERTIFICATE); the one in force stays" in caplog.text


async def test_a_port_without_its_file_of_authorities_serves_nobody_until_it_has_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, port, http_port = Authority(), free_port(), free_port()
    clients = tmp_path / "none.pem"
    served = PortConfig(tls=TlsConfig((("127.0.0.1", port),), clients))
    with trio.fail_after(40), lines(tmp_path, 1) as ends:
        config = configuration(tmp_path, ends, http_port, sharing=(served,))
        users = Users(config.state_dir, config.node_name)
        users.add("admin", "admin", PASSWORD)
        reloads, gateway = Cell(Reload(config)), Gateway(config, ends, http_port)
        async with trio.open_nursery() as nursery:
            await nursery.start(run, config, gateway.stop, Notifier(None), reloads)
            here = Cabinet(gateway, port, authority, tmp_path, reloads, users)
            with pytest.raises(trio.BrokenResourceError):
                await here.connected(here.certificate("admin"))
            assert f"P0 TLS: {clients} cannot be read: No such file or directory; no client is served" in caplog.text
            assert "refused: TLS has no certificate that can be used" in caplog.text
            why = f"no client is served: {clients} cannot be read: No such file or directory"
            assert (await gateway.status())["services"]["service TLS"] == why
            clients.write_bytes(authority.pem)
            await hang_up(here)
            await gateway.until(lambda status: status["services"]["service TLS"] == "up")
            assert await here.is_welcome(here.certificate("admin"))
            for stream in here.streams:
                await stream.aclose()
            gateway.stop.set()


async def test_a_certificate_that_the_authority_took_back_does_not_let_anybody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cabinet(tmp_path) as here:
        pem, certificate = here.authority.sign("operator")
        lost = here.directory / "lost.pem"
        lost.write_bytes(pem)
        await (await here.connected(lost)).aclose()
        (here.directory / "clients.pem").write_bytes(here.authority.pem + here.authority.revoke([certificate]))
        await hang_up(here)
        while await here.is_welcome(lost):
            pass
        assert "its certificate: certificate revoked" in caplog.text
        assert await here.is_welcome(here.certificate("operator"))


async def test_an_authority_below_a_root_is_trusted_as_it_stands(tmp_path: Path) -> None:
    async with cabinet(tmp_path) as here:
        root = Authority("of the company")
        below = Authority("of the plant", root)
        (here.directory / "clients.pem").write_bytes(below.pem)
        await hang_up(here)
        while not await here.is_welcome(here.certificate("operator", below)):
            pass
        assert not await here.is_welcome(here.certificate("operator", root))


async def test_a_session_that_is_resumed_ends_with_its_certificate() -> None:
    certificate = {"subject": ((("commonName", "anna"),),), "notAfter": "Jan  1 00:00:00 2020 GMT"}
    with pytest.raises(NotAdmitted, match="certificate has expired"):
        common_name(certificate)
    assert common_name(certificate | {"notAfter": "Dec 31 23:59:59 9999 GMT"}) == "anna"


# -- how it ends


async def test_a_client_that_ended_its_sending_hears_the_answer_and_then_a_clean_end(tmp_path: Path) -> None:
    async with cabinet(tmp_path, linger=0.2) as here:
        sock = socket.create_connection(("127.0.0.1", here.port))
        client = await trio.to_thread.run_sync(client_context(here.certificate("operator")).wrap_socket, sock)
        with client:
            client.sendall(b"ask")
            client.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                client.unwrap()  # our end is told, and nothing is closed
            assert await here.gateway.lines[0].hear(3) == b"ask"
            await here.gateway.lines[0].say(b"answer")
            heard = bytearray()

            async def hear() -> None:
                while True:
                    await trio.lowlevel.wait_readable(client)
                    with suppress(ssl.SSLWantReadError):
                        heard.extend(client.recv(100))

            with pytest.raises(ssl.SSLZeroReturnError):  # both ends were told
                await hear()
            assert heard == b"answer"


async def test_a_connection_that_ends_without_the_end_of_tls_is_a_client_that_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with cabinet(tmp_path, linger=60.0) as here:
        client = await here.come("operator")
        await client.send_all(b"my last words")
        await client.transport_stream.aclose()
        assert await here.gateway.lines[0].hear(13) == b"my last words"
        await here.gateway.until(lambda status: not status["clients"])
    assert "gone: its connection ended without the end of TLS (close_notify)" in caplog.text


async def test_nothing_is_sent_that_a_client_which_only_writes_would_leave_unread(tmp_path: Path) -> None:
    """Of a client that closes with bytes unread the kernel resets the connection, and takes with it what it sent."""
    async with cabinet(tmp_path) as here:
        client = await here.come("operator")
        assert select.select([client.transport_stream.socket], [], [], 0) == ([], [], [])


async def test_a_gateway_that_stops_gives_its_users_what_waits_and_a_clean_end(tmp_path: Path) -> None:
    async with cabinet(tmp_path) as here:
        client = await here.come("operator")
        said = bytes(200_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.gateway.lines[0].say, said)
            await here.gateway.until(lambda status: status["bytes_from_line"] == len(said))
            here.gateway.stop.set()
            heard = b"".join([bytes(piece) async for piece in client])  # a ragged end raises
        assert heard == said


# -- what strangers cost


async def test_strangers_who_say_nothing_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_SECONDS", 3600)
    async with cabinet(tmp_path) as here:
        silent = [await here.stranger() for _ in range(3 * tls._HANDSHAKES)]
        client = await here.come("operator")
        await client.send_all(b"hello")
        assert await here.gateway.lines[0].hear(5) == b"hello"
        gone = 0
        for stream in silent[: -tls._SHARE]:  # the oldest made room
            assert await stream.receive_some() == b""
            gone += 1
        assert gone == 3 * tls._HANDSHAKES - tls._SHARE


async def test_a_crowd_gives_way_to_a_client_of_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_SECONDS", 3600)
    async with cabinet(tmp_path) as here:
        crowd = [
            await here.stranger(source) for source in ("127.0.0.2", "127.0.0.3") for _ in range(tls._HANDSHAKES // 2)
        ]
        client = await here.come("operator", source="127.0.0.4")
        await client.send_all(b"hello")
        assert await here.gateway.lines[0].hear(5) == b"hello"
        assert await crowd[0].receive_some() == b""


async def test_a_handshake_that_never_ends_is_ended_and_a_half_one_is_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "_SECONDS", 0.5)
    async with cabinet(tmp_path, max_clients=1) as here:
        stream = await here.stranger()
        await stream.send_all(b"\x16\x03\x01\x02\x00\x01")
        client = await here.come("operator")
        assert await stream.receive_some() == b""
        await client.send_all(b"hello")
        assert await here.gateway.lines[0].hear(5) == b"hello"
    assert "refused: no handshake in 0.5 s" in caplog.text


class Passes(trio.abc.Instrument):
    """Counts the work of the server's handshakes in each pass of the scheduler."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = self.all = 0
        work = ssl.SSLObject.do_handshake

        def counted(side: ssl.SSLObject) -> None:
            if side.server_side:
                self.now += 1
                self.all += 1
                self.most = max(self.most, self.now)
            work(side)

        monkeypatch.setattr(ssl.SSLObject, "do_handshake", counted)

    def before_io_wait(self, timeout: float) -> None:
        self.now = 0


async def test_a_pass_of_the_scheduler_works_at_one_handshake_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cabinet(tmp_path) as here:
        passes = Passes(monkeypatch)
        trio.lowlevel.add_instrument(passes)
        certificate = here.certificate("operator")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(here.connected, certificate)
        trio.lowlevel.remove_instrument(passes)
        assert passes.all > 20
        assert passes.most == 1


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\x16\x03\x01\x40\x00" + bytes(20_000), b""])
async def test_what_is_no_tls_ends_that_connection_alone(tmp_path: Path, said: bytes) -> None:
    async with cabinet(tmp_path) as here:
        client = await here.come("operator")
        stream = await here.stranger()
        await stream.send_all(said)
        await stream.send_eof()
        while await stream.receive_some():
            pass
        await client.send_all(b"hello")
        assert await here.gateway.lines[0].hear(5) == b"hello"
