"""AllowedIPAddresses: the addresses that may connect, as the administrator wrote them.

``1.2.3.4, 2.3.4.5-9, 3.4.5.*`` is the form of the Serial port API; IPv6 addresses and networks (CIDR) of both families
are accepted too. Two forms that other programs read differently are refused here, because a list that means
something else than its author thinks is a hole: numbers with a leading zero (octal to some) and host masks in place
of a prefix length.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import final

from protocol.frozen import frozen

__all__ = ["AddressList"]

_FORMS = "allowed forms: 1.2.3.4, 2.3.4.5-9, 3.4.5.*, 10.0.0.0/8, 2001:db8::1, 2001:db8::/32"
_MAPPED = IPv6Network("::ffff:0:0/96")
_ANY_OCTET = range(256)


@final
@frozen
class _Octets:
    """An IPv4 item with ranges: one range for each octet, as in ``2.3.4.5-9``."""

    ranges: tuple[range, ...]

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and all(
            octet in allowed for octet, allowed in zip(address.packed, self.ranges, strict=True)
        )


_Item = _Octets | IPv4Network | IPv6Network


@final
@frozen
class AddressList:
    """The addresses that may connect; without items, all may. ``str()`` returns the text as written.

    Lists are equal when they were written alike: the text is what is stored and shown.
    """

    text: str = ""
    items: tuple[_Item, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AddressList:
        """Read a comma-separated list; blanks around an item do not count.

        Raise ValueError with the first wrong item and the forms that are allowed.
        """
        if not text.strip(" "):
            return cls(text)
        return cls(text, tuple(_item(written.strip(" ")) for written in text.split(",")))

    def allows(self, address: str) -> bool:
        """Return whether a peer at this numeric address may connect.

        An IPv4-mapped IPv6 address counts as its IPv4 address, and a zone (``%eth0``) is ignored. Text that is not
        an address is allowed only by the empty list.
        """
        if not self.items:
            return True
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        # A socket that listens on :: shows IPv4 peers in mapped form; the list means the peer, not the socket.
        if isinstance(peer, IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return any(peer in item for item in self.items)

    def __str__(self) -> str:
        return self.text


def _item(written: str) -> _Item:
    if not written:
        raise ValueError(f"must not have an empty item; {_FORMS}")
    try:
        if ":" in written:
            return _ipv6(written)
        if "/" in written:
            return _ipv4_network(written)
        return _Octets(_octets(written))
    except ValueError as exc:
        raise ValueError(f"{written[:60]!r} is not an address: {exc}; {_FORMS}") from None


def _octets(written: str) -> tuple[range, ...]:
    parts = written.split(".")
    if len(parts) != 4:
        raise ValueError("it must have four numbers with dots between them")
    return tuple(map(_octet, parts))


def _octet(part: str) -> range:
    if part == "*":
        return _ANY_OCTET
    first, dash, last = part.partition("-")
    low = _number(first, 255)
    high = _number(last, 255) if dash else low
    if high < low:
        raise ValueError(f"the range {part} ends before it begins")
    return range(low, high + 1)


def _number(digits: str, most: int) -> int:
    # A leading zero means octal to some programs: 010 would be two different addresses.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 3) or str(int(digits)) != digits:
        raise ValueError(f"{digits[:60]!r} is not a number from 0 to {most}")
    if int(digits) > most:
        raise ValueError(f"{digits} is more than {most}")
    return int(digits)


def _ipv4_network(written: str) -> IPv4Network:
    address, _, prefix = written.partition("/")
    # ip_network would also take 10.0.0.0/0.255.255.255, and read it as a host mask.
    return IPv4Network((IPv4Address(address), _number(prefix, 32)))


def _ipv6(written: str) -> IPv4Network | IPv6Network:
    address, slash, prefix = written.partition("/")
    if "%" in address:
        raise ValueError("a zone is not allowed here")
    network = IPv6Network((IPv6Address(address), _number(prefix, 128) if slash else 128))
    if not network.subnet_of(_MAPPED):
        return network
    # Peers are judged by their IPv4 address, so a mapped item has to be one too, or it would never match.
    return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
