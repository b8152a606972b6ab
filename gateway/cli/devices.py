"""``daisyport devices``: print the serial devices of this host, who has them, and the block to put into the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gateway.cli.command import add_config_option, configuration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gateway.cli.command import Commands
    from gateway.serial_line.inventory import Found

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("devices", help="list the serial devices of this host; none of them is opened")
    add_config_option(parser)
    parser.set_defaults(command=_devices)


def _devices(arguments: argparse.Namespace) -> int:
    from gateway.host.config_error import ConfigError
    from gateway.serial_line.inventory import serial_devices

    try:
        lines = [line.device for line in configuration(arguments.config).serial]
    except ConfigError:
        lines = []  # the file may still be in the making: its author asks here what to put into it
    configured = {os.path.realpath(device): f"Ser{number}" for number, device in enumerate(lines, start=1)}
    found = serial_devices()
    if not found:
        print("No serial device with a driver was found.")
    for device in found:
        print("\n".join(_described(device, configured.get(os.path.realpath(device.path)))))
    if os.geteuid() and found:
        print("# Only root sees who has a device open.")
    return 0


def _described(device: Found, line: str | None) -> Iterator[str]:
    """Describe a device in comments, followed by lines to paste where the configuration does not name it."""
    yield f"# {device.path}: {line or 'not in the configuration'}; driver {device.driver}; {device.mode}"
    if device.adapter is not None:
        yield f"#   {device.adapter}"
    yield from (f"#   {name}" for name in (device.by_id, device.by_path) if name)
    if device.console:
        yield "#   the kernel writes its messages there: take console=... off its command line"
    yield from (f"#   open in {user}" for user in device.users)
    if line is None:
        yield f'[[serial]]\ndevice = "{device.name}"\nmodes = ["RS232"]'
    yield ""
