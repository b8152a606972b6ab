"""How long a message takes while nobody reads the log: measured where nothing else runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import needs_curl
from tests.test_unread_log import busy, logging_to, unread

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.helpers import Gateway

pytestmark = [pytest.mark.soak, needs_curl]

ECHO = 0.050
"""Seconds that a message may take to the line and back, in 99 of 100 cases."""


async def test_a_log_that_nobody_reads_delays_no_message(tmp_path: Path) -> None:
    for name in ("taken", "unread"):
        (tmp_path / name).mkdir()
    taken = os.open(os.devnull, os.O_WRONLY)
    with trio.fail_after(120):
        # What a busy machine does to both tells nothing of the log.
        elsewhere = await slowest(logging_to(taken, tmp_path / "taken"))
        assert await slowest(unread(tmp_path / "unread")) < max(ECHO, 1.5 * elsewhere)
    os.close(taken)


async def slowest(daemon: AbstractAsyncContextManager[tuple[Gateway, trio.Process]]) -> float:
    """Return the seconds within which 99 of 100 messages are back."""
    async with daemon as (gateway, _):
        delays = sorted(await busy(gateway))
    usual, slow = (delays[len(delays) * part // 100] for part in (50, 99))
    print(f"{len(delays)} messages: p50 {usual * 1000:.1f} ms, p99 {slow * 1000:.1f} ms")
    return slow
