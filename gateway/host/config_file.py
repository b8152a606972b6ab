"""Read the configuration file of the host: TOML in; a Config, or all errors of the file at once, out.

Each error names the key, the value found, and what is allowed there. All are reported together, because the next try
may need another visit to the cabinet. So a function that finds an error adds it to the table's list and goes on with
the default, and only ``parse`` raises.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.host.config import (
    BonjourConfig,
    Config,
    ControlConfig,
    HttpConfig,
    PtzConfig,
    RemoteConfig,
    SerialConfig,
    TcpConfig,
)
from gateway.host.config_error import ConfigError
from gateway.host.port_table import port_managers
from gateway.host.toml_table import (
    Table,
    Wrong,
    ip_address,
    listed,
    listen_address,
    one_of,
    refuse_duplicates,
    text,
    truth,
    whole,
)
from protocol.http.credentials import Algorithm
from protocol.link.advert import MAX_CHASSIS
from protocol.parameters.addresses import AddressList
from protocol.parameters.hardware import PortMode, SerialHardware

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["RATES", "load", "parse"]

LARGEST_FILE = 1 << 20
LONGEST_RUNTIME_DIR = 90  # a Unix socket's address holds 107 bytes, and ours end in /ptz-P000.sock
MOST_CLOSE_AFTER = 3_600_000
RATES = (50, 20_000_000)
"""The lowest and the highest rate that a line may have."""
RS485_MODES = frozenset({PortMode.RS485, PortMode.RS485_4, PortMode.RS422})


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration in this file. Raises ConfigError with all its errors, also if it cannot be read.

    STATE_DIRECTORY and RUNTIME_DIRECTORY in ``environ``, which a systemd unit sets, are the defaults of the two.
    """
    try:
        with Path(path).open("rb") as file:
            # Limited, because the path may name something endless, such as /dev/zero.
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ConfigError(["larger than 1 MiB: this cannot be a configuration file"])
        return parse(data, environ)
    except OSError as exc:
        raise ConfigError([f"cannot be read: {exc.strerror}"]) from exc


def parse(data: bytes, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in this content of a file; see ``load``. Raises ConfigError with all its errors."""
    errors: list[str] = []
    written = _toml(data)
    config = _config(Table(written, errors), environ or {})
    if errors:
        raise ConfigError(errors)
    return replace(config, written=written)


def _toml(data: bytes) -> dict[str, object]:
    try:
        return tomllib.loads(data.decode("utf-8-sig"))  # some editors put a byte order mark in front
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError([f"line {line}: a byte that is not UTF-8; save the file as UTF-8"]) from exc
    except RecursionError as exc:
        raise ConfigError(["not TOML that can be read: nested too deep"]) from exc
    except ValueError as exc:
        raise ConfigError([f"not TOML: {exc}"]) from exc


def _config(top: Table, environ: Mapping[str, str]) -> Config:
    # Where a unit has several, systemd separates them by colons.
    states, runtimes = (environ.get(name, "").split(":") for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"))
    state_dir = top.take("state_dir", _path, Path(states[0] or "/var/lib/daisyport"))
    runtime_dir = top.take("runtime_dir", _runtime_folder, Path(runtimes[0] or "/run/daisyport"))
    node_name = top.take("node_name", _name, os.uname().nodename)
    chassis = top.take("chassis", _chassis, "")
    http, tcp, ptz = _http(top.table("http")), _tcp(top.table("tcp")), _ptz(top.table("ptz"))
    control = _control(top.table("control"))
    remote_port = _remote_port(top.table("remote_port"))
    bonjour = _bonjour(top.table("bonjour"))
    video_sources = _video_sources(top.table("video"))
    serial = _serials(top.tables("serial"))
    managers, sharing = port_managers(top.tables("port_manager"), len(serial))
    top.refuse_the_rest()
    return Config(
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        node_name=node_name,
        chassis=chassis,
        http=http,
        tcp=tcp,
        ptz=ptz,
        control=control,
        remote_port=remote_port,
        bonjour=bonjour,
        video_sources=video_sources,
        serial=serial,
        managers=managers,
        sharing=sharing,
    )


def _chassis(value: object) -> str:
    name = text(value)
    if len(name.encode()) > MAX_CHASSIS:
        raise Wrong(("", f"must have at most {MAX_CHASSIS} bytes, to fit into a Bonjour record"))
    return name


def _http(table: Table) -> HttpConfig:
    http = HttpConfig(
        listen=table.take("listen", listed(listen_address), HttpConfig().listen),
        browser_guard=table.take("browser_guard", truth, default=True),
        digest=table.take("digest", _digest, HttpConfig().digest),
        tls_certificate=table.take("tls_certificate", _path, None),
        tls_key=table.take("tls_key", _path, None),
        origins=table.take("origins", listed(_origin), ()),
        trusted_proxies=table.take("trusted_proxies", _address_list, HttpConfig().trusted_proxies),
        metrics_token=table.take("metrics_token", _path, None),
    )
    if "tls_key" in table and "tls_certificate" not in table:
        table.add_error("tls_key", "requires tls_certificate; name the certificate's file too")
    table.refuse_the_rest()
    return http


def _origin(value: object) -> str:
    origin = text(value)
    if not re.fullmatch(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", origin):
        raise Wrong.found(value, 'an origin as browsers send it, for example "https://serial.example"')
    return origin


def _address_list(value: object) -> AddressList:
    items = listed(text)(value)
    try:
        return AddressList.parse(",".join(items))
    except ValueError as exc:
        raise Wrong(("", str(exc))) from None


def _tcp(table: Table) -> TcpConfig:
    tcp = TcpConfig(
        bind=table.take("bind", listed(ip_address), TcpConfig().bind),
        max_clients=table.take("max_clients", whole(1, 256), TcpConfig().max_clients),
    )
    if not tcp.bind:
        table.add_error("bind", 'must not be empty; ["127.0.0.1"] is for this machine only')
    table.refuse_the_rest()
    return tcp


def _control(table: Table) -> ControlConfig:
    control = ControlConfig(
        admins=table.take("admins", listed(_name), ()), viewers=table.take("viewers", listed(_name), ())
    )
    table.refuse_the_rest()
    return control


def _ptz(table: Table) -> PtzConfig:
    ptz = PtzConfig(users=table.take("users", listed(_name), ()), groups=table.take("groups", listed(_name), ()))
    table.refuse_the_rest()
    return ptz


def _remote_port(table: Table) -> RemoteConfig:
    remote_port = RemoteConfig(
        autoconf_without_key=table.take("autoconf_without_key", truth, default=False),
        keyless=table.take("keyless", truth, default=False),
        accept_rekey=table.take("accept_rekey", truth, default=True),
    )
    table.refuse_the_rest()
    return remote_port


def _bonjour(table: Table) -> BonjourConfig:
    bonjour = BonjourConfig(name=table.take("name", truth, default=True))
    table.refuse_the_rest()
    return bonjour


def _video_sources(table: Table) -> int:
    sources = table.take("sources", whole(1, 64), 1)
    table.refuse_the_rest()
    return sources


def _serials(tables: Sequence[Table]) -> tuple[SerialConfig, ...]:
    lines = tuple(_serial(table) for table in tables)
    refuse_duplicates(tables, "device", [os.path.normpath(line.device) if line.device else None for line in lines])
    return lines


def _serial(table: Table) -> SerialConfig:
    device = table.take("device", _device, "")
    if "device" not in table:
        table.add_error("device", 'missing; name the serial device, for example "/dev/serial/by-id/usb-FTDI_..."')
    bias = table.take("bias", _bias_command, ())
    hardware = SerialHardware(
        modes=table.take("modes", _modes, SerialHardware().modes),
        xon_xoff=table.take("xon_xoff", truth, default=True),
        rts_cts=table.take("rts_cts", truth, default=True),
        termination=table.take("termination", truth, default=False),
        bias=bool(bias),
        rates=table.take("rates", listed(whole(*RATES)), ()),
        data_bits=table.take("data_bits", listed(whole(5, 8)), ()),
    )
    automatic = table.take("rs485", one_of("driver", "automatic"), "driver") == "automatic"
    for key, there in (("termination", hardware.termination), ("bias", hardware.bias), ("rs485", automatic)):
        if there and not RS485_MODES.intersection(hardware.modes):
            table.add_error(key, "requires RS485, RS485_4 or RS422 among the modes")
    if automatic and hardware.termination:
        table.add_error("termination", 'requires rs485 = "driver", which switches it')
    low_latency = table.take("low_latency", truth, default=True)
    paced = table.take("paced", truth, default=True)
    any_device = table.take("any_device", truth, default=False)
    on_demand = table.take("open", one_of("always", "on demand"), "always") == "on demand"
    close_after = table.take("close_after_ms", whole(0, MOST_CLOSE_AFTER), 2000) / 1000
    table.refuse_the_rest()
    return SerialConfig(
        device,
        hardware,
        bias,
        rs485_automatic=automatic,
        low_latency=low_latency,
        paced=paced,
        any_device=any_device,
        on_demand=on_demand,
        close_after=close_after,
    )


def _algorithm(found: object) -> Algorithm:
    try:
        return Algorithm(found)
    except ValueError as exc:
        raise Wrong.found(found, f"one of {', '.join(each.value for each in Algorithm)}") from exc


def _digest(found: object) -> tuple[Algorithm, ...]:
    algorithms = listed(_algorithm)(found)
    if not algorithms:
        raise Wrong(("", 'must not be empty; every client supports ["MD5"]'))
    return algorithms


def _path(found: object) -> Path:
    path = text(found)
    if not path.startswith("/"):
        raise Wrong.found(found, "an absolute path")
    return Path(path)


def _runtime_folder(found: object) -> Path:
    path = _path(found)
    if len(os.fsencode(path)) > LONGEST_RUNTIME_DIR:
        raise Wrong.found(
            found, f"a path of at most {LONGEST_RUNTIME_DIR} bytes, so that the addresses of its sockets fit"
        )
    return path


def _device(found: object) -> str:
    return str(_path(found))


def _name(found: object) -> str:
    name = text(found)
    if not name or name != name.strip():
        raise Wrong.found(found, "a name")
    return name


def _mode(found: object) -> PortMode:
    try:
        return PortMode(found)
    except ValueError as exc:
        raise Wrong.found(found, f"one of {', '.join(mode.value for mode in PortMode)}") from exc


def _modes(found: object) -> tuple[PortMode, ...]:
    modes = listed(_mode)(found)
    if not modes:
        raise Wrong(("", 'must not be empty; most lines are ["RS232"]'))
    return modes


def _bias_command(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not found:
        raise Wrong.found(found, 'a command, for example ["/usr/local/bin/bias", "{state}"]')
    command = tuple(text(word) for word in found)
    if not command[0] or not any("{state}" in word for word in command[1:]):
        raise Wrong(("", "must contain {state} after the first word; it becomes on or off"))
    return command
