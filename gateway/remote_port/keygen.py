"""Keys for remote port servers and their clients: strong, and easy to copy by hand."""

from __future__ import annotations

import secrets
from typing import Final

__all__ = ["ALPHABET", "strong_key"]

ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
"""Digits and lower case letters without those that are easily confused: 0 and o; 1, i and l."""
_GROUPS: Final = 6
_GROUP: Final = 5


def strong_key() -> str:
    """Return a random key of 148 bits: six groups of five characters that need no quotes and no percent signs."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
