"""Masters share a line by turns: real clients, real daemons, and units on a paced line that collides.

What is promised is asserted as it is: no wrong answer, no timeout, shares within 5 percent of their mean, the sum at
least 0.97 of one alone. Three things are wider than on a line of copper, since the wire here is one more process:

- A turn waits 0.5 s for its reply, and a master 3 s (1.5 s where there are five). A busy kernel hands over what a pty's
  other end wrote tenths of a second late. What takes long without being a timeout is seen by the sum.
- The sum is by the times from request to request, of which the longest tenth is left out, of both and of one alone. In
  it hide pauses of the machine; a pause of the arbiter's own would hide there too, if it came once in ten turns. That
  is excluded where time is exact: ``test_turns`` has the same masters under the mock clock, to the last percent.
- One alone works between the rounds of both, and not once before them: a machine has quieter and busier minutes.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import needs_curl
from tests.sharing.masters import MODBUS, REPLY_TIMEOUT, TOGETHER, VISCA, master, shared
from tests.sharing.wire import Cameras, ModbusUnits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.sharing.masters import Client, Shared, Tally

pytestmark = [
    needs_curl,
    pytest.mark.skipif(
        importlib.util.find_spec("pymodbus") is None, reason="pymodbus is not installed: pip install -e '.[clients]'"
    ),
]
SECONDS = pytest.mark.parametrize(
    "seconds",
    [pytest.param(10.0, marks=pytest.mark.clients), pytest.param(30.0, marks=pytest.mark.long)],
    ids=["short", "whole"],
)

IMPATIENT = 2 * REPLY_TIMEOUT + 0.2
"""Seconds after which a master gives up what nobody answers: when the turn of it, and its quarantine, are over."""


def assert_answered(tallies: list[Tally]) -> None:
    """Nobody was answered wrongly, nor in vain."""
    assert [(tally.wrong, tally.timeouts, tally.exceptions) for tally in tallies] == [(0, 0, 0)] * len(tallies), tallies


def assert_equal(shares: Sequence[float]) -> None:
    """No share is further than five percent from their mean."""
    mean = sum(shares) / len(shares)
    assert max(abs(each - mean) for each in shares) <= 0.05 * mean, shares


def assert_shared(tallies: list[Tally]) -> None:
    """Nobody was answered wrongly, nor in vain, and all had the same share."""
    assert_answered(tallies)
    assert_equal([tally.right for tally in tallies])


@SECONDS
@pytest.mark.parametrize("rate", [9600, 115200])
@pytest.mark.parametrize("chained", [False, True], ids=["direct", "chained"])
async def test_two_masters_share_the_line_as_if_each_were_alone_on_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, rate: int, chained: bool
) -> None:
    rounds = round(seconds / TOGETHER)
    with trio.fail_after(2 * seconds + 30):
        async with shared(tmp_path, monkeypatch, ModbusUnits(), rate, MODBUS, chained) as line:
            shared_in = await line.share_in_rounds(rounds, line.ports[0], line.ports[-1])
    assert_answered(shared_in.tallies)
    assert (line.wire.collisions, line.wire.unanswered) == (0, 0)
    assert_equal(shared_in.shares)
    assert shared_in.together >= 0.97 * shared_in.alone, shared_in


@SECONDS
async def test_a_dead_unit_costs_who_asks_it_and_the_other_gets_no_wrong_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    with trio.fail_after(seconds + 30):
        async with shared(tmp_path, monkeypatch, ModbusUnits(), 9600, MODBUS) as line:
            healthy, asks_the_dead = await line.poll(
                seconds, master(line.ports[0], 100), master(line.ports[0], 200, IMPATIENT, units=(1, 9))
            )
    assert (healthy.wrong, healthy.timeouts, healthy.exceptions) == (0, 0, 0)
    assert asks_the_dead.wrong == 0
    assert abs(asks_the_dead.timeouts - asks_the_dead.right) <= 1
    # Each of its cycles may wait for one timeout of the turn, and its quarantine, and no longer than a second turn.
    assert REPLY_TIMEOUT < healthy.longest < 3 * REPLY_TIMEOUT
    assert healthy.right >= 2 * asks_the_dead.timeouts


@SECONDS
async def test_a_unit_that_answers_after_the_timeout_is_heard_by_nobody_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    units = ModbusUnits(late={7: REPLY_TIMEOUT + 0.05})
    with trio.fail_after(seconds + 30):
        async with shared(tmp_path, monkeypatch, units, 9600, MODBUS) as line:
            tallies = await line.poll(
                seconds,
                master(line.ports[0], 100, IMPATIENT, units=(1, 2, 7)),
                master(line.ports[0], 200, IMPATIENT, units=(1, 7)),
            )
    for tally in tallies:
        assert tally.wrong == 0
        assert tally.right >= seconds / 3
        assert tally.by_unit is not None
        assert tally.by_unit["7"] == 0


@SECONDS
async def test_five_masters_whose_timeouts_are_longer_than_their_cycle_all_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    with trio.fail_after(seconds + 30):
        async with shared(tmp_path, monkeypatch, ModbusUnits(), 9600, MODBUS) as line:
            tallies = await line.masters(seconds, *line.ports * 5, patience=1.5)
    assert_shared(tallies)
    assert (line.wire.collisions, line.wire.unanswered) == (0, 0)


@SECONDS
async def test_inquiries_of_three_visca_controllers_are_each_answered_to_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    with trio.fail_after(seconds + 30):
        async with shared(tmp_path, monkeypatch, Cameras(), 9600, VISCA, two_wires=False) as line:
            tallies = await line.poll(seconds, *inquiries(line))
    assert_shared(tallies)


@SECONDS
async def test_commands_of_two_visca_controllers_are_each_completed_to_who_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    with trio.fail_after(seconds + 30):
        async with shared(tmp_path, monkeypatch, Cameras(), 9600, VISCA, two_wires=False) as line:
            tallies = await line.poll(seconds, *commands(line))
    assert_shared(tallies)


def inquiries(line: Shared) -> list[Client]:
    return [("visca_controller.py", line.ports[0], ("inquiry", 1, what)) for what in ("0447", "0612", "0448")]


def commands(line: Shared) -> list[Client]:
    return [("visca_controller.py", line.ports[0], ("command", camera, "040702")) for camera in (1, 2)]


# Without turns ----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("rate", [9600, 115200])
@pytest.mark.parametrize("chained", [False, True], ids=["direct", "chained"])
async def test_without_turns_two_masters_destroy_each_others_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, chained: bool
) -> None:
    with trio.fail_after(60):
        async with shared(tmp_path, monkeypatch, ModbusUnits(), rate, None, chained) as line:
            (alone,) = await line.masters(4.0, line.ports[0])
            tallies = await line.masters(10.0, line.ports[0], line.ports[-1], patience=0.5)
    assert (alone.wrong, alone.timeouts) == (0, 0)
    assert line.wire.collisions + line.wire.unanswered > 5
    assert sum(tally.wrong + tally.timeouts for tally in tallies) > 5
    assert sum(tally.right for tally in tallies) / 10 < 0.5 * alone.right / 4


@pytest.mark.long
async def test_without_turns_visca_controllers_hear_the_answers_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with shared(tmp_path, monkeypatch, Cameras(), 9600, None, two_wires=False) as line:
            tallies = await line.poll(5.0, *inquiries(line))
    assert sum(tally.wrong for tally in tallies) > 0.2 * sum(tally.right for tally in tallies)
