"""The configuration of this host: its serial lines and their hardware, what to bind, and where to keep the state.

It is read once, at the start (``config_file``), or made up for a machine without a configuration file. Nothing is
opened here: a device or an address need not exist yet.
"""

from __future__ import annotations

import os
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from gateway import __version__
from protocol.frozen import frozen
from protocol.http.credentials import Algorithm
from protocol.parameters.addresses import AddressList
from protocol.parameters.hardware import Hardware, Identity, ManagerHardware, SerialHardware

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocol.sharing.message_rule import MessageRule
    from protocol.sharing.turn_rule import TurnRule

__all__ = [
    "BonjourConfig",
    "ChainedConfig",
    "Config",
    "ControlConfig",
    "HttpConfig",
    "LogConfig",
    "ModbusTcpConfig",
    "PortConfig",
    "PtzConfig",
    "RemoteConfig",
    "Rfc2217Config",
    "SerialConfig",
    "TcpConfig",
    "TlsConfig",
    "TtyConfig",
    "one_for_each",
]


@final
@frozen
class HttpConfig:
    """The HTTP server: where it listens, and how callers prove who they are.

    ``browser_guard`` turns the cross-site check on. ``digest`` holds the hashes of HTTP Digest, the preferred one
    first. The certificate and its key are PEM files, or one file for both; without them the gateway makes a
    self-signed certificate.
    """

    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 8080),)
    browser_guard: bool = True
    digest: tuple[Algorithm, ...] = (Algorithm.MD5,)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    origins: tuple[str, ...] = ()
    """The public origins of reverse proxies, as browsers see them: ``https://serial.example``."""
    trusted_proxies: AddressList = field(default_factory=AddressList)
    """Reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; without items, none."""
    metrics_token: Path | None = None
    """The file of the token that opens /metrics; None where only a login opens it."""


@final
@frozen
class TcpConfig:
    """The addresses that the ports' own listeners bind."""

    bind: tuple[str, ...] = ("0.0.0.0", "::")
    max_clients: int = 192
    """The most clients of one address that each service of a port serves at once, of 256 in all."""


@final
@frozen
class PtzConfig:
    """The users and groups that the PTZ sockets serve, by name; root and the daemon's own user and group come first."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@final
@frozen
class ControlConfig:
    """The users and groups of this host, by name, that may use the control socket, as admins or as viewers.

    Root and the daemon's own user are always admins. By default nobody else may use it, not even the users of the PTZ
    sockets.
    """

    admins: tuple[str, ...] = ()
    viewers: tuple[str, ...] = ()


@final
@frozen
class RemoteConfig:
    """The policy for remote ports: without a key, and when a server gives a new key.

    ``autoconf_without_key`` lets AutoConf dial although without a key no server can prove that it is the right one.
    ``keyless`` lets a server without a key admit clients from beyond its own links. ``accept_rekey`` lets a remote port
    client take a new key from the server that it is linked to by the present one.
    """

    autoconf_without_key: bool = False
    keyless: bool = False
    accept_rekey: bool = True


@final
@frozen
class BonjourConfig:
    """What our announcements contain: with ``name`` also the node's name, beside its id."""

    name: bool = True


@final
@frozen
class SerialConfig:
    """One serial line: its device, what its hardware can do, and the command that switches its bias.

    ``bias`` is empty where the hardware has none; ``{state}`` in it stands for on or off.
    """

    device: str
    hardware: SerialHardware = field(default_factory=SerialHardware)
    bias: tuple[str, ...] = ()
    rs485_automatic: bool = False
    """The adapter switches between sending and receiving by itself, so the driver knows nothing of the mode."""
    low_latency: bool = True
    """Ask the driver to hand over received bytes at once."""
    paced: bool = True
    """The device sends at the rate that is set. False for native USB without a UART, which takes what it can."""
    any_device: bool = False
    """Open any adapter behind the name, and not only the one that was there first."""
    on_demand: bool = False
    """Open it only while a client needs it, so that local tools can use it in between ..."""
    close_after: float = 2.0
    """... and for so many seconds more."""


@final
@frozen
class TtyConfig:
    """The ttys of one port for programs: their names, and the mode and group of each."""

    paths: tuple[str, ...] = ()
    mode: int = 0o600
    group: str | None = None
    """The group of the tty, which the daemon's user must be in; None for the kernel's default."""
    configure: bool = False
    """A program's settings of the tty also hold for the line, while the program has it open."""


@final
@frozen
class LogConfig:
    """The file that logs what the line says (None: none), and the size in bytes at which a new file is begun."""

    file: Path | None = None
    rotate: int = 16 << 20


@final
@frozen
class ModbusTcpConfig:
    """Where Modbus TCP masters reach a port, and the ``units`` that they may ask there; empty means all units."""

    listen: tuple[tuple[str, int], ...] = ()
    units: tuple[int, ...] = ()


@final
@frozen
class Rfc2217Config:
    """Where RFC 2217 clients reach a port, and their rights beside reading and writing."""

    listen: tuple[tuple[str, int], ...] = ()
    lines: bool = True
    """Move DTR and RTS, send breaks, purge."""
    configure: bool = False
    """Hold other settings of the line while they are connected."""


@final
@frozen
class TlsConfig:
    """Where clients reach a port over TLS, and the file of the certificates that vouch for theirs."""

    listen: tuple[tuple[str, int], ...] = ()
    client_ca: Path | None = None


@final
@frozen
class ChainedConfig:
    """The rights of clients at other CPUs on this CPU's line, beside reading and writing."""

    lines: bool = False
    """Move DTR and RTS, send breaks, purge."""
    configure: bool = False
    """Hold other settings of the line while they are connected."""


@final
@frozen
class PortConfig:
    """How the clients of one port, by TCP or WebSocket, share it, beside its ManagerHardware."""

    writers: Literal["all", "first", "last"] = "all"
    """The clients that write: all, or the one of them that came first or last."""
    max_clients: int | None = None
    """Clients at once; None for no limit but that of each service."""
    listen_only: tuple[tuple[str, int], ...] = ()
    """Addresses and TCP ports whose clients may not write."""
    linger: float = 2.0
    """Seconds of silence after which a client that ended its sending is done."""
    slow_reader: Literal["cut", "drop_oldest"] = "cut"
    """For a client that reads too slowly: cut it, or drop the oldest bytes that wait for it."""
    history_bytes: int = 0
    """The newest bytes of the line that a client hears first."""
    char_gap: float = 0.0
    """Seconds of quiet after each written character, for a slow device."""
    turn: TurnRule | None = None
    """The rule of the line's turns; None where every client may write at any time."""
    message: MessageRule | None = None
    """The rule for where a message ends in a client's byte stream, at chained CPUs too; None for one message a read."""
    log: LogConfig = field(default_factory=LogConfig)
    tty: TtyConfig = field(default_factory=TtyConfig)
    modbus_tcp: ModbusTcpConfig = field(default_factory=ModbusTcpConfig)
    rfc2217: Rfc2217Config = field(default_factory=Rfc2217Config)
    tls: TlsConfig = field(default_factory=TlsConfig)
    remote: ChainedConfig = field(default_factory=ChainedConfig)


@final
@frozen
class Config:
    """The whole configuration. ``serial[0]`` is Ser1, ``managers[0]`` is P0."""

    state_dir: Path
    runtime_dir: Path
    node_name: str
    chassis: str = ""
    http: HttpConfig = field(default_factory=HttpConfig)
    tcp: TcpConfig = field(default_factory=TcpConfig)
    ptz: PtzConfig = field(default_factory=PtzConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    remote_port: RemoteConfig = field(default_factory=RemoteConfig)
    bonjour: BonjourConfig = field(default_factory=BonjourConfig)
    video_sources: int = 1
    serial: tuple[SerialConfig, ...] = ()
    managers: tuple[ManagerHardware, ...] = ()
    sharing: tuple[PortConfig, ...] = ()
    """How each of the ``managers`` is shared; empty where all have the defaults."""
    written: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    """The tables of the file as they are written; empty without a file."""

    @property
    def hardware(self) -> Hardware:
        """The hardware that the parameter tree is made for."""
        return Hardware(
            serial=tuple(line.hardware for line in self.serial),
            managers=self.managers,
            video_sources=self.video_sources,
            identity=Identity(firmware_version=__version__),
        )

    def port(self, index: int) -> PortConfig:
        """Return how port manager ``index`` is shared."""
        return self.sharing[index] if self.sharing else PortConfig()

    @classmethod
    def for_this_machine(cls, environ: Mapping[str, str], adapters: Sequence[str]) -> Config:
        """Make up a configuration: these serial adapters, loopback only, and the user's own folders."""
        state_dir = _xdg(environ, "XDG_STATE_HOME") or Path.home() / ".local/state"
        runtime_dir = _xdg(environ, "XDG_RUNTIME_DIR")
        return cls(
            state_dir=state_dir / "daisyport",
            runtime_dir=runtime_dir / "daisyport" if runtime_dir else state_dir / "daisyport/run",
            node_name=os.uname().nodename,
            tcp=TcpConfig(bind=("127.0.0.1", "::1")),
            serial=tuple(SerialConfig(device) for device in adapters),
            managers=one_for_each(len(adapters)),
        )


def _xdg(environ: Mapping[str, str], key: str) -> Path | None:
    """Take a folder of the XDG Base Directory Specification, which says to ignore a relative one."""
    path = environ.get(key, "")
    return Path(path) if path.startswith("/") else None


def one_for_each(serials: int) -> tuple[ManagerHardware, ...]:
    """Make a port manager for each serial line, which may serve a line of another CPU instead."""
    return tuple(ManagerHardware(serial=n + 1, remote_port=n) for n in range(serials))
