"""The four frames of the handshake; the first three are the only ones that ever go in clear, beside a CLOSE.

What a hello says beside its share is CPace's associated data: ``ad`` is its exact bytes, since both sides must feed
the same ones to the arithmetic.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final, final

from protocol.frozen import frozen
from protocol.link.header import Parts
from protocol.link.identity import MAX_NAME
from protocol.link.port_state import NODE_ID, decode_text, encode_text

__all__ = ["Confirm", "Hello", "HelloReply", "Identity"]


_SHARE: Final = 32
_FRESH: Final = 16
_TAG: Final = 64
_HELLO: Final = struct.Struct(f"!{NODE_ID}sB{_FRESH}s")
_REPLY: Final = struct.Struct(f"!B{NODE_ID}sB")
_IDENTITY: Final = struct.Struct("!32s64sI")


@final
@frozen
class Hello:
    """A to B: ``share`` is Ya; then the versions offered, A's node id, R index and 16 fresh random bytes."""

    code: ClassVar[int] = 1
    share: bytes
    versions: tuple[int, ...]
    node: bytes
    index: int
    fresh: bytes

    @property
    def ad(self) -> bytes:
        """Return ADa, the client's associated data."""
        return bytes([len(self.versions), *self.versions]) + _HELLO.pack(self.node, self.index, self.fresh)

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(self.share + self.ad)

    @classmethod
    def decode(cls, parts: Parts) -> Hello:
        """Read the frame back. Raises IndexError or struct.error."""
        start = _SHARE + 1
        end = start + parts.payload[_SHARE]
        fields = _HELLO.unpack_from(parts.payload, end)
        return cls(parts.payload[:_SHARE], tuple(parts.payload[start:end]), *fields)


@final
@frozen
class HelloReply:
    """B to A: ``share`` is Yb; then the version chosen, B's node id, port index, chassis; ``tag`` is Tb."""

    code: ClassVar[int] = 2
    share: bytes
    version: int
    node: bytes
    index: int
    chassis: str
    tag: bytes

    @property
    def ad(self) -> bytes:
        """Return ADb, the server's associated data."""
        return _REPLY.pack(self.version, self.node, self.index) + encode_text(self.chassis)

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(self.share + self.ad + self.tag)

    @classmethod
    def decode(cls, parts: Parts) -> HelloReply:
        """Read the frame back. Raises IndexError, UnicodeDecodeError or struct.error."""
        version, node, index = _REPLY.unpack_from(parts.payload, _SHARE)
        chassis, end = decode_text(parts.payload, _SHARE + _REPLY.size)
        return cls(parts.payload[:_SHARE], version, node, index, chassis, _tag(parts.payload[end:]))


@final
@frozen
class Confirm:
    """A to B: ``tag`` is Ta, the proof that A has the key."""

    code: ClassVar[int] = 3
    tag: bytes

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(self.tag)

    @classmethod
    def decode(cls, parts: Parts) -> Confirm:
        """Read the frame back. Raises ValueError."""
        return cls(_tag(parts.payload))


@final
@frozen
class Identity:
    """Either side, sealed: its public key, and its signature of the handshake, which proves the node id of its hello.

    ``features`` has a bit for each thing beyond this page that the node knows (u32), ``name`` is for people (at most
    MAX_NAME bytes of UTF-8).
    """

    code: ClassVar[int] = 16
    public: bytes
    signature: bytes
    features: int
    name: str

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_IDENTITY.pack(self.public, self.signature, self.features) + encode_text(self.name, MAX_NAME))

    @classmethod
    def decode(cls, parts: Parts) -> Identity:
        """Read the frame back. Raises ValueError, IndexError or struct.error."""
        public, signature, features = _IDENTITY.unpack_from(parts.payload)
        name, _ = decode_text(parts.payload, _IDENTITY.size)
        return cls(public, signature, features, name)


def _tag(data: bytes) -> bytes:
    if len(data) != _TAG:
        raise ValueError(f"a tag has {_TAG} bytes")
    return data
