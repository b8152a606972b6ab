"""Counts inside a running daemon, at SIGUSR2: installed beside it as its ``sitecustomize``.

A file of the folder SOAK_COUNTS, named by the process, has then the number of trio's tasks, and of the objects that
the collector knows.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path


def count(*_: object) -> None:
    import trio

    gc.collect()
    tasks = trio.lowlevel.current_statistics().tasks_living
    file = Path(os.environ["SOAK_COUNTS"]) / str(os.getpid())
    new = file.with_suffix(".new")
    new.write_text(f"{tasks} {len(gc.get_objects())}")
    new.replace(file)


signal.signal(signal.SIGUSR2, count)
