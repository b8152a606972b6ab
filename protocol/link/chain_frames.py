"""The two frames by which CPUs ask each other for the chain: a feature, which older peers do not know.

A Picture carries its tree as bytes. ``chain_tree`` judges them only if the answer was asked for, so that unasked
answers cost no more than any other frame.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final, final

from protocol.frozen import frozen
from protocol.link.header import Parts

__all__ = ["CHAIN", "MAX_TREE", "Picture", "Survey"]

CHAIN: Final = 0b0001
"""The feature bit of those who know both frames."""

MAX_TREE: Final = 8192
"""Bytes of a tree: as much as the longest message, so that nothing waits longer behind an answer than behind that."""

_SURVEY: Final = struct.Struct("!IH")
_NUMBER: Final = struct.Struct("!I")


@final
@frozen
class Survey:
    """The question for the chain on the peer's side of this link.

    ``number`` names it among those of this connection (u32); ``patience`` is how long an answer is awaited, in
    milliseconds (u16).
    """

    code: ClassVar[int] = 0x50
    number: int
    patience: int

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_SURVEY.pack(self.number, self.patience))

    @classmethod
    def decode(cls, parts: Parts) -> Survey:
        """Read the frame back. Raises struct.error."""
        return cls(*_SURVEY.unpack(parts.payload))


@final
@frozen
class Picture:
    """The answer to the Survey of that ``number``: the ``tree`` of ``chain_tree``, 1 to MAX_TREE bytes."""

    code: ClassVar[int] = 0x51
    number: int
    tree: bytes

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_NUMBER.pack(self.number) + self.tree)

    @classmethod
    def decode(cls, parts: Parts) -> Picture:
        """Read the frame back. Raises ValueError or struct.error."""
        (number,) = _NUMBER.unpack_from(parts.payload)
        tree = parts.payload[_NUMBER.size :]
        if not 1 <= len(tree) <= MAX_TREE:
            raise ValueError(f"a tree of {len(tree)} bytes: it has 1 to {MAX_TREE}")
        return cls(number, tree)
