"""What a message costs that waits for nobody: no more system calls, and no more steps, than before there were turns.

They are counted on the daemon's own way, from a client's socket to the tty and to the driver, by Python's own account
of what it calls.
"""

from __future__ import annotations

import os
import socket
import sys
import termios
import time
from collections import Counter
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, final

import pytest
import trio

from gateway.clients.relay import relay
from gateway.clients.streams import SocketStream
from gateway.port.rights import Right
from gateway.tasks.watch import Cell
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.line import serial_line
from tests.gateway.tasks.test_ready import DRIVERS
from tests.sharing.driver import ftdi_sio, serial_core
from tests.sharing.port import command_of, port_on
from tests.sharing.test_turns import Bus485, Master, poll

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.sharing.driver import Driver

MESSAGES = 20
BEFORE = Counter({"recv": MESSAGES, "write": MESSAGES, "poll": MESSAGES, "modify": MESSAGES})
"""The system calls of so many messages in the version before the arbiter had turns, and one step of a task for each."""
_MODULES = ("posix", "select", "socket", "_socket", "fcntl", "termios")


@final
class Costs(trio.abc.Instrument):
    """Counts the system calls of this thread, and the steps of trio's tasks."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        self.steps += 1

    def note(self, _frame: FrameType, event: str, arg: Any) -> None:
        """Take note of a C function that is called; to be the thread's profile function."""
        if event == "c_call" and arg.__name__ != "fileno":
            owner = arg.__self__
            module = owner.__name__ if isinstance(owner, ModuleType) else type(owner).__module__
            if module in _MODULES:
                self.calls.append(arg.__name__)


@final
class StepsOf(trio.abc.Instrument):
    """Counts the steps of the tasks of this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        self.count += task.name == self.name


@DRIVERS
def test_a_message_that_waits_for_nobody_costs_no_more_calls_and_steps_than_without_turns(
    drive: Callable[[Callable[[], Awaitable[None]]], None],
) -> None:
    costs = Costs()

    async def main() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        with far:
            async with serial_line() as line, trio.open_nursery() as nursery:

                def talk() -> tuple[list[str], int]:
                    """Send messages one by one from a thread, whose own calls are not counted."""
                    for number in range(5 + MESSAGES):
                        if number == 5:
                            time.sleep(0.05)
                            calls, steps = len(costs.calls), costs.steps
                        far.send(b"question")
                        heard = b""
                        while len(heard) < 8:
                            heard += os.read(line.far, 100)
                        time.sleep(0.003)
                    return costs.calls[calls:], costs.steps - steps

                nursery.start_soon(relay, SocketStream(near), line.handle.open(Right.TCP), Cell(0))
                await trio.sleep(0.02)
                trio.lowlevel.add_instrument(costs)
                sys.setprofile(costs.note)
                try:
                    calls, steps = await trio.to_thread.run_sync(talk)
                finally:
                    sys.setprofile(None)
                nursery.cancel_scope.cancel()
        assert Counter(calls) <= BEFORE
        assert steps <= MESSAGES

    drive(main)


async def test_a_turn_under_a_rule_wakes_the_task_beside_the_writers_when_its_reply_ends_and_when_its_quiet_does(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver, 115200, TurnRule("modbus-rtu")) as port:
        port.nursery.start_soon(Bus485(driver).run)
        steps = StepsOf("gateway.serial_line.arbiter.Arbiter.run")
        trio.lowlevel.add_instrument(steps)
        masters = await poll(1.0, Master(port, 100), Master(port, 200))
        trio.lowlevel.remove_instrument(steps)
    turns = sum(master.right for master in masters)
    assert turns > 50
    assert steps.count <= 2 * turns + 10


@pytest.mark.parametrize("made", [serial_core, ftdi_sio], ids=lambda made: str(made.__name__))
async def test_on_a_paced_line_a_message_that_waits_for_nobody_is_one_call_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, made: Callable[[], Driver]
) -> None:
    driver, asked = made(), []
    ioctl = driver.ioctl

    def note(request: int, argument: Any) -> Any:
        asked.append(request)
        return ioctl(request, argument)

    monkeypatch.setattr(driver, "ioctl", note)
    async with port_on(monkeypatch, driver) as port:
        session = port.session(Right.PTZ)
        asked.clear()
        for number in range(MESSAGES):
            await session.write(command_of(number))
            await trio.sleep(0.1)
        assert len(driver.writes) == MESSAGES
        assert termios.TIOCOUTQ not in asked
        assert asked == []
