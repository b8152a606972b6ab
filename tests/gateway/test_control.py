"""Requests beside the bytes, at a device that has what a pty lacks; how they travel is the WebSocket's test."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from gateway.bus import PortState
from gateway.control import answer, events
from gateway.uart import ModemLines
from protocol.settings import SerialPort

if TYPE_CHECKING:
    from gateway.router import Session

LINES = ModemLines(dtr=True, rts=True, cts=False, dsr=True, ri=False, dcd=False)
UP = PortState(None, SerialPort(), 9600, "RS232 9600 8N1")


@dataclass
class Modem:
    """A session at a device with modem lines."""

    lines: ModemLines = LINES
    breaks: list[float] = field(default_factory=list)

    async def send_break(self, seconds: float) -> None:
        self.breaks.append(seconds)

    def modem_lines(self) -> ModemLines:
        return self.lines

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        changed = {name: value for name, value in (("dtr", dtr), ("rts", rts)) if value is not None}
        self.lines = replace(self.lines, **changed)


async def ask(modem: Modem, **message: object) -> dict[str, object]:
    return await answer(json.dumps(message), cast("Session", modem))


async def test_a_break_lasts_as_long_as_was_asked() -> None:
    modem = Modem()
    assert await ask(modem, request="break", milliseconds=40) == {"answer": "break", "milliseconds": 40}
    assert await ask(modem, request="break", id="b") == {"answer": "break", "id": "b", "milliseconds": 250}
    assert modem.breaks == [0.04, 0.25]


async def test_modem_lines_are_read_and_what_is_not_named_stays_as_it_is() -> None:
    modem = Modem()
    shown = {"dtr": True, "rts": True, "cts": False, "dsr": True, "ri": False, "dcd": False}
    assert await ask(modem, request="modem") == {"answer": "modem", "lines": shown}
    assert await ask(modem, request="set", dtr=False) == {"answer": "set", "lines": shown | {"dtr": False}}


async def test_text_that_is_no_unicode_is_answered_too() -> None:
    assert (await answer("\ud800", cast("Session", Modem())))["answer"] is None


def documented() -> list[dict[str, object]]:
    """The JSON lines of the page's WebSocket section."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    section = page.split("## WebSocket\n")[1].split("\n## ")[0]
    return [json.loads(line) for line in section.splitlines() if line.startswith("{")]


async def test_the_requests_of_the_page_have_the_answers_that_it_shows() -> None:
    modem = Modem()
    pairs = [told for told in documented() if "event" not in told]
    assert len(pairs) == 8
    for asked, answered in zip(pairs[::2], pairs[1::2], strict=True):
        assert await ask(modem, **asked) == answered


def test_the_events_of_the_page_are_those_that_are_told() -> None:
    now = replace(UP, cuts=1, last_cut="192.0.2.7:40000: it left 1048576 bytes unread")
    told = [*events(None, now, all_told=True), *events(replace(now, cuts=0), now, all_told=True)]
    assert told == [event for event in documented() if event.get("event") in ("port", "line", "cut")]


def test_settings_of_a_line_that_another_cpu_owns_are_told_in_words() -> None:
    told = list(events(UP, replace(UP, line=None, settings="RS485 300 7E1"), all_told=True))
    assert told == [{"event": "line", "words": "RS485 300 7E1", "settings": None}]


def test_nothing_new_is_no_event() -> None:
    assert list(events(UP, UP, all_told=True)) == []


@pytest.mark.parametrize("all_told", [True, False])
def test_settings_and_cuts_are_told_to_those_who_may_know(all_told: bool) -> None:
    now = replace(UP, line=SerialPort(baud_rate=300), cuts=2, last_cut="x: too slow")
    told = [event["event"] for event in events(UP, now, all_told=all_told)]
    assert told == (["line", "cut"] if all_told else [])


def test_who_comes_later_is_not_told_of_earlier_cuts() -> None:
    told = [event["event"] for event in events(None, replace(UP, cuts=2), all_told=True)]
    assert told == ["port", "line"]
