"""The HTTP API as its callers see it: a real catalogue and real users, and a small fake of the gateway."""

from __future__ import annotations

import atexit
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from gateway.clients.listeners import accept_clients
from gateway.clients.serial_cgi import Received
from gateway.state.store import Published, StoreError
from gateway.state.users import Users
from gateway.tasks.reconcile import Unit
from gateway.tasks.watch import Cell
from gateway.web.auth import AccessControl
from gateway.web.bearer import Bearer
from gateway.web.csrf import Site
from gateway.web.http import serve
from gateway.web.message import Handover, LocalCaller, Request, Response
from gateway.web.openmetrics import CONTENT_TYPE
from gateway.web.pages import PAGES
from gateway.web.routes import ROUTES, Backend, Routes
from gateway.web.server import HttpServer
from protocol.endpoint import Endpoint
from protocol.errors import ParameterError
from protocol.http.serial_cgi import CgiError, SerialRequest
from protocol.parameters.catalogue import Catalogue, Ports, Update
from protocol.parameters.hardware import Hardware, ManagerHardware, PortMode, SerialHardware
from protocol.parameters.roles import Role
from tests.gateway.web.test_openmetrics import SERIAL as SERIAL_COUNTED
from tests.gateway.web.test_openmetrics import STATUS as STATUS_COUNTED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.clients.serial_cgi import SerialCgi
    from gateway.port.router import Session
    from protocol.parameters.settings import Settings

PEER = Endpoint("192.0.2.7", 40000)
SERIAL = "/axis-cgi/com/serial.cgi"
PARAM = "/axis-cgi/param.cgi"
STATUS = "/daisyport/status"
PORTS = "/daisyport/ports"
TOLD = {"name": "P0", "type": "Serial", "serial_port": 1, "remote_port": None, "state": "up", "reason": ""}
CLIENT = {"holder": "somebody", "service": "PTZ", "queue": 0}
STATUS_SHOWN = STATUS_COUNTED | {"ports": [SERIAL_COUNTED | TOLD | {"clients": [CLIENT]}]}
HEALTH = "/daisyport/health"
METRICS = "/metrics"
KICK = "/daisyport/kick"
DISCOVERY = "/axis-cgi/apidiscovery.cgi"
CATALOGUE = Catalogue(
    Hardware(
        serial=(SerialHardware((PortMode.RS232, PortMode.RS485)), SerialHardware()),
        managers=(ManagerHardware(serial=1, remote_port=0), ManagerHardware(serial=2)),
        video_sources=4,
    )
)


@dataclass
class Line:
    """A serial.cgi server that answers from a script and remembers what it was asked."""

    answer: bytes | None = None
    error: str = ""
    asked: list[tuple[SerialRequest, str]] = field(default_factory=list)

    ended_early: bool = False

    async def perform(self, request: SerialRequest, holder: str) -> Received | None:
        self.asked.append((request, holder))
        await trio.lowlevel.checkpoint()
        if self.error:
            raise CgiError(self.error)
        return None if self.answer is None else Received(self.answer, self.ended_early)


@dataclass
class FakeGateway:
    """Settings that change in memory, and lines that answer from a script."""

    published: Cell[Published] = field(default_factory=lambda: Cell(Published(0, CATALOGUE.restored("").settings)))
    lines: dict[int, Line] = field(default_factory=lambda: {0: Line()})
    updates: list[tuple[Sequence[tuple[str, str]], Role]] = field(default_factory=list)
    rolled_back: tuple[ParameterError, ...] = ()
    kicked: list[tuple[str, Ports, str]] = field(default_factory=list)
    rekeyed: list[tuple[int, str, float]] = field(default_factory=list)
    disk: str = "works"
    words: dict[int | None, str] = field(default_factory=lambda: {None: "ok", 0: "ok", 1: "down"})
    """The health of the gateway, and of its ports."""

    @property
    def settings(self) -> Settings:
        return self.published.value.settings

    @settings.setter
    def settings(self, new: Settings) -> None:
        self.published.set(Published(self.published.value.version + 1, new))

    async def update(self, assignments: Sequence[tuple[str, str]], role: Role, ports: Ports) -> Update:
        self.updates.append((assignments, role))
        await trio.lowlevel.checkpoint()
        if self.disk == "full":
            raise StoreError("parameters cannot be written, nothing was changed: No space left on device")
        update = CATALOGUE.updated(self.settings, assignments, role, ports)
        if self.rolled_back:
            return replace(update, settings=self.settings, changed=(), refused=self.rolled_back)
        self.settings = update.settings
        return update

    def set(self, **parameters: str) -> None:
        """Set parameters by their names, with _ for the dots."""
        wanted = [(name.replace("_", "."), value) for name, value in parameters.items()]
        update = CATALOGUE.updated(self.settings, wanted, Role.ADMIN)
        assert not update.refused
        self.settings = update.settings

    def kick(self, holder: str, ports: Ports, why: str) -> list[str]:
        self.kicked.append((holder, ports, why))
        return [f"{holder} itself"] if holder == "192.0.2.7:40000" else []

    async def rekey(self, index: int, key: str, seconds: float) -> str:
        await trio.lowlevel.checkpoint()
        if self.disk == "full":
            raise StoreError("old_keys cannot be written, nothing was changed: No space left on device")
        self.rekeyed.append((index, key, seconds))
        return "" if key else "must not be empty"

    async def carry(self, index: int, key: str, seconds: int, nodes: Sequence[bytes]) -> str | list[dict[str, str]]:
        if why := await self.rekey(index, key, seconds):
            return why
        return [{"node": node.hex(), "name": "cpu2", "outcome": "changed", "what": "has it"} for node in nodes]

    async def chain(self, index: int) -> dict[str, object] | None:
        await trio.lowlevel.checkpoint()
        return {"name": f"owner of P{index}"} if index < 2 else None

    def backend(self) -> Backend:
        ports = [FakePort(self, index) for index in range(len(self.settings.port_managers))]
        return Backend(
            *(CATALOGUE, self.published, self.update, ports, lambda: STATUS_SHOWN),
            *(self.words.__getitem__, self.kick, self.rekey, self.carry, self.chain),
        )


@dataclass
class FakePort:
    """A port whose serial.cgi server is a line of the fake gateway, and which takes no WebSockets."""

    gateway: FakeGateway
    index: int
    web_socket: None = None
    traces: int = 0

    @property
    def serial_cgi(self) -> SerialCgi | None:
        return cast("SerialCgi | None", self.gateway.lines.get(self.index))

    def watched(self, holder: str) -> Session:
        raise NotImplementedError(holder)


def made(directory: Path, fake: FakeGateway) -> Routes:
    users = Users(directory)
    for name in ("admin", "operator", "viewer"):
        users.add(name, name, "secret")
    return Routes(fake.backend(), AccessControl(users, fake.published), Site("cam"))


@pytest.fixture
def fake() -> FakeGateway:
    fake = FakeGateway()
    fake.set(Network_HTTP_AuthenticationPolicy="basic")
    return fake


@pytest.fixture
def routes(tmp_path: Path, fake: FakeGateway) -> Routes:
    return made(tmp_path, fake)


def login(name: str) -> bytes:
    return b"Basic " + b64encode(f"{name}:secret".encode())


def request(target: str, name: str = "", method: str = "GET", body: bytes = b"", **headers: str) -> Request:
    sent = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    if name:
        sent.append((b"authorization", login(name)))
    return Request(method, target.encode(), tuple(sent), body, PEER)


async def ask(routes: Routes, target: str, name: str = "admin", **more: Any) -> Response:
    with trio.fail_after(5):
        answer = await routes.respond(request(target, name, **more))
    assert isinstance(answer, Response)
    return answer


# --- the table ---


async def test_an_unknown_path_is_told_the_endpoints(routes: Routes) -> None:
    answer = await ask(routes, "/axis-cgi/nothing.cgi")
    assert answer.status == 404
    assert answer.body.startswith(b"404 Not Found\nno such endpoint; endpoints: /, /axis-cgi/")
    assert all(path.encode() in answer.body for path in ROUTES)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", [PARAM, SERIAL, STATUS])
async def test_a_wrong_method_is_told_the_right_ones(routes: Routes, path: str, method: str) -> None:
    answer = await ask(routes, path, method=method)
    assert answer.status == 405
    ((name, allowed),) = answer.headers
    assert name == "Allow"
    assert allowed == {STATUS: "GET, HEAD", SERIAL: "GET, POST", PARAM: "GET, HEAD, POST"}[path]
    assert allowed.encode() in answer.body


@pytest.mark.parametrize(
    ("path", "least"),
    [
        (PARAM, Role.VIEWER),
        ("/axis-cgi/view/param.cgi", Role.VIEWER),
        ("/axis-cgi/operator/param.cgi", Role.OPERATOR),
        ("/axis-cgi/admin/param.cgi", Role.ADMIN),
        (SERIAL, Role.VIEWER),
        (STATUS, Role.OPERATOR),
        (PORTS, Role.VIEWER),
        *((path, Role.VIEWER) for path in PAGES),
        (DISCOVERY, Role.OPEN),
        (METRICS, Role.VIEWER),
        (HEALTH, Role.OPEN),
        (f"{HEALTH}/P0", Role.OPEN),
    ],
)
async def test_each_path_requires_its_role(routes: Routes, path: str, least: Role) -> None:
    for name in ("", "viewer", "operator", "admin"):
        answer = await ask(routes, f"{path}?action=list&group=Properties", name)
        admitted = (Role[name.upper()] if name else Role.OPEN) >= least
        assert answer.status == (200 if admitted else 401), name


@pytest.mark.parametrize(
    "target",
    [
        f"{PARAM}?action=list&group=Serial",
        f"{PARAM}?action=listdefinitions&listformat=xmlschema",
        f"{PARAM}?action=nonsense",
        STATUS,
        PORTS,
        METRICS,
        HEALTH,
        f"{HEALTH}/P1",
        *PAGES,
    ],
)
async def test_head_is_answered_as_get(routes: Routes, target: str) -> None:
    assert await ask(routes, target, method="HEAD") == await ask(routes, target)


@pytest.mark.parametrize(
    "target",
    [f"{PARAM}?action=update&Serial.Ser1.BaudRate=300", f"{SERIAL}?write=00", f"{SERIAL}?read=1", f"{PORTS}/P0"],
)
async def test_head_changes_nothing(routes: Routes, fake: FakeGateway, target: str) -> None:
    answer = await ask(routes, target, method="HEAD")
    assert answer.status == 405
    assert ("Allow", "GET" if target.startswith(PORTS) else "GET, POST") in answer.headers
    assert not fake.updates
    assert not fake.lines[0].asked


@pytest.mark.parametrize(
    "path",
    [
        "/axis-cgi/../axis-cgi/param.cgi",
        "/axis-cgi%2Fparam.cgi",
        "/axis-cgi/./param.cgi",
        "/axis-cgi/%70aram.cgi",
        "/axis-cgi/param.cgi%00",
        "/axis-cgi/param.cgi/",
        "/%2e/",
    ],
)
async def test_a_path_that_is_spelled_otherwise_is_not_found(routes: Routes, path: str) -> None:
    assert (await ask(routes, path)).status == 404


async def test_doubled_slashes_are_one_for_the_route_its_role_and_the_cross_site_check(
    routes: Routes, fake: FakeGateway
) -> None:
    assert (
        await ask(routes, f"/{PARAM}?action=list&group=Serial.Ser1.BaudRate")
    ).body == b"Serial.Ser1.BaudRate=9600\n"
    assert (await ask(routes, "//axis-cgi//admin/param.cgi?action=list", "viewer")).status == 401
    update = f"/{PARAM}?action=update&Serial.Ser1.BaudRate=300"
    assert (await ask(routes, update, sec_fetch_site="cross-site")).status == 403
    assert not fake.updates
    assert (await ask(routes, "//daisyport//ports///P9", "viewer")).status == 426
    assert (await ask(routes, "//", "viewer")).body == (await ask(routes, "/", "viewer")).body


@pytest.mark.parametrize("media_type", ["multipart/form-data; boundary=x", "application/json"])
async def test_a_body_that_is_no_form_is_told_which_is_read(routes: Routes, fake: FakeGateway, media_type: str) -> None:
    told = f"{media_type.partition(';')[0]} is not read; send application/x-www-form-urlencoded".encode()
    body = b'{"action": "list"}' if "json" in media_type else b"--x\r\nContent-Disposition: form-data"
    posted: dict[str, Any] = {"method": "POST", "body": body, "content_type": media_type}
    answer = await ask(routes, PARAM, **posted)
    assert (answer.status, answer.body) == (200, b"# Request failed: a body of " + told + b"\n")
    answer = await ask(routes, f"{PARAM}?action=update&Serial.Ser1.BaudRate=300", **posted)
    assert told in answer.body
    answer = await ask(routes, f"{SERIAL}?write=00", **posted)
    assert (answer.status, answer.body) == (200, b"Error:\na body of " + told + b"\n")
    assert not fake.updates
    assert not fake.lines[0].asked
    answer = await ask(routes, f"{PARAM}?action=list&group=Brand.Brand", **posted)
    assert answer.body == b"Brand.Brand=Daisyport\n"


# --- kick ---


async def test_an_admin_ends_a_client_by_its_holder(
    routes: Routes, fake: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    answer = await ask(routes, f"{KICK}?holder=192.0.2.7:40000", method="POST")
    assert (answer.status, answer.body) == (200, b"ended: 192.0.2.7:40000 itself\n")
    assert fake.kicked == [("192.0.2.7:40000", None, "ended by admin at 192.0.2.7:40000")]
    assert "admin at 192.0.2.7:40000 ended 192.0.2.7:40000 itself" in caplog.text
    assert (await ask(routes, f"{KICK}?holder=nobody", method="POST")).status == 404


@pytest.mark.parametrize("query", ["", "?holder=", "?holder=a&holder=b", "?who=a"])
async def test_a_kick_names_one_holder(routes: Routes, fake: FakeGateway, query: str) -> None:
    assert (await ask(routes, KICK + query, method="POST")).status == 400
    assert not fake.kicked


async def test_only_an_admin_kicks_by_post_and_no_other_site_s_page(routes: Routes, fake: FakeGateway) -> None:
    target = f"{KICK}?holder=192.0.2.7:40000"
    assert (await ask(routes, target)).status == 405
    assert (await ask(routes, target, "operator", method="POST")).status == 401
    assert (await ask(routes, target, method="POST", sec_fetch_site="cross-site")).status == 403
    assert not fake.kicked


async def test_an_admin_who_is_bound_to_ports_kicks_there_only(bound_routes: Routes, fake: FakeGateway) -> None:
    await ask(bound_routes, f"{KICK}?holder=192.0.2.7:40000", "admin2", method="POST")
    assert [ports for _, ports, _ in fake.kicked] == [frozenset({1})]


# --- keys ---

REKEY = "/daisyport/rekey/P1?seconds=3600"


async def rekey(routes: Routes, target: str = REKEY, key: bytes = b"a new key") -> Response:
    """Ask as root does at the control socket."""
    local = LocalCaller("user 0", Role.ADMIN)
    answer = await routes.respond(replace(request(target, method="POST", body=key), local=local))
    assert isinstance(answer, Response)
    return answer


async def test_another_key_is_given_to_a_port_and_no_log_holds_it(
    routes: Routes, fake: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert (await rekey(routes)).body == b"ok\n"
    assert fake.rekeyed == [(1, "a new key", 3600)]
    assert "user 0 gave P1 another AuthenticationKey; the old one is taken for 3600 s" in caplog.text
    assert "a new key" not in caplog.text


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/daisyport/rekey/P9?seconds=1", 404),
        ("/daisyport/rekey/P1", 400),
        ("/daisyport/rekey/P1?seconds=0", 400),
        ("/daisyport/rekey/P1?seconds=-1", 400),
        ("/daisyport/rekey/P1?seconds=2592001", 400),
        ("/daisyport/rekey/P1?seconds=1&seconds=2", 400),
    ],
)
async def test_a_key_for_no_port_or_for_no_time_is_refused(
    routes: Routes, fake: FakeGateway, target: str, status: int
) -> None:
    assert (await rekey(routes, target)).status == status
    assert not fake.rekeyed


@pytest.mark.parametrize(
    "nodes", ["node=", "node=ab", "node=" + "g" * 32, "node=" + "a" * 33, "&".join(["node=" + "a" * 32] * 65)]
)
async def test_a_key_is_carried_to_cpus_by_their_whole_id_and_to_no_more_than_a_chain_has(
    routes: Routes, fake: FakeGateway, nodes: str
) -> None:
    refused = await rekey(routes, f"{REKEY}&{nodes}")
    assert (refused.status, b"name the CPUs" in refused.body) == (400, True)
    assert not fake.rekeyed


async def test_what_became_of_a_key_at_each_cpu_is_told_and_logged(
    routes: Routes, fake: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await rekey(routes, f"{REKEY}&node={'ab' * 16}")
    cpu = {"node": "ab" * 16, "name": "cpu2", "outcome": "changed", "what": "has it"}
    assert json.loads(answer.body) == {"cpus": [cpu]}
    assert fake.rekeyed == [(1, "a new key", 3600)]
    assert "user 0: the key of P1: cpu2 has it" in caplog.text
    assert "a new key" not in caplog.text
    refused = await rekey(routes, f"{REKEY}&node={'ab' * 16}", b"")
    assert (refused.status, refused.body) == (409, b"409 Conflict\nmust not be empty\n")


async def test_why_a_key_was_not_changed_is_told(routes: Routes, fake: FakeGateway) -> None:
    refused = await rekey(routes, key=b"")
    assert (refused.status, refused.body) == (409, b"409 Conflict\nmust not be empty\n")
    fake.disk = "full"
    assert (await rekey(routes)).status == 500


async def test_a_key_is_changed_at_the_control_socket_only(routes: Routes, fake: FakeGateway) -> None:
    assert (await ask(routes, REKEY, method="POST", body=b"a new key")).status == 403
    assert not fake.rekeyed


# --- traces ---


async def test_a_trace_is_given_to_admins_of_this_host_only(routes: Routes) -> None:
    assert (await ask(routes, "/daisyport/trace/P0", "operator")).status == 401
    refused = await ask(routes, "/daisyport/trace/P0")
    assert refused.status == 403
    assert b"This trace is given at the control socket only" in refused.body


async def test_a_trace_of_no_port_and_one_too_many_are_refused(routes: Routes) -> None:
    def local(target: str) -> Request:
        return replace(request(target), local=LocalCaller("user 0", Role.ADMIN))

    answer = await routes.respond(local("/daisyport/trace/P7"))
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (404, b"404 Not Found\nno such port; ports: P0, P1\n")
    assert isinstance(await routes.respond(local("/daisyport/trace/P0")), Handover)
    for port in routes.backend.ports:
        cast("FakePort", port).traces = 2
    answer = await routes.respond(local("/daisyport/trace/P0"))
    assert isinstance(answer, Response)
    assert answer.status == 503


# --- metrics ---

TOKEN = "0123456789abcdef" * 2
LOOPBACK = Endpoint("127.0.0.1", 40000)


@pytest.fixture
def scraped(tmp_path: Path, fake: FakeGateway) -> Routes:
    """Routes that take the scraper's token."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(TOKEN)
    bearer = Bearer(file)
    bearer.load()
    return Routes(fake.backend(), AccessControl(Users(tmp_path), fake.published, bearer=bearer))


async def scrape(routes: Routes, authorization: str, target: str = METRICS, **how: Any) -> Response:
    answer = await routes.respond(replace(request(target, authorization=authorization), **{"peer": LOOPBACK} | how))
    assert isinstance(answer, Response)
    return answer


@pytest.mark.parametrize("how", [{}, {"peer": Endpoint("::1", 1)}, {"peer": PEER, "secure": True}], ids=str)
async def test_the_token_opens_the_metrics_over_tls_and_from_this_host(scraped: Routes, how: dict[str, Any]) -> None:
    answer = await scrape(scraped, f"Bearer {TOKEN}", **how)
    assert (answer.status, answer.content_type) == (200, CONTENT_TYPE)
    assert answer.body.endswith(b"# EOF\n")


async def test_the_token_is_not_taken_in_clear_from_elsewhere(scraped: Routes) -> None:
    for token in (TOKEN, "wrong" * 8):  # which says nothing of whether it is right
        answer = await scrape(scraped, f"Bearer {token}", peer=PEER)
        assert answer.status == 401
        assert answer.body.startswith(b"401 Unauthorized\nA token is taken over TLS, or from this host: use https.\n")


@pytest.mark.parametrize("target", sorted(set(ROUTES) - {METRICS}))
async def test_the_token_opens_nothing_else(scraped: Routes, target: str) -> None:
    if ROUTES[target].role is not Role.OPEN:
        answer = await scrape(scraped, f"Bearer {TOKEN}", target, method=ROUTES[target].methods[0])
        assert answer.status in (401, 403)


@pytest.mark.parametrize(
    "authorization", [f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", "Bearer", "Bearer ", f"bearer {TOKEN.upper()}"]
)
async def test_a_wrong_token_is_refused_and_logged_without_it(
    scraped: Routes, authorization: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await scrape(scraped, authorization)
    assert answer.status == 401
    assert b"The token is not that of [http] metrics_token." in answer.body
    assert "127.0.0.1:40000: a token for /metrics refused" in caplog.text
    assert TOKEN[:8] not in caplog.text


async def test_without_a_token_in_force_even_an_empty_one_is_refused(tmp_path: Path, fake: FakeGateway) -> None:
    bearer = Bearer(tmp_path / "none")
    bearer.load()
    routes = Routes(fake.backend(), AccessControl(Users(tmp_path), fake.published, bearer=bearer))
    for authorization in ("Bearer", "Bearer ", f"Bearer {TOKEN}"):
        assert (await scrape(routes, authorization)).status == 401


# --- health ---


@pytest.mark.parametrize(
    ("word", "status"), [("ok", 200), ("degraded", 200), ("disabled", 200), ("down", 503)], ids=str
)
@pytest.mark.parametrize("port", [None, 0])
async def test_a_monitor_without_a_login_is_told_one_word_and_nothing_else(
    routes: Routes, fake: FakeGateway, port: int | None, word: str, status: int
) -> None:
    fake.words[port] = word
    answer = await ask(routes, HEALTH if port is None else f"{HEALTH}/P{port}", "")
    assert answer == Response(status, f"{word}\n".encode())


async def test_a_monitor_of_a_port_that_is_not_there_is_told_no_other_ports(routes: Routes) -> None:
    for name in ("P2", "p0", "0", "P", "P-1", "P00"):
        answer = await ask(routes, f"{HEALTH}/{name}", "")
        assert (answer.status, answer.body) == (404, b"404 Not Found\nno such port\n")


async def test_a_gateway_without_users_still_tells_its_health(tmp_path: Path, fake: FakeGateway) -> None:
    routes = Routes(fake.backend(), AccessControl(Users(tmp_path), fake.published), Site("cam"))
    assert (await ask(routes, HEALTH, "")).status == 200
    assert (await ask(routes, f"{HEALTH}/P1", "")).status == 503


# --- param.cgi ---


async def test_list_answers_lines_of_text(routes: Routes) -> None:
    answer = await ask(routes, f"{PARAM}?action=list&group=Serial.Ser1.BaudRate")
    assert (answer.status, answer.content_type, answer.body) == (
        200,
        "text/plain; charset=utf-8",
        b"Serial.Ser1.BaudRate=9600\n",
    )


async def test_list_shows_each_role_what_it_may_read(routes: Routes, fake: FakeGateway) -> None:
    fake.set(RemotePort_R0_AuthenticationKey="hunter2")
    target = f"{PARAM}?action=list&group=RemotePort.R0.AuthenticationKey"
    assert b"hunter2" in (await ask(routes, target, "admin")).body
    assert b"******" in (await ask(routes, target, "operator")).body
    assert b"Error -1" in (await ask(routes, target, "viewer")).body


@pytest.mark.parametrize("key", ["plain", "ключ", "caf\u00e9", "a\"<&>'b", "\u20ac \U0001f511"])
async def test_a_key_that_any_client_reads_is_the_key_that_was_set(routes: Routes, key: str) -> None:
    name = "RemotePort.R0.AuthenticationKey"
    await ask(routes, f"{PARAM}?action=update&{name}={quote(key)}")
    listed = await ask(routes, f"{PARAM}?action=list&group={name}")
    charset = listed.content_type.partition("charset=")[2]
    assert listed.body.decode(charset) == f"{name}={key}\n"
    defined = await ask(routes, f"{PARAM}?action=listdefinitions&listformat=xmlschema&group={name}")
    assert defined.content_type == "text/xml"
    (parameter,) = ElementTree.fromstring(defined.body).iter(
        "{http://www.axis.com/ParameterDefinitionsSchema}parameter"
    )
    assert parameter.get("value") == key
    assert f'value="{escape(key, {chr(34): "&quot;"})}"'.encode("ascii", "xmlcharrefreplace") in defined.body


async def test_update_answers_ok_and_nothing_more(routes: Routes, fake: FakeGateway) -> None:
    answer = await ask(routes, f"{PARAM}?action=update&Serial.Ser1.BaudRate=19200&DataBits=7")
    assert (answer.status, answer.content_type, answer.body) == (200, "text/plain; charset=utf-8", b"OK")
    assert fake.settings.serial.ports[0].baud_rate == 19200
    assert fake.settings.serial.ports[0].data_bits == 7


async def test_update_names_what_is_refused_and_does_the_rest(routes: Routes, fake: FakeGateway) -> None:
    answer = await ask(routes, f"{PARAM}?action=update&Serial.Ser1.BaudRate=12345&Serial.Ser1.StopBits=2")
    assert answer.status == 200
    assert answer.body == b"# Error: Error setting 'root.Serial.Ser1.BaudRate' to '12345'!"
    assert fake.settings.serial.ports[0].stop_bits == 2


async def test_what_the_port_refused_is_an_error_line_too(routes: Routes, fake: FakeGateway) -> None:
    fake.rolled_back = (ParameterError("Serial.Ser1.BaudRate", "300", "the driver does not take it"),)
    answer = await ask(routes, f"{PARAM}?action=update&Serial.Ser1.BaudRate=300")
    assert answer.body == b"# Error: Error setting 'root.Serial.Ser1.BaudRate' to '300'!"


async def test_a_disk_that_takes_nothing_is_told_as_the_gateway_s_fault(routes: Routes, fake: FakeGateway) -> None:
    fake.disk = "full"
    answer = await ask(routes, f"{PARAM}?action=update&Serial.Ser1.BaudRate=300")
    assert answer.status == 500
    assert answer.body.startswith(b"# Request failed: parameters cannot be written, nothing was changed: No space")
    answer = await ask(routes, f"{SERIAL}?port=2&camera=2")
    assert answer.body.startswith(b"Error:\nparameters cannot be written")


async def test_update_by_post_is_an_update(routes: Routes, fake: FakeGateway) -> None:
    answer = await ask(routes, PARAM, method="POST", body=b"action=update&Serial.Ser1.Parity=Even")
    assert answer.body == b"OK"
    assert fake.settings.serial.ports[0].parity.value == "Even"


async def test_a_viewer_cannot_update_and_is_told_the_role_it_requires(routes: Routes, fake: FakeGateway) -> None:
    answer = await ask(routes, f"{PARAM}?action=update&Serial.Ser1.BaudRate=300", "viewer")
    assert answer.status == 401
    assert b"viewer is a viewer, and this requires an operator" in answer.body
    assert not fake.updates


async def test_an_operator_s_update_of_an_admin_s_parameter_is_an_error_line(routes: Routes, fake: FakeGateway) -> None:
    answer = await ask(routes, f"{PARAM}?action=update&Serial.Ser1.BaudRate=300", "operator")
    assert answer.status == 200
    assert answer.body.startswith(b"# Error: Error setting 'root.Serial.Ser1.BaudRate'")
    assert fake.updates[0][1] is Role.OPERATOR


async def test_definitions_are_xml_that_names_the_host(routes: Routes) -> None:
    answer = await ask(routes, f"{PARAM}?action=listdefinitions&listformat=xmlschema&group=Serial", host='cam"<')
    assert answer.content_type == "text/xml"
    assert answer.body.startswith(b'<?xml version="1.0"')
    assert b'<parameter name="NbrOfPorts" value="2"' in answer.body


@pytest.mark.parametrize("query", ["", "?action=", "?action=add", "?action=drop", "?action=list&action=update"])
async def test_a_call_that_cannot_be_meant_fails_in_the_documented_form(routes: Routes, query: str) -> None:
    answer = await ask(routes, PARAM + query)
    assert answer.status == 200
    assert answer.body.startswith(b"# Request failed: ")


# --- serial.cgi ---


async def test_write_alone_has_no_content_to_answer(routes: Routes, fake: FakeGateway) -> None:
    answer = await ask(routes, f"{SERIAL}?write=2153435253500c0d", "viewer")
    assert (answer.status, answer.body) == (204, b"")
    ((asked, holder),) = fake.lines[0].asked
    assert asked.output == bytes.fromhex("2153435253500c0d")
    assert holder == "viewer at 192.0.2.7:40000"


async def test_read_answers_hex_between_signs(routes: Routes, fake: FakeGateway) -> None:
    fake.lines[0].answer = b":K\xff"
    answer = await ask(routes, f"{SERIAL}?read=3&timeout=2000")
    assert (answer.status, answer.content_type, answer.body) == (200, "text/plain; charset=utf-8", b"#3A4BFF#")
    assert fake.lines[0].asked[0][0].timeout == 2.0
    fake.lines[0].answer = b""
    assert (await ask(routes, f"{SERIAL}?read=3&timeout=2000")).body == b"##"


async def test_a_turn_that_ended_early_for_a_command_is_told(routes: Routes, fake: FakeGateway) -> None:
    fake.lines[0].answer = b"K"
    assert "Daisyport-Turn" not in dict((await ask(routes, f"{SERIAL}?read=3")).headers)
    fake.lines[0].ended_early = True
    assert dict((await ask(routes, f"{SERIAL}?read=3")).headers)["Daisyport-Turn"] == "ended-early"


async def test_a_read_in_raw_form_is_no_text(routes: Routes, fake: FakeGateway) -> None:
    fake.lines[0].answer = b"\x00\xff"
    answer = await ask(routes, f"{SERIAL}?read=2&format=raw")
    assert (answer.content_type, answer.body) == ("application/octet-stream", b"\x00\xff")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "nothing to do"),
        ("?write=abc", "must have two hexadecimal digits"),
        ("?read=0", "a whole number from 1"),
        ("?port=3&write=00", "port=3: must be a port from 1 to 2"),
        ("?camera=5&write=00", "camera=5: must be a video source from 1 to 4"),
        ("?port=1&camera=5", "camera=5: must be a video source from 1 to 4"),
        ("?camera=2&write=00", "video source 2 is bound to no port; port=N&camera=2 binds it"),
        ("?port=2&read=1", "serial.cgi is disabled for port 2; root.PortManager.P1.SerialCGI.Enabled=yes"),
        ("?port=-1", "requires camera=N"),
    ],
)
async def test_an_error_says_what_is_required_and_nothing_is_done(
    routes: Routes, fake: FakeGateway, query: str, words: str
) -> None:
    answer = await ask(routes, SERIAL + query)
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    assert answer.body.startswith(b"Error:\n")
    assert words in answer.body.decode()
    assert not fake.lines[0].asked
    assert not fake.updates


async def test_a_disabled_port_names_its_parameter(routes: Routes, fake: FakeGateway) -> None:
    fake.set(PortManager_P0_PortEnabled="no")
    for query in ("write=00", "port=1&camera=2"):
        answer = await ask(routes, f"{SERIAL}?{query}")
        assert answer.body == b"Error:\nport 1 is disabled; root.PortManager.P0.PortEnabled=yes enables it\n"
    assert not fake.updates


async def test_what_the_line_cannot_do_is_an_error_of_the_documented_form(routes: Routes, fake: FakeGateway) -> None:
    fake.lines[0].error = "the device is away"
    assert (await ask(routes, f"{SERIAL}?write=00")).body == b"Error:\nthe device is away\n"


# --- which port ---


async def test_a_camera_s_binding_chooses_the_port_and_an_explicit_port_wins(routes: Routes, fake: FakeGateway) -> None:
    fake.lines[1] = Line()
    fake.set(PTZ_CamPorts_Cam3Port="2")
    for query, line in (("write=01", 0), ("camera=3&write=02", 1), ("port=2&write=03", 1), ("port=1&write=04", 0)):
        await ask(routes, f"{SERIAL}?{query}")
        assert fake.lines[line].asked[-1][0].output == bytes.fromhex(query[-2:])
    assert not fake.updates


async def test_a_port_and_a_camera_are_bound_by_a_viewer_and_taken_apart(routes: Routes, fake: FakeGateway) -> None:
    answer = await ask(routes, f"{SERIAL}?port=2&camera=2", "viewer")
    assert answer.status == 204
    assert fake.settings.ptz.cam_ports == (1, 2, -1, -1)
    answer = await ask(routes, f"{SERIAL}?port=-1&camera=2", "viewer")
    assert answer.status == 204
    assert fake.settings.ptz.cam_ports == (1, -1, -1, -1)
    assert [names for names, _ in fake.updates] == [[("PTZ.CamPorts.Cam2Port", "2")], [("PTZ.CamPorts.Cam2Port", "-1")]]


async def test_a_binding_that_is_there_is_not_stored_again(routes: Routes, fake: FakeGateway) -> None:
    for query in ("port=1&camera=1", "port=1&camera=1&write=00", "port=-1&camera=2"):
        assert (await ask(routes, f"{SERIAL}?{query}")).status == 204
    assert not fake.updates
    assert len(fake.lines[0].asked) == 1


async def test_binding_and_writing_go_in_one_request(routes: Routes, fake: FakeGateway) -> None:
    await ask(routes, f"{SERIAL}?port=1&camera=4&write=07")
    assert fake.settings.ptz.cam_ports[3] == 1
    assert fake.lines[0].asked[0][0].output == b"\x07"


async def test_a_binding_that_is_refused_is_told(routes: Routes, fake: FakeGateway) -> None:
    fake.rolled_back = (ParameterError("PTZ.CamPorts.Cam2Port", "2", "the camera is busy"),)
    answer = await ask(routes, f"{SERIAL}?port=2&camera=2")
    assert answer.body == b"Error:\nPTZ.CamPorts.Cam2Port: the camera is busy\n"


# --- the cross-site check ---

CHANGES = [
    f"{PARAM}?action=update&Serial.Ser1.BaudRate=300",
    f"{SERIAL}?write=00",
    f"{SERIAL}?writestring=a",
    f"{SERIAL}?flush=yes",
    f"{SERIAL}?port=1&camera=2",
    f"{SERIAL}?port=-1&camera=1",
    f"{SERIAL}?read=1",
    f"{SERIAL}?until=0d",
]
READS = [f"{PARAM}?action=list&group=Serial", STATUS]


@pytest.mark.parametrize("target", CHANGES)
async def test_a_change_that_a_page_of_another_site_may_have_made_is_refused_with_the_reason(
    routes: Routes, fake: FakeGateway, target: str
) -> None:
    answer = await ask(routes, target, origin="http://evil.example", host="cam")
    assert answer.status == 403
    assert b"Origin is 'http://evil.example'" in answer.body
    assert b"browser_guard = false" in answer.body
    assert b"[http] origins" in answer.body
    assert not fake.updates
    assert not fake.lines[0].asked
    assert (await ask(routes, target, origin="http://cam", host="cam")).status in {200, 204}


@pytest.mark.parametrize("target", CHANGES)
async def test_the_cross_site_check_can_be_turned_off(routes: Routes, target: str) -> None:
    unchecked = replace(routes, site=None)
    assert (await ask(unchecked, target, sec_fetch_site="cross-site")).status in {200, 204}


@pytest.mark.parametrize("target", READS)
async def test_what_changes_nothing_is_open_to_a_browser_s_address_bar(
    routes: Routes, fake: FakeGateway, target: str
) -> None:
    fake.lines[0].answer = b"x"
    answer = await ask(routes, target, user_agent="Mozilla/5.0", accept="text/html", accept_language="en")
    assert answer.status == 200


# --- the others ---


async def test_the_status_is_json(routes: Routes) -> None:
    answer = await ask(routes, STATUS, "operator")
    assert answer.content_type == "application/json"
    assert json.loads(answer.body) == STATUS_SHOWN


async def test_a_viewer_is_told_of_the_ports_and_who_it_is_but_not_who_else_is_there(routes: Routes) -> None:
    answer = await ask(routes, PORTS, "viewer")
    assert answer.content_type == "application/json"
    shown = {"node": "cpu1", "user": "viewer", "role": "viewer", "level": 1, "ports": [TOLD]}
    assert json.loads(answer.body) == shown


async def test_the_page_lets_nothing_in_from_elsewhere_and_is_framed_by_nobody(routes: Routes) -> None:
    for path in PAGES:
        answer = await ask(routes, path, "viewer")
        policy = dict(answer.headers)["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert b"http://" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in answer.body
    page = (await ask(routes, "/")).body.decode()
    linked = set(re.findall(r'(?:href|src)="([^"]*)"', page))
    assert linked == set(PAGES) - {"/"}
    assert " style=" not in page
    assert "<script>" not in page


async def test_a_web_socket_at_a_port_that_is_being_restarted_is_told_to_come_again(routes: Routes) -> None:
    handshake = {"sec_websocket_version": "13", "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ=="}
    answer = await ask(routes, f"{PORTS}/P0", "viewer", connection="Upgrade", upgrade="websocket", **handshake)
    assert answer.status == 503
    assert ("Retry-After", "1") in answer.headers


async def test_discovery_is_open_without_login_and_by_any_method(routes: Routes) -> None:
    body = b'{"apiVersion":"1.0","context":"x","method":"getApiList","params":{"id":"serial-*"}}'
    answer = await ask(routes, DISCOVERY, "", method="POST", body=body)
    assert answer.content_type == "application/json"
    assert [api["id"] for api in json.loads(answer.body)["data"]["apiList"]] == ["serial-port"]
    assert json.loads((await ask(routes, DISCOVERY, "", method="GET")).body)["error"]["code"] == 2002


# --- users who are bound to ports ---


@pytest.fixture
def bound_routes(tmp_path: Path, fake: FakeGateway) -> Routes:
    """With P0 and P1, and operator2 and viewer2 who are bound to the second."""
    fake.lines[1] = Line()
    fake.set(PortManager_P0_SerialCGI_Enabled="yes", PortManager_P1_SerialCGI_Enabled="yes")
    routes = made(tmp_path, fake)
    for role in ("operator", "viewer", "admin"):
        Users(tmp_path).add(f"{role}2", role, "secret", frozenset({1}))
    shown = {"node": "cpu1", "ports": [TOLD, TOLD | {"name": "P1"}]}
    return replace(routes, backend=replace(routes.backend, status=lambda: shown))


async def test_param_cgi_lists_and_sets_what_belongs_to_the_ports_that_a_user_is_bound_to(bound_routes: Routes) -> None:
    async def said(query: str) -> bytes:
        return (await ask(bound_routes, f"{PARAM}?{query}", "admin2")).body

    assert await said("action=list&group=Serial.Ser2.BaudRate") == b"Serial.Ser2.BaudRate=9600\n"
    assert (await said("action=list&group=Serial.Ser1.BaudRate")).startswith(b"# Error: Error -1 ")
    assert b"Ser1" not in await said("action=listdefinitions&listformat=xmlschema")
    assert await said("action=update&Serial.Ser2.StopBits=2") == b"OK"
    refused = b"# Error: Error setting 'root.Serial.Ser1.StopBits' to '2'!"
    assert await said("action=update&Serial.Ser1.StopBits=2&Serial.Ser2.StopBits=1") == refused
    assert await said("action=list&group=Serial.Ser2.StopBits") == b"Serial.Ser2.StopBits=1\n"


async def test_status_and_console_show_a_user_its_own_ports(bound_routes: Routes) -> None:
    for path, name in ((STATUS, "operator2"), (PORTS, "viewer2"), (STATUS, "admin2")):
        shown = json.loads((await ask(bound_routes, path, name)).body)
        assert [port["name"] for port in shown["ports"]] == ["P1"]
    assert len(json.loads((await ask(bound_routes, PORTS, "viewer")).body)["ports"]) == 2


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("port=1&write=41", "port=1: viewer2 may use 2 only"),
        ("port=1", "port=1: viewer2 may use 2 only"),
        ("write=41", "port=1: viewer2 may use 2 only"),  # the port of video source 1
        ("port=1&camera=2", "port=1: viewer2 may use 2 only"),
        ("port=2&camera=1", "camera=1: it is bound to port 1, and viewer2 may use 2 only"),
        ("port=-1&camera=1", "camera=1: it is bound to port 1, and viewer2 may use 2 only"),
    ],
)
async def test_serial_cgi_is_for_the_ports_that_a_user_is_bound_to(
    bound_routes: Routes, fake: FakeGateway, query: str, error: str
) -> None:
    before = fake.settings
    answer = await ask(bound_routes, f"{SERIAL}?{query}", "viewer2")
    assert answer.body.decode() == f"Error:\n{error}\n"
    assert fake.settings is before
    assert not fake.lines[0].asked


async def test_a_user_binds_free_video_sources_to_its_own_port_and_unbinds_them(
    bound_routes: Routes, fake: FakeGateway
) -> None:
    assert (await ask(bound_routes, f"{SERIAL}?port=2&camera=3", "viewer2")).status == 204
    assert fake.settings.ptz.cam_ports[2] == 2
    assert (await ask(bound_routes, f"{SERIAL}?camera=3&write=41", "viewer2")).status == 204
    assert (await ask(bound_routes, f"{SERIAL}?port=-1&camera=3", "viewer2")).status == 204
    assert fake.settings.ptz.cam_ports[2] == -1
    assert [asked.output for asked, _ in fake.lines[1].asked] == [b"A"]


async def test_a_web_socket_of_another_port_is_not_there(bound_routes: Routes) -> None:
    headers = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_version": "13",
        "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = await ask(bound_routes, f"{PORTS}/P0", "viewer2", **headers)
    assert (answer.status, answer.body) == (404, b"404 Not Found\nno such port; ports: P1\n")
    assert (await ask(bound_routes, f"{PORTS}/P1", "viewer2", **headers)).status == 503  # the fake has none


# --- real curl ---

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@asynccontextmanager
async def serving(routes: Routes) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            admit = partial(HttpServer(routes.respond).admit, nursery)
            nursery.start_soon(accept_clients, listener, admit, Unit("HTTP server", lambda: None))
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            nursery.cancel_scope.cancel()


async def curl(*arguments: str) -> str:
    """What curl prints: the body, a bar, and the status."""
    command = ["curl", "--silent", "--show-error", "--max-time", "4", "--write-out", "|%{http_code}", *arguments]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode()


@needs_curl
async def test_curl_logs_in_as_the_policy_has_it(routes: Routes, fake: FakeGateway) -> None:
    target = f"{PARAM}?action=list&group=Serial.Ser1.BaudRate"
    shown = "Serial.Ser1.BaudRate=9600\n|200"
    async with serving(routes) as url:
        assert (
            await curl("--basic", "-u", "viewer:secret", url + target)
            == "# Error: Error -1 getting param in group 'Serial.Ser1.BaudRate'\n|200"
        )
        assert await curl("--basic", "-u", "admin:secret", url + target) == shown
        fake.set(Network_HTTP_AuthenticationPolicy="recommended")
        assert "curl --digest" in await curl("--basic", "-u", "admin:secret", url + target)
        assert await curl("--digest", "-u", "admin:secret", url + target) == shown
        assert await curl("--anyauth", "-u", "admin:secret", url + target) == shown
        assert await curl("--anyauth", "-u", "admin:secret", url + target, url + target) == shown * 2
        assert (await curl("--digest", "-u", "admin:wrong", url + target)).endswith("|401")


@needs_curl
async def test_curl_gets_the_contract_s_examples_as_written(routes: Routes, fake: FakeGateway) -> None:
    fake.lines[0].answer = b":K\xff"
    admin = ("--digest", "-u", "admin:secret")
    fake.set(Network_HTTP_AuthenticationPolicy="digest")
    async with serving(routes) as url:
        assert await curl(*admin, f"{url}{SERIAL}?read=3&timeout=2000") == "#3A4BFF#|200"
        fake.lines[0].answer = None
        for query in ("write=2153435253500c0d", "port=2&camera=2", "port=-1&camera=2"):
            assert await curl(*admin, f"{url}{SERIAL}?{query}") == "|204"
        generic = "PortManager.P0.GenericTCPServer"
        listener = f"{generic}.Listener.Enabled=yes&{generic}.Listener.Port=3000"
        for query in (
            "Serial.Ser1.BaudRate=9600&DataBits=8",
            f"{generic}.Enabled=yes&{listener}&PortManager.P0.PortEnabled=yes",
            "PortManager.P0.PortType=RemotePort",
            "RemotePort.R0.Host=10.0.0.1&RemotePort.R0.Port=2500&PortManager.P0.PortEnabled=yes",
        ):
            assert await curl(*admin, f"{url}{PARAM}?action=update&{query}") == "OK|200"
        assert await curl(*admin, "-d", "action=update&Serial.Ser1.Parity=Odd", url + PARAM) == "OK|200"


@needs_curl
async def test_curl_speaks_http_1_0_with_preemptive_basic(routes: Routes, fake: FakeGateway) -> None:
    async with serving(routes) as url:
        target = f"{url}{SERIAL}?port=1&write=2153435253500c0d"
        assert await curl("--http1.0", "--basic", "-u", "viewer:secret", target) == "|204"
    assert fake.lines[0].asked[0][0].output == bytes.fromhex("2153435253500c0d")


@needs_curl
async def test_curl_sends_a_large_body_after_asking(routes: Routes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"action=list&junk=" + b"x" * 30_000)
        file.flush()
        arguments = ("--basic", "-u", "viewer:secret", "-H", "Expect: 100-continue", "-d", f"@{file.name}")
        async with serving(routes) as url:
            answer = await curl(*arguments, url + PARAM)
            assert "root.Properties.Serial.Serial=yes\n" in answer
            file.write(b"x" * 40_000)
            file.flush()
            assert "longer than 65536 bytes" in await curl(*arguments, url + PARAM)


async def test_a_caller_that_leaves_during_a_read_frees_the_line(routes: Routes, fake: FakeGateway) -> None:
    begun, ended = trio.Event(), trio.Event()

    class Slow:
        async def perform(self, request: SerialRequest, holder: str) -> Received | None:
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

    fake.lines[0] = cast("Line", Slow())
    async with serving(routes) as url:
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        asked = b"GET %b?read=1&wait=9 HTTP/1.0\r\nAuthorization: %b\r\n\r\n" % (SERIAL.encode(), login("viewer"))
        await stream.send_all(asked)
        await begun.wait()
        await stream.aclose()
        await ended.wait()


def test_plain_http_loads_no_websocket_and_no_cryptography() -> None:
    code = (
        "import sys, gateway.web.server, gateway.web.routes, gateway.web.auth\n"
        "heavy = {'trio_websocket', 'wsproto', 'cryptography', 'zeroconf'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- anything at all ---


@cache
def basic_routes() -> Routes:
    """Routes of a gateway that nobody else uses; what is thrown at it may change it."""
    fake = FakeGateway(lines={0: Line(b"answer"), 1: Line(error="away")})
    fake.settings = CATALOGUE.updated(
        fake.settings, [("Network.HTTP.AuthenticationPolicy", "basic_digest")], Role.ADMIN
    ).settings
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory)  # every example asks for the users in it
    return made(directory, fake)


PATHS = [path.encode() for path in ROUTES]
QUERIES = [
    b"action=list",
    b"action=update&Serial.Ser1.BaudRate=300",
    b"action=listdefinitions&listformat=xmlschema",
    b"group=Serial.*,root.PTZ",
    b"write=00ff",
    b"writestring=%00%ff+a",
    b"read=4&timeout=100",
    b"port=1&camera=2",
    b"port=-1&camera=9999999999",
    b'{"method":"getApiList","apiVersion":"1.0"}',
]
HEADS = [
    b"Host: cam\r\n",
    b"Authorization: " + login("admin") + b"\r\n",
    b"Authorization: " + login("viewer") + b"\r\n",
    b'Authorization: Digest username="admin", nonce="x", uri="/", response="0", qop=auth, nc=1, cnonce="y"\r\n',
    b"Origin: http://evil.example\r\n",
    b"Sec-Fetch-Site: cross-site\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"X: " + b"x" * 9000 + b"\r\n",
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Mostly a request, somewhere on the way to rubbish."""
    anything = st.binary(max_size=20)
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"CONNECT", b"PUT"]))
    target = draw(st.sampled_from(PATHS)) + b"?" + b"&".join(draw(st.lists(st.sampled_from(QUERIES), max_size=3)))
    head = b"".join(draw(st.lists(st.sampled_from(HEADS), max_size=5, unique=True)))
    body = draw(st.sampled_from([b"", *QUERIES]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0", b"2.0"]))
    raw = b"%b %b HTTP/%b\r\n%bContent-Length: %d\r\n\r\n%b" % (method, target, version, head, len(body), body)
    cut = draw(st.integers(0, len(raw)) | st.just(len(raw)))
    return raw[:cut] + draw(anything if cut < len(raw) else st.just(b""))


@given(
    thrown=st.lists(requests() | st.binary(max_size=60), max_size=4),
    pause=st.sampled_from([0.0, 0.1, 12.0]),
    half_close=st.booleans(),
)
@example(thrown=[b"\x16\x03\x01"], pause=0.0, half_close=False)
@example(thrown=[b"CONNECT /axis-cgi/apidiscovery.cgi HTTP/1.1\r\nHost: a\r\n\r\n"], pause=0.0, half_close=True)
def test_whatever_is_thrown_at_the_server_it_answers_or_closes(
    thrown: list[bytes], pause: float, half_close: bool
) -> None:
    """Never an exception, never a 500, never a hang: it all ends within the deadlines, which a mock clock counts."""

    async def run() -> bytes:
        near, far = memory_stream_pair()
        with trio.fail_after(500):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_then_close, near)
                got: list[bytes] = []
                nursery.start_soon(keep, far, got)
                await throw(far, thrown, pause, half_close=half_close)
        return b"".join(got)

    got = trio.run(run, clock=MockClock(autojump_threshold=0))
    assert re.fullmatch(rb"(?s)(HTTP/1\.1 [1-4]\d\d .*|HTTP/1\.1 50[15] .*)?", got)
    assert b"HTTP/1.1 500 " not in got


async def serve_then_close(near: Any) -> None:
    async with near:
        await serve(near, PEER, basic_routes().respond)


async def keep(far: Any, got: list[bytes]) -> None:
    got.extend([bytes(piece) async for piece in far])


async def throw(far: Any, thrown: list[bytes], pause: float, *, half_close: bool) -> None:
    try:
        for piece in thrown:
            await far.send_all(piece)
            await trio.sleep(pause)
        if half_close:
            await far.send_eof()
    except trio.BrokenResourceError:
        pass  # it closed, which is one of the two clean ends
