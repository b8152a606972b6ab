"""The Bonjour TXT record of a remote port server, and the order in which a client tries those that it sees.

The record is a hint that anybody on the network can forge: it says where to dial, never whom to trust, nor with which
key.
"""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TYPE_CHECKING, Final, final

from protocol.frozen import frozen
from protocol.link.identity import MAX_NAME
from protocol.link.port_state import has_controls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MAX_CHASSIS", "Advert", "Candidate", "on_link", "order"]

MAX_CHASSIS: Final = 200
"""The most bytes of a chassis name in UTF-8: one TXT string holds 255, with its key."""

_NODE: Final = 16
_MAX_INDEX: Final = 255
_MAX_HOPS: Final = 7
_MAX_VERSION: Final = 255
_MAX_TEXT: Final = 1300
"""Bytes of a record that still fits one packet (RFC 6763, section 6.2); ours take a quarter of it."""
_MAX_ADDRESSES: Final = 8
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,2}")


@final
@frozen
class Advert:
    """One port that a node offers to its neighbours.

    ``node`` is the node id (16 bytes), ``index`` that of its port manager (0-255), ``chassis`` the box that it is in
    (at most MAX_CHASSIS bytes of UTF-8, without control characters), ``hops`` the links between it and the owner of
    the line (0 is the owner, at most 7), ``keyed`` whether it has a key set, ``versions`` the wire versions that it
    speaks (1-255, at least one), ``name`` a label for people (at most MAX_NAME bytes of UTF-8; empty: it says none).
    Raises ValueError for anything else.
    """

    node: bytes
    index: int
    chassis: str
    hops: int
    keyed: bool
    versions: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.node) != _NODE:
            raise ValueError(f"a node id has {_NODE} bytes, not {len(self.node)}")
        if len(self.chassis.encode()) > MAX_CHASSIS:
            raise ValueError(f"a chassis name has at most {MAX_CHASSIS} bytes")
        if has_controls(self.chassis):  # anybody on the network can say one, and it is shown to people
            raise ValueError("a chassis name with control characters")
        if len(self.name.encode()) > MAX_NAME:
            raise ValueError(f"a name has at most {MAX_NAME} bytes")
        _within("port index", self.index, 0, _MAX_INDEX)
        _within("number of hops", self.hops, 0, _MAX_HOPS)
        if not 1 <= len(self.versions) <= 32:
            raise ValueError("1 to 32 wire versions are needed")
        for version in self.versions:
            _within("wire version", version, 1, _MAX_VERSION)

    def encode(self) -> bytes:
        """Return the TXT record: strings ``key=value``, each behind its length (RFC 6763, section 6)."""
        values = {
            "wire": ",".join(map(str, self.versions)),
            "node": self.node.hex(),
            "port": str(self.index),
            "chassis": self.chassis,
            "hops": str(self.hops),
            "key": "yes" if self.keyed else "no",
        }
        if self.name:
            values["name"] = self.name
        strings = [f"{key}={value}".encode() for key, value in values.items()]
        return b"".join(bytes([len(string)]) + string for string in strings)

    @classmethod
    def decode(cls, text: bytes) -> Advert:
        """Read a TXT record; keys that nobody knows yet are left alone. Raises ValueError, which says what is wrong."""
        values = _values(text)
        name = values.get("name", "")
        return cls(
            node=bytes.fromhex(_value(values, "node")),
            index=_number("port", _value(values, "port")),
            chassis=_value(values, "chassis"),
            hops=_number("hops", _value(values, "hops")),
            keyed=_yes(values, "key"),
            versions=tuple(_number("wire", version) for version in _value(values, "wire").split(",")),
            # Nothing hangs on it: one that cannot be shown is no reason to leave out the server.
            name=name if len(name.encode()) <= MAX_NAME and name.isprintable() else "",
        )


@final
@frozen
class Candidate:
    """A server that was seen: what it says of itself, and where it listens (numeric addresses, the best first)."""

    advert: Advert
    addresses: tuple[str, ...]
    port: int


def order(candidates: Iterable[Candidate], chassis: str, index: int) -> tuple[Candidate, ...]:
    """Return whom to try, the best first.

    Those in our own ``chassis`` come first, then those with our ``index``, then the nearest to the line. The node id
    decides the rest, so that every client of a chain comes to the same answer every time.
    """

    def rank(candidate: Candidate) -> tuple[bool, bool, int, bytes, int]:
        advert = candidate.advert
        return advert.chassis != chassis, advert.index != index, advert.hops, advert.node, advert.index

    return tuple(sorted(candidates, key=rank))


def on_link(addresses: Iterable[str], networks: Iterable[IPv4Interface | IPv6Interface]) -> tuple[str, ...]:
    """Return those of ``addresses`` that our own ``networks`` hold: IPv4 first, link-local last, at most eight.

    A record must not send us to dial a stranger behind a router. A link-local address needs its zone (``%2``), the
    same as the network's own.
    """
    ours = tuple(networks)
    numeric = map(ipaddress.ip_address, addresses)
    found = {address for address in numeric if any(_holds(network, address) for network in ours)}
    best = sorted(found, key=lambda address: (address.is_link_local, address.version, address.packed, str(address)))
    return tuple(map(str, best[:_MAX_ADDRESSES]))


def _holds(network: IPv4Interface | IPv6Interface, address: IPv4Address | IPv6Address) -> bool:
    if address not in network.network:
        return False
    if isinstance(network, IPv6Interface) and isinstance(address, IPv6Address) and address.is_link_local:
        # `in` knows no zones: fe80::/64 is another network on every interface.
        return address.scope_id == network.scope_id
    return True


def _values(text: bytes) -> dict[str, str]:
    if len(text) > _MAX_TEXT:
        raise ValueError(f"a TXT record of {len(text)} bytes is longer than {_MAX_TEXT}")
    values: dict[str, str] = {}
    start = 0
    while start < len(text):
        end = start + 1 + text[start]
        if end > len(text):
            raise ValueError("the TXT record ends in the middle of a string")
        key, equals, value = text[start + 1 : end].partition(b"=")
        start = end
        if equals:
            # The first of equal keys counts, whatever its case (RFC 6763, section 6.4).
            values.setdefault(key.lower().decode("latin-1"), value.decode("utf-8", "replace"))
    return values


def _value(values: Mapping[str, str], key: str) -> str:
    if key not in values:
        raise ValueError(f"the TXT record does not say {key}=")
    return values[key]


def _number(key: str, digits: str) -> int:
    if not _NUMBER.fullmatch(digits):
        raise ValueError(f"{key}={digits[:20]!r} is not a number")
    return int(digits)


def _yes(values: Mapping[str, str], key: str) -> bool:
    value = _value(values, key)
    if value not in {"yes", "no"}:
        raise ValueError(f"{key}={value[:20]!r} is neither yes nor no")
    return value == "yes"


def _within(what: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise ValueError(f"a {what} is {least} to {most}, not {number}")
