"""Traffic keys, and the sealing and opening of frames with ChaCha20-Poly1305 (RFC 8439, RFC 5869).

Each direction has its own key. The nonce is the number of the frame in its direction and is never sent, so that a frame
that is left out, repeated or moved does not open.
"""

from __future__ import annotations

from typing import Final, NamedTuple, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import LocalProtocolError
from protocol.link.header import CutError

__all__ = ["LAST_FRAME", "TAG", "Opener", "Sealer", "TagError", "TrafficKeys", "traffic_keys"]

TAG: Final = 16
"""Bytes that sealing adds."""

LAST_FRAME: Final = 2**64 - 1
"""The highest number that a frame of one direction may have."""


@final
class TagError(CutError):
    """A frame that the peer did not seal, or not at this place."""


@final
class TrafficKeys(NamedTuple):
    """One key for each direction, 32 bytes each."""

    up: bytes
    down: bytes


def traffic_keys(isk: bytes, session_output: bytes) -> TrafficKeys:
    """Derive the keys of a run from its ISK (RFC 5869), bound to its transcript by ``session_output``."""
    keys = (_derived(isk, session_output, direction) for direction in (b"up", b"down"))
    return TrafficKeys(*keys)


def _derived(isk: bytes, salt: bytes, direction: bytes) -> bytes:
    return HKDF(SHA512(), 32, salt, b"daisyport remote port traffic " + direction).derive(isk)


class _Counter:
    """Hands out the nonces of one direction, each once."""

    def __init__(self, number: int) -> None:
        self._number = number

    def nonce(self) -> bytes:
        if self._number > LAST_FRAME:
            raise LocalProtocolError("every frame number of this direction is used: a new connection was due")
        nonce = self._number.to_bytes(12, "big")
        self._number += 1
        return nonce


@final
class Sealer:
    """Seals the frames of one direction, the first under number ``first``."""

    def __init__(self, key: bytes, first: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._counter = _Counter(first)

    def seal(self, head: bytes, payload: bytes) -> bytes:
        """Return payload sealed and tag, with ``head`` authenticated beside it."""
        return self._cipher.encrypt(self._counter.nonce(), payload, head)


@final
class Opener:
    """Opens the frames of one direction in the order in which they were sealed."""

    def __init__(self, key: bytes, first: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._counter = _Counter(first)

    def open(self, head: bytes, body: bytes) -> bytes:
        """Return the payload. Raises TagError, after which the direction is of no more use."""
        nonce = self._counter.nonce()
        try:
            return self._cipher.decrypt(nonce, body, head)
        except InvalidTag as error:
            raise TagError("a frame's tag does not verify: altered, or sealed elsewhere") from error
