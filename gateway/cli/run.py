"""``daisyport run``: run the gateway in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from gateway.cli.command import CommandError, add_config_option, configuration, describe, is_made_up
from gateway.host.logging import log_to_stderr

if TYPE_CHECKING:
    import argparse

    import trio

    from gateway.cli.command import Commands
    from gateway.host.config import Config
    from gateway.tasks.watch import Cell

__all__ = ["add_to"]

logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("run", help="run the gateway in the foreground, until SIGTERM or SIGINT")
    add_config_option(parser)
    parser.add_argument("--verbose", action="store_true", help="log debugging messages too")
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    import trio

    from gateway.app import StartError
    from gateway.state.store import StoreError
    from gateway.state.users import UserError
    from gateway.tasks.root_cause import root_cause

    config = configuration(arguments.config)
    log_to_stderr(logging.DEBUG if arguments.verbose else logging.INFO)
    if is_made_up(arguments.config):
        describe(config)
    # trio wraps errors in groups. Those that the user can mend become one line, unless a bug came with them: a bug
    # keeps its traceback.
    try:
        trio.run(_run_until_signalled, config)
    except ExceptionGroup as group:
        expected, bugs = group.split((StartError, StoreError, UserError))
        if expected is None or bugs is not None:
            raise
        raise CommandError(str(root_cause(expected))) from None
    return 0


async def _run_until_signalled(config: Config) -> None:
    import trio

    from gateway.app import run
    from gateway.host.sdnotify import Notifier
    from gateway.tasks.watch import Cell

    stop, hang_ups = trio.Event(), Cell(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, stop, hang_ups)
        await run(config, stop, Notifier.from_environment(os.environ), hang_ups)
        nursery.cancel_scope.cancel()


async def _obey_signals(stop: trio.Event, hang_ups: Cell[int], *, task_status: trio.TaskStatus[None]) -> None:
    import trio

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                logger.info("SIGHUP: reading the TLS certificate; the configuration file waits for the next start")
                hang_ups.set(hang_ups.value + 1)
            else:
                stop.set()
