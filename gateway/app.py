"""Run the gateway: open the root nursery, start the parts, and stop them in order.

The watch over the port managers and Bonjour start first and end last. The ports end by themselves when they are told to
stop, within a deadline. The HTTP server ends at once. Each part contains its own bugs: a port manager restarts its own
tree, the HTTP server is started again, and the process goes on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from socket import SOCK_STREAM
from typing import TYPE_CHECKING, final

import trio

from gateway.clients.listeners import listen_unix
from gateway.composition import compose
from gateway.host.descriptor_store import DescriptorStore
from gateway.host.reload import Reload
from gateway.state import atomic_file
from gateway.status import in_words
from gateway.tasks.contain import contain
from gateway.tasks.reconcile import Unit
from gateway.tasks.watch import Cell
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.composition import Composition
    from gateway.host.config import Config
    from gateway.host.sdnotify import Notifier
    from gateway.http_service import HttpService
    from gateway.manager import Manager

__all__ = ["StartError", "hold_runtime_dir", "run"]

logger = logging.getLogger(__name__)

_STOP = 3.6
"""Seconds for everything to stop; 4 s is promised."""
_FIRST_ATTEMPT = 5.0
"""Seconds that the HTTP server's listeners have to bind before the start is over without them."""


@final
class StartError(Exception):
    """The gateway cannot start on this host; the message says in one sentence what is missing."""


async def run(
    config: Config,
    stop: trio.Event,
    notifier: Notifier,
    reloads: Cell[Reload] | None = None,
    sockets: Sequence[socket.socket] = (),
    presets: Sequence[tuple[str, str]] = (),
    descriptors: DescriptorStore | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the gateway until ``stop`` is set, then end it within 4 s.

    ``reloads`` brings the configuration again at each SIGHUP. ``sockets`` are listening sockets of the HTTP server,
    which replace ``[http] listen``. ``presets`` are parameters that are set first. ``descriptors`` are those that the
    previous process kept for this one; they are closed at the end. ``task_status`` is told once every listener is bound
    and every device is open, or known to be retrying. Raises StartError, StoreError or UserError where the runtime or
    the state directory cannot be used.
    """
    _make_runtime_dir(config.runtime_dir)
    reloads = reloads or Cell(Reload(config))
    descriptors = DescriptorStore(notifier) if descriptors is None else descriptors
    parts = compose(config, descriptors)
    with contextlib.closing(parts.store), contextlib.closing(descriptors):
        if presets:
            await parts.store.update(presets, Role.ADMIN)
        # Three nurseries, since they end at different times: HTTP at once, the ports after the messages that they have
        # begun, and what both need (the watch, Bonjour's goodbyes) last.
        async with trio.open_nursery() as root:
            root.start_soon(parts.bonjour.run)
            root.start_soon(contain, "node key", parts.identity.keep)
            root.start_soon(contain, "connections", parts.connections.run)
            if parts.tls_logins:
                # Loaded only where it is used.
                from gateway.tls_logins import follow

                logins = tuple(parts.tls_logins.values())
                for each in logins:
                    await each.read()  # before the first client can connect
                root.start_soon(contain, "certificates of ports", functools.partial(follow, logins, reloads))
            for manager in parts.managers:
                if manager.log is not None:  # in the root, so that it hears the line to its last byte
                    root.start_soon(contain, f"{manager.bus.name} log", manager.log.run)
            async with trio.open_nursery() as ports, trio.open_nursery() as front:
                http = functools.cache(functools.partial(_http_service, parts, reloads))
                listeners = http().serve(front, sockets) if config.http.listen or sockets else ()
                front.start_soon(contain, "control socket", functools.partial(_listen_control, config, http, front))
                words = functools.partial(in_words, config.node_name, parts.managers, listeners)
                # In the outermost nursery, so that the watchdog is fed while the ports drain.
                root.start_soon(parts.health.keep_watch, notifier, words, stop)
                for manager in parts.managers:
                    ports.start_soon(manager.run, stop)
                front.start_soon(_announce, parts.managers, listeners, notifier, task_status)
                await stop.wait()
                notifier.stopping()
                logger.info("stopping")
                ports.cancel_scope.deadline = trio.current_time() + _STOP
                front.cancel_scope.cancel()
            root.cancel_scope.cancel()


def hold_runtime_dir(path: Path) -> int:
    """Make the directory of the PTZ sockets, and lock it until the returned descriptor is closed.

    Two daemons with the same directory would take each other's sockets away. Raises StartError where another has it.
    """
    _make_runtime_dir(path)
    try:
        return atomic_file.claim(path / "runtime.lock")  # not "lock": both directories may be one
    except BlockingIOError:
        raise StartError(f"runtime_dir {path} is in use by another daisyport: give this one its own") from None
    except OSError as exc:  # a full or read-only file system: a state that the sockets report too
        logger.error("runtime_dir %s cannot be locked: %s", path, exc.strerror)  # noqa: TRY400
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # Python makes no file of a directory's descriptor


def _make_runtime_dir(path: Path) -> None:
    """Make the directory of the PTZ sockets, if it is not there. Raises StartError."""
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as exc:
        raise StartError(
            f"runtime_dir {path} cannot be made, and the PTZ sockets are to be in it: {exc.strerror}"
        ) from None


def _http_service(parts: Composition, reloads: Cell[Reload]) -> HttpService:
    # Loaded only where it is used: HTTP and its logins cost memory and time at the start.
    from gateway.http_service import HttpService

    return HttpService(parts, reloads)


async def _listen_control(config: Config, http: Callable[[], HttpService], clients: trio.Nursery) -> None:
    """Serve the control socket. HTTP is loaded at the first connection, unless it serves the network already."""
    folder = config.runtime_dir / "control"
    # Users named in [control] must be able to reach the socket; their credentials tell them from strangers.
    shared = bool(config.control.admins or config.control.viewers)

    def welcome(sock: socket.socket, peer: object) -> None:
        http().control.admit(clients, sock, peer)

    unit = Unit("control socket", lambda: None)
    modes = (0o666, 0o755) if shared else (0o660, 0o750)
    await listen_unix(folder / "http.sock", SOCK_STREAM, modes[0], welcome, unit, folder_mode=modes[1])


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
