from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.link.header import MAX_LENGTH, SIZE, CutError, FrameDecoder, RawFrame, encoded_header

frames = st.builds(
    lambda version, code, channel, flags, offset, body: (
        encoded_header(version, code, channel, flags, len(body), offset) + body
    ),
    *[st.integers(0, 255)] * 4,
    st.integers(0, 2**64 - 1),
    st.binary(max_size=300),
)


def cut(pieces: list[bytes]) -> tuple[list[RawFrame], int | str]:
    """All frames, and whether it ended in an error."""
    decoder = FrameDecoder()
    got: list[RawFrame] = []
    for piece in pieces:
        decoder.receive_data(piece)
        try:
            while (frame := decoder.next_frame()) is not None:
                got.append(frame)
        except RemoteProtocolError as error:
            return got, str(error)
        assert len(decoder) < SIZE + MAX_LENGTH, "bounded"
    return got, len(decoder)


def test_a_header_is_sixteen_bytes_in_network_order() -> None:
    assert encoded_header(1, 7, 2, 1, 0x0102, 0x0304) == bytes.fromhex("01 07 02 01 00000102 0000000000000304")


@given(st.lists(frames, max_size=4))
def test_frames_come_out_as_they_went_in(parts: list[bytes]) -> None:
    got, left = cut([b"".join(parts)])
    assert [frame.head + frame.body for frame in got] == parts
    for version, code, channel, flags, offset, head, body in got:
        assert encoded_header(version, code, channel, flags, len(body), offset) == head
    assert left == 0


@given(st.binary(max_size=600) | st.lists(frames, max_size=3).map(b"".join))
@example(bytes(4) + b"\xff\xff\xff\xff" + bytes(8))  # the length that nobody may announce
def test_whole_and_byte_by_byte_are_cut_alike(data: bytes) -> None:
    assert cut([data]) == cut([data[at : at + 1] for at in range(len(data))])


def test_a_frame_that_is_too_long_fails_as_soon_as_its_header_is_there_and_ever_after() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(encoded_header(1, 7, 0, 0, MAX_LENGTH + 1, 0))
    for _ in range(2):
        with pytest.raises(CutError, match="16401 bytes: at most 16400"):
            decoder.next_frame()


def test_the_longest_frame_is_taken() -> None:
    data = encoded_header(1, 7, 0, 0, MAX_LENGTH, 0) + bytes(MAX_LENGTH)
    assert len(cut([data])[0]) == 1


def test_what_waits_for_the_rest_of_its_frame_is_counted_to_the_byte() -> None:
    data = encoded_header(1, 7, 0, 0, 3, 0) + b"abc"
    decoder = FrameDecoder()
    for at, byte in enumerate(data):
        assert len(decoder) == at
        assert decoder.next_frame() is None
        decoder.receive_data(bytes([byte]))
    decoder.receive_data(data[:5])
    assert decoder.next_frame() is not None
    assert len(decoder) == 5, "what was cut off is not counted, even before the buffer moves"
    assert decoder.next_frame() is None
    assert len(decoder) == 5
