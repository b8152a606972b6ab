"""Faults in a running daemon, at SIGUSR2: installed in the machine as its ``sitecustomize``.

/run/fault names the one to make: ``loop`` stops the event loop, ``manager`` has a port manager wait for ever, once.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path


def make_fault(*_: object) -> None:
    if Path("/run/fault").read_text().strip() == "loop":
        hang_in_the_loop()
    import trio

    from gateway.tasks.reconcile import Units

    apply = Units.apply

    async def hang(*_: object) -> None:
        setattr(Units, "apply", apply)  # noqa: B010 -- a method is not assigned to, says mypy
        await trio.sleep_forever()

    setattr(Units, "apply", hang)  # noqa: B010


def hang_in_the_loop() -> None:
    time.sleep(600)


signal.signal(signal.SIGUSR2, make_fault)
