"""Requests as browsers, scripts and camera software really send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.csrf import Site
from gateway.web.message import Request
from protocol.endpoint import Endpoint

PEER = Endpoint("192.0.2.7", 40000)
FIREFOX = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
PAGE = FIREFOX | {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language": "en"}
IMAGE = FIREFOX | {"Accept": "image/avif,image/webp,*/*;q=0.8", "Accept-Language": "en"}
SCRIPT = FIREFOX | {"Accept": "*/*", "Accept-Language": "en"}


SITE = Site("cam", ("https://serial.example", "http://Proxy.example:8443"))


def judge(headers: dict[str, str], host: str = "cam:8080", site: Site = SITE) -> str | None:
    sent = {"Host": host} | headers
    lowered = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in sent.items())
    return site.refusal(Request("GET", b"/", lowered, b"", PEER))


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
        SCRIPT | {"Origin": "https://serial.example"},
        SCRIPT | {"Origin": "https://serial.example:443"},
        SCRIPT | {"Origin": "http://proxy.example:8443"},
        SCRIPT | {"Sec-Fetch-Site": "Same-Origin", "Origin": "https://anything.example"},
    ],
)
def test_scripts_camera_software_and_our_own_page_pass(headers: dict[str, str]) -> None:
    assert judge(headers) is None


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (PAGE | {"Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site is 'cross-site'"),
        (
            SCRIPT | {"Sec-Fetch-Site": "cross-site", "Origin": "https://serial.example"},
            "Sec-Fetch-Site is 'cross-site'",
        ),
        (SCRIPT | {"Origin": "https://serial.example:8443"}, "Origin is"),
        (SCRIPT | {"Origin": "http://proxy.example"}, "Origin is"),
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


OWN_HOSTS = [
    "10.0.0.1",
    "10.0.0.1:8080",
    "[::1]",
    "[fd00::1]:8080",
    "localhost:8080",
    "LOCALHOST",
    "cam",
    "Cam.local:81",
    "cam.local.",
    "serial.example",
    "serial.example:443",
    "proxy.example:8443",
]
OTHER_HOSTS = [
    "evil.example",
    "evil.example:8080",
    "",
    "cam.evil.example",
    "localhost.evil.example",
    "upstream",
    "::x",
    "10.0.0.1.evil.example",
    "serial.example:8080",
    "proxy.example",
    "xcam",
    ".local",
    "[cam]x",
]
BROWSERS = [
    SCRIPT | {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Dest": "empty"},
]


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_browser_s_host_must_be_a_name_that_nobody_else_can_own(browser: dict[str, str]) -> None:
    assert {host: judge(browser, host) for host in OWN_HOSTS} == dict.fromkeys(OWN_HOSTS)
    for host in OTHER_HOSTS:
        assert judge(browser, host) == f"Host is {host!r}, which is not a name of this node"
    assert judge(SCRIPT | {"Origin": "http://evil.example"}, "evil.example") is not None  # DNS rebinding


@pytest.mark.parametrize("headers", [{}, {"User-Agent": "curl/8.0"}, {"User-Agent": "Mozilla/4.0 (CamControl)"}])
def test_the_host_of_scripts_and_camera_software_is_not_judged(headers: dict[str, str]) -> None:
    assert {host: judge(headers, host) for host in OTHER_HOSTS} == dict.fromkeys(OTHER_HOSTS)


def test_a_node_without_a_name_has_no_empty_one() -> None:
    assert judge(BROWSERS[0], "", Site()) is not None
    assert judge(BROWSERS[0], ":80", Site()) is not None


def test_a_long_or_strange_header_is_quoted_short_and_harmless() -> None:
    reason = judge({"Origin": "\x1b" + "x" * 5000}) or ""
    assert "x" * 99 in reason
    assert "x" * 100 not in reason
    assert len(reason) < 200
    assert reason.isprintable()


@given(headers=st.dictionaries(st.sampled_from(["Origin", "Referer", "Host", "Sec-Fetch-Site"]), st.text("a:/[]@\xff")))
def test_any_header_gets_a_judgement(headers: dict[str, str]) -> None:
    judge(headers)
