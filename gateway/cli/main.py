"""Find the command, run it, and turn its errors into lines on standard error and an exit status.

Each command starts fast, and none keeps in memory what another needs: its module is loaded where it is named, or where
all are shown, and imports what its work needs when it runs.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from gateway import __version__
from gateway.cli.command import DEFAULT_CONFIG, CommandError
from gateway.host.config_error import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "make_parser"]

_MODULES: Final = {
    "run": "run",
    "check": "check",
    "status": "status",
    "chain": "chain",
    "health": "health",
    "ports": "ports",
    "devices": "devices",
    "kick": "kick",
    "trace": "trace",
    "connect": "connect",
    "backup": "backup",
    "restore": "backup",
    "import-ser2net": "import_ser2net",
    "demo": "demo",
    "keygen": "keygen",
    "rekey": "rekey",
    "pair": "pair",
    "user": "user",
}
"""The module of each command, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (default: the process's own arguments) names; return the exit status.

    The status is 78 (EX_CONFIG) for an error in the configuration file, and 1 for any other error of a command.
    argparse itself exits with 2 for arguments that it cannot parse. Ctrl-C gives 130, as a shell has it.
    """
    _open_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may have letters that this terminal has not
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser(argv[0] if argv else None)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if arguments.command is None:
        parser.print_help()
        return 2  # as for any other arguments that cannot be parsed
    status = 0  # also where a reader has left before all was said
    try:
        try:
            status = int(arguments.command(arguments))
        except CommandError as exc:
            _print_error(f"daisyport: {exc}")
            status = 1
        except ConfigError as exc:
            for message in exc.messages:
                _print_error(f"{arguments.config or DEFAULT_CONFIG}: {message}")
            status = os.EX_CONFIG  # the unit has systemd not restart after it: the same error would come back
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except OSError as exc:
        if exc.filename is not None or exc.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # It was printed: into a pipe whose reader has seen enough (`| head`), or onto a full disk.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush fails again
        if exc.errno == errno.ENOSPC:
            _print_error(f"daisyport: standard output: {exc.strerror}")
            status = status or 1
    return status


def _open_standard_descriptors() -> None:
    """Open /dev/null for each of descriptors 0 to 2 that was closed when this process was started.

    A socket or a tty of ours would get that number otherwise, and everything that is printed would go there.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free: this one
    # Python found them closed at its start, and made no streams for them.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 -- it is the process's for as long as it runs
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 -- it is the process's for as long as it runs


def _print_error(text: str) -> None:
    """Print an error, with its priority where the journal reads it: ``journalctl -p err`` shows what ended a daemon."""
    from gateway.host.logging import for_the_journal, journal_reads

    print(for_the_journal(text) if journal_reads(sys.stderr.fileno(), os.environ) else text, file=sys.stderr)


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of this command alone, or of all where there is no such command."""
    parser = argparse.ArgumentParser(
        prog="daisyport", description="A serial-port gateway that speaks the VAPIX Serial port API."
    )
    parser.add_argument("--version", action="version", version=f"daisyport {__version__}")
    parser.set_defaults(command=None, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    named = [_MODULES[command]] if command in _MODULES else dict.fromkeys(_MODULES.values())
    for module in named:
        importlib.import_module(f"gateway.cli.{module}").add_to(commands)
    # An error in a command's arguments shows the usage of that command, and not of all.
    for each in commands.choices.values():
        each.set_defaults(parser=each)
    return parser
