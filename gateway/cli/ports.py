"""``daisyport ports``: print the ports of the running gateway, each with its line and the ways into it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from gateway.cli.command import add_config_option
from gateway.cli.control import asked_for_json
from gateway.cli.watch import in_words

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gateway.cli.command import Commands

__all__ = ["add_to"]

_WIDTH = 80


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("ports", help="list the ports of the running gateway, and the ways into each")
    add_config_option(parser)
    parser.set_defaults(command=_ports)


def _ports(arguments: argparse.Namespace) -> int:
    for port in asked_for_json(arguments, "/daisyport/status")["ports"]:
        print("\n".join(line[:_WIDTH] for line in _port(port)))
    return 0


def _port(port: dict[str, Any]) -> Iterator[str]:
    line = port.get("device") or f"a line of another CPU, R{port['remote_port']}"
    yield f"{port['name']:4}{port['state']:7}{in_words(port.get('settings_in_force')):20}{line}"
    if port["reason"]:
        yield from textwrap.wrap(port["reason"], _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
    devices = {f"Ser{port['serial_port']}", f"R{port['remote_port']}"}
    for unit, state in port["services"].items():
        if not unit.startswith("service ") and unit not in devices:
            yield f"    {unit:40}{state}"
    if "service SerialCGI" in port["services"]:
        yield f"    /axis-cgi/com/serial.cgi?port={int(port['name'][1:]) + 1}"
    yield f"    /daisyport/ports/{port['name']} (WebSocket)"
