"""The log of a line holds what the line said, with times, within its bounds, whatever the disk does."""

from __future__ import annotations

import functools
import os
import re
import threading
from typing import TYPE_CHECKING

import trio

from gateway.clients import line_log
from gateway.clients.line_log import LineLog
from gateway.clients.trace import Piece, Way
from gateway.port.bus import Bus
from gateway.port.rights import Right
from gateway.port.router import Router
from tests.gateway.line import real_time

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

WHEN = re.compile(rb"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d ")


def log_of(path: Path, most: int = 1 << 20, bus: Bus | None = None) -> LineLog:
    router = Router({"P0": bus or Bus("P0")})
    return LineLog(path, most, functools.partial(router.grant, "P0", Right.READ, "log"))


def written(folder: Path, name: str = "P0.log") -> bytes:
    """Return a file without its times; nothing where it is not there."""
    return WHEN.sub(b"", (folder / name).read_bytes()) if (folder / name).exists() else b""


def said(*pieces: bytes) -> list[Piece]:
    return [Piece(1_764_116_000_123_456, Way.FROM_LINE, "", data) for data in pieces]


def append(log: LineLog, pieces: list[Piece]) -> None:
    log._waiting.extend(pieces)
    assert not log._append()


async def test_each_line_begins_with_its_time_however_it_came(tmp_path: Path) -> None:
    log = log_of(tmp_path / "P0.log")
    whole = b"login: anna\r\nPassword: \r\nLast login: today\r\n"
    append(log, said(whole))
    append(log, said(*(bytes([byte]) for byte in whole)))
    lines = (tmp_path / "P0.log").read_bytes().splitlines()
    assert len(lines) == 6
    assert lines[:3] == lines[3:]
    assert [WHEN.sub(b"", line) for line in lines[:3]] == [b"login: anna", b"Password: ", b"Last login: today"]


async def test_no_control_character_reaches_who_reads_it_and_text_of_other_languages_does(tmp_path: Path) -> None:
    log = log_of(tmp_path / "P0.log")
    append(log, said("\x1b]0;gotcha\x07 tab\tgrün\x00\x7f\n".encode()))
    assert written(tmp_path) == b"\\x1b]0;gotcha\\x07 tab\tgr\xc3\xbcn\\x00\\x7f\n"


async def test_a_note_has_a_line_of_its_own_also_in_the_middle_of_one(tmp_path: Path) -> None:
    log = log_of(tmp_path / "P0.log")
    note = Piece(1_764_116_000_123_456, Way.NOTE, "12 bytes not shown")
    append(log, [*said(b"half "), note, *said(b"a line\n"), note])
    lines = written(tmp_path).splitlines()
    assert lines == [b"half ", b"-- 12 bytes not shown", b"a line", b"-- 12 bytes not shown"]


async def test_a_file_that_is_full_gives_way_and_four_old_ones_are_kept(tmp_path: Path) -> None:
    log = log_of(tmp_path / "P0.log", most=100)
    for number in range(7):
        append(log, said(b"%d" % number * 60 + b"\n"))
    names = ["P0.log", *(f"P0.log.{number}" for number in range(1, 6))]
    assert [written(tmp_path, name)[:1] for name in names] == [b"6", b"5", b"4", b"3", b"2", b""]


async def test_it_is_written_while_the_line_speaks_and_to_the_last_byte(tmp_path: Path) -> None:
    bus = Bus("P0")
    log = log_of(tmp_path / "P0.log", bus=bus)
    with trio.fail_after(20), real_time():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            while not written(tmp_path):
                await trio.lowlevel.checkpoint()
            bus.deliver(b"first\n")
            while b"first" not in written(tmp_path):
                await trio.lowlevel.checkpoint()
            bus.deliver(b"last")
            nursery.cancel_scope.cancel()
    lines = written(tmp_path).splitlines()
    assert lines == [b"-- the port is down: the port has not been opened yet", b"first", b"last"]


async def test_a_write_that_is_under_way_at_the_end_is_waited_for_and_what_came_meanwhile_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_log, "_FLUSH", 10)
    path, bus = tmp_path / "P0.log", Bus("P0")
    os.mkfifo(path)  # a write to it waits for a reader
    log = log_of(path, bus=bus)
    opened: list[int] = []
    reader = threading.Timer(0.05, lambda: opened.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
    with trio.fail_after(20), real_time():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            while not log._thread.borrowed_tokens:
                await trio.lowlevel.checkpoint()
            bus.deliver(b"last")
            reader.start()
            nursery.cancel_scope.cancel()
    reader.join()
    lines = WHEN.sub(b"", os.read(opened[0], 1000)).splitlines()
    os.close(opened[0])
    assert lines == [b"-- the port is down: the port has not been opened yet", b"last"]


async def test_what_a_disk_does_not_take_is_written_when_it_is_back_and_the_log_of_the_process_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(line_log, "_RETRY", 0.001)
    bus, folder = Bus("P0"), tmp_path / "not there"
    with trio.fail_after(20), real_time():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log_of(folder / "P0.log", bus=bus).run)
            while "the log of the line cannot be written" not in caplog.text:
                await trio.lowlevel.checkpoint()
            bus.deliver(b"kept\n")
            folder.mkdir()
            while b"kept" not in written(folder):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert f"{folder / 'P0.log'}: No such file or directory" in caplog.text
    assert written(folder).splitlines() == [b"-- the port is down: the port has not been opened yet", b"kept"]
