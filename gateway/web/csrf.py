"""The cross-site check: may a page of another site have made this request, with a login that the browser remembers?

VAPIX writes by GET, so an image or a link on any page could turn a camera. Each request that changes or consumes
something has to pass two checks.

1. Does it come from a page of ours? Sec-Fetch-Site decides if it is there, because no page can forge it. Browsers leave
   it out over plain HTTP to any host except localhost; then Origin and Referer are compared with the Host that the
   browser asked for. A page can suppress these two as well; then a browser is recognized by the headers that every
   browser sends.
2. Is that Host a name of ours? The owner of evil.example can let that name resolve to our address for a moment (DNS
   rebinding), so that its page has the same origin as we for the browser. So a browser's Host must be a name that
   nobody else can own in DNS: an address, localhost, this node's name, or a public origin that the operator named.

Scripts and camera software send none of these headers, and pass. Their Host is never judged.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from gateway.web.message import Request

__all__ = ["Site"]

_WEB_PAGE = re.compile(rb"(https?)://([^/?#]*)", re.IGNORECASE)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_PORT = re.compile(r":[0-9]*$")


@final
@frozen
class Site:
    """This node as browsers know it: its name, and the public ``origins`` ("https://serial.example") of proxies."""

    node: str = ""
    origins: tuple[str, ...] = ()

    def refusal(self, request: Request) -> str | None:
        """Return why a page of another site may have made the request; None if that is excluded.

        The facts are Fetch Metadata, RFC 6454 (Origin) and RFC 9110, 10.1.3 (Referer).
        """
        site = (request.header(b"sec-fetch-site") or b"").lower()
        origin, referer = request.header(b"origin"), request.header(b"referer")
        looks = _looks_like_a_browser(request)
        if site != b"same-origin":
            # none: typed into the address bar, or a bookmark. Such a request has no Origin, so Origin is still checked.
            if request.header(b"sec-fetch-site") is not None and site != b"none":
                return f"Sec-Fetch-Site is {_quoted(site)}"
            for name, source in (("Origin", origin), ("Referer", referer)):
                if source is not None and not self._is_own(source, request):
                    return f"{name} is {_quoted(source)}"
            if not site and not origin and not referer and looks:
                return "it looks like a browser's, and does not say which page it comes from"
        by_a_browser = looks or origin is not None or any(name.startswith(b"sec-fetch-") for name, _ in request.headers)
        host = request.header(b"host") or b""
        if by_a_browser and not self._is_own_host(host.decode("latin-1").lower()):
            return f"Host is {_quoted(host)}, which is not a name of this node"
        return None

    def _is_own(self, source: bytes, request: Request) -> bool:
        authority = _authority(source)
        host = (request.header(b"host") or b"").lower()
        return authority is not None and authority in (re.sub(rb":(80|443)$", b"", host), *self._authorities())

    def _is_own_host(self, host: str) -> bool:
        if re.sub(":(80|443)$", "", host).encode("latin-1") in self._authorities():
            return True
        name = _PORT.sub("", host)
        try:
            ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            node = self.node.lower()
            return name.removesuffix(".") in ("localhost", node, f"{node}.local") and name != ""
        return True

    def _authorities(self) -> tuple[bytes | None, ...]:
        return tuple(_authority(origin.encode()) for origin in self.origins)


def _looks_like_a_browser(request: Request) -> bool:
    accepted = request.header(b"accept") or b""
    shows = b"text/html" in accepted or b"image/" in accepted
    # A page's script may set Accept, but every browser sends its user's languages, and no camera software does.
    return b"Mozilla" in (request.header(b"user-agent") or b"") and (
        shows or request.header(b"accept-language") is not None
    )


def _authority(source: bytes) -> bytes | None:
    """Return host and port of a page's address, without the port that its scheme implies."""
    found = _WEB_PAGE.match(source)
    return found[2].lower().removesuffix(_DEFAULT_PORTS[found[1].lower()]) if found else None


def _quoted(value: bytes) -> str:
    return ascii(value[:100].decode("latin-1"))
