"""``daisyport user``: add, remove and list the users who may log in over HTTP; a running gateway obeys at once."""

from __future__ import annotations

import contextlib
import getpass
import sys
from typing import TYPE_CHECKING

from gateway.cli.command import CommandError, add_config_option, configuration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from gateway.cli.command import Commands
    from gateway.state.users import Users

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command and its four subcommands."""
    user = commands.add_parser("user", help="manage the users who may log in; a running gateway obeys at once")
    verbs = user.add_subparsers(required=True, metavar="COMMAND")
    asked = "the password is prompted for, or read as one line from a pipe"
    add = _verb(verbs, "add", _add, f"add a user; {asked}")
    remove = _verb(verbs, "remove", _remove, "remove a user")
    passwd = _verb(verbs, "passwd", _passwd, f"change a user's password; {asked}")
    _verb(verbs, "list", _list, "list the users and their roles")
    for verb in (add, remove, passwd):
        verb.add_argument("name", metavar="NAME")
    add.add_argument("--role", required=True, choices=("admin", "operator", "viewer"))
    add.add_argument("--ports", metavar="P0,P1", help="the ports that the user is bound to (default: every port)")


def _verb(verbs: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text)
    add_config_option(parser)
    parser.set_defaults(command=run, parser=parser)
    return parser


@contextlib.contextmanager
def _users(arguments: argparse.Namespace) -> Iterator[Users]:
    from gateway.state.users import UserError, Users

    config = configuration(arguments.config)
    try:
        yield Users(config.state_dir, config.node_name)
    except UserError as exc:
        raise CommandError(str(exc)) from None


def _add(arguments: argparse.Namespace) -> int:
    ports = _ports(arguments)
    with _users(arguments) as users:
        if users.find(arguments.name) is not None:
            raise CommandError(f"{arguments.name} is already a user; use daisyport user passwd to change the password")
        users.add(arguments.name, arguments.role, _password(arguments.name), ports)
    bound = "" if ports is None else f" of {', '.join(f'P{port}' for port in sorted(ports))} only"
    print(f"{arguments.name} may log in as {arguments.role}{bound}.")
    if not arguments.name.isascii():
        why = "clients that send it as ISO 8859-1 in Digest (python-requests, older browsers) cannot log in"
        print(f"warning: the name is not ASCII: {why}", file=sys.stderr)
    return 0


def _ports(arguments: argparse.Namespace) -> frozenset[int] | None:
    """Return the numbers of the ports that ``--ports`` names; None without it. Raise CommandError."""
    if arguments.ports is None:
        return None
    existing = {f"P{index}": index for index in range(len(configuration(arguments.config).managers))}
    names = [name.strip() for name in arguments.ports.split(",")]
    for name in names:
        if name not in existing:
            raise CommandError(f"--ports: {name!a:.40} is not one of {', '.join(existing) or 'no ports'}")
    return frozenset(existing[name] for name in names)


def _remove(arguments: argparse.Namespace) -> int:
    with _users(arguments) as users:
        users.remove(arguments.name)
    print(f"{arguments.name} cannot log in any more.")
    return 0


def _passwd(arguments: argparse.Namespace) -> int:
    with _users(arguments) as users:
        if users.find(arguments.name) is None:
            raise CommandError(f"{arguments.name!a:.60} is not a user; daisyport user list prints the users")
        users.set_password(arguments.name, _password(arguments.name))
    print(f"{arguments.name} has a new password.")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with _users(arguments) as users:
        for user in users.everyone:
            bound = "" if user.ports is None else "  " + ",".join(f"P{port}" for port in sorted(user.ports))
            print(f"{user.role.name.lower():8}  {user.name}{bound}")
    return 0


def _password(name: str) -> str:
    """Prompt for the password twice, or read one line of a pipe. Never an argument: process lists show those."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.readline().rstrip("\r\n")
        password = getpass.getpass(f"Password for {name}: ")
        if getpass.getpass("Once more: ") == password:
            return password
    except (EOFError, KeyboardInterrupt):
        raise CommandError("no password was given; nothing was changed") from None
    except UnicodeDecodeError:
        raise CommandError(f"the password is not valid {sys.stdin.encoding}; nothing was changed") from None
    raise CommandError("the two passwords differ; nothing was changed")
