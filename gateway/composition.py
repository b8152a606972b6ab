"""The composition root: it builds the router, the buses, the store and the port managers, and runs none of them."""

from __future__ import annotations

import contextlib
import functools
import grp
import logging
import os
import pwd
from typing import TYPE_CHECKING, final

from gateway.changes import Changes
from gateway.clients.connections import Connections
from gateway.clients.drivers import Drivers
from gateway.clients.peer import Members
from gateway.discovery.bonjour import Bonjour
from gateway.health import Health
from gateway.host.descriptor_store import tty_name
from gateway.manager import Manager
from gateway.port.bus import Bus
from gateway.port.router import Router
from gateway.rekey import KeyChanges
from gateway.serial_line.adapters import advice
from gateway.services import Host
from gateway.state.machine import machine_mark
from gateway.state.node_key import NodeIdentity
from gateway.state.old_keys import OldKeys
from gateway.state.store import Store
from protocol.frozen import frozen
from protocol.link.guesses import GuessLimit
from protocol.parameters.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.host.config import Config, PtzConfig
    from gateway.host.descriptor_store import DescriptorStore
    from gateway.tls_logins import TlsLogins
    from protocol.link.key_frames import Rekey, Told, ToldCpu

__all__ = ["Composition", "compose", "control_members"]

logger = logging.getLogger(__name__)


@final
@frozen
class Composition:
    """The parts of a gateway, put together and not yet running."""

    catalogue: Catalogue
    store: Store
    bonjour: Bonjour
    managers: tuple[Manager, ...]
    changes: Changes
    connections: Connections
    identity: NodeIdentity
    health: Health
    keys: KeyChanges
    tls_logins: Mapping[int, TlsLogins]


def compose(config: Config, descriptors: DescriptorStore) -> Composition:
    """Put a gateway together; its store holds the state directory until it is closed.

    Of the ``descriptors`` that were kept for this process, only those with a place in the configuration stay. Raises
    StoreError or UserError.
    """
    tls_logins = _tls_logins(config)
    catalogue = Catalogue(config.hardware)
    store = Store(config.state_dir, catalogue)
    identity = NodeIdentity(config.state_dir, config.node_name, machine_mark(config.state_dir))
    node = identity.key
    bonjour = Bonjour(node.id, config.tcp.bind)
    for said in advice([line.device for line in config.serial]):
        logger.warning("%s", said)
    connections = Connections(len(config.managers))
    old_keys = OldKeys(config.state_dir)

    async def take_key(index: int, remote: int, told: Rekey) -> tuple[Told, Sequence[ToldCpu]]:
        return await key_changes.take(index, remote, told)  # made last, because it needs the managers

    ports = range(len(config.managers))
    descriptors.retain({tty_name(f"P{index}", path) for index in ports for path in config.port(index).tty.paths})
    host = Host(
        config=config,
        node=node,
        drivers=_drivers(config.ptz),
        guesses=GuessLimit(),
        bonjour=bonjour,
        connections=connections,
        old_keys=old_keys,
        take_key=take_key,
        descriptors=descriptors,
        tls_logins=tls_logins,
    )
    managers = _managers(host, store)
    changes = Changes(catalogue, store, managers)
    key_changes = KeyChanges(
        store.published,
        changes,
        old_keys,
        lambda index: managers[index].services.remote_port,
        accepts=config.remote_port.accept_rekey,
    )
    return Composition(
        catalogue,
        store,
        bonjour,
        managers,
        changes,
        connections,
        identity,
        Health(managers),
        key_changes,
        tls_logins,
    )


def _tls_logins(config: Config) -> dict[int, TlsLogins]:
    """Return the logins of each port that is reached over TLS. Raises UserError."""
    served = {index: port.tls for index, port in enumerate(config.sharing) if port.tls.listen}
    if not served:
        return {}
    # Loaded only where it is used.
    from gateway.certificates import own_certificate
    from gateway.state.users import Users
    from gateway.tls_logins import TlsLogins

    users = Users(config.state_dir, config.node_name)
    return {
        index: TlsLogins(index, own_certificate(config, f"P{index}", tls.client_ca), users)
        for index, tls in served.items()
    }


def _managers(host: Host, store: Store) -> tuple[Manager, ...]:
    buses = {f"P{index}": Bus(f"P{index}") for index in range(len(host.config.managers))}
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


def _drivers(ptz: PtzConfig) -> Drivers:
    """Look up the users and groups that may connect as PTZ drivers; log and leave out unknown names."""
    users, groups = _known(ptz.users, _user), _known(ptz.groups, _group)
    for kind, names, known in (("user", ptz.users, users), ("group", ptz.groups, groups)):
        for name in names:
            if name not in known:
                logger.warning("[ptz]: this host has no %s named %r", kind, name)
    return Drivers(frozenset({0, os.getuid(), *users.values()}), frozenset({os.getgid(), *groups.values()}))


def control_members(names: Sequence[str]) -> Members:
    """Look up these names, each of a user or a group; log and leave out unknown names."""
    users, groups = _known(names, _user), _known(names, _group)
    for name in names:
        if name not in users and name not in groups:
            logger.warning("[control]: this host has no user or group named %r", name)
    return Members(frozenset(users.values()), frozenset(groups.values()))


def _known(names: Sequence[str], find: Callable[[str], int]) -> dict[str, int]:
    found = {}
    for name in names:
        with contextlib.suppress(KeyError):
            found[name] = find(name)
    return found


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid
