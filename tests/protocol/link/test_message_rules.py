from __future__ import annotations

import subprocess
import sys

import pytest

from protocol.link.message_rules import AGE_LIMIT, PTZ_AGE_LIMIT, message_limit, portion
from protocol.link.stream_frames import Channel
from protocol.session.session import SessionLimits


def test_a_ptz_command_is_stale_after_two_seconds_and_anything_else_after_fifteen() -> None:
    assert (PTZ_AGE_LIMIT, AGE_LIMIT) == (2_000, 15_000)
    assert SessionLimits().age == {Channel.PTZ: 2_000, Channel.TCP: 15_000, Channel.CGI: 15_000}


@pytest.mark.parametrize(
    ("bytes_per_second", "most"), [(0.0, 512), (30.0, 16), (169.0, 16), (170.0, 17), (46_080.0, 4_608)]
)
def test_a_portion_is_a_tenth_of_a_second_of_line_and_16_bytes_at_least(bytes_per_second: float, most: int) -> None:
    assert portion(bytes_per_second) == most


@pytest.mark.parametrize(
    ("bytes_per_second", "most"),
    [
        (0.0, 512),
        (10.0, 16),
        (30.0, 30),
        (120.0, 120),
        (960.0, 512),
        (5_129.0, 512),
        (5_130.0, 513),
        (46_080.0, 4_608),
        (81_930.0, 8_192),
        (1e9, 8_192),
    ],
)
def test_a_message_is_no_longer_than_a_second_of_line_and_512_bytes_or_a_portion_and_than_a_link_carries(
    bytes_per_second: float, most: int
) -> None:
    assert message_limit(bytes_per_second) == most


def test_the_rules_load_no_wire() -> None:
    loaded = "import sys; import protocol.link.message_rules; print(*(m for m in sys.modules if 'protocol' in m))"
    found = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["protocol", "protocol.link", "protocol.link.message_rules"]
