"""The thread that writes the log: whoever logs never waits, and what is lost is counted."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from typing import TYPE_CHECKING

import pytest

from gateway.host.log_writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE = b"x" * 999 + b"\n"
SHARE = 1 << 18
PIPE = 4096


def told(count: int) -> bytes:
    return b"%d lost\n" % count


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe of 4 KiB."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE)
    yield ends
    for end in ends:
        os.close(end)


def read_until(fd: int, last: bytes) -> bytes:
    data = b""
    while not data.endswith(last):
        data += os.read(fd, 65536)
    return data


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for the thread, which no event reports to a test."""
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def queued_in(fd: int) -> int:
    """Return how many bytes wait in a pipe."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])


def test_lines_come_out_in_their_order_and_close_waits_for_the_last(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], told)
    for number in range(100):
        writer.write(b"%d\n" % number, urgent=number % 7 == 0)
    assert writer.close(5)
    assert os.read(pipe[0], 65536) == b"".join(b"%d\n" % number for number in range(100))


def test_who_logs_never_waits_for_a_reader_and_close_waits_no_longer_than_it_may(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], told)
    began = time.monotonic()
    for _ in range(2000):
        writer.write(LINE)
    assert not writer.close(0.1)
    assert time.monotonic() - began < 2


def test_what_was_lost_is_told_in_its_place_to_the_line(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], told)
    for _ in range(1000):
        writer.write(LINE)
    writer.write(b"an error\n", urgent=True)
    said = read_until(pipe[0], b"an error\n")
    # The thread may take its first lines before or after the queue is full, so there may be more than one gap.
    *lines, last = said.splitlines(keepends=True)
    kept = lines.count(LINE)
    lost = [int(line.split()[0]) for line in lines if line != LINE]
    assert kept + sum(lost) == 1000
    assert lines[-1] == told(lost[-1])
    assert kept * len(LINE) >= SHARE - len(LINE)
    assert last == b"an error\n"


@pytest.mark.parametrize("flood_is_urgent", [False, True])
def test_a_flood_of_one_kind_leaves_the_other_its_share(pipe: tuple[int, int], flood_is_urgent: bool) -> None:
    writer = LogWriter(pipe[1], told)
    for _ in range(1000):
        writer.write(LINE, urgent=flood_is_urgent)
    for number in range(200):
        writer.write(b"%d\n" % number, urgent=not flood_is_urgent)
    said = read_until(pipe[0], b"199\n")
    assert said.endswith(b" lost\n" + b"".join(b"%d\n" % number for number in range(200)))


def test_lost_lines_are_told_when_there_is_room_though_nobody_logs_any_more(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], told)
    for _ in range(1000):
        writer.write(LINE)
    assert read_until(pipe[0], b" lost\n").count(LINE) > 0


def test_a_reader_that_is_gone_costs_lines_and_the_next_is_told_how_many(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    end = os.open(fifo, os.O_WRONLY)
    writer = LogWriter(end, told)
    os.close(reader)
    writer.write(b"to nobody\n")
    wait_until(lambda: writer._lost == 1)
    reader = os.open(fifo, os.O_RDONLY)
    writer.write(b"to somebody\n")
    assert read_until(reader, b"somebody\n") == told(1) + b"to somebody\n"
    os.close(end)
    os.close(reader)


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for_and_stays_so(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1], told)
    for _ in range(20):
        writer.write(LINE)
    wait_until(lambda: queued_in(pipe[0]) > 0)
    assert read_until(pipe[0], LINE * 20) == LINE * 20
    assert os.get_blocking(pipe[1]) is False


def test_after_close_nothing_is_taken(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], told)
    assert writer.close(5)
    writer.write(b"late\n")
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)
