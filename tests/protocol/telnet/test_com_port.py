"""The sub-commands of RFC 2217, judged where they are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.telnet.com_port import Control, Purge, Request, SubCommand, encoded, judged


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (b"\0", Request(SubCommand.SIGNATURE)),
        (b"\0Some client", Request(SubCommand.SIGNATURE)),
        (b"\x01\0\x01\xc2\0", Request(SubCommand.RATE, 115200)),
        (b"\x01\xff\xff\xff\xff", Request(SubCommand.RATE, 2**32 - 1)),
        (b"\x01\0\0\0\0", Request(SubCommand.RATE)),
        (b"\x01\x07", Request(SubCommand.RATE)),
        (b"\x02\x08", Request(SubCommand.DATA_BITS, 8)),
        (b"\x02\x04", Request(SubCommand.DATA_BITS)),
        (b"\x02", Request(SubCommand.DATA_BITS)),
        (b"\x03\x05", Request(SubCommand.PARITY, 5)),
        (b"\x03\x06", Request(SubCommand.PARITY)),
        (b"\x04\x03", Request(SubCommand.STOP_BITS, 3)),
        (b"\x04\x02\x02", Request(SubCommand.STOP_BITS)),
        (b"\x05\0", Request(SubCommand.CONTROL, Control.ASK_FLOW)),
        (b"\x05\x13", Request(SubCommand.CONTROL, Control.DSR_FLOW)),
        (b"\x05\x14", Request(SubCommand.CONTROL)),
        (b"\x06", Request(SubCommand.LINE_STATE)),
        (b"\x07", Request(SubCommand.MODEM_STATE)),
        (b"\x08", Request(SubCommand.SUSPEND)),
        (b"\x09", Request(SubCommand.RESUME)),
        (b"\x0a\xff", Request(SubCommand.LINE_MASK, 255)),
        (b"\x0b\0", Request(SubCommand.MODEM_MASK, 0)),
        (b"\x0c\x03", Request(SubCommand.PURGE, Purge.BOTH)),
        (b"\x0c\0", Request(SubCommand.PURGE)),
    ],
)
def test_a_sub_command_is_read(payload: bytes, request_: Request) -> None:
    assert judged(payload) == request_


@pytest.mark.parametrize("payload", [b"", b"\x0d", b"\x64", b"\xff"])
def test_what_is_no_sub_command_of_a_client_is_passed_over(payload: bytes) -> None:
    assert judged(payload) is None


@given(st.binary(max_size=8))
def test_any_bytes_are_a_request_with_a_value_in_its_range_or_nothing(payload: bytes) -> None:
    request = judged(payload)
    if request is not None and request.value is not None:
        assert 0 <= request.value < 2**32
        assert request.command is SubCommand.RATE or request.value < 256


def test_an_answer_has_the_width_of_its_command() -> None:
    assert encoded(SubCommand.RATE, 9600) == b"\xff\xfa\x2c\x65\0\0\x25\x80\xff\xf0"
    assert encoded(SubCommand.DATA_BITS, 8) == b"\xff\xfa\x2c\x66\x08\xff\xf0"
    assert encoded(SubCommand.LINE_MASK, 255) == b"\xff\xfa\x2c\x6e\xff\xff\xff\xf0"
    assert encoded(SubCommand.SIGNATURE, b"us") == b"\xff\xfa\x2c\x64us\xff\xf0"
