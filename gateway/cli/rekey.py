"""``daisyport rekey``: give the remote port server of a port another key, and carry that down its chain."""

from __future__ import annotations

import getpass
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.cli.command import CommandError, add_config_option
from gateway.cli.control import asked, asked_for_json, quoted
from protocol.link.key_rules import LONGEST_OLD_KEY

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from gateway.cli.command import Commands

__all__ = ["add_to"]

_LONGEST: Final = LONGEST_OLD_KEY // 3600
"""Hours."""
_PATIENCE: Final = 50.0
"""Seconds for a key to reach a whole chain, after an earlier key that is still on its way."""
_WIDTH: Final = 80
_HAVE_IT: Final = ("changed", "same")
_TERMINAL: Final = Path("/dev/tty")


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rekey",
        help="give a remote-port server another key and its clients time to follow; "
        "the key is prompted for, or read as one line from a pipe",
    )
    parser.add_argument("port", metavar="PORT", help="the port, such as P0")
    parser.add_argument(
        "--hours", metavar="N", type=int, default=24, help="hours for which the old key is accepted too (default: 24)"
    )
    parser.add_argument(
        "--chain", action="store_true", help="carry the new key to the CPUs that are chained to it, once you agree"
    )
    parser.add_argument(
        "--yes", action="store_true", help="with --chain: agree to the present CPUs without being asked"
    )
    add_config_option(parser)
    parser.set_defaults(command=_rekey)


def _rekey(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.hours <= _LONGEST:
        arguments.parser.error(f"--hours must be from 1 to {_LONGEST}")
    below = _agreed_on(arguments) if arguments.chain else []
    target = f"/daisyport/rekey/{quoted(arguments.port)}?seconds={arguments.hours * 3600}"
    target += "".join(f"&node={cpu['node']}" for cpu in below)
    answer = asked(arguments, "POST", target, _key().encode(), _PATIENCE)
    print(f"{arguments.port} has the new key, and accepts the old one too for {arguments.hours} h.")
    if below:
        return _told(json.loads(answer)["cpus"], below)
    print("Set the new one on each CPU that is chained to it: RemotePort.R#.AuthenticationKey.")
    print("Its link is renewed then, and loses no byte.")
    return 0


def _agreed_on(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the CPUs that get the key: those below this one in its chain, once the operator has agreed to them.

    If the old key leaked, a stranger may be linked by it, and must not get the new one.
    """
    chains = asked_for_json(arguments, "/daisyport/chain")["ports"]
    chain = next((each["chain"] for each in chains if each["port"] == arguments.port), None)
    cpus = [] if chain is None else [cpu for cpu in _below_here(chain, is_below=False) if cpu["node"]]
    cpus = list({cpu["node"]: cpu for cpu in cpus}.values())
    if not cpus:
        raise CommandError(f"no CPU is chained to {arguments.port} here; without --chain only this server gets the key")
    print(f"The new key of {arguments.port} goes to these CPUs, over their links, and to no other:")
    for cpu in cpus:
        state = {"told": "", "gone": "(its link is down)"}.get(cpu["answer"], f"({cpu['answer']})")
        address = (cpu["link"] or {}).get("address", "")
        print("  " + "  ".join(filter(None, (cpu["name"], cpu["node"][:8], address, state))))
    if not arguments.yes:
        try:
            with _TERMINAL.open() as terminal:  # standard input may be the pipe that the key comes from
                print("Are they all yours? [y/N] ", end="", flush=True)
                agreed = terminal.readline().strip().lower() in ("y", "yes")
        except OSError:
            raise CommandError("there is no terminal to ask on; --yes agrees to these CPUs") from None
        if not agreed:
            raise CommandError("nothing was changed")
    return cpus


def _below_here(cpu: dict[str, Any], *, is_below: bool) -> Iterator[dict[str, Any]]:
    if is_below:
        yield cpu
    for each in cpu["below"]:
        yield from _below_here(each, is_below=is_below or cpu["here"])


def _told(cpus: Sequence[dict[str, str]], below: Sequence[dict[str, Any]]) -> int:
    """Print the outcome at each CPU; return the exit status: 0 where all have the key."""
    names = {cpu["node"]: _name(cpu) for cpu in below}
    for cpu in cpus:
        name = cpu["name"] or names.get(cpu["node"]) or cpu["node"][:8]
        for line in textwrap.wrap(f"{name}: {cpu['what']}", _WIDTH - 2, subsequent_indent="  "):
            print(f"  {line}")
    return 0 if all(cpu["outcome"] in _HAVE_IT for cpu in cpus) else 1


def _name(cpu: dict[str, Any]) -> str:
    return str(cpu["name"] or cpu["node"][:8])


def _key() -> str:
    """Prompt for the key, or read one line of a pipe. Never an argument: process lists show those."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.readline().rstrip("\r\n")
        return getpass.getpass("New key: ")
    except (EOFError, KeyboardInterrupt, UnicodeDecodeError):
        raise CommandError("no key was given; nothing was changed") from None
