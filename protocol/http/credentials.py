"""What a caller claims in an Authorization header (RFC 7616, RFC 7617), and what is stored to check it against.

It must not know whether a claim is true.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, final
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Algorithm", "BasicClaim", "Claim", "DigestClaim", "StoredHashes", "claim", "stored_hash"]


@final
class Algorithm(enum.Enum):
    """A hash of HTTP Digest, by its name on the wire."""

    MD5 = "MD5"
    SHA256 = "SHA-256"

    def of(self, *parts: str) -> str:
        """Hash the parts, joined by colons, to lower-case hex."""
        new = hashlib.sha256 if self is Algorithm.SHA256 else hashlib.md5
        return new(":".join(parts).encode(errors="replace"), usedforsecurity=False).hexdigest()


StoredHashes: TypeAlias = "Mapping[Algorithm, str]"


def stored_hash(algorithm: Algorithm, name: str, realm: str, password: str) -> str:
    """What is kept of a password: RFC 7616's H(A1). It is as good as the password in this realm: keep it secret."""
    return algorithm.of(name, realm, password)


@final
@dataclass(frozen=True, slots=True)
class BasicClaim:
    """A name and the password itself."""

    name: str
    password: str = field(repr=False)


@final
@dataclass(frozen=True, slots=True)
class DigestClaim:
    """A name and the proof of a password; ``count`` and ``client_nonce`` are None from a client before RFC 2617."""

    name: str
    nonce: str
    uri: str
    response: str = field(repr=False)
    algorithm: Algorithm
    count: str | None
    client_nonce: str | None


Claim: TypeAlias = BasicClaim | DigestClaim


def claim(authorization: bytes) -> Claim | None:
    """Read an Authorization header's value; None if it is no claim of a known scheme. Never fails."""
    scheme, _, credentials = _text(authorization).strip().partition(" ")
    match scheme.lower():
        case "basic":
            return _basic(credentials.strip())
        case "digest":
            return _digest(credentials)
        case _:
            return None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _basic(credentials: str) -> BasicClaim | None:
    try:
        name, colon, password = _text(base64.b64decode(credentials, validate=True)).partition(":")
    except (binascii.Error, ValueError):
        return None
    return BasicClaim(name, password) if colon else None


_PARAMETER = re.compile(
    r"""[\s,]* ( [^\s,="]+ ) \s*=\s* (?: "( (?:[^"\\]|\\.)* )" | ( [^\s,"]+ ) ) \s* (?=,|\Z)""", re.VERBOSE | re.DOTALL
)


def _digest(credentials: str) -> DigestClaim | None:
    given = _parameters(credentials)
    try:
        return DigestClaim(
            name=_name(given),
            nonce=given["nonce"],
            uri=given["uri"],
            response=given["response"].lower(),
            algorithm=Algorithm(given.get("algorithm", "MD5").upper()),
            count=_count(given),
            client_nonce=given["cnonce"] if "qop" in given else None,
        )
    except (KeyError, ValueError):
        return None


def _parameters(credentials: str) -> dict[str, str]:
    """Read ``name=value, name="value"``; nothing at all if anything else is in between, or a name comes twice."""
    given: dict[str, str] = {}
    end = 0
    while found := _PARAMETER.match(credentials, end):
        name, quoted, token = found.groups()
        if name.lower() in given:
            return {}
        given[name.lower()] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        end = found.end()
    return {} if credentials[end:].strip(" \t,") else given


def _count(given: Mapping[str, str]) -> str | None:
    if "qop" not in given:
        return None
    if given["qop"] != "auth" or not re.fullmatch("[0-9a-fA-F]{8}", given["nc"]):
        raise ValueError("only qop=auth is offered, and nc has 8 hexadecimal digits")
    return given["nc"]


def _name(given: Mapping[str, str]) -> str:
    """The user's name, which RFC 7616 lets a client write as ``username*=UTF-8''J%C3%A4rvi`` too."""
    if "username" in given:
        return given["username"]
    charset, _, encoded = given["username*"].partition("''")
    if charset.upper() != "UTF-8":
        raise ValueError(charset)
    return unquote(encoded)
