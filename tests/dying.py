"""A gateway that dies at a step of a new key's way, as a power cut would have it end.

    python -m tests.dying run --config FILE

Where the file ``die`` of the directory of FILE names a step, the process kills itself there, once. ``STEPS`` are those
of each CPU of a chain. A server tells a key as often as it is asked here: no ten seconds are waited for.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway import rekey
from gateway.cli.main import main
from gateway.remote_port.key_news import KeyLink
from gateway.remote_port.told_keys import ToldKeys
from gateway.state import atomic_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.link.key_frames import Rekey

STEPS: Final = {
    "owner": ("behind old_keys", "behind parameters", "behind the telling"),
    "middle": ("behind old_keys", "behind parameters", "behind the telling", "before the answer"),
    "leaf": ("before parameters", "behind parameters"),
}
"""Those at which what is on the disks, or what others were told, differs."""


def reach(order: Path, step: str) -> None:
    """Die where this is the step that was asked for."""
    if order.exists() and order.read_text() == step:
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def prepare(order: Path) -> None:
    """Have this process look at each step whether it is to die there."""
    replace: Callable[[Path, bytes], None] = atomic_file.replace
    tell, answer = KeyLink.tell, ToldKeys.answer

    @functools.wraps(replace)
    def replacing(path: Path, content: bytes) -> None:
        reach(order, f"before {path.name}")
        replace(path, content)
        reach(order, f"behind {path.name}")

    @functools.wraps(tell)
    def telling(self: KeyLink, told: Rekey) -> None:
        tell(self, told)
        reach(order, "behind the telling")

    @functools.wraps(answer)
    def answering(self: ToldKeys) -> None:
        reach(order, "before the answer")
        answer(self)

    atomic_file.replace = replacing
    KeyLink.tell, ToldKeys.answer = telling, answering  # type: ignore[method-assign]  # for this whole process
    rekey._LEAST_PAUSE = 0.0  # type: ignore[misc]  # Final; nobody waits ten seconds here


if __name__ == "__main__":
    prepare(Path(sys.argv[sys.argv.index("--config") + 1]).parent / "die")
    sys.exit(main())
