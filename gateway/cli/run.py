"""``daisyport run``: run the gateway in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import operator
import os
import signal
from typing import TYPE_CHECKING, NoReturn, cast, final

from gateway.cli.command import (
    DEFAULT_CONFIG,
    CommandError,
    add_config_option,
    configuration,
    describe,
    is_made_up,
)
from gateway.host.descriptors import raise_limit
from gateway.host.logging import Format, Log
from gateway.host.sockets import HTTP, inherited
from gateway.host.terminal import hang_up_is_ignored, has_terminal
from gateway.host.upgrade import guard_imports

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import trio

    from gateway.cli.command import Commands
    from gateway.host.config import Config
    from gateway.host.reload import Reload
    from gateway.tasks.ready import ReadyClock
    from gateway.tasks.watch import Cell

__all__ = ["add_to"]

logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("run", help="run the gateway in the foreground, until SIGTERM or SIGINT")
    add_config_option(parser)
    parser.add_argument("--device", metavar="TTY", help="use this serial device alone, without a configuration file")
    parser.add_argument(
        "--tcp", type=int, metavar="PORT", help="with --device: share it with TCP clients on this port of loopback"
    )
    parser.add_argument("--verbose", action="store_true", help="log debugging messages too")
    parser.add_argument(
        "--log-format",
        type=Format,
        choices=tuple(Format),
        metavar="{text,journal,json}",
        help="the format of the log on standard error (default: journal where the journal reads it, else text)",
    )
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    import trio

    from gateway.app import StartError
    from gateway.state.store import StoreError
    from gateway.state.users import UserError
    from gateway.tasks.ready import ReadyClock
    from gateway.tasks.root_cause import root_cause

    if arguments.tcp is not None and arguments.device is None:
        arguments.parser.error("--tcp requires --device")
    if arguments.device is not None and arguments.config is not None:
        arguments.parser.error("--device is for a machine without a configuration file; leave out --config")
    made_up = arguments.device is not None or is_made_up(arguments.config)
    config = configuration(arguments.config, [os.path.abspath(arguments.device)] if arguments.device else None)
    # Before the log and the loop, which open the first descriptors. The log starts before the imports are guarded,
    # because the guard logs.
    raise_limit()
    log = Log.start(logging.DEBUG if arguments.verbose else logging.INFO, arguments.log_format)
    guard_imports()
    path = None if made_up else arguments.config or DEFAULT_CONFIG
    if made_up:
        with contextlib.suppress(OSError):  # nobody reads it, or the disk is full: no reason not to run
            describe(config, adapters=arguments.device is None)
    presets = [] if arguments.tcp is None else [(name, str(value)) for name, value in _tcp_server(arguments.tcp)]
    try:
        with contextlib.closing(ReadyClock()) as clock:
            trio.run(_run_until_signalled, config, path, presets, clock, clock=clock, instruments=[clock])
    except Exception as exc:
        # trio wraps errors in groups. An error that the user can mend becomes one line, unless a bug came with it.
        _, bugs = ExceptionGroup("", [exc]).split((StartError, StoreError, UserError))
        if bugs is None:
            raise CommandError(str(root_cause(exc))) from None
        logger.critical("a bug ended the process", exc_info=True)
        return os.EX_SOFTWARE
    finally:
        log.finish()
    return 0


def _tcp_server(port: int) -> list[tuple[str, object]]:
    """Return the parameters of P0's TCP server on this port."""
    server = "PortManager.P0.GenericTCPServer."
    return [(f"{server}Enabled", "yes"), (f"{server}Listener.Enabled", "yes"), (f"{server}Listener.Port", port)]


async def _run_until_signalled(
    config: Config, path: Path | None, presets: Sequence[tuple[str, str]], clock: ReadyClock
) -> None:
    import trio

    from gateway.app import hold_runtime_dir, run
    from gateway.host.descriptor_store import DescriptorStore
    from gateway.host.reload import Reload, reload
    from gateway.host.sdnotify import Notifier
    from gateway.host.stacks import Stacks
    from gateway.tasks.watch import Cell

    await clock.begin()
    stop, reloads, hang_ups = trio.Event(), Cell(Reload(config)), Cell(0)
    given = inherited(os.environ)
    sockets = given.sockets.get(HTTP, [])
    if sockets and "listen" in cast("dict[str, object]", config.written.get("http", {})):
        logger.warning("[http] listen is not used: the service manager's sockets replace it")
    with (
        os.fdopen(hold_runtime_dir(config.runtime_dir)),
        contextlib.closing(Stacks(config.runtime_dir / "stacks.txt")) as stacks,
        contextlib.closing(Notifier.from_environment(os.environ)) as notifier,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_again, hang_ups, reloads, functools.partial(reload, path, config))
            nursery.start_soon(stacks.follow)
            await nursery.start(_obey_signals, stop, hang_ups)
            kept = DescriptorStore(notifier, given.kept)
            await run(config, stop, notifier, reloads, sockets, presets, kept, task_status=_Started())
            nursery.cancel_scope.cancel()


@final
class _Started:
    """Exclude what the start has made from garbage collections: it stays until the end.

    A full collection would visit each of these objects, and no byte moves meanwhile: 20 ms on a desktop's processor, a
    quarter of a second on a slow one.
    """

    def started(self, value: None = None) -> None:
        """Freeze what there is now."""
        gc.freeze()


async def _obey_signals(stop: trio.Event, hang_ups: Cell[int], *, task_status: trio.TaskStatus[None]) -> None:
    import trio

    on_a_terminal = has_terminal()
    wanted = [signal.SIGTERM, signal.SIGINT]
    if not hang_up_is_ignored():
        wanted.append(signal.SIGHUP)
    with trio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        async for number in signals:
            if number != signal.SIGHUP:
                stop.set()
            elif on_a_terminal and not has_terminal():
                logger.warning("SIGHUP: the terminal is gone")
                stop.set()
            else:
                hang_ups.set(hang_ups.value + 1)


async def _read_again(hang_ups: Cell[int], reloads: Cell[Reload], at_hang_up: Callable[[Reload], Reload]) -> NoReturn:
    """Reload at each hang-up, or once for those that come meanwhile.

    Beside the signals: a file on a server that does not answer must not keep SIGTERM waiting.
    """
    import trio

    done = 0
    while True:
        done = await hang_ups.wait_for(functools.partial(operator.ne, done))
        reloads.set(await trio.to_thread.run_sync(at_hang_up, reloads.value, abandon_on_cancel=True))
