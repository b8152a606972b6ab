"""What was put back comes first, whole and in order, however it is read; the rest is the stream's own doing."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from gateway.web.prefixed_stream import PrefixedStream


async def test_what_was_put_back_is_received_before_what_comes_next() -> None:
    near, far = memory_stream_pair()
    stream = PrefixedStream(near, b"GET / ")
    await far.send_all(b"HTTP/1.1")
    assert await stream.receive_some() == b"GET / "
    assert await stream.receive_some() == b"HTTP/1.1"


@given(head=st.binary(max_size=20), size=st.integers(1, 8))
async def test_any_piece_size_gives_the_same_bytes(head: bytes, size: int) -> None:
    near, far = memory_stream_pair()
    stream = PrefixedStream(near, head)
    await far.send_all(b"rest")
    await far.send_eof()
    received = b""
    while piece := await stream.receive_some(size):
        assert len(piece) <= size
        received += piece
    assert received == head + b"rest"


async def test_a_piece_size_that_makes_no_sense_is_refused_as_trio_does() -> None:
    near, _ = memory_stream_pair()
    with pytest.raises(ValueError, match="at least 1"):
        await PrefixedStream(near, b"head").receive_some(0)


async def test_receiving_what_was_put_back_can_be_cancelled_without_losing_it() -> None:
    near, _ = memory_stream_pair()
    stream = PrefixedStream(near, b"head")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive_some()
    assert scope.cancelled_caught
    assert await stream.receive_some() == b"head"


async def test_sending_and_closing_are_the_streams_own() -> None:
    near, far = memory_stream_pair()
    stream = PrefixedStream(near, b"head")
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"out")
    await stream.send_eof()
    assert await far.receive_some() == b"out"
    assert await far.receive_some() == b""
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()
