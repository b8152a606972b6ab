"""``daisyport keygen``: print a new random key for a remote-port server and its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("keygen", help="print a new random key for a remote-port server and its clients")
    parser.set_defaults(command=_keygen, config=None)


def _keygen(_: argparse.Namespace) -> int:
    from gateway.remote_port.keygen import strong_key

    print(strong_key())
    return 0
