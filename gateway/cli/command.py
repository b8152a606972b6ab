"""The parts that several commands share: the error that ends one, and the configuration that most of them read."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from gateway.host.config import Config

__all__ = [
    "DEFAULT_CONFIG",
    "CommandError",
    "Commands",
    "add_config_option",
    "built_in_uarts",
    "configuration",
    "describe",
    "is_made_up",
]

DEFAULT_CONFIG = Path("/etc/daisyport/daisyport.toml")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Every command adds its parser to this.

The parser's default ``command`` is a function of the parsed arguments that returns the exit status.
"""


@final
class CommandError(Exception):
    """The command failed; the message says why in one sentence and, where it can, what to do."""


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE``."""
    default = f"{DEFAULT_CONFIG}; if there is no such file, use the USB serial adapters and listen on loopback only"
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the configuration file (default: {default})")


def is_made_up(path: Path | None) -> bool:
    """Return True if there is no file to load, so that ``configuration`` makes one up for this machine."""
    return path is None and not DEFAULT_CONFIG.exists()


def configuration(path: Path | None, devices: Sequence[str] | None = None) -> Config:
    """Load the configuration file, or make one up for this machine, with these ``devices`` or else its USB adapters.

    Raises ConfigError.
    """
    # Only here: whoever asks a command for its help, or for nothing of this host's, does not wait for them.
    from gateway.host.config import Config
    from gateway.host.config_file import load

    if devices is not None:
        return Config.for_this_machine(os.environ, devices)
    if not is_made_up(path):
        return load(path or DEFAULT_CONFIG)
    from gateway.serial_line.adapters import usb_adapters

    return Config.for_this_machine(os.environ, usb_adapters())


def built_in_uarts(root: Path = Path("/")) -> list[str]:
    """Return the board's UARTs that a driver found; sysfs gives the others the type 0."""
    found = []
    for folder in (root / "sys/class/tty").iterdir():
        if re.fullmatch(r"tty(S|AMA)[0-9]+", folder.name):
            with contextlib.suppress(OSError):
                if (folder / "type").read_text().strip() != "0":
                    found.append(f"/dev/{folder.name}")
    return sorted(found)


def describe(config: Config, *, adapters: bool = True) -> None:
    """Print the lines of a made-up configuration, where its state is kept, and the address of the HTTP server.

    The lines are the ``adapters`` of the machine, or what the user named.
    """
    lines = "the USB serial adapters of this machine" if adapters else "the serial device that was named"
    print(f"No configuration file: using {lines}, and listening on loopback only.")
    for number, line in enumerate(config.serial, start=1):
        print(f"  Ser{number}  PortManager.P{number - 1}  {line.device}")
    if not config.serial:
        print("  No USB adapter found: plug one in and start again, or try `daisyport demo`.")
        for device in built_in_uarts():
            print(f"  This machine has a UART: daisyport run --device {device}")
    host, port = config.http.listen[0]
    print(f"State: {config.state_dir}\nHTTP: http://{host}:{port}/axis-cgi/param.cgi?action=list")
    print("Add a user with: daisyport user add NAME --role admin\n", flush=True)
