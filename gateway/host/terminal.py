"""Tell a SIGHUP from an operator apart from one that means that the terminal is gone."""

from __future__ import annotations

import contextlib
import os
import signal

__all__ = ["hang_up_is_ignored", "has_terminal"]


def has_terminal() -> bool:
    """Return True while this process has a controlling terminal; one that hung up does not count (ENXIO)."""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False


def hang_up_is_ignored() -> bool:
    """Return True if this process was started with SIGHUP ignored, as nohup(1) does."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
