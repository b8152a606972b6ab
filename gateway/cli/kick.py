"""``daisyport kick``: end a client or a link of the running gateway; it may connect again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli.command import add_config_option
from gateway.cli.control import asked, quoted

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("kick", help="end a client or a link; it may connect again")
    parser.add_argument(
        "holder",
        metavar="HOLDER",
        help="as daisyport status P0 shows it: the whole text, its address with the port, its user, or a CPU's name",
    )
    add_config_option(parser)
    parser.set_defaults(command=_kick)


def _kick(arguments: argparse.Namespace) -> int:
    print(asked(arguments, "POST", f"/daisyport/kick?holder={quoted(arguments.holder)}").decode(), end="")
    return 0
