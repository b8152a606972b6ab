from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import __main__ as fuzz
from protocol.http import param_cgi as cgi

if TYPE_CHECKING:
    from pathlib import Path


@settings(database=None)
@given(st.binary())
def sound(data: bytes) -> None:
    assert isinstance(data, bytes)


@settings(database=None)
@given(st.lists(st.booleans()))
def broken(bits: list[bool]) -> None:
    assert bits.count(True) < 2


@pytest.fixture(autouse=True)
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setattr(fuzz, "TARGETS", {"sound": f"{__name__}:sound", "broken": f"{__name__}:broken"})
    return tmp_path


@pytest.mark.parametrize("name", fuzz.TARGETS.values(), ids=fuzz.TARGETS)
def test_every_target_is_a_property_that_holds_for_no_bytes(name: str) -> None:
    fuzz.load(name)(b"")


def test_a_property_that_holds_is_run_until_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["sound", "--seconds", "0.05", "--seed", "7"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("sound: ")
    assert "executions a second" in printed
    assert printed.endswith("seed 7\n")


def test_a_failure_is_printed_with_bytes_that_show_it_again(capsys: pytest.CaptureFixture[str], corpus: Path) -> None:
    assert fuzz.main(["broken", "--seconds", "60", "--seed", "1"]) == 1
    printed = capsys.readouterr()
    assert "AssertionError" in printed.err
    buffer = printed.out.split("--bytes ")[1].strip()
    assert fuzz.main(["broken", "--bytes", buffer]) == 1
    assert bytes.fromhex(buffer) in [path.read_bytes() for path in (corpus / "broken").iterdir()]


def test_the_next_run_starts_with_the_bytes_that_failed() -> None:
    assert fuzz.main(["broken", "--seconds", "60"]) == 1
    assert fuzz.main(["broken", "--seconds", "0"]) == 1


def test_a_target_that_is_unknown_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fuzz.main(["no such"])
    assert "broken" in capsys.readouterr().err


def test_a_buffer_that_reaches_a_new_line_of_ours_is_kept(corpus: Path) -> None:
    def target(data: bytes) -> bytes:
        cgi.text(data)
        return data

    campaign = fuzz.Campaign(target, fuzz.Corpus(corpus / "kept"), random.Random(0))
    assert campaign.run(iter([b"utf-8", b"still", b"\xff", b"\xfe"])) is None
    assert {path.read_bytes() for path in (corpus / "kept").iterdir()} == {b"utf-8", b"\xff"}


def test_the_tracer_that_was_there_before_is_there_again() -> None:
    def tracer(_frame: object, _event: str, _argument: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with fuzz.Footprint():
            assert sys.gettrace() is not tracer
        found = sys.gettrace()
    finally:
        sys.settrace(before)
    assert found is tracer


def test_mutations_stay_within_the_longest_buffer() -> None:
    chance = random.Random(0)
    corpus = [b"", b"a", bytes(fuzz.LONGEST)]
    assert all(len(fuzz.mutated(chance, corpus)) <= fuzz.LONGEST for _ in range(2000))
