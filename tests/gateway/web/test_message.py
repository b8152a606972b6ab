"""Requests and peers as values."""

from __future__ import annotations

import pytest

from gateway.web.message import Request, Response, explain
from protocol.endpoint import Endpoint

PEER = Endpoint("192.0.2.7", 40000)


def test_the_target_may_name_the_origin_as_it_does_through_a_proxy() -> None:
    request = Request("GET", b"http://cam:80/a/b?x=http://y", (), b"", PEER)
    assert (request.path, request.query) == ("/a/b", b"x=http://y")
    assert Request("GET", b"/a?x=http://y/z", (), b"", PEER).path == "/a"
    assert Request("OPTIONS", b"*", (), b"", PEER).path == "*"


def test_nothing_is_secure_or_proves_a_login_unless_it_is_said() -> None:
    assert not Request("GET", b"/", (), b"", PEER).secure
    assert not Response(200).proven


@pytest.mark.parametrize(
    ("peer", "shown", "network"),
    [
        (Endpoint("192.0.2.7", 40000), "192.0.2.7:40000", "192.0.2.7"),
        (Endpoint("2001:db8:1:2:3::4", 9), "[2001:db8:1:2:3::4]:9", "2001:db8:1:2::/64"),
    ],
)
def test_a_peer_is_shown_with_its_port_and_counted_by_its_network(peer: Endpoint, shown: str, network: str) -> None:
    assert (str(peer), peer.network) == (shown, network)


def test_an_error_is_its_status_in_words_and_the_reason() -> None:
    answer = explain(405, "Use GET.", ("Allow", "GET"))
    assert (answer.status, answer.body) == (405, b"405 Method Not Allowed\nUse GET.\n")
    assert answer.headers == (("Allow", "GET"),)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"//axis-cgi/param.cgi?a=//b", "/axis-cgi/param.cgi"),
        (b"/axis-cgi///param.cgi", "/axis-cgi/param.cgi"),
        (b"http://cam//axis-cgi/param.cgi", "/axis-cgi/param.cgi"),
        (b"HTTPS://[2001:db8::1]:8443/axis-cgi/param.cgi", "/axis-cgi/param.cgi"),
        (b"http://cam?x=/axis-cgi/param.cgi", "/"),
        (b"http://cam", "/"),
        (b"ftp://cam/axis-cgi/param.cgi", "ftp:/cam/axis-cgi/param.cgi"),
        (b"///", "/"),
        (b"/axis-cgi/../param.cgi", "/axis-cgi/../param.cgi"),
        (b"/axis-cgi%2Fparam.cgi", "/axis-cgi%2Fparam.cgi"),
        (b"/axis-cgi/%2e/param.cgi", "/axis-cgi/%2e/param.cgi"),
    ],
)
def test_slashes_are_merged_and_nothing_else_is_normalized(target: bytes, path: str) -> None:
    assert Request("GET", target, (), b"", Endpoint("192.0.2.7", 1)).path == path


@pytest.mark.parametrize(
    ("header", "media_type"),
    [(b"Text/Plain; charset=UTF-8", "text/plain"), (b" application/json ", "application/json"), (b"", "")],
)
def test_a_media_type_is_read_without_its_parameters(header: bytes, media_type: str) -> None:
    assert Request("POST", b"/", ((b"content-type", header),), b"", Endpoint("192.0.2.7", 1)).media_type == media_type
    assert Request("POST", b"/", (), b"", Endpoint("192.0.2.7", 1)).media_type == ""
