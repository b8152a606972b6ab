"""What all tests share: Hypothesis without its own clock, since a busy machine is no failure, and short folders.

`--hypothesis-profile=long` looks further.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio
from hypothesis import settings

from gateway.tasks.ready import ReadyClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

_IDLE = "wait_all_tasks_blocked"

settings.register_profile("daisyport", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("daisyport")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a folder whose name leaves room for Unix sockets in it.

    Their addresses hold 107 bytes, and ``tmp_path`` is deep where tests run on several workers.
    """
    with tempfile.TemporaryDirectory(prefix="dp-", dir="/tmp") as directory:
        yield Path(directory)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ready-clock", action="store_true", help="run the tests under ReadyClock that can be")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have ReadyClock drive every test that brings no clock of its own, where that is asked for.

    Those that wait until all tasks are blocked are left to the task driver: a clock is not told of that wait.
    """
    if not config.getoption("--ready-clock"):
        return
    for item in items:
        if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
            continue
        if _IDLE not in inspect.getsource(item.obj) and _IDLE not in item.obj.__globals__:
            item.add_marker(pytest.mark.trio(run=_run_under_the_ready_clock))


def _run_under_the_ready_clock(main: Callable[[], Awaitable[T]], *, clock: trio.abc.Clock | None, **how: Any) -> T:
    if clock is not None:
        return trio.run(main, clock=clock, **how)

    async def begun() -> T:
        await ready.begin()
        return await main()

    instruments = how.pop("instruments", ())
    with contextlib.closing(ReadyClock()) as ready:
        return trio.run(begun, clock=ready, instruments=[*instruments, ready], **how)
