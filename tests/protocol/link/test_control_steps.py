"""What is asked of a line beside its bytes: written, read back, and refused where it is out of its bounds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.link.control_steps import (
    LONGEST_BREAK,
    MAX_STEPS,
    SETTINGS,
    Break,
    Configure,
    ControlRequest,
    HoldBreak,
    Pause,
    Purge,
    SetLines,
    Step,
    checked,
)

milliseconds = st.integers(1, 5000).map(lambda number: number / 1000)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=16)
maybe = st.none() | st.booleans()
steps = st.lists(
    st.one_of(
        st.dictionaries(st.sampled_from(SETTINGS), values).map(lambda each: Configure(tuple(each.items()))),
        st.builds(SetLines, maybe, maybe),
        st.builds(Break, milliseconds),
        st.builds(HoldBreak, st.booleans()),
        st.just(Purge()),
        st.builds(Pause, st.integers(0, 125).map(lambda number: number / 1000)),
    ),
    max_size=MAX_STEPS,
).map(tuple)
LEAVES = struct.pack("!I", 7)


@given(st.integers(0, 2**32 - 1), steps)
@example(7, ())
@example(7, (Break(LONGEST_BREAK), Pause(0.7), Pause(0.6), Pause(0.7)))
def test_a_request_is_read_as_it_was_written(client: int, steps: tuple[Step, ...]) -> None:
    request = ControlRequest(client, steps)
    assert ControlRequest.decode(request.encode()) == request


@given(st.binary(max_size=60))
@example(LEAVES)
def test_any_bytes_are_a_request_with_exactly_these_bytes_or_an_error(data: bytes) -> None:
    try:
        request = ControlRequest.decode(data)
    except (ValueError, IndexError, struct.error):
        return
    assert request.encode() == data
    assert checked(request.steps) == request.steps


@pytest.mark.parametrize(
    "said",
    [
        "00",
        "01",
        "07",
        "01 01 00 01 31",
        "01 01 07 01 31",
        "01 01 01 01 80",
        "01 01 01 01 0a",
        "01 01 01 11 " + "31" * 17,
        "01 02 01 01 31 01 01 32",
        "01 01 01 05 31",
        "02 02",
        "02 10",
        "03 00 00",
        "03 13 89",
        "03 00",
        "04 02",
        "06 07 d1",
        "06 04 00 06 04 00",
        "05" * 17,
    ],
)
def test_what_is_no_request_or_asks_for_too_much_is_refused(said: str) -> None:
    with pytest.raises((ValueError, IndexError, struct.error)):
        ControlRequest.decode(LEAVES + bytes.fromhex(said))


def test_a_time_is_cut_to_milliseconds_and_no_break_becomes_none() -> None:
    request = ControlRequest(1, (Break(0.0001), Break(0.57), Pause(0.0001)))
    assert ControlRequest.decode(request.encode()).steps == (Break(0.001), Break(0.57), Pause(0.0))


def test_what_is_no_setting_of_a_chained_client_is_left_out() -> None:
    asked = Configure((("PortMode", "RS485"), ("BaudRate", "9600"), ("Parity", "x" * 17), ("DataBits", "\n8")))
    request = ControlRequest(1, (asked,))
    assert ControlRequest.decode(request.encode()).steps == (Configure((("BaudRate", "9600"),)),)


def test_so_many_steps_and_no_more() -> None:
    assert checked([Purge()] * MAX_STEPS)
    with pytest.raises(ValueError, match=f"at most {MAX_STEPS} steps"):
        checked([Purge()] * (MAX_STEPS + 1))
