"""The composition root: it builds the router, the buses and the store, and opens the root nursery.

It holds no logic but the order of things. The service manager's watchdog and Bonjour start first and end last; the
ports end by themselves when they are told to stop, within a deadline; the HTTP server ends at once. Each part contains
its own bugs: a port manager restarts its own tree, the HTTP server is started again, and the process goes on.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import logging
import os
import pwd
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import trio

from gateway import __version__
from gateway.changes import Changes
from gateway.clients.drivers import Drivers
from gateway.clients.listeners import listen_tcp
from gateway.discovery.bonjour import Bonjour
from gateway.health import keep_watch
from gateway.manager import Host, Manager
from gateway.port.bus import Bus
from gateway.port.router import Router
from gateway.state.machine import machine_mark
from gateway.state.node_key import node_key
from gateway.state.store import Store
from gateway.status import in_words
from gateway.tasks.contain import contain
from gateway.tasks.reconcile import Unit
from gateway.tasks.watch import Cell
from protocol.endpoint import Endpoint
from protocol.link.guesses import GuessLimit
from protocol.parameters.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.host.config import Config, PtzConfig
    from gateway.host.sdnotify import Notifier
    from gateway.web.server import HttpServer
    from gateway.web.tls import Tls
    from protocol.link.identity import NodeKey


__all__ = ["Composition", "StartError", "compose", "make_runtime_dir", "run"]

logger = logging.getLogger(__name__)

_STOP = 3.6
"""Seconds that everything has to stop in; 4 s is promised."""


_FIRST_ATTEMPT = 5.0
"""Seconds that the HTTP server's listeners have to bind before the start is over without them."""


@final
class StartError(Exception):
    """The gateway cannot start on this host; the message says in one sentence what is missing."""


async def run(
    config: Config,
    stop: trio.Event,
    notifier: Notifier,
    hang_ups: Cell[int] | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the gateway until ``stop`` is set, then end it within 4 s.

    ``hang_ups`` counts the SIGHUPs: at each one the TLS certificate is read again. ``task_status`` is told once every
    listener is bound and every device is open, or known to be retrying. Raises StartError, StoreError or UserError
    where the runtime or the state directory cannot be used.
    """
    make_runtime_dir(config.runtime_dir)
    parts = compose(config)
    with contextlib.closing(parts.store):
        async with trio.open_nursery() as root:
            root.start_soon(parts.bonjour.run)
            async with trio.open_nursery() as ports, trio.open_nursery() as front:
                listeners = _serve_http(config, parts, hang_ups or Cell(0), front) if config.http.listen else ()
                words = functools.partial(in_words, config.node_name, parts.managers, listeners)
                root.start_soon(keep_watch, parts.managers, notifier, words, stop)
                for manager in parts.managers:
                    ports.start_soon(manager.run, stop)
                front.start_soon(_announce, parts.managers, listeners, notifier, task_status)
                await stop.wait()
                notifier.stopping()
                logger.info("stopping")
                ports.cancel_scope.deadline = trio.current_time() + _STOP
                front.cancel_scope.cancel()
            root.cancel_scope.cancel()


@final
@dataclass(frozen=True, slots=True)
class Composition:
    """The parts of a gateway, put together and not yet running."""

    catalogue: Catalogue
    store: Store
    bonjour: Bonjour
    managers: tuple[Manager, ...]
    changes: Changes


def compose(config: Config) -> Composition:
    """Put a gateway together; its store holds the state directory until it is closed. Raises StoreError."""
    catalogue = Catalogue(config.hardware)
    store = Store(config.state_dir, catalogue)
    node = node_key(config.state_dir, config.node_name, machine_mark(config.state_dir))
    bonjour = Bonjour(node.id, config.tcp.bind)
    managers = _managers(config, store, bonjour, node)
    return Composition(catalogue, store, bonjour, managers, Changes(catalogue, store, managers))


def _managers(config: Config, store: Store, bonjour: Bonjour, node: NodeKey) -> tuple[Manager, ...]:
    host = Host(config, node, _drivers(config.ptz), GuessLimit(), bonjour)
    buses = {f"P{index}": Bus(f"P{index}") for index in range(len(config.managers))}
    router = Router(buses)
    return tuple(
        Manager(
            index,
            host,
            bus,
            functools.partial(router.grant, bus.name),
            store.published,
        )
        for index, bus in enumerate(buses.values())
    )


def make_runtime_dir(path: Path) -> None:
    """Make the directory of the PTZ sockets, if it is not there. Raises StartError."""
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as exc:
        raise StartError(
            f"runtime_dir {path} cannot be made, and the PTZ sockets are to be in it: {exc.strerror}"
        ) from None


def _serve_http(config: Config, parts: Composition, hang_ups: Cell[int], clients: trio.Nursery) -> tuple[Unit, ...]:
    """Serve HTTP in the nursery ``clients``, on every address; return the units of the listeners."""
    tls = _tls(config)
    server = _http_server(config, parts, tls)
    clients.start_soon(contain, "TLS certificate", functools.partial(_reload_certificate, tls, hang_ups))
    units = []
    for address, port in config.http.listen:
        unit = Unit(f"HTTP server {Endpoint(address, port)}", lambda: None)
        listen = functools.partial(listen_tcp, address, port, functools.partial(server.admit, clients), unit)
        clients.start_soon(contain, unit.name, listen)
        units.append(unit)
    return tuple(units)


def _tls(config: Config) -> Tls:
    """Load the certificate of the HTTP server, which is for every name that this node listens under."""
    from gateway.web.tls import Tls

    hosts = [host for host, _ in config.http.listen if host not in ("0.0.0.0", "::")]
    names = dict.fromkeys([config.node_name, "localhost", "127.0.0.1", "::1", *hosts])
    tls = Tls(config.http.tls_certificate, config.http.tls_key, config.state_dir, tuple(names))
    tls.load()
    return tls


async def _reload_certificate(tls: Tls, hang_ups: Cell[int]) -> None:
    async for count in hang_ups.changes():
        if count:
            await trio.to_thread.run_sync(tls.load)


def _http_server(config: Config, parts: Composition, tls: Tls) -> HttpServer:
    # Loaded only where it listens: HTTP and its logins cost memory and time at the start.
    from gateway.state.users import Users
    from gateway.status import status
    from gateway.web.auth import AccessControl
    from gateway.web.csrf import Site
    from gateway.web.routes import Backend, Routes
    from gateway.web.server import HttpServer

    started, published = time.time(), parts.store.published
    backend = Backend(
        catalogue=parts.catalogue,
        published=published,
        update=parts.changes.update,
        ports=parts.managers,
        status=lambda: status(config, __version__, started, published.value.settings, parts.managers, tls.status),
    )
    users = Users(config.state_dir, config.node_name)
    access = AccessControl(users, published, config.http.digest)
    site = Site(config.node_name, config.http.origins) if config.http.browser_guard else None
    return HttpServer(Routes(backend, access, site, config.http.trusted_proxies).respond, tls.secure)


def _drivers(ptz: PtzConfig) -> Drivers:
    """Look up the users and groups that may connect as PTZ drivers; log and leave out a name that is unknown here."""
    users = {0, os.getuid()} | set(_known(ptz.users, lambda name: pwd.getpwnam(name).pw_uid, "user"))
    named = _known(ptz.groups, lambda name: grp.getgrnam(name).gr_gid, "group")
    return Drivers(frozenset(users), frozenset({os.getgid(), *named}))


def _known(names: Sequence[str], find: Callable[[str], int], kind: str) -> list[int]:
    found = []
    for name in names:
        try:
            found.append(find(name))
        except KeyError:
            logger.warning("[ptz]: this host has no %s named %r", kind, name)
    return found


async def _announce(
    managers: Sequence[Manager], listeners: Sequence[Unit], notifier: Notifier, task_status: trio.TaskStatus[None]
) -> None:
    """Tell that the start is over: everything is up, or known to be tried again."""
    for manager in managers:
        await manager.settled(0)
    with trio.move_on_after(_FIRST_ATTEMPT):
        for listener in listeners:
            await listener.settled.wait()
    notifier.ready()
    task_status.started()
