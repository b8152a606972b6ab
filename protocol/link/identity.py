"""The identity of a node: an Ed25519 key pair (RFC 8032), so that no node can pass for another.

A node id is the first 16 bytes of the SHA-256 of the public key, so that everybody can check a claim to an id: its
owner signs the handshake. Any holder of the AuthenticationKey may join a chain, but only one under a given id, whose
session, connection numbers and place are its own.

The cryptography is loaded at its first use: a gateway without links needs its node id, but no signature.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Final, final

from protocol.link.port_state import NODE_ID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["MAX_NAME", "NodeKey", "is_signed", "node_id"]

MAX_NAME: Final = 64
"""The most bytes of a node's name in UTF-8."""


def node_id(public: bytes) -> bytes:
    """Return the id of the node whose public key has these 32 bytes."""
    return hashlib.sha256(public).digest()[:NODE_ID]


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether the owner of ``public`` (32 bytes) signed ``message``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@final
class NodeKey:
    """A node's key pair, from the 32 secret bytes of ``seed``; ``name`` is a label for people, and proves nothing.

    ``public`` is given where it was kept beside the seed.
    """

    def __init__(self, seed: bytes, name: str = "", public: bytes | None = None) -> None:
        self._seed = seed
        self.public = public or self._derived()
        self.id = node_id(self.public)
        self.name = name

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._private.sign(message)

    @functools.cached_property
    def _private(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed)

    def _derived(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
