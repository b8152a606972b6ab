"""The key of ``daisyport rekey`` comes from whoever types it, or from a pipe, and never from the arguments."""

from __future__ import annotations

import getpass
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.cli import main, rekey, trace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """What the gateway was asked for."""
    found: list[tuple[str, bytes]] = []
    monkeypatch.setattr(rekey, "asked", lambda _, __, target, body, ___: found.append((target, body)))
    return found


def test_it_is_prompted_for_without_an_echo(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, bytes]]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda _: "typed")
    assert main.main(["rekey", "P2", "--hours", "2"]) == 0
    assert asked == [("/daisyport/rekey/P2?seconds=7200", b"typed")]


def test_it_is_one_line_of_a_pipe(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\nanother line\n"))
    assert main.main(["rekey", "P0"]) == 0
    assert asked == [("/daisyport/rekey/P0?seconds=86400", b"piped")]
    assert "piped" not in capsys.readouterr().out


@pytest.mark.parametrize("interrupted", [EOFError, KeyboardInterrupt])
def test_who_gives_none_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    asked: list[tuple[str, bytes]],
    capfd: pytest.CaptureFixture[str],
    interrupted: type[BaseException],
) -> None:
    def leave(_: str) -> str:
        raise interrupted

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", leave)
    assert main.main(["rekey", "P0"]) == 1
    assert not asked
    assert capfd.readouterr().err == "daisyport: no key was given; nothing was changed\n"


CHAIN = {
    "name": "owner",
    "node": "aa" * 16,
    "here": False,
    "answer": "told",
    "link": None,
    "below": [
        {
            "name": "cpu2",
            "node": "bb" * 16,
            "here": True,
            "answer": "told",
            "link": {"address": "192.0.2.1"},
            "below": [
                {"name": "cpu3", "node": "cc" * 16, "here": False, "answer": "told", "link": None, "below": []},
                {"name": "", "node": "dd" * 16, "here": False, "answer": "gone", "link": None, "below": []},
                {"name": "?", "node": "", "here": False, "answer": "gone", "link": None, "below": []},
            ],
        }
    ],
}


@pytest.fixture
def chained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the gateway was asked to do with a key, where the CPU in the middle of a chain is asked."""
    found: list[str] = []

    def asked(_: object, __: str, target: str, *___: object) -> bytes:
        found.append(target)
        return json.dumps({"cpus": [{"node": "dd" * 16, "name": "", "outcome": "gone", "what": "is down"}]}).encode()

    monkeypatch.setattr(rekey, "asked", asked)
    monkeypatch.setattr(rekey, "asked_for_json", lambda *_: {"ports": [{"port": "P0", "chain": CHAIN}]})
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\n"))
    return found


@pytest.mark.parametrize("answer", ["y\n", "yes\n", "\n", "no\n", ""])
def test_a_key_goes_down_the_chain_to_those_alone_that_somebody_agreed_to_at_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    chained: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    answer: str,
) -> None:
    terminal = tmp_path / "tty"
    terminal.write_text(answer)
    monkeypatch.setattr(rekey, "_TERMINAL", terminal)
    assert main.main(["rekey", "P0", "--chain"]) == 1, "one of them has it not"
    shown = capfd.readouterr()
    assert "  cpu3  cccccccc\n  dddddddd  (its link is down)\n" in shown.out
    assert "aaaaaaaa" not in shown.out, "the CPUs above have their own server"
    if answer.startswith("y"):
        assert chained == [f"/daisyport/rekey/P0?seconds=86400&node={'cc' * 16}&node={'dd' * 16}"]
        assert "  dddddddd: is down\n" in shown.out
    else:
        assert not chained
        assert shown.err == "daisyport: nothing was changed\n"


def test_where_there_is_no_terminal_nobody_is_taken_to_agree(
    monkeypatch: pytest.MonkeyPatch, chained: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(rekey, "_TERMINAL", tmp_path / "none")
    assert main.main(["rekey", "P0", "--chain"]) == 1
    assert "there is no terminal to ask on; --yes agrees" in capfd.readouterr().err
    assert not chained
    assert main.main(["rekey", "P1", "--chain", "--yes"]) == 1
    assert "no CPU is chained to P1 here" in capfd.readouterr().err


def test_a_trace_for_wireshark_does_not_go_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trace, "asked_for_lines", lambda *_: iter(()))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main.main(["trace", "P0", "--pcapng", "-"]) == 1
    assert "--pcapng - writes to a pipe" in capfd.readouterr().err


def test_a_time_keeps_its_last_microsecond() -> None:
    row, *_ = trace.rows({"time": 4_102_444_799_999_999, "way": "note", "text": "x" * 99, "data": ""})
    assert row.startswith(":", 2)
    assert row[9:15] == "999999"
    assert len(row) == 80
