"""Read an Authorization header (Basic: RFC 7617, Digest: RFC 7616), and hash passwords for storage.

Nothing here judges credentials; ``protocol.http.digest`` does. Clients are many and old, so reading is liberal where
only one meaning is possible (quoted or not, any case, blanks anywhere) and strict where two are (a name that is given
twice, text between the parameters): then the header holds no credentials at all.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias, final
from urllib.parse import unquote

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Algorithm",
    "BasicCredentials",
    "Credentials",
    "DigestCredentials",
    "StoredHashes",
    "parse_credentials",
    "stored_hash",
]


@final
class Algorithm(enum.Enum):
    """A hash of HTTP Digest, by its name on the wire."""

    MD5 = "MD5"
    SHA256 = "SHA-256"

    def of(self, *parts: str) -> str:
        """Hash the parts, joined by colons, and return lower-case hex digits."""
        new = hashlib.sha256 if self is Algorithm.SHA256 else hashlib.md5
        return new(":".join(parts).encode(errors="replace"), usedforsecurity=False).hexdigest()


StoredHashes: TypeAlias = "Mapping[Algorithm, str]"


def stored_hash(algorithm: Algorithm, name: str, realm: str, password: str) -> str:
    """Return RFC 7616's H(A1), which is stored in place of a password.

    In this realm it is as good as the password: keep it secret.
    """
    return algorithm.of(name, realm, password)


@final
@frozen
class BasicCredentials:
    """A name and the password itself."""

    name: str
    password: str = field(repr=False)


@final
@frozen
class DigestCredentials:
    """A name and the proof of a password.

    ``count`` and ``client_nonce`` are None from a client that sends no ``qop`` (RFC 2069).
    """

    name: str
    nonce: str
    uri: str
    response: str = field(repr=False)
    algorithm: Algorithm
    count: str | None
    client_nonce: str | None


Credentials: TypeAlias = BasicCredentials | DigestCredentials


def parse_credentials(authorization: bytes) -> Credentials | None:
    """Read an Authorization header's value. Return None where it holds no credentials of a known scheme."""
    scheme, _, rest = _text(authorization).strip().partition(" ")
    match scheme.lower():
        case "basic":
            return _basic(rest.strip())
        case "digest":
            return _digest(rest)
        case _:
            return None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _basic(encoded: str) -> BasicCredentials | None:
    try:
        name, colon, password = _text(base64.b64decode(encoded, validate=True)).partition(":")
    except (binascii.Error, ValueError):
        return None
    return BasicCredentials(name, password) if colon else None


_PARAMETER = re.compile(
    r"""[\s,]* ( [^\s,="]+ ) \s*=\s* (?: "( (?:[^"\\]|\\.)* )" | ( [^\s,"]+ ) ) \s* (?=,|\Z)""", re.VERBOSE | re.DOTALL
)


_MOST_PARAMETERS = 32
"""RFC 7616 knows a dozen; a header of thousands would take long to read, and comes before any login."""


def _digest(written: str) -> DigestCredentials | None:
    given = _parameters(written)
    try:
        return DigestCredentials(
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


def _parameters(written: str) -> dict[str, str]:
    """Read ``name=value, name="value"``. Return nothing if anything else is in between, or a name comes twice.

    A proxy or a library that reads such a header takes one of the two, and nobody knows which.
    """
    given: dict[str, str] = {}
    end = 0
    while len(given) <= _MOST_PARAMETERS and (found := _PARAMETER.match(written, end)):
        name, quoted, token = found.groups()
        if name.lower() in given:
            return {}
        if quoted is not None and "\\" in quoted:
            quoted = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        given[name.lower()] = token if quoted is None else quoted
        end = found.end()
    return {} if written[end:].strip(" \t,") else given


def _count(given: Mapping[str, str]) -> str | None:
    if "qop" not in given:
        return None
    # RFC 7616 says 8 digits; clients that write fewer hash what they write.
    if given["qop"] != "auth" or not re.fullmatch("[0-9a-fA-F]{1,8}", given["nc"]):
        raise ValueError("only qop=auth is offered, and nc has 1 to 8 hexadecimal digits")
    return given["nc"]


def _name(given: Mapping[str, str]) -> str:
    """Return the user's name, which RFC 7616 lets a client write as ``username*=UTF-8''J%C3%A4rvi`` too."""
    if "username" in given:
        return given["username"]
    charset, _language, encoded = given["username*"].split("'", 2)
    if charset.upper() != "UTF-8":
        raise ValueError(charset)
    return unquote(encoded)
