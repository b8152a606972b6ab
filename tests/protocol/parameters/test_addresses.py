from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.parameters.addresses import AddressList

OCTET = st.integers(0, 255)
IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.ip_addresses(v=6).map(str)


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_list_allows_everybody(text: str) -> None:
    everybody = AddressList.parse(text)
    assert everybody.allows("1.2.3.4")
    assert everybody.allows("2001:db8::1")
    assert everybody.allows("what is no address")
    assert str(everybody) == text


CONTRACT = "1.2.3.4, 2.3.4.5-9, 3.4.5.*"


@pytest.mark.parametrize("peer", ["1.2.3.4", "2.3.4.5", "2.3.4.7", "2.3.4.9", "3.4.5.0", "3.4.5.255"])
def test_the_contracts_example_allows_what_it_names(peer: str) -> None:
    assert AddressList.parse(CONTRACT).allows(peer)


@pytest.mark.parametrize(
    "peer", ["1.2.3.5", "2.3.4.4", "2.3.4.10", "3.4.6.1", "2001:db8::1", "::1.2.3.4", "", "1.2.3", "peer", "\0"]
)
def test_the_contracts_example_allows_nothing_else(peer: str) -> None:
    assert not AddressList.parse(CONTRACT).allows(peer)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("0.0.0.0/0", "9.9.9.9", "2001:db8::1"),
        ("1.2.3.4/32", "1.2.3.4", "1.2.3.5"),
        ("10.1-3.*.7", "10.2.200.7", "10.4.0.7"),
        ("2001:db8::1", "2001:db8:0::1", "2001:db8::2"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::/0", "2001:db8::1", "1.2.3.4"),
        ("fe80::1", "fe80::1%eth0", "fe80::2%eth0"),
        ("::ffff:1.2.3.4", "1.2.3.4", "1.2.3.5"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
        ("::ffff:0:0/96", "10.1.2.3", "2001:db8::1"),
    ],
)
def test_every_form_of_item_has_an_inside_and_an_outside(text: str, inside: str, outside: str) -> None:
    allowed = AddressList.parse(f"  {text} ,192.0.2.1")
    assert allowed.allows(inside)
    assert not allowed.allows(outside)
    assert allowed.allows("192.0.2.1")


def test_an_ipv4_mapped_peer_counts_as_its_ipv4_address() -> None:
    assert AddressList.parse("1.2.3.*").allows("::ffff:1.2.3.4")
    assert not AddressList.parse("::/0").allows("::ffff:1.2.3.4")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1.2.3", "'1.2.3' is not an address: it must have four numbers"),
        ("1.2.3.4.5", "four numbers"),
        ("1.2.3.256", "256 is more than 255"),
        ("1.2.3.010", "'010' is not a number from 0 to 255"),
        ("1.2.3.²", "is not a number"),
        ("1.2.3.+4", "is not a number"),
        ("1.2.3.9-5", "the range 9-5 ends before it begins"),
        ("1.2.3.1-2-3", "'2-3' is not a number"),
        ("2.3.4.5-2.3.4.9", "four numbers"),
        ("1.2.3.4,", "must not have an empty item"),
        (",", "must not have an empty item"),
        ("1.2.3.4 5.6.7.8", "'1.2.3.4 5.6.7.8' is not an address"),
        ("10.0.0.1/8", "has host bits set"),
        ("10.0.0.0/33", "33 is more than 32"),
        ("10.0.0.0/", "is not a number from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "is not a number from 0 to 32"),
        ("10.0.0.*/8", "10.0.0.0/8"),
        ("2001:db8::/129", "129 is more than 128"),
        ("2001:db8::1/32", "has host bits set"),
        ("fe80::1%eth0", "a zone is not allowed here"),
        ("::1-5", "is not an address"),
        ("camera.example", "is not an address"),
    ],
)
def test_a_wrong_item_is_named_with_the_allowed_forms(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        AddressList.parse(f"192.0.2.1,{text}")
    assert why in str(caught.value)
    assert "2.3.4.5-9, 3.4.5.*" in str(caught.value)


def test_a_long_item_is_not_repeated_whole_in_the_error() -> None:
    with pytest.raises(ValueError) as caught:
        AddressList.parse("9" * 100_000)
    assert len(str(caught.value)) < 400


def test_lists_are_equal_when_they_are_written_alike() -> None:
    assert AddressList.parse("1.2.3.4") == AddressList.parse("1.2.3.4")
    assert AddressList.parse("1.2.3.4") != AddressList.parse("1.2.3.4 ")
    assert AddressList() == AddressList.parse("")


@given(st.lists(IPV4 | IPV6, min_size=1, max_size=5))
def test_every_address_that_is_listed_is_allowed(addresses: list[str]) -> None:
    allowed = AddressList.parse(", ".join(addresses))
    assert all(allowed.allows(address) for address in addresses)


@given(OCTET, OCTET, OCTET)
def test_a_range_allows_its_ends_and_what_is_between(one: int, other: int, asked: int) -> None:
    low, high = sorted((one, other))
    assert AddressList.parse(f"192.0.2.{low}-{high}").allows(f"192.0.2.{asked}") == (low <= asked <= high)


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_a_network_allows_what_the_standard_library_finds_in_it(
    base: ipaddress.IPv4Address | ipaddress.IPv6Address,
    prefix: int,
    peer: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    network = ipaddress.ip_network(f"{base}/{min(prefix, base.max_prefixlen)}", strict=False)
    if peer.version == 4:
        assert AddressList.parse(str(network)).allows(str(peer)) == (peer in network)


@given(st.text(alphabet="0123456789.,-*/: abcf%", max_size=60) | st.text(max_size=40), IPV4 | IPV6 | st.text())
@example("1.2.3.4, 2.3.4.5-9, 3.4.5.*", "2.3.4.6")
@example("::ffff:0:0/95", "1.2.3.4")  # a network that is larger than the mapped range
def test_any_text_is_a_list_or_a_value_error(text: str, peer: str) -> None:
    try:
        allowed = AddressList.parse(text)
    except ValueError:
        return
    assert str(allowed) == text
    assert AddressList.parse(str(allowed)) == allowed
    assert allowed.allows(peer) in (True, False)
    assert allowed.items or allowed.allows(peer)
