"""The far end of a connection, as logs name it and limits count it."""

from __future__ import annotations

import pytest

from protocol.endpoint import Endpoint, wider_networks


@pytest.mark.parametrize(
    ("sockaddr", "shown", "network"),
    [
        (("192.0.2.7", 4001), "192.0.2.7:4001", "192.0.2.7"),
        (("::ffff:192.0.2.7", 4001, 0, 0), "192.0.2.7:4001", "192.0.2.7"),
        (("::fffe:1:2", 4001, 0, 0), "[::fffe:1:2]:4001", "::/64"),
        (("::ffff:0:102:304", 4001, 0, 0), "[::ffff:0:102:304]:4001", "::/64"),  # translated, not mapped (RFC 6052)
        (("2001:db8::1", 9, 0, 0), "[2001:db8::1]:9", "2001:db8::/64"),
        (("2001:db8:1:2:3::4", 9, 0, 0), "[2001:db8:1:2:3::4]:9", "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 4001, 0, 2), "[fe80::1%eth0]:4001", "fe80::/64"),
    ],
)
def test_a_peer_is_shown_with_its_port_and_counted_by_its_network(
    sockaddr: tuple[object, ...], shown: str, network: str
) -> None:
    endpoint = Endpoint.of(sockaddr)
    assert (str(endpoint), endpoint.network) == (shown, network)


def test_the_networks_around_an_ipv6_network_are_known_by_their_prefix() -> None:
    assert wider_networks("2001:db8:1:2ff::/64", 56, 48) == ("2001:db8:1:200::/56", "2001:db8:1::/48")
    assert wider_networks("192.0.2.7", 56, 48) == ()
