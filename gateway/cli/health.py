"""``daisyport health``: say in one word how the gateway or a port is, and by the exit status whether it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli.command import CommandError, add_config_option
from gateway.cli.control import asked

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "health", help="print the state of the gateway or a port in one word; exit with 1 if it is down"
    )
    parser.add_argument("port", nargs="?", metavar="PORT", help="a port, such as P0")
    add_config_option(parser)
    parser.set_defaults(command=_health)


def _health(arguments: argparse.Namespace) -> int:
    port = arguments.port or ""
    if not (port[1:] if port else "0").isalnum() or not port.isascii():
        raise CommandError(f"there is no port {port!a:.20}")
    print(asked(arguments, "GET", f"/daisyport/health{'/' if port else ''}{port}").decode(), end="")
    return 0
