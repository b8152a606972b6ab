"""Requests as browsers, scripts and camera software really send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.csrf import cross_site
from gateway.web.message import Request
from protocol.endpoint import Endpoint

PEER = Endpoint("192.0.2.7", 40000)
FIREFOX = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
PAGE = FIREFOX | {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language": "en"}
IMAGE = FIREFOX | {"Accept": "image/avif,image/webp,*/*;q=0.8", "Accept-Language": "en"}
SCRIPT = FIREFOX | {"Accept": "*/*", "Accept-Language": "en"}


def judge(headers: dict[str, str], host: str = "cam:8080") -> str | None:
    sent = {"Host": host} | headers
    lowered = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in sent.items())
    return cross_site(Request("GET", b"/", lowered, b"", PEER))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"User-Agent": "curl/8.0", "Accept": "*/*"},
        {"User-Agent": "python-requests/2.32", "Accept": "*/*"},
        {"User-Agent": "Mozilla/4.0 (compatible; CamControl 3.1)"},
        {"User-Agent": "Mozilla/4.0 (compatible; CamControl 3.1)", "Accept": "text/plain"},
        {"User-Agent": "viewer", "Accept": "image/jpeg"},
        PAGE | {"Sec-Fetch-Site": "none"},
        SCRIPT | {"Sec-Fetch-Site": "same-origin", "Referer": "http://cam:8080/"},
        SCRIPT | {"Origin": "http://cam:8080"},
        SCRIPT | {"Origin": "HTTP://CAM:8080"},
        SCRIPT | {"Referer": "http://cam:8080/console?x=http://evil/"},
    ],
)
def test_scripts_camera_software_and_our_own_page_pass(headers: dict[str, str]) -> None:
    assert judge(headers) is None


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (PAGE | {"Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site is 'cross-site'"),
        (SCRIPT | {"Sec-Fetch-Site": "same-site"}, "Sec-Fetch-Site is 'same-site'"),
        (SCRIPT | {"Sec-Fetch-Site": ""}, "Sec-Fetch-Site is ''"),
        (SCRIPT | {"Origin": "http://evil.example"}, "Origin is 'http://evil.example'"),
        (SCRIPT | {"Origin": "http://cam"}, "Origin is 'http://cam'"),
        (SCRIPT | {"Origin": "null"}, "Origin is 'null'"),
        (SCRIPT | {"Origin": "file://cam:8080"}, "Origin is"),
        (SCRIPT | {"Sec-Fetch-Site": "none", "Origin": "http://evil.example"}, "Origin is"),
        (IMAGE | {"Referer": "http://evil.example/page"}, "Referer is 'http://evil.example/page'"),
        (IMAGE | {"Referer": "http://cam:8080.evil.example/"}, "Referer is"),
        (PAGE, "looks like a browser's"),
        (IMAGE, "looks like a browser's"),
        (SCRIPT, "looks like a browser's"),
        (FIREFOX | {"Accept": "text/html"}, "looks like a browser's"),
    ],
)
def test_what_a_page_of_another_site_makes_a_browser_send_is_refused_with_the_reason(
    headers: dict[str, str], reason: str
) -> None:
    assert reason in (judge(headers) or "")


@pytest.mark.parametrize(
    ("host", "origin"),
    [("cam", "http://cam:80"), ("cam:80", "http://cam"), ("cam", "https://cam:443"), ("[::1]:81", "http://[::1]:81")],
)
def test_a_scheme_s_own_port_may_be_named_or_not(host: str, origin: str) -> None:
    assert judge(SCRIPT | {"Origin": origin}, host) is None


def test_a_long_or_strange_header_is_quoted_short_and_harmless() -> None:
    reason = judge({"Origin": "\x1b" + "x" * 5000}) or ""
    assert len(reason) < 200
    assert reason.isprintable()


@given(headers=st.dictionaries(st.sampled_from(["Origin", "Referer", "Host", "Sec-Fetch-Site"]), st.text("a:/[]@\xff")))
def test_any_header_gets_a_judgement(headers: dict[str, str]) -> None:
    judge(headers)
