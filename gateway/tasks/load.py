"""Load a module at its first use while the bytes of every line go on."""

from __future__ import annotations

import importlib
from typing import Final

import trio

__all__ = ["load"]

_loaded: Final[set[str]] = set()
"""Not ``sys.modules``: a module is there while its import is under way, and whoever imports it then waits for that."""


async def load(name: str) -> None:
    """Import the module ``name`` in a thread; the caller's own import statement then finds it. Raises ImportError.

    In the loop it would hold up all bytes: for 50 ms on a desktop's processor where it is that of the WebSocket with
    its libraries, for a second on a slow one.
    """
    if name not in _loaded:
        await trio.to_thread.run_sync(importlib.import_module, name)
        _loaded.add(name)
