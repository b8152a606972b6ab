"""The log as a process of its own writes it: the set-up is the whole process's, so these tests start one."""

from __future__ import annotations

import os
import re
import subprocess
import sys

SCRIPT = """
import logging
from gateway.host.logging import log_to_stderr
log_to_stderr(logging.{level})
logger = logging.getLogger("gateway.port.bus")
logger.debug("seen in detail")
logger.info("P0: up")
logger.warning("P0: lost its device")
logger.error("P0: a bug")
"""


def logged(level: str, **environ: str) -> list[str]:
    """Log one record of each level; return the lines that come out on standard error."""
    surroundings = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"} | environ
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{level}", level)],
        capture_output=True,
        text=True,
        timeout=20,
        env=surroundings,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_for_the_journal_each_record_begins_with_its_priority() -> None:
    assert logged("DEBUG", JOURNAL_STREAM="8:12345") == [
        "<7>seen in detail",
        "<6>P0: up",
        "<4>P0: lost its device",
        "<3>P0: a bug",
    ]


def test_elsewhere_each_record_begins_with_the_time_and_its_level() -> None:
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    wanted = ["DEBUG seen in detail", "INFO P0: up", "WARNING P0: lost its device", "ERROR P0: a bug"]
    lines = logged("DEBUG")
    assert len(lines) == len(wanted)
    for line, rest in zip(lines, wanted, strict=True):
        assert re.fullmatch(f"{time} {re.escape(rest)}", line)


def test_what_is_below_the_level_is_left_out() -> None:
    assert [line[:3] for line in logged("INFO", JOURNAL_STREAM="8:12345")] == ["<6>", "<4>", "<3>"]
