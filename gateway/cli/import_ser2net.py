"""``daisyport import-ser2net``: print a configuration and parameters that do what a configuration of ser2net does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.command import CommandError

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "import-ser2net", help="translate a configuration of ser2net 4, and list what is not carried over"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="such as /etc/ser2net.yaml")
    parser.add_argument(
        "--parameters", action="store_true", help="print the parameters: the file of that name in the state directory"
    )
    parser.set_defaults(command=_import, config=None)


def _import(arguments: argparse.Namespace) -> int:
    from gateway.host.ser2net import Ser2netError, carried

    try:
        found = carried(arguments.file.read_text(encoding="utf-8", errors="replace"))
    except OSError as exc:
        raise CommandError(f"{arguments.file}: {exc.strerror}") from None
    except ModuleNotFoundError:
        raise CommandError("PyYAML is not installed: pip install 'daisyport[ser2net]'") from None
    except Ser2netError as exc:
        raise CommandError(f"{arguments.file}: {exc}") from None
    if arguments.parameters:
        print("\n".join(found.parameters))
        return 0
    print("# /etc/daisyport/daisyport.toml")
    print("\n".join(found.configuration))
    print("# Parameters; with --parameters alone, for the file `parameters` in the state directory:")
    print("\n".join(f"#   {line}" for line in found.parameters))
    for what in found.left:
        print(f"# not carried over: {what}")
    return 0
