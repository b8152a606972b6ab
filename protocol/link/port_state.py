"""The state of a port as its links are told: rights, health, line settings and the path to the line.

The two texts are for people: nothing is decided by them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, final

__all__ = ["MAX_PATH", "NODE_ID", "PortState", "decode_text", "encode_text"]

NODE_ID: Final = 16
"""Bytes of a node id."""

MAX_PATH: Final = 8
"""The most nodes that a path may name."""

_LAYOUT: Final = struct.Struct("!BBI")


def encode_text(text: str) -> bytes:
    """Return the UTF-8 of ``text`` behind its length in one byte, cut to fit between two characters."""
    data = text.encode()[:255].decode(errors="ignore").encode()
    return bytes([len(data)]) + data


def decode_text(data: bytes, start: int) -> tuple[str, int]:
    """Read a text at ``start``; return it and the offset after it. Raises IndexError or ValueError."""
    end = start + 1 + data[start]
    return data[start + 1 : end].decode(), end


@final
@dataclass(frozen=True, slots=True)
class PortState:
    """The state of B's port, as OPENED and PORT carry it.

    ``rights`` has bit ``1 << channel`` for each class that may write; ``rate`` is the line's in bits a
    second; ``up`` whether bytes reach a device, else ``why`` in words; ``line`` the settings in words;
    ``path`` the node ids from the owner of the line to B, at most MAX_PATH.
    """

    rights: int
    up: bool
    rate: int
    why: str
    line: str
    path: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.path) > MAX_PATH or any(len(node) != NODE_ID for node in self.path):
            raise ValueError(f"a path has at most {MAX_PATH} node ids of {NODE_ID} bytes")

    def encode(self) -> bytes:
        """Return the state's bytes, the end of OPENED and the whole of PORT."""
        fixed = _LAYOUT.pack(self.rights, self.up, self.rate)
        return fixed + encode_text(self.why) + encode_text(self.line) + b"".join(self.path)

    @classmethod
    def decode(cls, data: bytes) -> PortState:
        """Read a state; the path is all that follows. Raises ValueError, IndexError or struct.error."""
        rights, up, rate = _LAYOUT.unpack_from(data)
        why, start = decode_text(data, _LAYOUT.size)
        line, start = decode_text(data, start)
        path = tuple(data[at : at + NODE_ID] for at in range(start, len(data), NODE_ID))
        return cls(rights, bool(up), rate, why, line, path)
