"""Check a request that opens a WebSocket (RFC 6455, 4.2.1), and write its head again for the library.

trio-websocket never answers a head that it does not accept, and its wait for a request then never returns. So a request
is checked here first, and written again with only what the handshake needs.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import h11

from gateway.web.message import explain

if TYPE_CHECKING:
    from gateway.web.message import Request, Response

__all__ = ["BINARY", "offers_binary", "refusal", "replayed"]

_KEY_BYTES = 16
BINARY = "binary"
"""The only subprotocol: every message is bytes of the line, without JSON."""


def refusal(request: Request) -> Response | None:
    """Return the error answer to a request that cannot open a WebSocket; None if it can."""
    upgrade = ("Upgrade", "websocket"), ("Connection", "Upgrade")
    if b"websocket" not in _tokens(request, b"upgrade") or b"upgrade" not in _tokens(request, b"connection"):
        return explain(426, "This path is a WebSocket: send Upgrade: websocket and Connection: Upgrade.", *upgrade)
    if request.header(b"sec-websocket-version") != b"13":
        why = "Only version 13 is spoken (RFC 6455): send Sec-WebSocket-Version: 13."
        return explain(426, why, *upgrade, ("Sec-WebSocket-Version", "13"))
    if request.body or request.method != "GET":
        return explain(400, "A WebSocket is opened by a GET without a body.")
    if not _is_a_key(request.header(b"sec-websocket-key")):
        return explain(400, f"Sec-WebSocket-Key must be {_KEY_BYTES} bytes in base64.")
    return None


def replayed(request: Request) -> bytes:
    """Write the head of a request that ``refusal`` accepts, as a client would have sent it."""
    key = request.header(b"sec-websocket-key") or b""
    headers = [
        (b"Host", b"daisyport"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]
    if offers_binary(request):
        headers.append((b"Sec-WebSocket-Protocol", BINARY.encode()))
    return h11.Connection(h11.CLIENT).send(h11.Request(method="GET", target="/", headers=headers)) or b""


def offers_binary(request: Request) -> bool:
    """Return whether the client offers the subprotocol "binary" (RFC 6455, 11.3.4); its name is case-sensitive."""
    offered = b",".join(value for name, value in request.headers if name == b"sec-websocket-protocol")
    return BINARY.encode() in (token.strip() for token in offered.split(b","))


def _tokens(request: Request, name: bytes) -> set[bytes]:
    values = b",".join(value for found, value in request.headers if found == name)
    return {token.strip().lower() for token in values.split(b",")}


def _is_a_key(value: bytes | None) -> bool:
    try:
        return len(base64.b64decode(value or b"", validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
