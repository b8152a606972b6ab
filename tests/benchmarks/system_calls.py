"""Count the system calls of a gateway with strace: the one figure that needs no quiet machine."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.peers import which

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.measures import Rig
    from tests.benchmarks.peers import Running

__all__ = ["calls_a_message"]

_SECONDS = 0.3


def calls_a_message(running: Running, rig: Rig, way: Callable[[Rig, float], list[float]], output: Path) -> float:
    """Return how many system calls all processes of a gateway make for a message."""
    with _traced(running, output):
        count = len(way(rig, _SECONDS))
    return sum(1 for _ in re.finditer(r"^\d+ +\w+\(", output.read_text(errors="replace"), re.MULTILINE)) / count


@contextlib.contextmanager
def _traced(running: Running, output: Path) -> Iterator[None]:
    pids = [str(process.pid) for process in running.processes]
    attach = [argument for pid in pids for argument in ("-p", pid)]
    with subprocess.Popen([which("strace"), "-f", "-qq", "-o", str(output), *attach]) as strace:
        try:
            while not all(re.search(r"TracerPid:\t[1-9]", Path(f"/proc/{pid}/status").read_text()) for pid in pids):
                if strace.poll() is not None:
                    raise OSError("strace may not look at the gateway")
                time.sleep(0.01)
            yield
        finally:
            strace.send_signal(signal.SIGINT)
