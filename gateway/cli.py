"""The command line: ``daisyport run | demo | check | keygen | user``.

It turns words into calls, and errors into one line on standard error and an exit status. What a command does is in
the room that it calls; so that each starts fast, it is imported only then.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.host.config import Config
from gateway.host.config_file import ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import trio

    from gateway.state.users import Users
    from gateway.tasks.watch import Cell

__all__ = ["main"]

logger = logging.getLogger(__name__)

_DEFAULT_CONFIG = Path("/etc/daisyport/daisyport.toml")


class CommandError(Exception):
    """The command cannot be carried out; the message says why and what would be right."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (default: the process's own) says; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except CommandError as exc:
        print(f"daisyport: {exc}", file=sys.stderr)
    except ConfigError as exc:
        for message in exc.messages:
            print(f"{arguments.config or _DEFAULT_CONFIG}: {message}", file=sys.stderr)
        return os.EX_CONFIG  # the service manager knows by this that another try would end the same
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="daisyport", description="A serial-port gateway that speaks the VAPIX Serial port API."
    )
    parser.add_argument("--version", action="version", version=f"daisyport {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(commands, "run", _run, "run the gateway in the foreground until SIGTERM or SIGINT")
    run.add_argument("--verbose", action="store_true", help="log more")
    _command(commands, "check", _check, "check the host's configuration file, and say what is wrong with it")
    demo = commands.add_parser("demo", help="try it out: a simulated camera and a chain of CPUs, no hardware needed")
    demo.add_argument("--cut", action="store_true", help="cut the links now and then, and count what that costs")
    demo.set_defaults(command=_demo, config=None)
    keygen = commands.add_parser("keygen", help="print a strong key for a remote port server and its clients")
    keygen.set_defaults(command=_keygen, config=None)
    user = commands.add_parser("user", help="say who may log in at the front door; a running gateway heeds it at once")
    _add_user_commands(user.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _add_user_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    asked = "the password is asked for, or read as a line from a pipe"
    add = _command(commands, "add", _user_add, f"add a user; {asked}")
    remove = _command(commands, "remove", _user_remove, "remove a user, who cannot log in any more")
    passwd = _command(commands, "passwd", _user_passwd, f"give a user another password; {asked}")
    _command(commands, "list", _user_list, "list the users and their roles")
    for command in (add, remove, passwd):
        command.add_argument("name", metavar="NAME")
    add.add_argument("--role", required=True, choices=("admin", "operator", "viewer"))


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: object, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    default = f"{_DEFAULT_CONFIG}, or without that file the USB serial adapters, on loopback only"
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the configuration (default: {default})")
    parser.set_defaults(command=run)
    return parser


def _made_up(path: Path | None) -> bool:
    """Whether nothing is there to load."""
    return path is None and not _DEFAULT_CONFIG.exists()


def _configuration(path: Path | None) -> Config:
    """Load the configuration, or make one up for this machine where there is none."""
    if not _made_up(path):
        return load(path or _DEFAULT_CONFIG)
    from gateway.serial_line.uart import usb_adapters

    return Config.for_this_machine(os.environ, usb_adapters())


def _run(arguments: argparse.Namespace) -> int:
    import trio

    from gateway.app import StartError, TooManyRestartsError
    from gateway.state.store import StoreError
    from gateway.state.users import UserError

    config = _configuration(arguments.config)
    _log(logging.DEBUG if arguments.verbose else logging.INFO)
    if _made_up(arguments.config):
        _introduce(config)
    try:
        trio.run(_run_until_signalled, config)
    except ExceptionGroup as group:
        told, bugs = group.split((StartError, StoreError, UserError, TooManyRestartsError))
        if told is None or bugs is not None:
            raise
        raise CommandError(_innermost(told)) from None
    return 0


def _innermost(error: Exception) -> str:
    return _innermost(error.exceptions[0]) if isinstance(error, ExceptionGroup) else str(error)


async def _run_until_signalled(config: Config) -> None:
    import trio

    from gateway.app import run
    from gateway.host.sdnotify import Notifier
    from gateway.tasks.watch import Cell

    stop, hang_ups = trio.Event(), Cell(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, stop, hang_ups)
        await run(config, stop, Notifier.from_environment(os.environ), hang_ups)
        nursery.cancel_scope.cancel()


async def _heed_signals(stop: trio.Event, hang_ups: Cell[int], *, task_status: trio.TaskStatus[None]) -> None:
    import trio

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                logger.info("SIGHUP: the TLS certificate is read again; parameters apply live, the rest at the start")
                hang_ups.set(hang_ups.value + 1)
            else:
                stop.set()


def _introduce(config: Config) -> None:
    """Tell who runs it without a configuration what was found and where things are."""
    print("No configuration: taking the USB serial adapters of this machine, and listening on loopback only.")
    for number, line in enumerate(config.serial, start=1):
        print(f"  Ser{number}  PortManager.P{number - 1}  {line.device}")
    if not config.serial:
        print("  There is none: plug one in and start again, or try `daisyport demo`.")
    host, port = config.http.listen[0]
    print(f"State: {config.state_dir}\nFront door: http://{host}:{port}/axis-cgi/param.cgi?action=list")
    print("Add a login with: daisyport user add NAME --role admin\n", flush=True)


def _check(arguments: argparse.Namespace) -> int:
    config = _configuration(arguments.config)
    if _made_up(arguments.config):
        _introduce(config)
        return 0
    if not config.managers:
        print("No port: a [[serial]] table is wanted for each serial line, or a [[port_manager]] for another CPU's.")
    for number, line in enumerate(config.serial, start=1):
        modes = ", ".join(mode.value for mode in line.hardware.modes)
        print(f"Ser{number}: {line.device} ({modes})")
    for index, manager in enumerate(config.managers):
        device = f"Ser{manager.serial}" if manager.serial is not None else f"R{manager.remote_port}"
        print(f"PortManager.P{index}: {device}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from gateway import demo

    return demo.main(demo.cut_demo if arguments.cut else demo.demo)


def _keygen(_: argparse.Namespace) -> int:
    from gateway.remote_port.keygen import strong_key

    print(strong_key())
    return 0


@contextlib.contextmanager
def _users(arguments: argparse.Namespace) -> Iterator[Users]:
    from gateway.state.users import UserError, Users

    config = _configuration(arguments.config)
    try:
        yield Users(config.state_dir, config.node_name)
    except UserError as exc:
        raise CommandError(str(exc)) from None


def _user_add(arguments: argparse.Namespace) -> int:
    with _users(arguments) as users:
        if users.find(arguments.name) is not None:
            raise CommandError(f"{arguments.name} is a user already; daisyport user passwd sets another password")
        users.add(arguments.name, arguments.role, _password(arguments.name))
    print(f"{arguments.name} may log in as {arguments.role}.")
    return 0


def _user_remove(arguments: argparse.Namespace) -> int:
    with _users(arguments) as users:
        users.remove(arguments.name)
    print(f"{arguments.name} cannot log in any more.")
    return 0


def _user_passwd(arguments: argparse.Namespace) -> int:
    with _users(arguments) as users:
        if users.find(arguments.name) is None:
            raise CommandError(f"{arguments.name!a:.60} is no user; daisyport user list shows who is")
        users.set_password(arguments.name, _password(arguments.name))
    print(f"{arguments.name} has a new password.")
    return 0


def _user_list(arguments: argparse.Namespace) -> int:
    with _users(arguments) as users:
        for user in users.everyone:
            print(f"{user.role.name.lower():8}  {user.name}")
    return 0


def _password(name: str) -> str:
    """Ask for the password twice, or take one line of a pipe: never an argument, which everybody could see."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.readline().rstrip("\r\n")
        password = getpass.getpass(f"Password for {name}: ")
        if getpass.getpass("Once more: ") == password:
            return password
    except (EOFError, KeyboardInterrupt):
        raise CommandError("no password was typed; nothing was changed") from None
    except UnicodeDecodeError:
        raise CommandError(f"the password is no {sys.stdin.encoding} text; nothing was changed") from None
    raise CommandError("the two passwords differ; nothing was changed")


def _log(level: int) -> None:
    """Log to standard error: with priorities where the journal takes it, with the time elsewhere."""
    if "JOURNAL_STREAM" in os.environ:
        for number, priority in ((logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)):
            logging.addLevelName(number, f"<{priority}>")
        pattern = "%(levelname)s%(message)s"
    else:
        pattern = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level, format=pattern)
