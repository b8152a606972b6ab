"""Find the client of a request that came through reverse proxies (`[http] trusted_proxies`).

Each proxy appends its caller's address to X-Forwarded-For. So the header is read from its right end, and only while the
hop that wrote an entry is trusted: a stranger may have invented everything left of that. The address is used for
accounts, places and the log. It grants nothing: AllowedIPAddresses looks only at sockets.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from gateway.web.message import Request
    from protocol.parameters.addresses import AddressList

__all__ = ["from_client", "is_trusted"]


def is_trusted(peer: Endpoint, trusted: AddressList) -> bool:
    """Return whether ``peer`` is trusted to name its clients' addresses."""
    # An AddressList without items allows everybody, but without trusted proxies nobody is trusted.
    return bool(trusted.items) and trusted.allows(peer.address)


def from_client(request: Request, trusted: AddressList) -> Request:
    """Return the request with its client as the peer, and ``secure`` as it was for the client's own connection.

    A forwarded client has port 0, as the header seldom names one.
    """
    if not is_trusted(request.peer, trusted):
        return request
    hops = _values(request, b"x-forwarded-for")
    client = request.peer
    used = 0
    for hop in reversed(hops):
        if not trusted.allows(client.address) or (endpoint := _endpoint(hop)) is None:
            break
        client, used = endpoint, used + 1
    protocols = [protocol.lower() for protocol in _values(request, b"x-forwarded-proto")]
    if not protocols:
        return replace(request, peer=client)
    # If the list has an entry for each hop, take the client's; otherwise the nearest proxy speaks for the whole way.
    told = protocols[-used] if used and len(protocols) == len(hops) else protocols[-1]
    return replace(request, peer=client, secure=told == "https")


def _values(request: Request, name: bytes) -> list[str]:
    joined = b",".join(value for found, value in request.headers if found == name)
    return [value for part in joined.decode("latin-1").split(",") if (value := part.strip())]


def _endpoint(hop: str) -> Endpoint | None:
    """Read an address, which some proxies write with brackets or with a port."""
    address = hop.rpartition(":")[0] if hop.count(":") == 1 else hop.partition("]")[0].removeprefix("[")
    try:
        ip_address(address)
    except ValueError:
        return None
    return Endpoint.of((address, 0))
