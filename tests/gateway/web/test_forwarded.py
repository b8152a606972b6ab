"""Clients behind reverse proxies, and strangers who say that they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.forwarded import from_client
from gateway.web.message import Request
from protocol.endpoint import Endpoint
from protocol.parameters.addresses import AddressList

PROXIES = AddressList.parse("127.0.0.1, 10.0.0.0/8, fd00::/8")


def seen(
    peer: str, *headers: tuple[str, str], secure: bool = False, trusted: AddressList = PROXIES
) -> tuple[str, bool]:
    """Return the client's address, and whether it is taken to use TLS."""
    sent = tuple((name.encode(), value.encode("latin-1")) for name, value in headers)
    request = from_client(Request("GET", b"/", sent, b"", Endpoint(peer, 4711), secure), trusted)
    return request.peer.address, request.secure


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", "192.0.2.9", "192.0.2.9"),
        ("127.0.0.1", "203.0.113.5, 192.0.2.9", "192.0.2.9"),
        ("127.0.0.1", "192.0.2.9, 10.1.2.3", "192.0.2.9"),
        ("127.0.0.1", "10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        ("127.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("127.0.0.1", "192.0.2.9:5000", "192.0.2.9"),
        ("127.0.0.1", "::ffff:192.0.2.9", "192.0.2.9"),
        ("127.0.0.1", "192.0.2.9, unknown", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.9, unknown, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("192.0.2.7", "10.1.2.3", "192.0.2.7"),
        ("192.0.2.7", "203.0.113.5", "192.0.2.7"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(peer: str, forwarded: str, client: str) -> None:
    assert seen(peer, ("x-forwarded-for", forwarded))[0] == client
    parts = [("x-forwarded-for", part) for part in forwarded.split(", ")]
    assert seen(peer, *parts)[0] == client


def test_without_trusted_proxies_nobody_s_word_is_taken() -> None:
    headers = (("x-forwarded-for", "203.0.113.5"), ("x-forwarded-proto", "https"))
    assert seen("127.0.0.1", *headers, trusted=AddressList()) == ("127.0.0.1", False)


@pytest.mark.parametrize(
    ("forwarded", "protocol", "secure"),
    [
        ("192.0.2.9", "https", True),
        ("192.0.2.9", "HTTPS", True),
        ("192.0.2.9", "http", False),
        ("192.0.2.9, 10.1.2.3", "https, http", True),
        ("192.0.2.9, 10.1.2.3", "http, https", False),
        ("203.0.113.5, 192.0.2.9, 10.1.2.3", "https", True),
        ("203.0.113.5, 192.0.2.9", "https, http", False),
    ],
)
def test_the_protocol_is_that_of_the_client_s_own_connection(forwarded: str, protocol: str, secure: bool) -> None:
    headers = (("x-forwarded-for", forwarded), ("x-forwarded-proto", protocol))
    assert seen("127.0.0.1", *headers, secure=not secure)[1] is secure
    assert seen("192.0.2.7", *headers, secure=False)[1] is False


def test_without_a_protocol_the_connection_to_us_decides() -> None:
    assert seen("127.0.0.1", ("x-forwarded-for", "192.0.2.9"), secure=True) == ("192.0.2.9", True)
    assert seen("127.0.0.1", ("x-forwarded-proto", "https")) == ("127.0.0.1", True)


@given(st.text("0123456789abcdef.:,[] %x\xff", max_size=40), st.text("htps,x ", max_size=20))
def test_any_header_gives_a_client(forwarded: str, protocol: str) -> None:
    seen("127.0.0.1", ("x-forwarded-for", forwarded), ("x-forwarded-proto", protocol))
