from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.http.serial_cgi import (
    READ_LIMIT,
    UNBIND,
    WRITE_LIMIT,
    CgiError,
    Format,
    SerialRequest,
    error_answer,
    serial_answer,
    serial_request,
)

# The API page's own examples


@pytest.mark.parametrize(
    ("query", "request_"),
    [
        (b"write=2153435253500c0d", SerialRequest(output=b"!SCRSP\x0c\r")),
        (b"read=3&timeout=2000", SerialRequest(read=3, timeout=2.0)),
        (b"port=2&camera=2", SerialRequest(port=2, camera=2)),
        (b"port=-1&camera=2", SerialRequest(port=UNBIND, camera=2)),
        (b"port=1&write=ff0a", SerialRequest(port=1, output=b"\xff\n")),
    ],
)
def test_the_examples_mean_what_the_page_says(query: bytes, request_: SerialRequest) -> None:
    assert serial_request(query, b"") == request_
    assert serial_request(b"", query) == request_


def test_only_a_request_with_port_and_camera_binds() -> None:
    assert serial_request(b"port=2&camera=2", b"").binds
    assert serial_request(b"port=-1&camera=2", b"").binds
    assert not serial_request(b"port=2&write=00", b"").binds
    assert not serial_request(b"camera=2&write=00", b"").binds


# What is written


def test_write_comes_before_writestring() -> None:
    assert serial_request(b"writestring=b&write=61", b"").output == b"ab"


def test_dataout_is_an_old_name_of_write() -> None:
    assert serial_request(b"dataout=FfAa", b"").output == b"\xff\xaa"


def test_a_plus_in_the_query_is_written_as_a_plus_and_in_a_body_as_a_blank() -> None:
    assert serial_request(b"writestring=a%2Bb%20c", b"").output == b"a+b c"
    for query in (b"writestring=a+b", b"port=1&write%73tring=AT+CSQ%0d", b"writestring=+&writestring=b"):
        with pytest.raises(CgiError, match="write %20 for a blank and %2B for a plus"):
            serial_request(query, b"")
    assert serial_request(b"", b"writestring=a+b").output == b"a b"


@given(st.binary(min_size=1))
def test_any_byte_can_be_written_either_way(output: bytes) -> None:
    assert serial_request(b"write=" + output.hex().encode(), b"").output == output
    assert serial_request(b"writestring=" + quote(output).encode(), b"").output == output


def test_the_longest_message_is_taken_and_one_byte_more_is_refused() -> None:
    longest = WRITE_LIMIT - 1
    assert len(serial_request(b"write=00&writestring=" + b"a" * longest, b"").output or b"") == WRITE_LIMIT
    with pytest.raises(CgiError, match="4097 bytes to write; one request writes at most 4096"):
        serial_request(b"write=0000&writestring=" + b"a" * longest, b"")


# How long a read waits


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        (b"read=1", 1.0),
        (b"read=1&wait=9", 9.0),
        (b"read=1&timeout=0", 0.0),
        (b"read=1&timeout=9000", 9.0),
        (b"read=1&wait=2&timeout=500", 0.5),
        (b"read=1&wait=2&timeout=8000", 2.0),
    ],
)
def test_a_read_waits_for_the_shorter_of_wait_and_timeout_or_one_second(query: bytes, seconds: float) -> None:
    assert serial_request(query, b"").timeout == seconds


def test_until_alone_reads_as_much_as_an_answer_holds() -> None:
    assert serial_request(b"until=0d0a", b"") == SerialRequest(read=READ_LIMIT, until=b"\r\n")
    assert serial_request(b"until=ff&read=16", b"") == SerialRequest(read=16, until=b"\xff")


def test_a_read_of_more_than_an_answer_holds_reads_as_much_as_it_holds() -> None:
    assert serial_request(b"read=65537", b"").read == READ_LIMIT


# The rest


def test_flush_is_yes_or_no() -> None:
    assert serial_request(b"flush=yes", b"") == SerialRequest(flush=True)
    assert serial_request(b"flush=no&read=1", b"") == SerialRequest(read=1)


@pytest.mark.parametrize("name", ["hex", "raw", "base64"])
def test_the_answer_has_a_format(name: str) -> None:
    assert serial_request(b"read=1&format=" + name.encode(), b"").format.value == name


def test_unknown_arguments_are_ignored_however_often_they_come() -> None:
    assert serial_request(b"_=1&_=2&read=1&timestamp=3", b"") == SerialRequest(read=1)


def test_an_empty_value_counts_as_not_given() -> None:
    assert serial_request(b"write=&writestring=&read=1&timeout=&camera=", b"") == SerialRequest(read=1)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (b"", "nothing to do"),
        (b"camera=1", "nothing to do"),
        (b"write=", "nothing to do"),
        (b"write=1", "write=1: must have two hexadecimal digits"),
        (b"write=0g", "must have two hexadecimal digits"),
        (b"write=00%0a", "must have two hexadecimal digits"),
        (b"write=%C2%B2%C2%B2", "must have two hexadecimal digits"),
        (b"dataout=0x00", "write=0x00: must have two hexadecimal digits"),
        (b"until=1", "until=1: must have two hexadecimal digits"),
        (b"writestring=50%", "% is not a percent escape"),
        (b"writestring=%4x&read=1", "%4x is not a percent escape"),
        (b"read=0", "whole number from 1"),
        (b"read=-1", "whole number from 1"),
        (b"read=1.5", "whole number from 1"),
        (b"read=%D9%A3", "whole number from 1"),
        (b"read=" + b"9" * 5000, "9...: must be a whole number from 1"),
        (b"read=1&wait=0", "seconds from 1 to 9"),
        (b"read=1&wait=10", "seconds from 1 to 9"),
        (b"read=1&timeout=-1", "milliseconds from 0 to 9000"),
        (b"read=1&timeout=9001", "milliseconds from 0 to 9000"),
        (b"write=00&timeout=x", "milliseconds from 0 to 9000"),
        (b"camera=0&write=00", "whole number from 1"),
        (b"port=0", "port number from 1"),
        (b"port=-2&camera=1", "port number from 1"),
        (b"port=-1", "requires camera=N"),
        (b"port=-1&camera=1&write=00", "cannot be combined"),
        (b"port=-1&camera=1&read=1", "cannot be combined"),
        (b"port=-1&camera=1&flush=yes", "cannot be combined"),
        (b"flush=true", "yes or no"),
        (b"read=1&format=octal", "hex, raw or base64"),
        (b"write=00&write=00", "duplicate argument write"),
        (b"write=00&dataout=00", "duplicate argument write"),
    ],
)
def test_one_wrong_argument_refuses_the_whole_request(query: bytes, why: str) -> None:
    with pytest.raises(CgiError) as caught:
        serial_request(query, b"")
    assert why in str(caught.value)


def test_an_argument_in_query_and_body_is_given_twice() -> None:
    with pytest.raises(CgiError, match="duplicate argument read"):
        serial_request(b"read=1", b"read=2")


PIECES = [
    b"&", b"=", b"+", b"%", b"%0", b"%00", b"port=", b"camera=", b"flush=yes", b"write=", b"writestring=", b"dataout=",
    b"read=", b"until=", b"wait=", b"timeout=", b"format=raw", b"-1", b"0", b"1", b"9000", b"ff", b"0D0a" * 600,
]  # fmt: skip
wild = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12).map(b"".join)


@given(query=wild, body=wild)
def test_any_bytes_are_a_bounded_request_or_an_error_of_one_line(query: bytes, body: bytes) -> None:
    try:
        request = serial_request(query, body)
    except CgiError as error:
        assert error_answer(str(error)).decode("ascii").count("\n") == 2  # noqa: PT017
        assert len(str(error)) < 300  # noqa: PT017
        return
    assert 0 <= request.timeout <= 9
    assert 0 < (request.read or 1) <= READ_LIMIT
    assert 0 < len(request.output or b"1") <= WRITE_LIMIT
    assert request.port == UNBIND or (request.port or 1) > 0
    assert (request.camera or 1) > 0


# Answers


def test_what_was_read_stands_between_two_hashes() -> None:
    assert serial_answer(b":", Format.HEX) == b"#3A#"
    assert serial_answer(b":K\\", Format.HEX) == b"#3A4B5C#"
    assert serial_answer(b"", Format.HEX) == b"##"


@given(st.binary())
def test_every_format_carries_every_byte(received: bytes) -> None:
    assert bytes.fromhex(serial_answer(received, Format.HEX).decode().strip("#")) == received
    assert base64.b64decode(serial_answer(received, Format.BASE64)) == received
    assert serial_answer(received, Format.RAW) == received


def test_only_raw_bytes_are_no_text() -> None:
    assert [form.content_type for form in Format] == [
        "text/plain; charset=utf-8",
        "application/octet-stream",
        "text/plain; charset=utf-8",
    ]


def test_an_error_is_named_as_one() -> None:
    assert error_answer("nothing to do") == b"Error:\nnothing to do\n"


def test_a_body_that_is_no_form_is_refused_with_the_form_that_is_read() -> None:
    with pytest.raises(CgiError, match="a body of application/json is not read"):
        serial_request(b"write=00", b'{"read": 1}', "application/json")
    assert serial_request(b"", b"write=00", "application/json").output == b"\0"
