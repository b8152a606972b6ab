"""``daisyport rekey``: give the remote port server of a port another key, and its clients time to follow."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

from gateway.cli.command import CommandError, add_config_option
from gateway.cli.control import asked

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]

_LONGEST = 720
"""Hours."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rekey",
        help="give a remote-port server another key and its clients time to follow; "
        "the key is prompted for, or read as one line from a pipe",
    )
    parser.add_argument("port", metavar="PORT", help="the port, such as P0")
    parser.add_argument(
        "--hours", metavar="N", type=int, default=24, help="for how long the old key is taken too (default: 24)"
    )
    add_config_option(parser)
    parser.set_defaults(command=_rekey)


def _rekey(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.hours <= _LONGEST:
        arguments.parser.error(f"--hours must be from 1 to {_LONGEST}")
    target = f"/daisyport/rekey/{arguments.port}?seconds={arguments.hours * 3600}"
    asked(arguments, "POST", target, _key().encode())
    print(f"{arguments.port} has the new key, and takes the old one too for {arguments.hours} h.")
    print("Set the new one on each CPU that is chained to it: RemotePort.R#.AuthenticationKey.")
    print("Its link is renewed then, and loses no byte.")
    return 0


def _key() -> str:
    """Prompt for the key, or read one line of a pipe. Never an argument: process lists show those."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.readline().rstrip("\r\n")
        return getpass.getpass("New key: ")
    except (EOFError, KeyboardInterrupt, UnicodeDecodeError):
        raise CommandError("no key was given; nothing was changed") from None
