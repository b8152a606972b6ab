"""The log as a process of its own writes it: the set-up is the whole process's, so these tests start one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.host.logging import for_the_journal, journal_reads

if TYPE_CHECKING:
    from pathlib import Path

START = """
import logging
from gateway.host.logging import Format, Log
from gateway.tasks.audit import audit
log = Log.start({level}, {kind})
logger = logging.getLogger("gateway.port.bus")
"""
LEVELS = """
logger.debug("seen in detail")
logger.info("up", extra={"port": "P0"})
logger.warning("P0: lost its device")
logger.error("P0: a bug")
"""
BUG = """
try:
    raise ValueError("first line\\nsecond line")
except ValueError:
    logger.exception("P0: a bug")
"""
TIME = r"\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


def logged(script: str, level: str = "logging.DEBUG", kind: str = "None") -> list[str]:
    """Run ``script`` with the log set up; return the lines on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", START.format(level=level, kind=kind) + script + "\nlog.finish()"],
        capture_output=True,
        text=True,
        timeout=20,
        env={key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"},
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_for_the_journal_each_record_begins_with_its_priority() -> None:
    assert logged(LEVELS, kind="Format.JOURNAL") == [
        "<7>seen in detail",
        "<6>up",
        "<4>P0: lost its device",
        "<3>P0: a bug",
    ]


def test_for_the_journal_each_line_of_a_traceback_has_the_priority() -> None:
    lines = logged(BUG, kind="Format.JOURNAL")
    assert lines[0] == "<3>P0: a bug"
    assert lines[-2:] == ["<3>ValueError: first line", "<3>second line"]
    assert all(line.startswith("<3>") for line in lines)


def test_as_text_each_record_begins_with_the_time_its_offset_and_its_level() -> None:
    wanted = ["DEBUG seen in detail", "INFO up", "WARNING P0: lost its device", "ERROR P0: a bug"]
    for line, rest in zip(logged(LEVELS), wanted, strict=True):
        assert re.fullmatch(f"{TIME} {re.escape(rest)}", line)


def test_as_json_each_record_is_an_object_on_one_line() -> None:
    _, up, *_, bug = (json.loads(line) for line in logged(LEVELS + BUG, kind="Format.JSON"))
    assert re.fullmatch(TIME, up.pop("time"))
    assert up == {"level": "info", "logger": "gateway.port.bus", "port": "P0", "message": "up"}
    assert bug["trace"].endswith("ValueError: first line\nsecond line")


def test_what_is_below_the_level_is_left_out() -> None:
    assert [line[:3] for line in logged(LEVELS, "logging.INFO", "Format.JOURNAL")] == ["<6>", "<4>", "<3>"]


def test_the_audit_comes_out_at_every_level() -> None:
    assert logged('audit.info("who")', "logging.ERROR", "Format.JOURNAL") == ["<6>who"]


def test_a_record_that_cannot_be_formatted_is_an_error_line_and_no_exception() -> None:
    (line,) = logged('logger.info("%d bytes", "many")', kind="Format.JOURNAL")
    assert line == "<3>a log message could not be written: TypeError"


def test_warnings_and_exceptions_of_destructors_go_to_the_log() -> None:
    script = """
import warnings
class Broken:
    def __del__(self):
        raise ValueError("in a destructor")
warnings.warn("strange")
Broken()
"""
    lines = logged(script, kind="Format.JOURNAL")
    assert lines[0].startswith("<4>")
    assert "strange" in lines[0]
    assert lines[-1] == "<3>ValueError: in a destructor"
    assert all(line.startswith("<") for line in lines)


def test_text_that_is_no_text_is_written_as_escapes() -> None:
    assert logged(r'logger.info("%s", "\udcff")', kind="Format.JOURNAL") == [r"<6>\udcff"]


@pytest.mark.parametrize("text", ["", "one", "one\ntwo\n"])
def test_each_line_for_the_journal_has_a_priority(text: str) -> None:
    assert for_the_journal(text).splitlines() == [f"<3>{line}" for line in text.splitlines()]


def test_the_journal_is_believed_to_read_only_the_stream_that_it_names(tmp_path: Path) -> None:
    with (tmp_path / "ours").open("w") as ours, (tmp_path / "other").open("w") as other:
        there = os.fstat(other.fileno())
        environ = {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}
        assert journal_reads(other.fileno(), environ)
        assert not journal_reads(ours.fileno(), environ)
        assert not journal_reads(ours.fileno(), {})
