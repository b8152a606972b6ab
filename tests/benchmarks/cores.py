"""Keep everything that is measured on one core, the kernel's own worker included.

The benchmark compares the work that a program puts into a byte. Waking another core can cost five times as much (on a
virtual machine, 50 to 100 us), and that depends on where the kernel's worker that carries a pty's bytes ran last. So
processes of the lowest priority keep the other cores awake, which leaves the worker no idle core to move to. When the
worker is on one of them all the same, these get a real load for a moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, final

from tests.benchmarks.lines import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Core", "one_core"]

_SPIN = """
import os, sys
os.nice(int(sys.argv[1]))
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100000):
        pass
"""
_PUSH = 0.03
_PUSHES = 10
_FAR = 2.0
"""A pty that takes so many times its best has its worker on another core."""


@final
@dataclass(slots=True)
class Core:
    """The core that everything runs on; `strays` counts the blocks measured while the worker was on another one."""

    cpus: set[int]
    line: Line
    pushers: list[subprocess.Popen[bytes]]
    best: float = float("inf")
    strays: int = 0

    def gather(self) -> None:
        """Bring the kernel's worker to this core, if a few pushes do it."""
        for _ in range(_PUSHES):
            if self._is_near():
                return
            self.push()
        self.strays += not self._is_near()

    def _is_near(self) -> bool:
        took = median(self._pass_a_byte() for _ in range(15))
        self.best = min(self.best, took)
        return took < self.best * _FAR

    def _pass_a_byte(self) -> float:
        began = time.perf_counter()
        self.line.write(b"?")
        os.read(self.line.slave, 1)
        return time.perf_counter() - began

    def push(self) -> None:
        """Load the other cores for a moment: the kernel wakes a worker on the core with the least load."""
        self._signal(signal.SIGCONT)
        end = time.perf_counter() + _PUSH
        while time.perf_counter() < end:
            self._pass_a_byte()
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        for pusher in self.pushers:
            pusher.send_signal(number)


@contextlib.contextmanager
def one_core() -> Iterator[Core]:
    """Run on one core until the block ends; the programs under test are started on it too."""
    before = os.sched_getaffinity(0)
    here, *others = sorted(before)
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, before)
        pushers = []
        for other in others:
            os.sched_setaffinity(0, {other})
            stack.enter_context(_spinner(19))
            pushers += [stack.enter_context(_spinner(0)) for _ in range(2)]
        os.sched_setaffinity(0, {here})
        core = Core({here}, stack.enter_context(contextlib.closing(Line())), pushers)
        core.push()
        yield core


@contextlib.contextmanager
def _spinner(nice: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _SPIN, str(nice)]) as process:
        try:
            yield process
        finally:
            process.kill()
