"""Write the man pages and the shell completions from the commands' parser and the example configuration.

``python -m tests.packaging.generate`` writes them to systemd/package; a test holds them to it. They are kept in the
repository, so that a wheel is built without a tool that makes them.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import shtab

from gateway.cli.main import make_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["generated"]

SYSTEMD = Path(__file__).parents[2] / "systemd"
HERE = SYSTEMD / "package"
EXAMPLE = SYSTEMD / "daisyport.toml"

_INTRODUCTION = """
.SH NAME
daisyport \\- share serial ports with the VAPIX Serial port API
.SH SYNOPSIS
.B daisyport
.I COMMAND
[\\fIOPTIONS\\fR]
.SH DESCRIPTION
Daisyport shares the serial ports of this host with TCP clients, PTZ drivers, HTTP callers and other hosts.
.B daisyport run
is the service; the other commands set it up and look at it. Those that show or change the running gateway ask at its
control socket, which root, the service's own user and those whom the configuration names in
.B [control]
may use.
"""
_CLOSING = """
.SH EXIT STATUS
0 for success, 1 for an error, 2 for arguments that cannot be parsed, 78 for an error in the configuration file.
.SH FILES
.TP
.I /etc/daisyport/daisyport.toml
The configuration of the host; see
.BR daisyport.toml (5).
.TP
.I /var/lib/daisyport
Parameters, users, the node's key and a self\\-signed certificate.
.TP
.I /run/daisyport
The PTZ sockets and the control socket.
.SH SEE ALSO
.BR daisyport.toml (5),
.BR systemctl (1),
.BR journalctl (1)
"""


def generated() -> dict[Path, str]:
    """Return the content of each file that is made."""
    parser = make_parser()
    return {
        HERE / "man/daisyport.1": _commands(parser),
        HERE / "man/daisyport.toml.5": _keys(EXAMPLE.read_text()),
        HERE / "completions/daisyport": shtab.complete(parser, shell="bash"),
        HERE / "completions/_daisyport": shtab.complete(parser, shell="zsh"),
    }


def _roff(text: str) -> str:
    """Escape text for roff, where a line that begins with a dot or a quote is a request."""
    return re.sub(r"(?m)^([.'])", r"\\&\1", text.replace("\\", "\\e").replace("-", "\\-"))


def _bold(text: str) -> str:
    """Set text in bold. Not by .B, which takes quotes for its own."""
    return f"\\fB{_roff(text)}\\fR"


def _commands(parser: argparse.ArgumentParser) -> str:
    lines = ['.TH DAISYPORT 1 "" "Daisyport" "User Commands"', _INTRODUCTION.strip(), ".SH COMMANDS"]
    lines += [line for name, command, told in _subcommands(parser) for line in _command(name, command, told)]
    return "\n".join([*lines, _CLOSING.strip()]) + "\n"


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Yield each command that does something: its words, its parser, and what it does."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {each.dest: each.help or "" for each in action._choices_actions}
            for name, command in cast("dict[str, argparse.ArgumentParser]", action.choices).items():
                inner = list(_subcommands(command))
                yield from ((f"{name} {words}", deep, text) for words, deep, text in inner)
                if not inner:
                    yield name, command, told[name]


def _command(name: str, command: argparse.ArgumentParser, told: str) -> Iterator[str]:
    positional = " ".join(
        f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar)
        for action in command._actions
        if not action.option_strings
    )
    yield f'.SS "{_roff(f"daisyport {name} {positional}".strip())}"'
    yield _roff(f"{told[0].upper()}{told[1:]}.")
    formatter = argparse.HelpFormatter("daisyport")
    for action in command._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        yield ".TP"
        yield _bold(formatter._format_action_invocation(action))
        yield _roff(formatter._expand_help(action) if action.help else "")


def _keys(example: str) -> str:
    """Make a page of the example file, whose comments explain each key."""
    lines = [
        '.TH DAISYPORT.TOML 5 "" "Daisyport" "File Formats"',
        ".SH NAME\ndaisyport.toml \\- the configuration of a host that shares serial ports with Daisyport",
        ".SH DESCRIPTION",
        "The file is TOML. Each key is shown with its default, or with an example where it has none.",
        ".B daisyport check\nreports all mistakes at once,\n.B systemctl reload daisyport\nhas the file read again.",
    ]
    told: list[str] = []
    for line in example.splitlines():
        if header := re.fullmatch(r"(?:# )?(\[+\w+\]+)", line):
            lines.append(f".SH {header[1]}")
            told = _said(told, lines)
        elif key := re.fullmatch(r"(?:# )?(\w+ = .*?)(?: +# (.*))?", line):
            lines.append(f".TP\n{_bold(key[1])}")
            told = _said([*told, *([key[2]] if key[2] else [])], lines)
        elif line.startswith("# "):
            told.append(line[2:])
        else:
            told = _said(told, lines)
    lines += [".SH SEE ALSO", ".BR daisyport (1)"]
    return "\n".join(lines) + "\n"


def _said(told: list[str], lines: list[str]) -> list[str]:
    """Write what was told, if anything; nothing is left to be told then."""
    if told:
        lines.append(_roff("\n".join(told)))
    return []


if __name__ == "__main__":
    for path, content in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
