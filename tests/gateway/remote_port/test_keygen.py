"""Keys: strong enough, easy to copy, and taken as they are by the parameters that they are for."""

from __future__ import annotations

import math

from gateway.remote_port.keygen import ALPHABET, strong_key
from protocol.parameters.settings import KEY


def test_a_key_has_at_least_128_bits_and_no_characters_that_look_alike() -> None:
    key = strong_key()
    characters = key.replace("-", "")
    assert len(characters) * math.log2(len(ALPHABET)) >= 128
    assert set(characters) <= set(ALPHABET)
    assert not set(ALPHABET) & set("01iloIO")
    assert len(set(ALPHABET)) == len(ALPHABET)


def test_a_key_is_taken_as_it_is_by_the_parameters() -> None:
    key = strong_key()
    assert KEY.parse(key) == key


def test_each_key_is_another() -> None:
    assert len({strong_key() for _ in range(100)}) == 100
