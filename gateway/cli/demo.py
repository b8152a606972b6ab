"""``daisyport demo``: run the demo (``gateway.demo``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo", help="run a simulated camera behind a chain of three gateways; needs no hardware"
    )
    parser.add_argument(
        "--cut", action="store_true", help="cut the links at random while bytes flow, and count the bytes lost"
    )
    parser.set_defaults(command=_demo, config=None)


def _demo(arguments: argparse.Namespace) -> int:
    from gateway import demo

    return demo.main(demo.cut_demo if arguments.cut else demo.demo)
