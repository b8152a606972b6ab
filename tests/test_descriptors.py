"""The descriptors of the daemon, live: clients can take many of them, and never those that must be there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from tests.helpers import needs_curl
from tests.live import connected, daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live import Live

pytestmark = needs_curl

WATCHDOG = 2.0


async def port_is_up(live: Live, index: int) -> None:
    while (await live.status())["ports"][index]["state"] != "up":
        pass


async def test_three_hundred_idle_clients_leave_the_watchdog_the_status_and_a_replugged_tty_their_descriptors(
    short_path: Path,
) -> None:
    with trio.fail_after(55):
        async with daemon(short_path, ports=5, descriptors=(128, 128), watchdog=WATCHDOG) as live:
            async with contextlib.AsyncExitStack() as clients:
                for number in range(300):
                    await clients.enter_async_context(await connected(live.tcp_ports[number % 5]))
                while (await live.status())["connections"]["clients_turned_away"] < 200:
                    pass
                live.hear_told()
                with trio.move_on_after(2 * WATCHDOG) as span:
                    live.lines[2].unplug()
                    while (await live.status())["ports"][2]["state"] == "up":
                        pass
                    live.lines[2].plug()
                    with trio.fail_after(10):  # it is tried every 2 s, and the machine may be busy
                        await port_is_up(live, 2)
                    code, answer = await live.curl("/axis-cgi/param.cgi?action=update&Serial.Ser1.BaudRate=19200")
                    assert (code, answer) == ("200", "OK")
                    while True:
                        assert (await live.status())["ports"][0]["state"] == "up"
                assert span.cancelled_caught
                assert live.hear_told().count(b"WATCHDOG=1") >= 3
            assert "a bug" not in live.log
            assert live.log.count("refused: ") < 5 * 12  # the first ten of each port, then a number


async def test_the_soft_limit_is_raised_at_the_start(short_path: Path) -> None:
    with trio.fail_after(30):
        async with daemon(short_path, descriptors=(256, 4096)) as live:
            assert (await live.status())["connections"]["descriptors"] == 4096
    (short_path / "again").mkdir()
    with trio.fail_after(30):
        async with daemon(short_path / "again", descriptors=(256, 16384)) as live:
            assert (await live.status())["connections"]["descriptors"] == 8192
