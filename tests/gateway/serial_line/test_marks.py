"""Marks of a tty with PARMRK, against n_tty as it writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serial_line.marks import Unmarker

BREAK = None


def written(line: list[int | None]) -> bytes:
    """What n_tty makes of bytes and breaks."""
    marks = {BREAK: b"\xff\x00\x00", 0xFF: b"\xff\xff"}
    return b"".join(marks[each] if each in marks else bytes([each or 0]) for each in line)


def said(line: list[int | None]) -> tuple[bytes, int]:
    return bytes(each for each in line if each is not None), line.count(BREAK)


def read(pieces: list[bytes]) -> tuple[bytes, int]:
    unmarker = Unmarker()
    heard, breaks = b"", 0
    for piece in pieces:
        got, count = unmarker.feed(piece)
        heard, breaks = heard + got, breaks + count
    return heard + unmarker.flush(), breaks


LINES = st.lists(st.sampled_from([BREAK, 0x00, 0xFF, 0x41]) | st.integers(0, 255))


@given(LINES)
def test_what_the_line_said_comes_back_whole_and_byte_by_byte(line: list[int | None]) -> None:
    data = written(line)
    assert read([data]) == said(line)
    assert read([data[at : at + 1] for at in range(len(data))]) == said(line)


@given(LINES, st.data())
def test_it_does_not_matter_where_it_is_cut(line: list[int | None], data: st.DataObject) -> None:
    whole = written(line)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(pieces) == said(line)


@given(st.binary())
def test_whatever_comes_whole_and_byte_by_byte_are_the_same(data: bytes) -> None:
    assert read([data]) == read([data[at : at + 1] for at in range(len(data))])


@pytest.mark.parametrize(
    ("data", "heard"),
    [
        (b"\xff", b"\xff"),
        (b"\xff\x00", b"\xff\x00"),
        (b"\xffA", b"\xffA"),
        (b"\xff\x00A", b"\xff\x00A"),
        (b"\x00\x00", b"\x00\x00"),
    ],
)
def test_a_byte_ff_with_an_error_is_not_doubled_and_passes_as_it_came(data: bytes, heard: bytes) -> None:
    assert read([data]) == (heard, 0)
