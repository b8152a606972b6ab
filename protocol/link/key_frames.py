"""The two frames that carry a new AuthenticationKey down a chain: a feature, which older peers do not know.

The server sends Rekey, and its client answers Rekeyed. The new key travels sealed under traffic keys that this
connection agreed on with fresh shares, so that a recording and the old key do not give it away. It is only for the
nodes that Rekey names: a node id is proved by a signature, which holders of the old key cannot forge.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import field
from typing import ClassVar, Final, NamedTuple, final

from protocol.frozen import frozen
from protocol.link.header import Parts
from protocol.link.identity import MAX_NAME
from protocol.link.key_rules import LONGEST_OLD_KEY, MAX_CPUS
from protocol.link.port_state import NODE_ID, decode_text, encode_text, has_controls

__all__ = ["KEYS", "Rekey", "Rekeyed", "Told", "ToldCpu"]

KEYS: Final = 0b0010
"""The feature bit of those who know both frames."""

_LONGEST: Final = 512
"""Bytes of a key: 128 characters, as the parameter has it, in UTF-8."""
_REKEY: Final = struct.Struct("!IHIB")
_REKEYED: Final = struct.Struct("!IB")
_CPU: Final = struct.Struct(f"!{NODE_ID}sB")


@final
class Told(enum.IntEnum):
    """The outcome of a new key at one CPU."""

    CHANGED = 0
    """It has stored the key, and dials with it from now on."""
    SAME = 1
    """It had the key already."""
    REFUSED = 2
    """It is configured to take no key from its server, or has no key itself."""
    FAILED = 3
    """It could not take it; its log says why."""
    SILENT = 4
    """Its link is up, but no answer came in time."""
    OLDER = 5
    """Its version does not know the frame."""
    GONE = 6
    """Its link is down."""
    UNNAMED = 7
    """The key is not for it."""
    APART = 8
    """The CPU above it has a key of its own for those below, which stays."""


@final
class ToldCpu(NamedTuple):
    """A CPU, its name for people, and the outcome of the key there."""

    node: bytes
    name: str
    told: Told


@final
@frozen
class Rekey:
    """B to A: the key that B's clients must use from now on.

    ``number`` identifies the change in A's answer (u32); ``patience`` is how long B waits for that, in milliseconds
    (u16). Servers accept their old key for ``seconds`` more (1 to LONGEST_OLD_KEY). The ``key`` is only for the CPUs in
    ``nodes`` (1 to MAX_CPUS node ids).
    """

    code: ClassVar[int] = 0x52
    number: int
    patience: int
    seconds: int
    nodes: tuple[bytes, ...]
    key: str = field(repr=False)
    """1 to 512 bytes of UTF-8, without control characters."""

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        fixed = _REKEY.pack(self.number, self.patience, self.seconds, len(self.nodes))
        return Parts(fixed + b"".join(self.nodes) + self.key.encode())

    @classmethod
    def decode(cls, parts: Parts) -> Rekey:
        """Read the frame back. Raises ValueError or struct.error."""
        number, patience, seconds, count = _REKEY.unpack_from(parts.payload)
        end = _REKEY.size + count * NODE_ID
        nodes = tuple(parts.payload[at : at + NODE_ID] for at in range(_REKEY.size, end, NODE_ID))
        data = parts.payload[end:]
        if not 1 <= seconds <= LONGEST_OLD_KEY:
            raise ValueError(f"an old key for {seconds} s: it is taken for 1 to {LONGEST_OLD_KEY}")
        if not 1 <= count <= MAX_CPUS:
            raise ValueError(f"a key for {count} CPUs: it is for 1 to {MAX_CPUS}")
        if not 1 <= len(data) <= _LONGEST:
            raise ValueError(f"a key of {len(data)} bytes: it has 1 to {_LONGEST}")
        key = data.decode()
        if has_controls(key):
            raise ValueError("a key with control characters")
        return cls(number, patience, seconds, nodes, key)


@final
@frozen
class Rekeyed:
    """A to B: the outcome of the Rekey of that ``number``, at A (the first of ``cpus``) and at the CPUs behind it."""

    code: ClassVar[int] = 0x53
    number: int
    cpus: tuple[ToldCpu, ...]

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        cpus = (_CPU.pack(cpu.node, cpu.told) + encode_text(cpu.name, MAX_NAME) for cpu in self.cpus)
        return Parts(_REKEYED.pack(self.number, len(self.cpus)) + b"".join(cpus))

    @classmethod
    def decode(cls, parts: Parts) -> Rekeyed:
        """Read the frame back. Raises ValueError, IndexError or struct.error."""
        number, count = _REKEYED.unpack_from(parts.payload)
        if not 1 <= count <= MAX_CPUS:
            raise ValueError(f"{count} CPUs: an answer tells of 1 to {MAX_CPUS}")
        cpus, start = [], _REKEYED.size
        for _ in range(count):
            node, told = _CPU.unpack_from(parts.payload, start)
            name, start = decode_text(parts.payload, start + _CPU.size)
            cpus.append(ToldCpu(node, name, Told(told)))
        return cls(number, tuple(cpus))
