"""``daisyport check``: read the configuration and all that it names, and print what is wrong with it.

An error keeps something from working, so the command fails, and with it a reload of the service. A warning is worth a
look. The locks and sockets of a gateway that already runs on this configuration are not errors.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, final

from gateway.cli.command import add_config_option, configuration, describe, is_made_up
from gateway.state import atomic_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gateway.cli.command import Commands
    from gateway.host.config import Config

__all__ = ["add_to"]

_REQUEST = 16
"""Bytes of a typical request; Modbus requests that write many registers are longer, but have short replies."""
_LONGEST_TURN = 1.5
"""The longest turn, in seconds, after which a waiting PTZ command is still sent in time."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="check the configuration file and what it names, and print all mistakes")
    add_config_option(parser)
    parser.set_defaults(command=_check)


@final
class _Findings:
    """The errors and warnings found so far."""

    def __init__(self, warnings: list[str]) -> None:
        self.errors: list[str] = []
        self.warnings = warnings


def _check(arguments: argparse.Namespace) -> int:
    from gateway.serial_line.adapters import advice

    config = configuration(arguments.config)
    if is_made_up(arguments.config):
        describe(config)
        return 0
    _describe_ports(config)
    found = _Findings(list(advice([line.device for line in config.serial])))
    running = _runs(config)
    for look in (_directories, _certificate, _client_authorities, _metrics_token, _users, _parameters, _devices):
        look(config, found)
    _addresses(config, found, running=running)
    for warning in found.warnings:
        print(f"Warning: {warning}")
    for error in found.errors:
        print(f"Error: {error}", file=sys.stderr)
    if found.errors:
        return os.EX_CONFIG
    print("ok, and running" if running else "ok")
    return 0


def _describe_ports(config: Config) -> None:
    if not config.managers:
        print("No port: add a [[serial]] table for each serial line, or a [[port_manager]] for another CPU's.")
    for number, line in enumerate(config.serial, start=1):
        modes = ", ".join(mode.value for mode in line.hardware.modes)
        print(f"Ser{number}: {line.device} ({modes})")
    for index, manager in enumerate(config.managers):
        device = f"Ser{manager.serial}" if manager.serial is not None else f"R{manager.remote_port}"
        print(f"PortManager.P{index}: {device}")


def _runs(config: Config) -> bool:
    """Return whether a gateway works on the state directory."""
    lock = config.state_dir / "lock"
    try:
        if lock.exists():
            os.close(atomic_file.claim(lock))
    except BlockingIOError:
        return True
    except OSError:  # this user may not look into it, so nothing is known
        pass
    return False


def _directories(config: Config, found: _Findings) -> None:
    for key, path in (("state_dir", config.state_dir), ("runtime_dir", config.runtime_dir)):
        nearest = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
        if not nearest.is_dir():
            found.errors.append(f"{key}: {nearest} is no directory")
        elif not os.access(nearest, os.W_OK | os.X_OK):
            # A systemd unit makes them for its user, and another user may run this check.
            found.warnings.append(f"{key}: {nearest} is not writable for this user")
    for index, port in enumerate(config.sharing):
        if port.log.file is not None and not port.log.file.parent.is_dir():
            found.errors.append(f"port_manager[{index}].log.file: {port.log.file.parent} is no directory")


def _is_passed_over(path: Path, config: Config, found: _Findings) -> bool:
    """Return whether to skip a file that only the gateway's user may read, and warn of that.

    A check by the gateway's own user goes on: if that user may not read the file, the gateway cannot, which is an
    error.
    """
    try:
        closed = path.exists() and not os.access(path, os.R_OK, effective_ids=True)
    except PermissionError:  # its folder is closed too
        closed = True
    if not closed or (config.state_dir.exists() and config.state_dir.stat().st_uid == os.geteuid()):
        return False
    found.warnings.append(
        f"{path} was not checked, because this user may not read it; run the check as the gateway's user, or as root"
    )
    return True


def _certificate(config: Config, found: _Findings) -> None:
    path = config.http.tls_certificate
    if path is None or any(_is_passed_over(each, config, found) for each in (path, config.http.tls_key) if each):
        return
    from gateway.web.tls import Certificate, CertificateError

    try:
        certificate = Certificate.load(path, config.http.tls_key)
    except CertificateError as exc:
        found.errors.append(f"http.tls_certificate: {exc}")
    else:
        if certificate.out_of_date:
            found.warnings.append(f"http.tls_certificate: {path}: {certificate.out_of_date}")


def _client_authorities(config: Config, found: _Findings) -> None:
    """Read the certificates that vouch for clients of ports over TLS."""
    for index, port in enumerate(config.sharing):
        path = port.tls.client_ca
        if not port.tls.listen or path is None or _is_passed_over(path, config, found):
            continue
        import ssl

        from gateway.web.tls import CertificateError, require_clients

        key = f"port_manager[{index}].tls.client_ca"
        try:
            require_clients(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)
        except CertificateError as exc:
            found.errors.append(f"{key}: {exc}")
        else:
            found.warnings += [f"{key}: {path}: {what}" for what in _out_of_date(path.read_bytes())]


def _out_of_date(pem: bytes) -> Iterator[str]:
    """Report what in the file of ``client_ca`` is out of date, so that no client would be let in."""
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    with contextlib.suppress(ValueError):  # OpenSSL, which decides, takes more than this library does
        for each in x509.load_pem_x509_certificates(pem):
            if each.not_valid_after_utc < now:
                yield f"the certificate of {each.subject.rfc4514_string()} has expired"
        for block in re.findall(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", pem, re.DOTALL):
            revoked = x509.load_pem_x509_crl(block)
            if revoked.next_update_utc is not None and revoked.next_update_utc < now:
                issuer = revoked.issuer.rfc4514_string()
                yield f"the revocation list of {issuer} has expired: no client of that authority is let in"


def _metrics_token(config: Config, found: _Findings) -> None:
    if config.http.metrics_token is None or _is_passed_over(config.http.metrics_token, config, found):
        return
    from gateway.web.bearer import TokenError, read_token

    try:
        read_token(config.http.metrics_token)
    except TokenError as exc:
        found.errors.append(f"http.metrics_token: {exc}")


def _users(config: Config, found: _Findings) -> None:
    from gateway.state.users import UserError, Users

    path = config.state_dir / "users"
    has_logins = config.http.listen or any(port.tls.listen for port in config.sharing)
    if not has_logins or _is_passed_over(path, config, found):
        return
    why: str | None = "add one with: daisyport user add NAME --role admin"
    try:
        if os.path.lexists(path):  # Users would make it, and a check changes nothing
            users = Users(config.state_dir, config.node_name)
            why = users.unreadable or (None if users.everyone else why)
        if why is not None:
            found.warnings.append(f"no user can log in: {why}")
    except UserError as exc:
        found.errors.append(str(exc))


def _parameters(config: Config, found: _Findings) -> None:
    """Read the stored parameters, and check them together with the configuration."""
    from gateway.serial_line.settings import bytes_per_second
    from protocol.parameters.catalogue import Catalogue

    path = config.state_dir / "parameters"
    if _is_passed_over(path, config, found):
        return
    try:
        content = atomic_file.read(path) or b""
    except OSError as exc:
        found.errors.append(f"{path} cannot be read: {exc.strerror}")
        return
    restored = Catalogue(config.hardware).restored(content.decode(errors="replace"))
    for line, why in restored.errors:
        found.warnings.append(f"{path} line {line}: {why}")
    for index, manager in enumerate(restored.settings.port_managers):
        tcp = manager.generic_tcp_server
        if config.port(index).writers == "last" and tcp.enabled and not tcp.allowed_ip_addresses.items:
            found.warnings.append(
                f'port_manager[{index}].writers: with "last" each new client takes the line from the one before; '
                f"PortManager.P{index}.GenericTCPServer.AllowedIPAddresses says who may connect, and is empty"
            )
        rule, serial = config.port(index).turn, config.managers[index].serial
        if config.port(index).modbus_tcp.listen and (rule is None or rule.reply != "modbus-rtu"):
            found.warnings.append(
                f'port_manager[{index}].modbus_tcp: without turn.reply = "modbus-rtu" requests are answered with 0x0A'
            )
        if rule is not None and serial is not None:
            port = restored.settings.serial.ports[serial - 1]
            course = rule.longest_course(_REQUEST, 1 / bytes_per_second(port))
            if course > _LONGEST_TURN:
                found.warnings.append(
                    f"port_manager[{index}].turn: at {port.baud_rate} bits a second one turn may take {course:.1f} s, "
                    f"and PTZ commands that wait for 2 s are dropped"
                )


def _devices(config: Config, found: _Findings) -> None:
    for number, line in enumerate(config.serial, start=1):
        try:
            mode = Path(line.device).stat().st_mode
        except OSError as exc:
            found.warnings.append(f"Ser{number}: {line.device}: {exc.strerror}")
            continue
        if not stat.S_ISCHR(mode):
            found.errors.append(f"Ser{number}: {line.device} is no serial device")


def _addresses(config: Config, found: _Findings, *, running: bool) -> None:
    """Bind each address for a moment. A missing address may come later: a warning. An address in use is an error."""
    wanted = [("http.listen", host, port) for host, port in config.http.listen]
    wanted += [("tcp.bind", address, 0) for address in config.tcp.bind]
    for index, manager in enumerate(config.sharing):
        for key, listen in (
            ("listen_only", manager.listen_only),
            ("modbus_tcp.listen", manager.modbus_tcp.listen),
            ("rfc2217.listen", manager.rfc2217.listen),
            ("tls.listen", manager.tls.listen),
        ):
            wanted += [(f"port_manager[{index}].{key}", host, port) for host, port in listen]
    for key, host, port in wanted:
        if 0 < port < 1024:
            found.warnings.append(f"{key}: the service may bind no port below 1024: {port}; daisyport.socket does")
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(address)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                if not running:
                    found.errors.append(f"{key}: {host}:{port} is taken by another program")
            elif exc.errno not in (errno.EACCES, errno.EPERM):
                found.warnings.append(f"{key}: {host}: {exc.strerror}")
