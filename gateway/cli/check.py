"""``daisyport check``: read the configuration file of the host, and print its mistakes, or its ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli.command import add_config_option, configuration, describe, is_made_up
from gateway.serial_line.adapters import advice

if TYPE_CHECKING:
    import argparse

    from gateway.cli.command import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="check the configuration file and print every mistake in it")
    add_config_option(parser)
    parser.set_defaults(command=_check)


def _check(arguments: argparse.Namespace) -> int:
    config = configuration(arguments.config)
    if is_made_up(arguments.config):
        describe(config)
        return 0
    if not config.managers:
        print("No port: add a [[serial]] table for each serial line, or a [[port_manager]] for another CPU's.")
    for number, line in enumerate(config.serial, start=1):
        modes = ", ".join(mode.value for mode in line.hardware.modes)
        print(f"Ser{number}: {line.device} ({modes})")
    for index, manager in enumerate(config.managers):
        device = f"Ser{manager.serial}" if manager.serial is not None else f"R{manager.remote_port}"
        print(f"PortManager.P{index}: {device}")
    for said in advice([line.device for line in config.serial]):
        print(f"Warning: {said}")
    return 0
