"""The key of ``daisyport rekey`` comes from whoever types it, or from a pipe, and never from the arguments."""

from __future__ import annotations

import getpass
import io
import sys

import pytest

from gateway.cli import main, rekey, trace


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
