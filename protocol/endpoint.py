"""The far end of a connection: an address and a port, written one way everywhere."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Endpoint", "wider_networks"]


@final
class Endpoint(NamedTuple):
    """A numeric address, with its zone where it is link-local, and a port; ``str()`` is how logs and status name it.

    An IPv4 address that a dual-stack socket wraps in IPv6 is written as the IPv4 address that it is.
    """

    address: str
    port: int

    @classmethod
    def of(cls, sockaddr: Sequence[Any]) -> Endpoint:
        """Read the address of an IPv4 or IPv6 socket, as ``accept()`` and ``getpeername()`` return it."""
        address, port = sockaddr[:2]
        if address.startswith("::ffff:"):
            mapped = ip_address(address)
            if isinstance(mapped, IPv6Address) and mapped.ipv4_mapped is not None:
                address = str(mapped.ipv4_mapped)
        return cls(address, port)

    @property
    def network(self) -> str:
        """The part that counts as one peer: an IPv4 address, or the /64 that an IPv6 host moves in freely."""
        if ":" not in self.address:
            return self.address
        return str(ip_network((self.address.partition("%")[0], 64), strict=False))

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def wider_networks(network: str, *lengths: int) -> tuple[str, ...]:
    """Return the IPv6 networks with these lengths of prefix around an ``Endpoint.network``; none for an IPv4 one."""
    if ":" not in network:
        return ()
    return tuple(str(IPv6Network(network).supernet(new_prefix=length)) for length in lengths)
