from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.session.progress import Progress


def test_a_message_is_begun_with_its_first_byte_and_done_with_its_last() -> None:
    message = Progress(10, 14)
    assert (message.begun, message.left) == (False, 4)
    message.settle(1)
    assert (message.begun, message.left, message.position) == (True, 3, 11)
    message.settle(3)
    assert (message.left, message.start, message.end) == (0, 10, 14)


@pytest.mark.parametrize("count", [-1, 5])
def test_no_more_is_settled_than_there_is(count: int) -> None:
    message = Progress(10, 14)
    with pytest.raises(LocalProtocolError, match="of which 4 are left"):
        message.settle(count)
    assert message.position == 10


def test_an_outcome_of_several_messages_counts_for_this_one_as_far_as_it_goes() -> None:
    message = Progress(10, 14)
    assert [message.settle_to(offset) for offset in (9, 10, 12, 11, 99)] == [0, 0, 2, 0, 2]


@given(st.integers(0, 2**62), st.integers(0, 99), st.lists(st.integers(-9, 120)))
def test_the_position_only_grows_within_the_message(start: int, size: int, moves: list[int]) -> None:
    message = Progress(start, start + size)
    counted = 0
    for move in moves:
        before = message.position
        counted += message.settle_to(start + move)
        assert before <= message.position <= message.end
    assert message.position == start + counted
