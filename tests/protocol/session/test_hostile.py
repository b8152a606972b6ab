"""Nothing that a peer says behind a good tag raises anything but RemoteProtocolError, on either side."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.protocol.session.hostile import play


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(min_size=50, max_size=600))
def test_a_peer_that_lies_meets_events_and_protocol_errors_alone(data: bytes) -> None:
    play(data)


@pytest.mark.parametrize("seed", range(8))
def test_liars_get_far_enough_to_lie(seed: int) -> None:
    """Many of their frames are taken, or the property above would only prove that openings are refused."""
    assert play(random.Random(seed).randbytes(4000)) >= 50


@pytest.mark.long
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(min_size=50, max_size=2000))
def test_it_holds_for_tens_of_thousands_of_liars(data: bytes) -> None:
    play(data)
