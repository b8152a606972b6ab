from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.port.history import History


@given(size=st.integers(1, 40), pieces=st.lists(st.binary(max_size=60)))
def test_a_history_is_the_newest_bytes_of_all_that_was_said(size: int, pieces: list[bytes]) -> None:
    history = History(size)
    for piece in pieces:
        history.deliver(piece)
    assert history.newest == b"".join(pieces)[-size:]
