"""CPace, the password-authenticated key exchange CPACE-X25519-SHA512 (draft-irtf-cfrg-cpace).

An AuthenticationKey is a string that a person typed, so an exchange that can be recorded and tried against a list of
words would give it away. With a PAKE a recording is useless for guessing keys, and a live handshake tests only one
guess. This file has only the arithmetic (RFC 7748, RFC 9380), without any state.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocol.link.header import CutError

__all__ = [
    "PointError",
    "confirmation",
    "generator",
    "intermediate_key",
    "lv_cat",
    "prepend_len",
    "session_output",
    "share",
    "transcript",
]

_DSI: Final = b"CPace255"
_BLOCK: Final = 128  # SHA-512's input block
_Q: Final = 2**255 - 19
_A: Final = 486662


@final
class PointError(CutError):
    """The peer's share is a point of low order, so that everybody would know the shared secret."""


def _hash(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def prepend_len(data: bytes) -> bytes:
    """Return ``data`` behind its length in LEB128."""
    length, prefix = len(data), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(prefix) + bytes([length]) + data


def lv_cat(*parts: bytes) -> bytes:
    """Concatenate parts so that different parts never give the same bytes."""
    return b"".join(map(prepend_len, parts))


def generator(prs: bytes, ci: bytes, sid: bytes = b"") -> bytes:
    """Map the password-related string to a point of the curve, as a u-coordinate of 32 bytes.

    It does not take constant time: call it only when a key is set, and never at a peer's demand.
    """
    padding = max(0, _BLOCK - len(prepend_len(prs)) - len(prepend_len(_DSI)) - 1)
    digest = _hash(lv_cat(_DSI, prs, bytes(padding), ci, sid))
    return _elligator2(int.from_bytes(digest[:32], "little") & (2**255 - 1))


def _elligator2(r: int) -> bytes:
    v = -_A * pow(1 + 2 * r * r, -1, _Q) % _Q
    # Exactly one of v and -v - A is the u-coordinate of a point of the curve and not of its twist (RFC 9380, 6.7.1).
    on_curve = pow(v**3 + _A * v * v + v, (_Q - 1) // 2, _Q) == 1
    return (v if on_curve else (-v - _A) % _Q).to_bytes(32, "little")


def share(scalar: bytes, point: bytes) -> bytes:
    """Multiply ``point`` by the 32 bytes of ``scalar``: a public share, or the secret K.

    Raises PointError where the product is all zero.
    """
    try:
        public = X25519PublicKey.from_public_bytes(point)
        return X25519PrivateKey.from_private_bytes(scalar).exchange(public)
    except ValueError as error:
        raise PointError("the peer's share is a point of low order: use a fresh random one") from error


def transcript(ya: bytes, ad_a: bytes, yb: bytes, ad_b: bytes) -> bytes:
    """Return the transcript of both sides, the initiator's half first."""
    return lv_cat(ya, ad_a) + lv_cat(yb, ad_b)


def intermediate_key(scalar: bytes, peer_share: bytes, seen: bytes, sid: bytes = b"") -> bytes:
    """Return the ISK, 64 bytes. It is only the input of a KDF, never a key itself. Raises PointError.

    ``seen`` is the transcript.
    """
    return _hash(lv_cat(_DSI + b"_ISK", sid, share(scalar, peer_share)) + seen)


def confirmation(isk: bytes, own_share: bytes, ad: bytes, sid: bytes = b"") -> bytes:
    """Return the tag by which the owner of ``own_share`` proves that it has the same ISK."""
    key = _hash(b"CPaceMac" + sid + isk)
    return hmac.digest(key, lv_cat(own_share, ad), "sha512")


def session_output(seen: bytes) -> bytes:
    """Return a public name of this run that no other run has."""
    return _hash(b"CPaceSidOutput" + seen)
