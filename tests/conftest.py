"""What all tests share: Hypothesis without its own clock, since a busy machine is no failure, and short folders.

`--hypothesis-profile=long` looks further.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio
from hypothesis import settings
from trio._core._run import GLOBAL_RUN_CONTEXT

from gateway.tasks import load
from gateway.tasks.ready import ReadyClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

settings.register_profile("daisyport", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("daisyport")

# A shell that starts the tests in the background, or nohup, has them ignore these, and with them each program that a
# test starts and ends by Ctrl-C or tells to read its configuration again.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# What a gateway imports in a thread at its first use is there: a mock clock does not see a thread, and jumps.
for file in Path(load.__file__).parent.parent.rglob("*.py"):
    for name in re.findall(r'await load\("([\w.]+)"\)', file.read_text()):
        importlib.import_module(name)
        load._loaded.add(name)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a folder whose name leaves room for Unix sockets in it.

    Their addresses hold 107 bytes, and ``tmp_path`` is deep where tests run on several workers.
    """
    with tempfile.TemporaryDirectory(prefix="dp-", dir="/tmp") as directory:
        yield Path(directory)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ready-clock", action="store_true", help="run the tests under ReadyClock that bring no clock")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have ReadyClock drive every test that brings no clock of its own, where that is asked for."""
    if config.getoption("--ready-clock"):
        for item in items:
            if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
                item.add_marker(pytest.mark.trio(run=_run_under_the_ready_clock))


class _IdleClock(trio.abc.Clock):
    """A ReadyClock that lets trio wait itself while ``wait_all_tasks_blocked`` does, which a clock is not told of.

    The set is served all the same, once a pass.
    """

    def __init__(self, ready: ReadyClock) -> None:
        self._ready = ready

    def start_clock(self) -> None:
        self._ready.start_clock()

    def current_time(self) -> float:
        return self._ready.current_time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if GLOBAL_RUN_CONTEXT.runner.waiting_for_idle:
            return deadline - self.current_time()
        return self._ready.deadline_to_sleep_time(deadline)


def _run_under_the_ready_clock(main: Callable[[], Awaitable[T]], *, clock: trio.abc.Clock | None, **how: Any) -> T:
    if clock is not None:
        return trio.run(main, clock=clock, **how)

    async def begun() -> T:
        await ready.begin()
        return await main()

    instruments = how.pop("instruments", ())
    with contextlib.closing(ReadyClock()) as ready:
        return trio.run(begun, clock=_IdleClock(ready), instruments=[*instruments, ready], **how)
