"""The state of a port as links get it: rights, health, line settings, rules of sharing, the path to the line.

The two texts are for people, and decide nothing.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, final

from protocol.frozen import frozen
from protocol.link.sharing_rules import decode_rules, encode_rules

if TYPE_CHECKING:
    from protocol.sharing.message_rule import MessageRule
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["MAX_PATH", "NODE_ID", "PortState", "decode_text", "encode_text", "has_controls"]

NODE_ID: Final = 16
"""Bytes of a node id."""

MAX_PATH: Final = 8
"""The most nodes that a path may name."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that no text has: both sets of controls, line separators, and what turns the direction of writing.

They are listed because both sides must agree, and what Unicode calls printable changes from year to year.
"""

_RIGHTS: Final = 0b1110
"""A bit for each class that may write: 1 << channel. Bit 0 would be the line's own stream, which nobody writes."""

_LAYOUT: Final = struct.Struct("!BBI")


def has_controls(text: str) -> bool:
    """Return whether ``text`` has a character that is not allowed in texts."""
    return _CONTROL.search(text) is not None


def encode_text(text: str, most: int = 255) -> bytes:
    """Return the UTF-8 of ``text`` behind its length in one byte: cleaned, and cut to ``most`` bytes at a character."""
    data = _CONTROL.sub("?", text).encode(errors="replace")[:most].decode(errors="ignore").encode()
    return bytes([len(data)]) + data


def decode_text(data: bytes, start: int) -> tuple[str, int]:
    """Read a text at ``start``; return it and the offset after it. Raises IndexError or ValueError.

    Control characters are refused: a peer's text is shown in logs, in a console and in HTTP answers, where a newline or
    an escape sequence could forge a line of our own.
    """
    end = start + 1 + data[start]
    text = data[start + 1 : end].decode()
    if has_controls(text):
        raise ValueError("a text with control characters")
    return text, end


@final
@frozen
class PortState:
    """The state of B's port, as OPENED and PORT carry it.

    ``rights`` has bit ``1 << channel`` for each class that may write; ``rate`` is the line's in bits a
    second; ``up`` tells whether bytes reach a device, else ``why`` in words that they do not; ``line`` the settings
    in words; ``path`` the node ids from the owner of the line to B, at most MAX_PATH, each once; ``turn`` and
    ``message`` the rules by which the owner has writers share the line, None where it has none. A port that is up has
    a path, and no ``why``; one that is down has a ``why``. That is judged where a peer's word is decoded.
    """

    rights: int
    up: bool
    rate: int
    why: str
    line: str
    path: tuple[bytes, ...]
    turn: TurnRule | None = None
    message: MessageRule | None = None

    def _check(self) -> None:
        if len(self.path) > MAX_PATH or any(len(node) != NODE_ID for node in self.path):
            raise ValueError(f"a path has at most {MAX_PATH} node ids of {NODE_ID} bytes")
        if len(set(self.path)) < len(self.path):
            raise ValueError("a path names no node twice")
        if self.rights & ~_RIGHTS:
            raise ValueError(f"rights {self.rights:#04x} have bits of no class")
        if self.up and (self.why or not self.path):
            raise ValueError("a port that is up has a path, and no reason to be down")
        if not self.up and not self.why:
            raise ValueError("a port that is down says why")

    def encode(self) -> bytes:
        """Return the state's bytes, the end of OPENED and the whole of PORT."""
        fixed = _LAYOUT.pack(self.rights, self.up, self.rate)
        texts = encode_text(self.why) + encode_text(self.line)
        return fixed + texts + encode_rules(self.turn, self.message) + b"".join(self.path)

    @classmethod
    def decode(cls, data: bytes) -> PortState:
        """Read a state; the path is all that follows. Raises ValueError, IndexError or struct.error."""
        rights, up, rate = _LAYOUT.unpack_from(data)
        why, start = decode_text(data, _LAYOUT.size)
        line, start = decode_text(data, start)
        turn, message, start = decode_rules(data, start)
        path = tuple(data[at : at + NODE_ID] for at in range(start, len(data), NODE_ID))
        state = cls(rights, bool(up), rate, why, line, path, turn, message)
        state._check()
        return state
