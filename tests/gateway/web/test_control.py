"""Requests beside the bytes, at a device that has what a pty lacks; how they travel is the WebSocket's test."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.clients.trace import Piece, Way
from gateway.port.bus import PortStatus
from gateway.port.line import ModemLines
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.serial_line.settings import by_name
from gateway.web.control import answer, events
from gateway.web.trace import told as as_json
from protocol.parameters.settings import SerialPort
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.line import ALL, NarrowTty, narrow_port

if TYPE_CHECKING:
    from trio.testing import MockClock

    from gateway.port.router import Session

LINES = ModemLines(dtr=True, rts=True, cts=False, dsr=True, ri=False, dcd=False)
UP = PortStatus(None, by_name(SerialPort()), 9600, "RS232 9600 8N1")


class ModemTty(NarrowTty):
    """A device with modem lines, whose break ends when it may."""

    def __init__(self, room: int = 100) -> None:
        super().__init__(room)
        self.lines = LINES
        self.breaks: list[float] = []

    async def send_break(self, seconds: float) -> None:
        self.breaks.append(seconds)
        await trio.sleep(seconds)

    def modem_lines(self) -> ModemLines:
        return self.lines

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        self.lines = replace(
            self.lines,
            dtr=self.lines.dtr if dtr is None else dtr,
            rts=self.lines.rts if rts is None else rts,
        )


def connected(tty: NarrowTty, write: Right = Right.TCP) -> Session:
    bus, _ = narrow_port(tty)
    return Router({"P0": bus}).grant("P0", ALL, "somebody").open(write)


async def ask(session: Session, **message: object) -> dict[str, object]:
    return await answer(json.dumps(message), session)


async def test_a_break_lasts_as_long_as_was_asked(autojump_clock: MockClock) -> None:
    tty = ModemTty()
    session = connected(tty)
    assert await ask(session, request="break", milliseconds=40) == {"answer": "break", "milliseconds": 40}
    assert await ask(session, request="break", id="b") == {"answer": "break", "id": "b", "milliseconds": 250}
    assert tty.breaks == [0.04, 0.25]


async def test_a_break_may_be_as_short_as_a_millisecond_and_as_long_as_five_seconds(autojump_clock: MockClock) -> None:
    tty = ModemTty()
    session = connected(tty)
    for milliseconds in (1, 5000):
        assert "error" not in await ask(session, request="break", milliseconds=milliseconds)
    assert tty.breaks == [0.001, 5]


def test_a_port_is_told_to_be_down_with_the_reason_and_up_without_one() -> None:
    down = replace(UP, down="the cable is out")
    assert list(events(UP, down, all_told=False)) == [{"event": "port", "state": "down", "reason": "the cable is out"}]
    assert list(events(down, UP, all_told=False)) == [{"event": "port", "state": "up", "reason": ""}]
    assert list(events(UP, UP, all_told=False)) == []


async def test_nobody_writes_while_a_break_lasts_nor_after_who_asked_for_it_has_left(autojump_clock: MockClock) -> None:
    tty = ModemTty()
    session = connected(tty)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(ask, session, request="break", milliseconds=5000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(session.write, b"after")
        await trio.testing.wait_all_tasks_blocked()
        assert tty.taken == b""
    assert tty.taken == b"after"
    with trio.move_on_after(1):
        await ask(session, request="break", milliseconds=5000)
    await session.write(b"!")
    assert tty.taken == b"after!"


async def test_modem_lines_are_read_and_what_is_not_named_stays_as_it_is() -> None:
    session = connected(ModemTty())
    shown = {"dtr": True, "rts": True, "cts": False, "dsr": True, "ri": False, "dcd": False}
    assert await ask(session, request="modem") == {"answer": "modem", "lines": shown}
    assert await ask(session, request="set", dtr=False) == {"answer": "set", "lines": shown | {"dtr": False}}
    both = shown | {"dtr": False, "rts": False}
    assert await ask(session, request="set", rts=False) == {"answer": "set", "lines": both}


async def test_who_may_only_read_reads_the_modem_lines_and_changes_nothing() -> None:
    tty = ModemTty()
    session = connected(tty, Right(0))
    assert "lines" in await ask(session, request="modem")
    for asked in ({"request": "break"}, {"request": "set", "dtr": False}):
        assert (await ask(session, **asked))["error"] == "somebody may only read"
    assert (tty.lines, tty.breaks) == (LINES, [])


async def test_who_may_not_configure_is_told_so_and_changes_nothing() -> None:
    bus, _ = narrow_port(ModemTty())
    session = Router({"P0": bus}).grant("P0", ALL & ~Right.CONFIGURE, "an operator").open(Right.TCP)
    told = await ask(session, request="configure", settings={"BaudRate": "19200"})
    assert told["error"] == "an operator has no right to Right.CONFIGURE on P0"


async def test_a_slow_reader_is_told_of_once() -> None:
    session = connected(ModemTty())
    session.cut("too slow")
    session.cut("too slow")
    assert (session.state.value.cuts, session.state.value.last_cut) == (1, "somebody: too slow")


NOT_REQUESTS = {
    "\ud800": "it must be JSON",
    "{": "it must be JSON",
    "[" * 100_000: "it must be JSON",
    "9" * 5000: "it must be JSON",
    "[]": "it must be a JSON object",
    "{}": "request must be one of break, modem, set, configure",
    '{"request": ["break"]}': "request must be one of break, modem, set, configure",
    '{"request": "brake"}': "request must be one of break, modem, set, configure",
    '{"request": "modem", "dtr": true}': "modem has no argument 'dtr'",
    '{"request": "modem", "\\u001b": true}': "modem has no argument '\\x1b'",
    '{"request": "modem", "id": 1.5}': "id must be an integer or a string",
    '{"request": "modem", "id": true}': "id must be an integer or a string",
    '{"request": "configure", "settings": []}': "settings must be an object with at most 16 members",
    '{"request": "configure", "settings": {"BaudRate": 1}}': "settings must be strings, as param.cgi takes them",
    '{"request": "set", "dtr": 1}': "dtr must be true, false or null",
    '{"request": "set", "rts": "no"}': "rts must be true, false or null",
    '{"request": "break", "milliseconds": 0}': "milliseconds must be an integer from 1 to 5000",
    '{"request": "break", "milliseconds": 5001}': "milliseconds must be an integer from 1 to 5000",
    '{"request": "break", "milliseconds": 1.0}': "milliseconds must be an integer from 1 to 5000",
    '{"request": "break", "milliseconds": true}': "milliseconds must be an integer from 1 to 5000",
    '{"request": "break", "milliseconds": null}': "milliseconds must be an integer from 1 to 5000",
}


@pytest.mark.parametrize("text", NOT_REQUESTS, ids=lambda text: ascii(text[:50]))
async def test_text_that_is_not_a_request_is_answered_with_the_reason(text: str) -> None:
    tty = ModemTty()
    assert await answer(text, connected(tty)) == {"answer": None, "error": f"not a request: {NOT_REQUESTS[text]}"}
    assert (tty.lines, tty.breaks) == (LINES, [])


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3).flatmap(
        lambda value: st.fixed_dictionaries(
            {"request": st.sampled_from(["modem", "set"]) | st.just(value)},
            optional={"id": st.just(value), "dtr": st.just(value), "rts": st.just(value), "x": st.just(value)},
        )
    )
)
def test_any_json_object_is_answered(message: dict[str, object]) -> None:
    async def run() -> dict[str, object]:
        return await ask(connected(ModemTty()), **message)

    answered = trio.run(run)
    assert answered["answer"] in ("modem", "set", None)
    assert ("error" in answered) is (answered["answer"] is None)


def documented() -> list[dict[str, object]]:
    """The JSON lines of the page's WebSocket section."""
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    section = page.split("## WebSocket\n")[1].split("\n## ")[0]
    return [json.loads(line) for line in section.splitlines() if line.startswith("{")]


async def test_the_requests_of_the_page_have_the_answers_that_it_shows(autojump_clock: MockClock) -> None:
    bus, _ = narrow_port(ModemTty())
    bus.adjusted(19200, "RS232 19200 8N1", by_name(SerialPort(baud_rate=19200)))
    session = Router({"P0": bus}).grant("P0", ALL, "somebody").open(Right.TCP)
    pairs = [told for told in documented() if "event" not in told]
    assert len(pairs) == 10
    for asked, answered in zip(pairs[::2], pairs[1::2], strict=True):
        assert await ask(session, **asked) == answered


def test_the_events_of_the_page_are_those_that_are_told() -> None:
    now = replace(UP, breaks=1, cuts=1, last_cut="192.0.2.7:40000: it left 1048576 bytes unread")
    now = replace(now, turn_rule=TurnRule("modbus-rtu"), controls=1, controlled_by="anna at 192.0.2.7:40000")
    before = replace(now, breaks=0, cuts=0, controls=0)
    told = [*events(None, now, all_told=True), *events(before, now, all_told=True)]
    beside = (None, "refused", "gap", "history", "trace")
    assert told == [event for event in documented() if event.get("event") not in beside]


def test_the_pieces_of_a_trace_are_as_the_page_shows_them() -> None:
    (trace,) = (event for event in documented() if event.get("event") == "trace")
    pieces = [
        Piece(1764116000123456, Way.TO_LINE, "192.0.2.7:40122", b"\x81\x01\x04\x07\x02\xff"),
        Piece(1764116000134870, Way.FROM_LINE, "", b"\x90\x41\xff"),
    ]
    assert trace["pieces"] == [as_json(piece) for piece in pieces]


def test_settings_of_a_line_that_another_cpu_owns_are_told_in_words() -> None:
    told = list(events(UP, replace(UP, in_force=None, settings="RS485 300 7E1"), all_told=True))
    assert told == [{"event": "line", "words": "RS485 300 7E1", "settings": None}]


def test_everybody_is_told_when_turns_begin_and_end() -> None:
    turns = replace(UP, turn_rule=TurnRule("visca"))
    assert list(events(UP, turns, all_told=False)) == [{"event": "turns", "reply": "visca"}]
    assert list(events(turns, turns, all_told=False)) == []
    assert list(events(turns, UP, all_told=False)) == [{"event": "turns", "reply": None}]


def test_nothing_new_is_no_event() -> None:
    assert list(events(UP, UP, all_told=True)) == []


@pytest.mark.parametrize("all_told", [True, False])
def test_settings_and_cuts_are_told_to_those_who_may_know(all_told: bool) -> None:
    now = replace(UP, in_force={"BaudRate": 300}, cuts=2, last_cut="x: too slow")
    told = [event["event"] for event in events(UP, now, all_told=all_told)]
    assert told == (["line", "cut"] if all_told else [])


def test_a_viewer_is_told_that_the_modem_lines_moved_and_not_by_whom() -> None:
    moved = replace(UP, controls=1, controlled_by="anna at 192.0.2.7:40000")
    assert list(events(UP, moved, all_told=False)) == [{"event": "modem"}]
    assert list(events(None, moved, all_told=True))[-1]["event"] == "line", "who comes later is not told"


def test_who_comes_later_is_not_told_of_earlier_cuts() -> None:
    told = [event["event"] for event in events(None, replace(UP, cuts=2), all_told=True)]
    assert told == ["port", "line"]
