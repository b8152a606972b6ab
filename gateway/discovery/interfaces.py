"""The network links of this host that others can be found on, and their changes, from the kernel by rtnetlink(7).

The kernel reports that something changed. It is then asked for everything again, so that a lost or strange message does
no harm.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Interface", "interfaces", "on_own_link", "watch"]

# linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h
_GETLINK, _GETADDR = 18, 22
_ERROR, _DONE = 2, 3
_REQUEST_DUMP: Final = 0x301
_GROUPS: Final = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR."""
_IFLA_CARRIER_UP_COUNT: Final = 47
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NOT_YET: Final = 0x40 | 0x08
"""IFA_F_TENTATIVE and IFA_F_DADFAILED: nothing can be bound to it."""
_LOOPBACK: Final = 0x8
_FINDABLE: Final = 0x1 | 0x40 | 0x1000
"""IFF_UP, IFF_RUNNING and IFF_MULTICAST."""

_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")


@final
@frozen
class Interface:
    """An interface that has a carrier and does multicast, and is not the loopback.

    ``ups`` counts how often its carrier came, so that a link that went and came back between two looks differs.
    Link-local IPv6 addresses have ``index`` as their zone.
    """

    index: int
    ups: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


def interfaces() -> tuple[Interface, ...]:
    """Return the links that have an address. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        ups = dict(_findable(sock))
        found: dict[int, list[IPv4Interface | IPv6Interface]] = {}
        for index, address in _addresses(sock):
            found.setdefault(index, []).append(address)
    return tuple(Interface(index, ups[index], tuple(found[index])) for index in sorted(ups.keys() & found.keys()))


def on_own_link(address: str) -> bool:
    """Return whether a numeric address, with its zone or without, is this host's own or that of a neighbour."""
    ip = ip_address(address.partition("%")[0])
    if ip.is_loopback or (ip.version == 6 and ip.is_link_local):
        return True
    try:
        return any(ip in own.network for link in interfaces() for own in link.addresses)
    except OSError:  # unknown, so not on a link of ours
        return False


async def watch(tell: Callable[[tuple[Interface, ...]], None]) -> NoReturn:
    """Call ``tell`` with the links now, and again whenever they may have changed. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as news:
        news.bind((0, _GROUPS))  # before the first look, so that no change falls between the two
        while True:
            tell(interfaces())
            await trio.lowlevel.wait_readable(news)
            # EAGAIN: nothing is left. ENOBUFS: messages were lost, but everything is asked again anyway.
            with contextlib.suppress(OSError):
                while True:
                    news.recv(65536)


def _findable(sock: socket.socket) -> Iterator[tuple[int, int]]:
    """Yield the index of each link that others can be found on, and how often its carrier came."""
    for body in _dump(sock, _GETLINK):
        _, _, index, flags, _ = _LINK.unpack_from(body)
        if flags & _FINDABLE == _FINDABLE and not flags & _LOOPBACK:
            count = _attributes(body[_LINK.size :]).get(_IFLA_CARRIER_UP_COUNT, bytes(4))
            yield index, int.from_bytes(count, sys.byteorder)


def _addresses(sock: socket.socket) -> Iterator[tuple[int, IPv4Interface | IPv6Interface]]:
    for body in _dump(sock, _GETADDR):
        family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
        attributes = _attributes(body[_ADDRESS.size :])
        flags |= attributes.get(_IFA_FLAGS, b"\0")[0]
        if family == socket.AF_INET:
            # On a point-to-point link IFA_ADDRESS is the peer's.
            yield index, IPv4Interface((attributes[_IFA_LOCAL], prefix))
        elif family == socket.AF_INET6 and not flags & _NOT_YET:
            address = IPv6Interface((attributes[_IFA_ADDRESS], prefix))
            # Only its zone tells a link-local address from the same one on another link.
            yield index, IPv6Interface(f"{address.ip}%{index}/{prefix}") if address.is_link_local else address


def _dump(sock: socket.socket, question: int) -> Iterator[bytes]:
    """Yield the bodies of all messages that answer ``question``."""
    sock.send(_HEADER.pack(_HEADER.size + _LINK.size, question, _REQUEST_DUMP, 0, 0) + bytes(_LINK.size))
    while True:
        for kind, body in _messages(sock.recv(1 << 18)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(
                    -int.from_bytes(body[:4], sys.byteorder, signed=True), "the kernel does not list its links"
                )
            yield body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[_aligned(size) :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        found[kind] = data[_ATTRIBUTE.size : size]
        data = data[_aligned(size) :]
    return found


def _aligned(size: int) -> int:
    return size + 3 & ~3
