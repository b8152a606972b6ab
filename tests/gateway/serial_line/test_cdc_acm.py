"""A driver that counts transfers is understood to the byte, but for the piece on its way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serial_line.cdc_acm import Transfers

PACKETS = st.sampled_from((8, 16, 32, 64, 512, 1024))


@pytest.mark.parametrize(("packet", "longest"), [(8, 160), (16, 256), (64, 256), (512, 512), (1024, 1024)])
def test_a_piece_is_of_whole_packets_and_fits_a_transfer(packet: int, longest: int) -> None:
    transfers = Transfers()
    assert not transfers.is_known
    transfers.wrote(5)
    assert transfers.waiting(20 * packet) == 5
    assert transfers.is_known
    assert transfers.longest == longest


def test_a_block_is_learned_from_a_piece_that_has_nothing_before_it() -> None:
    transfers = Transfers()
    for _ in range(2):
        transfers.wrote(10)
    assert transfers.waiting(2560) == 2560  # twice 1280, or less of a larger one: nobody knows yet
    assert transfers.waiting(0) == 0
    transfers.wrote(10)
    assert transfers.waiting(1280) == 10


def test_what_is_no_block_teaches_nothing() -> None:
    transfers = Transfers()
    transfers.wrote(10)
    assert transfers.waiting(2 * 1280) == 2 * 1280  # an XOFF of the kernel's own is beside it
    assert not transfers.is_known
    assert transfers.waiting(1280) == 10


@given(PACKETS, st.lists(st.one_of(st.integers(1, 5000), st.none()), min_size=1))
def test_what_waits_is_what_was_written_and_has_not_left(packet: int, doings: list[int | None]) -> None:
    """A number is written, in pieces; None is a transfer that ends."""
    transfers, driver = Transfers(), list[int]()
    for doing in doings:
        if doing is None:
            driver = driver[1:]
        left = doing or 0
        while left and len(driver) < 16:
            piece = min(left, transfers.longest)
            driver.append(piece)
            transfers.wrote(piece)
            left -= piece
            if not transfers.is_known:
                transfers.waiting(20 * packet * len(driver))
        assert all(piece <= 20 * packet for piece in driver)
        assert transfers.waiting(20 * packet * len(driver)) == sum(driver)
