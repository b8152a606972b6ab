"""``daisyport backup`` and ``daisyport restore``: the state and the configuration of this host, as one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.cli.command import DEFAULT_CONFIG, CommandError, add_config_option, configuration, is_made_up
from gateway.state import atomic_file

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands
    from gateway.host.config import Config
    from gateway.state.backup import About

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add both commands."""
    backup = commands.add_parser("backup", help="write parameters, users, keys and the configuration into one file")
    backup.add_argument("file", type=Path, metavar="FILE", help="a file that is not there yet, such as cpu1.tar.gz")
    add_config_option(backup)
    backup.set_defaults(command=_backup)
    restore = commands.add_parser("restore", help="put back what a backup holds; the gateway has to be stopped")
    restore.add_argument("file", type=Path, metavar="FILE", help="what daisyport backup wrote")
    identity = "also another machine's node key and certificate; that machine must not run any more"
    restore.add_argument("--identity", action="store_true", help=identity)
    restore.add_argument("--keys", action="store_true", help="also the AuthenticationKeys of another chassis")
    restore.add_argument("--configuration", action="store_true", help="also the configuration file, replacing ours")
    add_config_option(restore)
    restore.set_defaults(command=_restore)


def _backup(arguments: argparse.Namespace) -> int:
    from gateway.state.backup import pack

    config = configuration(arguments.config)
    try:
        with atomic_file.turn(config.state_dir):  # so that no other command changes the users meanwhile
            content = pack(config.state_dir, _configuration_file(arguments), _about(config))
        # Its keys are worth as much as the state directory's.
        descriptor = os.open(arguments.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as exc:
        raise CommandError(f"{exc.filename or arguments.file}: {exc.strerror}") from None
    print(f"{arguments.file}: it holds keys and password hashes; keep it as secret as those")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from gateway.state.backup import CONFIGURATION, BackupError, unpack

    try:
        backup = unpack(arguments.file.read_bytes())
    except OSError as exc:
        raise CommandError(f"{arguments.file}: {exc.strerror}") from None
    except BackupError as exc:
        raise CommandError(f"{arguments.file}: {exc}") from None
    # The configuration in the backup is used where the user asks for it, or where this host has none.
    path = arguments.config or DEFAULT_CONFIG
    written = backup.files.get(CONFIGURATION)
    takes_configuration = written is not None and (arguments.configuration or not path.exists())
    config = _parsed(written) if takes_configuration and written is not None else configuration(arguments.config)
    # The host's own file says which chassis this is, never the backup.
    here = _about(configuration(arguments.config) if path.exists() else replace(config, chassis=""))
    files, left = backup.for_machine(here, identity=arguments.identity, keys=arguments.keys)
    if written is not None and not takes_configuration and written != _configuration_file(arguments):
        left.append(f"{CONFIGURATION}: {path} is there and differs; --configuration restores it")
    _check(config, files)
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(atomic_file.claim(config.state_dir / "lock")), atomic_file.turn(config.state_dir):
            for name, content in files.items():
                atomic_file.replace(config.state_dir / name, content)
        if takes_configuration and written is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written)
            path.chmod(0o644)
    except BlockingIOError:
        raise CommandError(f"a gateway works on {config.state_dir}: systemctl stop daisyport") from None
    except OSError as exc:
        raise CommandError(f"{exc.filename or config.state_dir}: {exc.strerror}") from None
    restored = [*files, *([CONFIGURATION] if takes_configuration else [])]
    print(f"restored from {backup.about.node}, {backup.about.version}: {', '.join(restored) or 'nothing'}")
    for what in left:
        print(f"left out: {what}")
    return 0


def _about(config: Config) -> About:
    from gateway.state.backup import About
    from gateway.state.machine import machine_mark

    folder = next(folder for folder in (config.state_dir, *config.state_dir.parents) if folder.exists())
    return About(__version__, config.node_name, config.chassis, machine_mark(folder) or "")


def _configuration_file(arguments: argparse.Namespace) -> bytes | None:
    if is_made_up(arguments.config):
        return None
    try:
        return (arguments.config or DEFAULT_CONFIG).read_bytes()
    except OSError as exc:
        raise CommandError(f"{arguments.config or DEFAULT_CONFIG}: {exc.strerror}") from None


def _parsed(written: bytes) -> Config:
    from gateway.host.config_error import ConfigError
    from gateway.host.config_file import parse

    try:
        return parse(written)
    except ConfigError as exc:
        raise CommandError(f"the configuration in the backup: {exc.messages[0]}") from None


def _check(config: Config, files: dict[str, bytes]) -> None:
    """Read the files as the gateway will. Raises CommandError; warn of unknown parameters."""
    import tempfile

    from gateway.state.backup import PARAMETERS, USERS
    from gateway.state.users import UserError, Users
    from protocol.parameters.catalogue import Catalogue

    with tempfile.TemporaryDirectory() as folder:
        atomic_file.replace(Path(folder) / USERS, files.get(USERS, b""))
        try:
            users = Users(Path(folder), config.node_name)
            why = users.unreadable
        except UserError as exc:
            why = str(exc)
    if why:
        raise CommandError(f"the users in the backup cannot be read: {why}")
    text = files.get(PARAMETERS, b"").decode(errors="replace")
    for line, wrong in Catalogue(config.hardware).restored(text).errors:
        print(f"Warning: parameters line {line}: {wrong}")
