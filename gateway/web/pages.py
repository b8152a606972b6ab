"""The console: a page that shows the ports of this node, live, in a browser.

Its files are in ``console/``, and are read at the first request. The page uses the same paths as any other client.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

from gateway.web.message import Response

__all__ = ["PAGES", "page"]

_FOLDER: Final = Path(__file__).parent / "console"
_PARTS = ("chain.js", "chart.js", "log.js", "text.js")

PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/daisyport/console.css": ("console.css", "text/css; charset=utf-8"),
    "/daisyport/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/daisyport/console.svg": ("console.svg", "image/svg+xml"),
    **{f"/daisyport/console/{name}": (name, "text/javascript; charset=utf-8") for name in _PARTS},
}
"""The file of ``console/`` and its type, by path."""

# Nothing from another origin, nothing inline, and no frame of another site around it, which could steal clicks.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@functools.cache
def page(path: str) -> Response:
    """Answer with the file of a path in PAGES."""
    name, content_type = PAGES[path]
    body = (_FOLDER / name).read_bytes()
    return Response(200, body, content_type, (("Content-Security-Policy", _POLICY), ("Referrer-Policy", "same-origin")))
