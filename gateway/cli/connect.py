"""``daisyport connect``: a terminal on a port of the running gateway (``gateway.cli.terminal``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli.command import add_config_option

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("connect", help="be a terminal on a port, with breaks, modem lines and hexadecimal")
    parser.add_argument("port", metavar="PORT", help="the port, such as P0")
    parser.add_argument("--monitor", action="store_true", help="hear the line and write nothing")
    parser.add_argument("--hex", action="store_true", help="begin with the hexadecimal view")
    add_config_option(parser)
    parser.set_defaults(command=_connect)


def _connect(arguments: argparse.Namespace) -> int:
    from gateway.cli.terminal import connect  # only here: its WebSocket takes longer to load than other commands to run

    return connect(arguments)
