"""``daisyport status``: ask the running gateway how it is, over its control socket."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from gateway.cli.command import CommandError, add_config_option
from gateway.cli.control import asked_for_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gateway.cli.command import Commands

__all__ = ["add_to"]

_WIDTH = 80


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("status", help="show how the running gateway and its ports are")
    parser.add_argument("port", nargs="?", metavar="PORT", help="show one port, such as P0, with its clients")
    parser.add_argument("--watch", action="store_true", help="show it each second, with rates, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print everything that is counted, as JSON")
    add_config_option(parser)
    parser.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    if arguments.watch:
        from gateway.cli.watch import watch

        if arguments.json:
            arguments.parser.error("--watch and --json exclude each other")
        return watch(lambda: _of(arguments.port, asked_for_json(arguments, "/daisyport/status")))
    status = asked_for_json(arguments, "/daisyport/status")
    ports = _of(arguments.port, status)["ports"]
    if arguments.json:
        print(json.dumps(ports[0] if arguments.port else status, indent=2))
    elif arguments.port:
        print("\n".join(_port(ports[0])))
    else:
        print("\n".join(_overview(status)))
    return 0


def _of(name: str | None, status: dict[str, Any]) -> dict[str, Any]:
    """Return the status with the port of that name alone (None: with all). Raises CommandError."""
    names = [port["name"] for port in status["ports"]]
    if name is not None and name not in names:
        raise CommandError(f"there is no port {name!a:.20}; the ports are {', '.join(names)}")
    return status | {"ports": [port for port in status["ports"] if name in (None, port["name"])]}


def _overview(status: dict[str, Any]) -> Iterator[str]:
    about = f": Daisyport {status['version']}, up {_duration(status['uptime_seconds'])}"
    yield f"{status['node'][: _WIDTH - len(about)]}{about}"
    configuration = status["configuration"]
    yield from (f"configuration file: {error}"[:_WIDTH] for error in configuration["errors"])
    if configuration["at_next_start"]:
        yield f"at the next start: {', '.join(configuration['at_next_start'])}"[:_WIDTH]
    yield ""
    yield f"{'PORT':5}{'STATE':7}{'DEVICE':31}{'CLIENTS':>7}{'FROM LINE':>15}{'TO LINE':>15}"
    for port in status["ports"]:
        device = port.get("device") or port["type"]
        yield (
            f"{port['name']:5}{port['state']:7}{device[-30:]:31}{len(port['clients']):>7}"
            f"{port['bytes_from_line']:>15,}{port.get('bytes_to_line', 0):>15,}"
        )
        if port["reason"]:
            yield from textwrap.wrap(port["reason"], _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _port(port: dict[str, Any]) -> Iterator[str]:
    yield from textwrap.wrap(f"{port['name']}: {port['state']}{'; ' if port['reason'] else ''}{port['reason']}", _WIDTH)
    in_force = port.get("settings_in_force") or {}
    yield f"device    {port.get('device') or port['type']}"[:_WIDTH]
    settings = " ".join(f"{name}={value}" for name, value in in_force.items()) or "unknown"
    yield from textwrap.wrap(settings, _WIDTH, initial_indent="settings  ", subsequent_indent=" " * 10)
    for name, why in port.get("settings_refused", {}).items():
        yield f"refused   {name}: {why}"[:_WIDTH]
    yield f"from line {port['bytes_from_line']:,} bytes, {port['bytes_missed']:,} missed"
    yield (
        f"to line   {port.get('bytes_to_line', 0):,} bytes, {port['bytes_dropped']:,} dropped, "
        f"{port.get('bytes_discarded', 0):,} discarded"
    )
    asked = f"{port['requests_superseded']:,} superseded, {port['bytes_rubbish']:,} bytes rubbish"
    if (sharing := port.get("sharing")) is not None:
        yield from _sharing(sharing, asked)
    else:
        yield f"requests  {asked}"
    yield ""
    for service, state in port["services"].items():
        yield f"{service:30}{state}"[:_WIDTH]
    yield ""
    yield from (line[:_WIDTH] for line in _links(port))
    yield f"{'CLIENT':40}{'SERVICE':18}{'TO CLIENT':>11}{'WRITTEN':>11}"
    for client in port["clients"]:
        yield f"{client['holder'][:39]:40}{client['service']:18}{client['bytes_out']:>11,}{client['written']:>11,}"


def _sharing(sharing: dict[str, Any], asked: str) -> Iterator[str]:
    """Describe the holder of the line, and how its turns ended; ``asked`` counts its clients' requests."""
    held = "" if sharing.get("holder") is None else f"{sharing['holder']} for {sharing['held_ms']} ms, "
    yield f"turn      {held}{sharing.get('waiting', 0)} waiting, longest wait {sharing['longest_wait_ms']} ms"[:_WIDTH]
    if sharing["rule"] is not None:
        ended = "".join(f", {count:,} {ending}" for ending, count in sharing["turns"].items())
        counted = f"{sharing['refused']:,} refused, {asked}"
        yield from textwrap.wrap(
            f"{sharing['rule']}{ended}, {counted}", _WIDTH, initial_indent="rule      ", subsequent_indent=" " * 10
        )
    for warning in sharing["warnings"]:
        yield from textwrap.wrap(warning, _WIDTH, initial_indent="warning   ", subsequent_indent=" " * 10)


def _links(port: dict[str, Any]) -> Iterator[str]:
    """Describe the link towards the line, the servers to dial while it is down, and the links from below."""
    if (link := port.get("remote_port_client")) is not None:
        who = f"{link['server_name'] or link['server_node'][:8]} {link['server_port']}"
        yield f"link to {who}: {_state_of(link)}, {link['links_lost']} lost so far"
    for each in port.get("remote_port_candidates", ()):
        who = " ".join(filter(None, (each["name"] or each["node"][:8], each["server_port"])))
        hops = "" if each["hops"] is None else f", {each['hops']} hops from the line"
        yield f"candidate {each['address']} port {each['port']}{f' ({who}{hops})' if who else ''}"
        yield f"      next try in {each['next_try_seconds']:.0f} s; {each['last_answer'] or 'not tried yet'}"
    for link in port.get("remote_port_server", {}).get("links", ()):
        old = ", has the old key" if link["old_key"] else ""
        yield f"link from {link['name'] or link['node'][:8]} {link['remote_port']}: {_state_of(link)}{old}"
    if "remote_port_client" in port or "remote_port_candidates" in port or "remote_port_server" in port:
        yield ""


def _state_of(link: dict[str, Any]) -> str:
    round_trip = "" if link["round_trip_ms"] is None else f", round trip {link['round_trip_ms']} ms"
    return f"{'up' if link['linked'] else 'down'}{round_trip}"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
