"""``daisyport chain``: show all CPUs that share a line, asked at any of them, and what is wrong with which hop."""

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
    parser = commands.add_parser("chain", help="show all CPUs of a chain, and which of its hops is down")
    parser.add_argument("port", nargs="?", metavar="PORT", help="show the chain of one port, such as P0")
    parser.add_argument("--json", action="store_true", help="print everything that the CPUs report, as JSON")
    add_config_option(parser)
    parser.set_defaults(command=_chain)


def _chain(arguments: argparse.Namespace) -> int:
    chains = asked_for_json(arguments, "/daisyport/chain")["ports"]
    if arguments.port is not None:
        chains = [chain for chain in chains if chain["port"] == arguments.port]
        if not chains:
            raise CommandError(f"{arguments.port!a:.20} is no port of a chain here; daisyport status shows all ports")
    if arguments.json:
        print(json.dumps(chains, indent=2))
    elif not chains:
        print("no port is shared with other CPUs here")
    else:
        print("\n\n".join("\n".join(_lines(chain)) for chain in chains))
    return 0


def _lines(chain: dict[str, Any]) -> Iterator[str]:
    cpus = list(_all(chain["chain"], 0))
    yield f"the chain of {chain['port']} here, from the owner of the line down:"
    for depth, cpu in cpus:
        indent = "   " * max(0, depth - 1) + ("+- " if depth else "")
        first = indent + _cpu(cpu)
        yield from textwrap.wrap(first, _WIDTH, subsequent_indent=" " * (len(indent) + 3))
        if cpu["link"] is not None:
            about = _link(cpu["link"])
            space = " " * (3 * depth + 3)
            yield from textwrap.wrap(about, _WIDTH, initial_indent=space, subsequent_indent=space)
    for _, cpu in cpus:
        for warning in cpu["warnings"]:
            yield from textwrap.wrap(f"warning: {_name(cpu)}: {warning}", _WIDTH, subsequent_indent=" " * 9)


def _all(cpu: dict[str, Any], depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
    yield depth, cpu
    for below in cpu["below"]:
        yield from _all(below, depth + 1)


def _name(cpu: dict[str, Any]) -> str:
    return cpu["name"] or cpu["node"][:8] or "an unknown CPU"


def _cpu(cpu: dict[str, Any]) -> str:
    words = [_name(cpu), cpu["port"], "(here)" if cpu["here"] else ""]
    if cpu["answer"] == "told":
        count = sum(cpu["clients"].values())
        words += [cpu["state"], f"version {cpu['version']},", f"{count} client{'s' * (count != 1)}"]
        words += [f", {cpu['gaps']} gaps"] if cpu["gaps"] else []
        words += [f": {cpu['reason']}"] if cpu["reason"] else []
    return " ".join(filter(None, words)).replace(" ,", ",").replace(" :", ":")


def _link(link: dict[str, Any]) -> str:
    is_down = link["state"] == "down"
    where = f"{'to' if link['told_by'] == 'below' else 'from'} {link['address']}" if link["address"] else ""
    trip = "" if link["round_trip_ms"] is None or is_down else f"{link['round_trip_ms']} ms"
    counted = f"{link['resumes']} resumed, {link['bytes_lost']} bytes lost"
    why = f": {link['reason']}" if link["reason"] else ""
    state = f"LINK DOWN for {link['seconds']} s{why}; " if is_down else "link up " if where else "link up, "
    return state + ", ".join(filter(None, (where, trip, counted)))
