"""The bounds of a change of keys, for the wire, the disk and the control socket alike.

They stand in a module of their own, which imports nothing, so that a start need not load the wire for two numbers.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LONGEST_OLD_KEY", "MAX_CPUS"]

LONGEST_OLD_KEY: Final = 30 * 86400
"""Seconds for which an old key may be taken beside the new one: a clock that was wrong must not keep one for ever."""

MAX_CPUS: Final = 64
"""The most CPUs that a key is for at a time, and that an answer tells of; a chain has fewer."""
