"""Which packet of VISCA ends the turn of a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sharing import visca
from tests.protocol.sharing.frames import VISCA_EXCHANGES as EXCHANGES

COMMAND, COMMAND_REPLY = EXCHANGES["command"]
INQUIRY, INQUIRY_REPLY = EXCHANGES["inquiry"]
NETWORK_CHANGE = b"\x90\x38\xff"


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_reply_ends_with_its_completion_or_its_error(name: str) -> None:
    request, reply = EXCHANGES[name]
    assert visca.is_packet(request)
    assert [visca.reply_end(request, reply[:size]) for size in range(len(reply) + 1)] == [
        *[None] * len(reply),
        len(reply),
    ]
    assert visca.reply_end(request, reply + b"\x90\x41") == len(reply)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_network_change_is_nobodys_reply(name: str) -> None:
    request, reply = EXCHANGES[name]
    assert visca.reply_end(request, NETWORK_CHANGE) is None
    assert visca.reply_end(request, NETWORK_CHANGE + reply) == len(NETWORK_CHANGE + reply)
    assert visca.reply_start(request, NETWORK_CHANGE + reply) == len(NETWORK_CHANGE)
    assert visca.reply_start(request, NETWORK_CHANGE) == len(NETWORK_CHANGE)


def test_a_completion_between_ack_and_completion_is_of_another_command() -> None:
    assert visca.reply_end(COMMAND, b"\x90\x42\xff\x90\x51\xff") is None
    assert visca.reply_end(COMMAND, b"\x90\x42\xff\x90\x51\xff\x90\x52\xff") == 9


def test_an_error_of_the_other_socket_is_of_another_command() -> None:
    assert visca.reply_end(COMMAND, b"\x90\x41\xff\x90\x62\x04\xff") is None
    assert visca.reply_end(COMMAND, b"\x90\x41\xff\x90\x60\x02\xff") == 7


def test_a_late_completion_does_not_end_an_inquiry() -> None:
    late = b"\x90\x41\xff\x90\x51\xff"
    assert visca.reply_end(INQUIRY, late) is None
    assert visca.reply_start(INQUIRY, late + INQUIRY_REPLY) == len(late)
    assert visca.reply_end(INQUIRY, late + INQUIRY_REPLY) == len(late + INQUIRY_REPLY)


def test_a_camera_that_says_no_ack_completes_on_socket_0() -> None:
    assert visca.reply_end(COMMAND, b"\x90\x50\xff") == 3
    assert visca.reply_end(COMMAND, b"\x90\x51\xff") is None


def test_another_cameras_word_is_no_reply() -> None:
    assert visca.reply_end(INQUIRY, b"\xa0" + INQUIRY_REPLY[1:]) is None


def test_two_bytes_are_no_packet() -> None:
    assert visca.reply_end(INQUIRY, b"\x90\xff\xff") is None


@pytest.mark.parametrize("request_", [b"", b"\x81", b"\x81\xff", b"\x80\x01\xff", b"\x89\x01\xff", bytes(17)])
def test_what_is_no_packet_has_no_reply(request_: bytes) -> None:
    assert visca.reply_end(request_, COMMAND_REPLY) is None


def test_between_ack_and_completion_the_line_may_be_silent() -> None:
    assert visca.between_packets(b"\x90\x41\xff")
    assert not visca.between_packets(b"\x90\x41\xff\x90")
    assert not visca.between_packets(b"")


@given(st.sampled_from([*EXCHANGES.values()]), st.binary(max_size=40))
def test_whatever_is_heard_a_reply_ends_with_a_packet_or_not_at_all(
    exchange: tuple[bytes, bytes], noise: bytes
) -> None:
    request, reply = exchange
    heard = noise + reply
    end = visca.reply_end(request, heard)
    assert 0 <= visca.reply_start(request, heard) <= len(heard)
    assert end is None or heard[end - 1] == visca.END
