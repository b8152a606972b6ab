"""Put the HTTP server together from the parts of the gateway, and apply a changed configuration to it.

Loaded only where it listens: HTTP and its logins cost memory and time at the start.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any, final

import trio

from gateway import __version__
from gateway.certificates import own_certificate
from gateway.clients.listeners import accept_clients, listen_tcp
from gateway.composition import control_members
from gateway.rekey import shown
from gateway.state.users import Users
from gateway.status import status
from gateway.tasks.contain import contain
from gateway.tasks.load import load
from gateway.tasks.reconcile import Unit
from gateway.web.auth import AccessControl
from gateway.web.bearer import Bearer
from gateway.web.control_socket import ControlSocket
from gateway.web.csrf import Site
from gateway.web.places import Places
from gateway.web.routes import Backend, Routes
from gateway.web.server import HttpServer
from protocol.endpoint import Endpoint
from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.composition import Composition
    from gateway.host.config import Config
    from gateway.host.reload import Reload
    from gateway.manager import Manager
    from gateway.rekey import KeyChanges
    from gateway.tasks.watch import Cell

__all__ = ["HttpService"]

logger = logging.getLogger(__name__)


async def _chain(managers: Sequence[Manager], index: int) -> dict[str, Any] | None:
    """Return the chain of one port for JSON; None where it is not shared with other CPUs."""
    port = managers[index]
    if port.services.remote_port is None and PortType.REMOTE not in port.devices:
        return None
    await load("gateway.chain")
    from gateway import chain

    return chain.shown(await port.chain.look())


async def _carry(
    keys: KeyChanges, index: int, key: str, seconds: int, nodes: Sequence[bytes]
) -> str | list[dict[str, str]]:
    """Give a server another key and carry it down; return the outcome at each CPU, or the reason of a refusal."""
    cpus = await keys.carry(index, key, seconds, nodes)
    return cpus if isinstance(cpus, str) else shown(cpus, nodes)


@final
class HttpService:
    """The HTTP server of a gateway; ``reloads`` has the configuration, and brings changed ones."""

    def __init__(self, parts: Composition, reloads: Cell[Reload]) -> None:
        self._config = reloads.value.config
        self._reloads = reloads
        published = parts.store.published
        started = time.monotonic()
        self._backend = Backend(
            catalogue=parts.catalogue,
            published=published,
            update=parts.changes.update,
            ports=[manager.services for manager in parts.managers],
            status=lambda: status(
                self._config,
                __version__,
                started,
                published.value.settings,
                parts.managers,
                self._tls.status,
                reloads.value.status,
                parts.connections,
            ),
            kick=lambda holder, ports, why: [
                kicked
                for manager in parts.managers
                if ports is None or manager.index in ports
                for kicked in manager.services.kick(holder, why)
            ],
            rekey=parts.keys.change,
            carry=functools.partial(_carry, parts.keys),
            chain=functools.partial(_chain, parts.managers),
            health=lambda index: parts.health.word(published.value.settings, index),
        )
        self._users = users = Users(self._config.state_dir, self._config.node_name)
        self._bearer = Bearer(self._config.http.metrics_token)
        self._access = AccessControl(users, published, self._config.http.digest, bearer=self._bearer)
        self._tls = own_certificate(self._config)
        most = parts.connections.requests
        self._server = HttpServer(
            self._routes(self._config).respond,
            self._tls.secure,
            places=Places(most, most * 3 // 4),
            connections=parts.connections,
            trusted_proxies=self._config.http.trusted_proxies,
            most_refusals=most,
        )
        control = self._config.control
        self.control = ControlSocket(
            lambda request: self._server.respond(request),
            control_members(control.admins),
            control_members(control.viewers),
        )
        """The control socket, which serves users of this host even while nothing else is served."""

    def serve(self, clients: trio.Nursery, sockets: Sequence[socket.socket]) -> tuple[Unit, ...]:
        """Serve in tasks of ``clients``, on ``sockets`` or else on every address of the configuration.

        Return the units of the listeners.
        """
        self._tls.load()
        self._bearer.load()
        if not self._users.everyone:
            logger.warning("no user exists, so nobody can log in: daisyport user add NAME --role admin")
        clients.start_soon(contain, "configuration", self._follow)
        clients.start_soon(contain, "audit of logins", self._access.events.run)
        welcome = functools.partial(self._server.admit, clients)
        units = []

        def listen(where: Endpoint, accept: Callable[[Unit], Awaitable[None]]) -> None:
            unit = Unit(f"HTTP server {where}", lambda: None)
            units.append(unit)
            clients.start_soon(contain, unit.name, functools.partial(accept, unit))

        for sock in sockets:
            listen(Endpoint.of(sock.getsockname()), functools.partial(accept_clients, sock, welcome))
        if not sockets:
            for address, port in self._config.http.listen:
                listen(Endpoint(address, port), functools.partial(listen_tcp, address, port, welcome))
        return tuple(units)

    def _routes(self, config: Config) -> Routes:
        site = Site(config.node_name, config.http.origins) if config.http.browser_guard else None
        return Routes(self._backend, self._access, site)

    async def _follow(self) -> None:
        """Apply what a SIGHUP changed, from the next connection on."""
        async for reload in self._reloads.changes():
            if reload.count:
                http = reload.config.http
                self._server.respond = self._routes(reload.config).respond
                self._server.trusted_proxies = http.trusted_proxies
                self._tls.path, self._tls.key = http.tls_certificate, http.tls_key
                self._bearer.path = http.metrics_token
                await trio.to_thread.run_sync(self._tls.load)
                await trio.to_thread.run_sync(self._bearer.load)
