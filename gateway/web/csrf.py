"""The cross-site check: may a page of another site have made this request, with a login that the browser remembers?

VAPIX writes by GET, so an image or a link on any page could turn a camera. The judgement is about the origin of the
request alone. Scripts and camera software send none of the headers that it reads, and pass.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.web.message import Request

__all__ = ["cross_site"]

_OWN_SITES = (b"same-origin", b"none")  # none: typed into the address bar, or a bookmark
_WEB_PAGE = re.compile(rb"(https?)://([^/?#]*)", re.IGNORECASE)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def cross_site(request: Request) -> str | None:
    """Return why a page of another site may have made the request; None where that is excluded.

    The facts are Fetch Metadata, RFC 6454 (Origin) and RFC 9110, 10.1.3 (Referer). Browsers leave Sec-Fetch-Site out
    over plain HTTP to any host but localhost, and a page can suppress the other two: then the headers that a browser
    always sends give it away.
    """
    site = request.header(b"sec-fetch-site")
    if site is not None and site.lower() not in _OWN_SITES:
        return f"Sec-Fetch-Site is {_quoted(site)}"
    sources = [(name, request.header(name)) for name in (b"origin", b"referer")]
    for name, source in sources:
        if source is not None and _authority(source) != _host(request):
            return f"{name.decode().title()} is {_quoted(source)}"
    if site is None and not any(source for _, source in sources) and _looks_like_a_browser(request):
        return "it looks like a browser's, and does not say which page it comes from"
    return None


def _looks_like_a_browser(request: Request) -> bool:
    accepted = request.header(b"accept") or b""
    shows = b"text/html" in accepted or b"image/" in accepted
    # A script of a page may set Accept, but every browser sends its user's languages, and no camera software does.
    return b"Mozilla" in (request.header(b"user-agent") or b"") and (
        shows or request.header(b"accept-language") is not None
    )


def _authority(source: bytes) -> bytes | None:
    """Return host and port of a page's address, without the port that its scheme implies."""
    found = _WEB_PAGE.match(source)
    return found[2].lower().removesuffix(_DEFAULT_PORTS[found[1].lower()]) if found else None


def _host(request: Request) -> bytes:
    host = (request.header(b"host") or b"").lower()
    return re.sub(rb":(80|443)$", b"", host)


def _quoted(value: bytes) -> str:
    return ascii(value[:100].decode("latin-1"))
