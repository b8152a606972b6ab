"""Set up the log of the process: one format, on standard error.

In this file ``logging`` is the standard library's. Elsewhere import the function, not this module.
"""

from __future__ import annotations

import logging
import os

__all__ = ["log_to_stderr"]

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
"""The priorities of syslog(3). The journal reads one in front of a line, for example ``<6>``: see sd-daemon(3)."""


def log_to_stderr(level: int) -> None:
    """Log to standard error from ``level`` up: with priorities where the journal reads it, elsewhere with the time."""
    if "JOURNAL_STREAM" in os.environ:
        for number, priority in _PRIORITIES.items():
            logging.addLevelName(number, f"<{priority}>")
        pattern = "%(levelname)s%(message)s"
    else:
        pattern = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level, format=pattern)
