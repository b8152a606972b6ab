"""The paths of the HTTP server: a table of them, and a handler for each entry.

The checks come in the same order for every path: path, method, login and role, then what the handler finds in the
request, and last, for a request that changes something, the cross-site check. A handler reads the request by a module
of ``protocol.http``, asks the backend, and writes the answer by the same module.

To add a path, add a line to `ROUTES` with the least role, and a handler.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

import trio

from gateway.port.rights import Right
from gateway.state.store import StoreError
from gateway.tasks.audit import audit
from gateway.tasks.load import load
from gateway.web.auth import AccessControl, Caller, DeniedError
from gateway.web.csrf import Site
from gateway.web.message import Handover, Request, Response, explain
from gateway.web.pages import PAGES, page
from gateway.web.websocket_handshake import offers_binary, refusal, replayed
from protocol.frozen import frozen
from protocol.http.apidiscovery import discovery_answer, internal_error_answer
from protocol.http.param_cgi import (
    PARAM_PATHS,
    ListDefinitionsRequest,
    ListRequest,
    UpdateRequest,
    pairs,
    param_request,
    refused_answer,
    update_answer,
)
from protocol.http.serial_cgi import UNBIND, CgiError, SerialRequest, error_answer, serial_answer, serial_request
from protocol.link.key_rules import LONGEST_OLD_KEY, MAX_CPUS
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from gateway.clients.serial_cgi import Received, SerialCgi
    from gateway.clients.service import Service
    from gateway.port.router import Session
    from gateway.state.store import Published
    from gateway.tasks.watch import Cell
    from protocol.errors import ParameterError
    from protocol.parameters import catalogue as parameters
    from protocol.parameters.settings import Settings

__all__ = ["Backend", "Port", "Route", "Routes"]

_MOST_REASONS = 2000
"""The most characters of reasons in one answer: clients limit the length of a header."""

_LOOK_SECONDS = 0.25
"""Seconds between checks that the login of a long request is still valid."""

_NODE = re.compile("[0-9a-f]{32}")
_MOST_TRACES = 4
"""The most traces at a time, since each uses a place of the control socket."""

logger = logging.getLogger(__name__)


class Port(Protocol):
    """The services of one port that HTTP callers use; ``gateway.services.Services`` implements it."""

    @property
    def serial_cgi(self) -> SerialCgi | None:
        """Return the serial.cgi server; None while ``SerialCGI.Enabled=no``."""
        ...

    @property
    def web_socket(self) -> Service | None:
        """Return the service that WebSockets connect to; None while the port manager is being restarted."""
        ...

    @property
    def traces(self) -> int:
        """Return how many operators of this host watch the port."""
        ...

    def watched(self, holder: str) -> Session:
        """Return a session for one more of them."""
        ...


@final
@frozen
class Backend:
    """The parts of the gateway that requests use; ``ports[n]`` is PortManager.Pn."""

    catalogue: parameters.Catalogue
    published: Cell[Published]
    update: Callable[[Sequence[tuple[str, str]], Role, parameters.Ports], Awaitable[parameters.Update]]
    """Set parameters as a caller of this role who is bound to these ports.

    Return when the ports have settled, and what they refused is put back.
    """
    ports: Sequence[Port]
    status: Callable[[], dict[str, Any]]
    """Return the content of ``/daisyport/status``, for JSON."""
    health: Callable[[int | None], str]
    """Describe the gateway, or one port by its index, in one word; ``down`` if it does not work."""
    kick: Callable[[str, parameters.Ports, str], list[str]]
    """End the clients and links with a name, on these ports, for a reason; return their holders."""
    rekey: Callable[[int, str, float], Awaitable[str]]
    """Give the remote port server of a port another key, and accept the old one for some seconds.

    Return the reason of a refusal, or an empty text.
    """
    carry: Callable[[int, str, int, Sequence[bytes]], Awaitable[str | list[dict[str, str]]]]
    """Do the same, and carry the key to CPUs below, by their node ids.

    Return the outcome at each, or the reason of a refusal.
    """

    chain: Callable[[int], Awaitable[dict[str, Any] | None]]
    """Return the chain of a port, by its index, within seconds; None if it is not shared with other CPUs."""

    @property
    def settings(self) -> Settings:
        """Return the tree in force."""
        return self.published.value.settings


Handler: TypeAlias = Callable[["Routes", Request, Caller], Awaitable[Response | Handover]]


@final
@frozen
class Route:
    """A path's handler, the least role that may use it, and its methods (none: all of them)."""

    role: Role
    handler: Handler
    methods: tuple[str, ...] = ("GET", "POST")
    """HEAD belongs to GET where that is safe: the same answer without the body (RFC 9110, 9.3.2)."""
    by_token: bool = False
    """The scraper's token opens it too."""


@final
@frozen
class Routes:
    """Answers requests. ``site`` makes the cross-site check of requests that change something; None turns it off."""

    backend: Backend
    access: AccessControl
    site: Site | None = field(default_factory=Site)

    async def respond(self, request: Request) -> Response | Handover:
        """Answer any request."""
        route = ROUTES.get(_ANY_PORT.sub(r"\1P#", request.path))
        if route is None:
            return explain(404, f"no such endpoint; endpoints: {', '.join(sorted(ROUTES))}")
        if route.methods and request.method not in route.methods:
            return _not_allowed(request.path, route.methods)
        try:
            caller = (self.access.by_token(request) if route.by_token else None) or self.access.authorize(
                request, route.role
            )
            answer = await route.handler(self, request, caller)
            return answer.as_proven() if caller.name and isinstance(answer, Response) else answer
        except DeniedError as denied:
            return denied.response

    def refuse_cross_site(self, request: Request) -> None:
        """Raise DeniedError if a page of another site may have made a request that changes or consumes something."""
        why = self.site.refusal(request) if self.site is not None else None
        if why is not None:
            raise DeniedError(
                explain(
                    403,
                    f"This request changes something, and a page of another site may have made it: {why}. "
                    "Scripts and camera software are not affected. In the host configuration, [http] origins names the "
                    "public origins of reverse proxies, and [http] browser_guard = false turns this check off.",
                )
            )


def _not_allowed(what: str, methods: Sequence[str]) -> Response:
    allowed = ", ".join(methods)
    return explain(405, f"{what} allows {allowed}.", ("Allow", allowed))


# param.cgi ------------------------------------------------------------------------------------------------------


async def _param(routes: Routes, request: Request, caller: Caller) -> Response:
    asked = param_request(request.query, request.body, request.media_type)
    routes.access.require_role(request, caller, asked.role)
    backend = routes.backend
    match asked:
        case ListRequest(groups):
            return Response(200, backend.catalogue.listed(backend.settings, groups, caller.role, caller.ports).encode())
        case ListDefinitionsRequest(groups):
            host = (request.header(b"host") or b"").decode("latin-1")
            defined = backend.catalogue.defined(backend.settings, groups, caller.role, host, caller.ports)
            return Response(200, defined.encode(), "text/xml")
        case UpdateRequest() if request.method == "HEAD":
            return _not_allowed("action=update", ("GET", "POST"))
        case UpdateRequest(assignments):
            routes.refuse_cross_site(request)
            return await _updated(backend, assignments, caller, f"{caller.name} at {request.peer}")
    return Response(200, refused_answer(asked.why))


async def _updated(backend: Backend, assignments: Sequence[tuple[str, str]], caller: Caller, who: str) -> Response:
    before = backend.settings
    try:
        update = await backend.update(assignments, caller.role, caller.ports)
    except StoreError as exc:
        audit.error("%s changed nothing: %s", who, exc)
        return Response(500, refused_answer(str(exc)))  # a fault on this side, which the caller cannot mend
    for name in update.changed:
        old, new = (backend.catalogue.masked(settings, name) for settings in (before, update.settings))
        audit.info("%s set %s from %r to %r", who, name, old, new)
    return Response(200, update_answer(update.refused), headers=_reasons(update.refused))


def _reasons(refused: Sequence[ParameterError]) -> tuple[tuple[str, str], ...]:
    """Write into a header why parameters were refused, because VAPIX's answer has no place for it."""
    if not refused:
        return ()
    told = "; ".join(f"{error.name}: {error.why}" for error in refused)
    return (("Daisyport-Refused", "".join(c if " " <= c <= "~" else "?" for c in told)[:_MOST_REASONS]),)


# serial.cgi -----------------------------------------------------------------------------------------------------


async def _serial(routes: Routes, request: Request, caller: Caller) -> Response:
    try:
        asked = serial_request(request.query, request.body, request.media_type)
        # A read changes something too: it takes bytes from the receive buffer that another caller may want.
        if asked.binds or asked.flush or asked.output or asked.read:
            routes.refuse_cross_site(request)
        received = await _served_while_in_force(routes, request, asked, caller)
    except CgiError as wrong:
        return Response(200, error_answer(str(wrong)))
    if received is None:
        return Response(204)
    early = (("Daisyport-Turn", "ended-early"),) if received.ended_early else ()
    return Response(200, serial_answer(received.data, asked.format), asked.format.content_type, early)


async def _served_while_in_force(
    routes: Routes, request: Request, asked: SerialRequest, caller: Caller
) -> Received | None:
    """Serve the request, unless its login is revoked meanwhile: the line may keep it waiting for long."""
    outcome: Received | CgiError | None = None
    cut = True
    async with trio.open_nursery() as beside:

        async def watch() -> None:
            while routes.access.revoked(caller) is None:  # noqa: ASYNC110 -- the file of the users tells by its stamp alone
                await trio.sleep(_LOOK_SECONDS)
            beside.cancel_scope.cancel()

        if caller.user is not None:
            beside.start_soon(watch)
        try:
            outcome = await _served(routes.backend, asked, caller, f"{caller.name} at {request.peer}")
        except CgiError as wrong:
            outcome = wrong
        cut = False
        beside.cancel_scope.cancel()
    if cut:
        routes.access.require_login_in_force(request, caller)
    if isinstance(outcome, CgiError):
        raise outcome
    return outcome


async def _served(backend: Backend, asked: SerialRequest, caller: Caller, holder: str) -> Received | None:
    """Bind, then flush, write and read. Check everything before doing anything."""
    uses = asked.flush or asked.output is not None or asked.read is not None
    port = _port(backend.settings, asked, caller)
    server = None if port == UNBIND else _server(backend, port)
    if uses and server is None:
        raise CgiError(
            f"serial.cgi is disabled for port {port}; root.PortManager.P{port - 1}.SerialCGI.Enabled=yes enables it"
        )
    # The binding comes after the checks and before the work: a refused request binds nothing, and one that times out at
    # the line keeps its binding.
    if asked.port is not None and asked.camera is not None:
        await _bind(backend, asked.camera, asked.port, holder)
    return await server.perform(asked, holder) if uses and server is not None else None


def _port(settings: Settings, asked: SerialRequest, caller: Caller) -> int:
    """Return the number, from 1, of the port that the request means, or UNBIND. Raises CgiError if it does not exist.

    For a caller who is bound to ports no others exist, and video sources of other ports cannot be bound.
    """
    camera = asked.camera or 1
    cameras, ports = settings.ptz.cam_ports, len(settings.port_managers)
    if camera > len(cameras):
        raise CgiError(f"camera={camera}: must be a video source from 1 to {len(cameras)}")
    port = asked.port if asked.port is not None else cameras[camera - 1]
    if port > ports:
        raise CgiError(f"port={port}: must be a port from 1 to {ports}")
    bound = cameras[camera - 1]
    # Check both ends of a binding, or a caller could take a camera away from a port that they may not use.
    if caller.ports is not None:
        own = ", ".join(str(number + 1) for number in sorted(caller.ports))
        if port != UNBIND and not caller.may_use(port - 1):
            raise CgiError(f"port={port}: {caller.name} may use {own} only")
        if asked.binds and bound != UNBIND and not caller.may_use(bound - 1):
            raise CgiError(f"camera={camera}: it is bound to port {bound}, and {caller.name} may use {own} only")
    if port == UNBIND and asked.port is None:
        raise CgiError(f"video source {camera} is bound to no port; port=N&camera={camera} binds it to port N")
    return port


def _server(backend: Backend, port: int) -> SerialCgi | None:
    manager = port - 1
    if not backend.settings.port_managers[manager].port_enabled:
        raise CgiError(f"port {port} is disabled; root.PortManager.P{manager}.PortEnabled=yes enables it")
    return backend.ports[manager].serial_cgi


async def _bind(backend: Backend, camera: int, port: int, who: str) -> None:
    """Bind a video source to a port. The binding is an admin's parameter, but the API lets serial.cgi set it."""
    if backend.settings.ptz.cam_ports[camera - 1] == port:
        return
    try:
        update = await backend.update([(f"PTZ.CamPorts.Cam{camera}Port", str(port))], Role.ADMIN, None)
        audit.info("%s bound video source %d to port %d", who, camera, port)
    except StoreError as exc:
        raise CgiError(str(exc)) from exc
    if update.refused:
        raise CgiError(str(update.refused[0]))


# The others -----------------------------------------------------------------------------------------------------


async def _status(routes: Routes, _: Request, caller: Caller) -> Response:
    return Response(200, json.dumps(_status_for(routes, caller), indent=2).encode() + b"\n", "application/json")


def _status_for(routes: Routes, caller: Caller) -> dict[str, Any]:
    """Return the status with the ports that the caller may use."""
    status = routes.backend.status()
    return status | {"ports": [port for index, port in enumerate(status["ports"]) if caller.may_use(index)]}


async def _metrics(routes: Routes, _: Request, caller: Caller) -> Response:
    await load("gateway.web.openmetrics")
    from gateway.web.openmetrics import CONTENT_TYPE, open_metrics

    return Response(200, open_metrics(_status_for(routes, caller)), CONTENT_TYPE)


async def _chain(routes: Routes, _: Request, caller: Caller) -> Response:
    """Answer with the chains of the ports that the caller may use, asking all their CPUs."""
    found: dict[str, dict[str, Any]] = {}

    async def look(index: int) -> None:
        if (owner := await routes.backend.chain(index)) is not None:
            found[f"P{index}"] = owner

    async with trio.open_nursery() as looking:
        for index in range(len(routes.backend.settings.port_managers)):
            if caller.may_use(index):
                looking.start_soon(look, index)
    chains = {"ports": [{"port": name, "chain": owner} for name, owner in sorted(found.items())]}
    return Response(200, json.dumps(chains, indent=2).encode() + b"\n", "application/json")


async def _ports(routes: Routes, _: Request, caller: Caller) -> Response:
    """Answer with what a viewer may know of the ports, and with the caller's name and role."""
    status = _status_for(routes, caller)
    told = {
        "node": status["node"],
        "user": caller.name,
        "role": caller.role.name.lower(),
        "level": caller.role.value,
        "ports": [{name: port[name] for name in _TOLD_OF_A_PORT} for port in status["ports"]],
    }
    return Response(200, json.dumps(told, indent=2).encode() + b"\n", "application/json")


_TOLD_OF_A_PORT = ("name", "type", "serial_port", "remote_port", "state", "reason")


async def _web_socket(routes: Routes, request: Request, caller: Caller) -> Response | Handover:
    routes.refuse_cross_site(request)
    if (refused := refusal(request)) is not None:
        return refused
    name = request.path.rpartition("/")[2]
    count = len(routes.backend.settings.port_managers)
    ports = {f"P{index}": index for index in range(count) if caller.may_use(index)}
    if name not in ports:
        return explain(404, f"no such port; ports: {', '.join(ports)}")
    service = routes.backend.ports[ports[name]].web_socket
    if service is None:
        return explain(503, f"{name} is being restarted: try again.", ("Retry-After", "1"))
    if request.connection is not None and (why := request.connection.refusal()) is not None:
        return explain(503, f"{name} takes no more clients: {why}. Close some, or try again.", ("Retry-After", "1"))
    query = pairs(request.query)
    traces, bytes_only = ("trace", b"1") in query, offers_binary(request) or ("text", b"1") in query
    if traces and bytes_only:
        return explain(400, "a trace is JSON: offer no subprotocol, and leave text=1 out")
    holder = f"{caller.name} at {request.peer}"
    rights = _rights(caller.role, traces=traces, monitors=("monitor", b"1") in query)
    if Right.WATCH in rights:
        holder = f"trace of {holder}"

    async def take(stream: trio.abc.HalfCloseableStream) -> None:
        await load("gateway.web.websocket")
        from gateway.web import websocket

        if Right.WATCH in rights:
            audit.info("%s at %s traces %s", caller.name, request.peer, name)
        # A client of the subprotocol "binary" (noVNC, ws-serial), or a terminal that sends text (xterm.js's
        # AttachAddon, by the query), knows only bytes, and would take our JSON for bytes of the line.
        await websocket.serve(
            stream,
            replayed(request),
            service,
            rights,
            holder,
            lambda: routes.access.revoked(caller),
            bytes_only=bytes_only,
            traces=traces,
            connection=request.connection,
        )

    return Handover(take)


def _rights(role: Role, *, traces: bool, monitors: bool) -> Right:
    """Return what a WebSocket may do at the port.

    Only operators, who write themselves, see what others write: it includes what is typed at a password prompt, which
    no echo shows, with addresses and users. A viewer, which may be a display on a wall, hears only the line.
    """
    if role < Role.OPERATOR:
        return Right.READ
    if traces:
        return Right.READ | Right.WATCH
    if monitors:  # without a right to write it hears the replies to all clients
        return Right.READ
    # An admin may set the parameters, too.
    return Right.READ | Right.TCP | Right.LINES | (Right.CONFIGURE if role is Role.ADMIN else Right(0))


async def _trace(routes: Routes, request: Request, caller: Caller) -> Response | Handover:
    if request.local is None:
        return explain(
            403,
            "This trace is given at the control socket only; over the network, ask /daisyport/ports/P# with ?trace=1.",
        )
    name = request.path.rpartition("/")[2]
    ports = {f"P{index}": port for index, port in enumerate(routes.backend.ports)}
    if name not in ports:
        return explain(404, f"no such port; ports: {', '.join(ports)}")
    if sum(port.traces for port in ports.values()) >= _MOST_TRACES:
        return explain(503, f"{_MOST_TRACES} traces are open already: end one, or kick it.", ("Retry-After", "1"))

    async def take(stream: trio.abc.HalfCloseableStream) -> None:
        await load("gateway.web.trace")
        from gateway.web import trace

        audit.info("%s traces %s", caller.name, name)
        await trace.serve(stream, ports[name].watched(f"trace of {caller.name}"))

    return Handover(take)


async def _health(routes: Routes, request: Request, _: Caller) -> Response:
    """Answer a monitoring system, which has no login, in one word; most of them look only at the status code.

    It costs no more than a refusal, and tells a stranger nothing else: no name, no version, no reason.
    """
    backend = routes.backend
    ports = {f"P{index}": index for index in range(len(backend.settings.port_managers))}
    name = request.path.removeprefix("/daisyport/health").removeprefix("/")
    if name and name not in ports:
        return explain(404, "no such port")
    word = backend.health(ports[name] if name else None)
    return Response(503 if word == "down" else 200, word.encode() + b"\n")


async def _kick(routes: Routes, request: Request, caller: Caller) -> Response:
    routes.refuse_cross_site(request)
    holders = [value.decode(errors="replace") for name, value in pairs(request.query) if name == "holder" and value]
    if len(holders) != 1:
        return explain(400, "name one client: ?holder=192.0.2.7:40000, as the status shows it")
    who = f"{caller.name} at {request.peer}"
    kicked = routes.backend.kick(holders[0], caller.ports, f"ended by {who}")
    for holder in kicked:
        audit.info("%s ended %s", who, holder)
    if not kicked:
        return explain(404, "no client and no link has that name; the status shows all holders")
    return Response(200, "".join(f"ended: {holder}\n" for holder in kicked).encode())


async def _rekey(routes: Routes, request: Request, caller: Caller) -> Response:
    if request.local is None:
        return explain(403, "A key is changed at the control socket only: daisyport rekey.")
    name = request.path.rpartition("/")[2]
    ports = {f"P{index}": index for index in range(len(routes.backend.settings.port_managers))}
    if name not in ports:
        return explain(404, f"no such port; ports: {', '.join(ports)}")
    seconds = [value for key, value in pairs(request.query) if key == "seconds"]
    if len(seconds) != 1 or not seconds[0].isdigit() or not 0 < int(seconds[0]) <= LONGEST_OLD_KEY:
        return explain(400, f"say for how long the old key is taken: ?seconds=N, from 1 to {LONGEST_OLD_KEY}")
    nodes = [value.decode(errors="replace") for key, value in pairs(request.query) if key == "node"]
    if len(nodes) > MAX_CPUS or not all(map(_NODE.fullmatch, nodes)):
        return explain(400, f"name the CPUs that the key is for: ?node=ID, 32 hexadecimal digits, at most {MAX_CPUS}")
    key, until = request.body.decode(errors="replace"), int(seconds[0])
    done: str | list[dict[str, str]]
    try:
        if nodes:
            done = await routes.backend.carry(ports[name], key, until, [bytes.fromhex(node) for node in nodes])
        else:
            done = await routes.backend.rekey(ports[name], key, until)
    except StoreError as exc:
        return explain(500, str(exc))
    if isinstance(done, str) and done:
        return explain(409, done)
    audit.info("%s gave %s another AuthenticationKey; the old one is taken for %d s", caller.name, name, until)
    if isinstance(done, str):
        return Response(200, b"ok\n")
    for cpu in done:
        audit.info("%s: the key of %s: %s %s", caller.name, name, cpu["name"] or cpu["node"][:8], cpu["what"])
    return Response(200, json.dumps({"cpus": done}).encode() + b"\n", "application/json")


async def _page(_: Routes, request: Request, __: Caller) -> Response:
    return page(request.path)


async def _discovery(_: Routes, request: Request, __: Caller) -> Response:
    try:
        answer = discovery_answer(request.method, request.body)
    except Exception:  # a bug of ours: these clients look for errors in the JSON, not in the status code
        logger.exception("apidiscovery.cgi: a bug; no answer to %.200r", request.body)
        answer = internal_error_answer()
    return Response(200, answer, "application/json")


_ANY_PORT = re.compile("^(/daisyport/(?:health|ports|trace|rekey)/)[^/]+$")

ROUTES = {
    **{path: Route(role, _param, methods=("GET", "HEAD", "POST")) for path, role in PARAM_PATHS.items()},
    "/axis-cgi/com/serial.cgi": Route(Role.VIEWER, _serial),
    "/axis-cgi/apidiscovery.cgi": Route(Role.OPEN, _discovery, methods=()),  # its JSON answers other methods
    "/daisyport/health": Route(Role.OPEN, _health, methods=("GET", "HEAD")),
    "/daisyport/health/P#": Route(Role.OPEN, _health, methods=("GET", "HEAD")),
    "/daisyport/status": Route(Role.OPERATOR, _status, methods=("GET", "HEAD")),
    "/daisyport/chain": Route(Role.OPERATOR, _chain, methods=("GET", "HEAD")),
    "/daisyport/kick": Route(Role.ADMIN, _kick, methods=("POST",)),
    "/daisyport/ports": Route(Role.VIEWER, _ports, methods=("GET", "HEAD")),
    "/daisyport/ports/P#": Route(Role.VIEWER, _web_socket, methods=("GET",)),
    "/daisyport/rekey/P#": Route(Role.ADMIN, _rekey, methods=("POST",)),
    "/daisyport/trace/P#": Route(Role.ADMIN, _trace, methods=("GET",)),
    "/metrics": Route(Role.VIEWER, _metrics, methods=("GET", "HEAD"), by_token=True),
    **dict.fromkeys(PAGES, Route(Role.VIEWER, _page, methods=("GET", "HEAD"))),
}
