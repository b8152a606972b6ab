"""Set up the log of the process: one format, on standard error, written by a thread (``log_writer``).

In this file ``logging`` is the standard library's. Elsewhere import the functions, not this module.
"""

from __future__ import annotations

import datetime
import enum
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Final, final

from gateway.host.log_writer import LogWriter
from gateway.tasks.audit import AUDIT

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Format", "Log", "for_the_journal", "journal_reads"]

_STDERR: Final = 2
_FORMATTER: Final = logging.Formatter()
_CLOSE: Final = 0.5
"""Seconds for the last lines at the end of the process."""


@final
class Format(enum.Enum):
    """How a line of the log looks: for a reader, for the journal with its priorities, or one JSON object a line."""

    TEXT = "text"
    JOURNAL = "journal"
    JSON = "json"


def journal_reads(fd: int, environ: Mapping[str, str]) -> bool:
    """Return True if the journal is at the other end of ``fd``.

    JOURNAL_STREAM names its stream by device and inode. A child inherits the variable although its output may go
    elsewhere, so systemd.exec(5) says to compare.
    """
    there = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def for_the_journal(text: str, level: int = logging.ERROR) -> str:
    """Put a priority in front of each line, as sd-daemon(3) says: a line without one is informational."""
    priority = 7 if level < logging.INFO else 6 if level < logging.WARNING else 4 if level < logging.ERROR else 3
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


@final
class Log(logging.Handler):
    """The log of the process while it is the root logger's handler, from ``start()`` to ``finish()``."""

    def __init__(self, fd: int, kind: Format) -> None:
        super().__init__()
        self._kind = kind
        self._writer = LogWriter(fd, self._lost)

    @classmethod
    def start(cls, level: int, kind: Format | None = None) -> Log:
        """Log to standard error from ``level`` up; without ``kind`` for the journal where it reads, else as text.

        Python's own messages to standard error go to the log too, because that write might wait.
        """
        if kind is None:
            kind = Format.JOURNAL if journal_reads(_STDERR, os.environ) else Format.TEXT
        log = cls(_STDERR, kind)
        logging.basicConfig(level=level, handlers=[log], force=True)
        logging.getLogger(AUDIT).setLevel(logging.INFO)
        logging.captureWarnings(capture=True)
        sys.unraisablehook = _log_unraisable
        return log

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's lines. A record that cannot be formatted is a line that says so, not an exception."""
        try:
            text = self._formatted(record)
        except Exception as exc:  # noqa: BLE001 -- arguments of any class may fail to become text in any way
            record = logging.makeLogRecord({"levelno": logging.ERROR, "levelname": "ERROR", "name": __name__})
            record.msg = f"a log message could not be written: {type(exc).__name__}"
            text = self._formatted(record)
        urgent = record.levelno >= logging.ERROR or record.name == AUDIT
        self._writer.write(text.encode(errors="backslashreplace") + b"\n", urgent=urgent)

    def finish(self) -> None:
        """Give the last lines half a second, and write no more."""
        self._writer.close(_CLOSE)

    def _formatted(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        trace = _FORMATTER.formatException(record.exc_info) if record.exc_info else ""
        when = datetime.datetime.fromtimestamp(record.created).astimezone()
        match self._kind:
            case Format.JOURNAL:
                return for_the_journal(f"{message}\n{trace}" if trace else message, record.levelno)
            case Format.TEXT:
                line = f"{when.isoformat(sep=' ', timespec='milliseconds')} {record.levelname} {message}"
                return f"{line}\n{trace}" if trace else line
            case Format.JSON:
                fields = {
                    "time": when.isoformat(timespec="milliseconds"),
                    "level": record.levelname.lower(),
                    "logger": record.name,
                    "port": getattr(record, "port", None),
                    "message": message,
                    "trace": trace or None,
                }
                return json.dumps({key: value for key, value in fields.items() if value is not None})

    def _lost(self, count: int) -> bytes:
        record = logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "name": __name__})
        record.msg = f"{count} lines of the log were lost: nobody read them in time"
        return self._formatted(record).encode() + b"\n"


def _log_unraisable(what: sys.UnraisableHookArgs) -> None:
    """Log an exception that had no caller to go to, as one of a destructor."""
    logger = logging.getLogger(__name__)
    logger.error("%s: %r", what.err_msg or "an exception was ignored in", what.object, exc_info=what.exc_value)
