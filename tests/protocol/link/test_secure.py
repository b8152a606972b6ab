from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.link.header import CutError
from protocol.link.secure import LAST_FRAME, TAG, Opener, Sealer, TagError, traffic_keys

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = traffic_keys(bytes(64), bytes(64))


@given(st.lists(st.tuples(st.binary(max_size=16), st.binary(max_size=99)), max_size=5))
def test_what_was_sealed_opens_in_its_order(frames: list[tuple[bytes, bytes]]) -> None:
    sealer, opener = Sealer(KEYS.up), Opener(KEYS.up)
    for head, payload in frames:
        body = sealer.seal(head, payload)
        assert len(body) == len(payload) + TAG
        assert opener.open(head, body) == payload


@given(st.integers(0, 8 * (16 + 20 + TAG) - 1))
def test_a_flipped_bit_anywhere_does_not_open(bit: int) -> None:
    frame = bytearray(bytes(16) + Sealer(KEYS.up).seal(bytes(16), bytes(20)))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TagError, match="does not verify"):
        Opener(KEYS.up).open(bytes(frame[:16]), bytes(frame[16:]))


@pytest.mark.parametrize("body", [b"", bytes(15)])
def test_a_body_without_room_for_a_tag_does_not_open(body: bytes) -> None:
    with pytest.raises(TagError):
        Opener(KEYS.up).open(bytes(16), body)


def test_a_frame_repeated_left_out_or_moved_does_not_open() -> None:
    sealer = Sealer(KEYS.up)
    first, second = sealer.seal(b"", b"same"), sealer.seal(b"", b"same")
    assert first != second
    repeated = Opener(KEYS.up)
    repeated.open(b"", first)
    for opener, body in [(repeated, first), (Opener(KEYS.up), second)]:
        with pytest.raises(TagError):
            opener.open(b"", body)


def test_a_cut_leaves_the_session_alive() -> None:
    assert issubclass(TagError, CutError)


def test_the_directions_and_the_transcripts_have_keys_of_their_own() -> None:
    keys = {*KEYS, *traffic_keys(bytes(64), b"\1" * 64), *traffic_keys(b"\1" * 64, bytes(64))}
    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize("side", [lambda: Sealer(KEYS.up, LAST_FRAME).seal, lambda: Opener(KEYS.up, LAST_FRAME).open])
def test_no_nonce_is_used_twice_when_the_counter_ends(side: Callable[[], Callable[[bytes, bytes], bytes]]) -> None:
    use = side()
    body = Sealer(KEYS.up, LAST_FRAME).seal(b"", b"the last")
    use(b"", body)
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="every frame number"):
            use(b"", body)
