"""Where the log of the daemon goes, and in which format."""

from __future__ import annotations

import logging
import os

__all__ = ["log_to_stderr"]

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
"""The priorities of syslog(3), which systemd reads in front of a line, as in ``<6>``."""


def log_to_stderr(level: int) -> None:
    """Log to standard error from ``level`` up: with priorities where the journal reads it, elsewhere with the time."""
    if "JOURNAL_STREAM" in os.environ:
        for number, priority in _PRIORITIES.items():
            logging.addLevelName(number, f"<{priority}>")
        pattern = "%(levelname)s%(message)s"
    else:
        pattern = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level, format=pattern)
