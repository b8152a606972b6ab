"""The values that pass between a connection and the routes: a request that was read whole, and the answer to it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from gateway.clients.connections import ClientConnection
    from protocol.endpoint import Endpoint
    from protocol.parameters.roles import Role

__all__ = ["Handover", "LocalCaller", "Request", "Response", "explain", "spelled_out"]

_ORIGIN = re.compile(rb"https?://[^/?]*", re.IGNORECASE)
"""In front of the path in a request to a proxy (RFC 9112, 3.2.2); ``protocol.http.digest`` reads it the same way."""


@final
@frozen
class LocalCaller:
    """A user of this host at the control socket: ``user 1000``, and the role that [control] gives."""

    name: str
    role: Role


@final
@frozen
class Request:
    """A request, read whole."""

    method: str
    target: bytes
    """Exactly as sent, because Digest hashes it."""
    headers: tuple[tuple[bytes, bytes], ...]
    """In the order sent, names in lower case."""
    body: bytes
    peer: Endpoint
    """The client; behind trusted proxies, the client that they name."""
    secure: bool = False
    """It came over TLS, to us or to a trusted proxy."""
    local: LocalCaller | None = None
    """The sender, if the request came over the control socket: the kernel vouches for it, so it needs no login."""
    connection: ClientConnection | None = None
    """The connection that it came over, for counting; None where it is not counted."""

    @property
    def path(self) -> str:
        """Return the path in the one form that routing, roles and checks use.

        It has no query, no origin (which clients of a proxy send), and single slashes. It is not percent-decoded: a
        path with escapes is another path.
        """
        return re.sub("/{2,}", "/", self._local.partition(b"?")[0].decode("latin-1"))

    @property
    def query(self) -> bytes:
        """Return what follows the first ``?``, still percent-encoded."""
        return self._local.partition(b"?")[2]

    @property
    def media_type(self) -> str:
        """Return the body's media type, in lower case and without parameters; empty if none is given."""
        return (self.header(b"content-type") or b"").partition(b";")[0].strip().lower().decode("latin-1")

    @property
    def _local(self) -> bytes:
        origin = _ORIGIN.match(self.target)
        if origin is None:
            return self.target
        behind = self.target[origin.end() :]
        return behind if behind.startswith(b"/") else b"/" + behind

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that (lower-case) name."""
        return next((value for found, value in self.headers if found == name), None)


@final
@frozen
class Response:
    """An answer. A 204 has no body."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    proven: bool = False
    """Its request came with a correct login, which protects the connection's place."""

    def as_proven(self) -> Response:
        """Return it as the answer to a request with a correct login."""
        return Response(self.status, self.body, self.content_type, self.headers, proven=True)


@final
@frozen
class Handover:
    """An answer that ends HTTP on its connection: ``take`` gets the stream, and may close it."""

    take: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


def spelled_out(response: Response) -> bytes:
    """Write an answer for a connection whose request was not read, and which is closed after it."""
    headers = [("Connection", "close"), *response.headers, ("Content-Type", response.content_type)]
    head = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}", *(f"{n}: {v}" for n, v in headers)]
    return "\r\n".join([*head, f"Content-Length: {len(response.body)}", "\r\n"]).encode() + response.body


def explain(status: int, why: str, *headers: tuple[str, str]) -> Response:
    """Make an error answer in plain text; ``why`` says what was wrong and what is required."""
    return Response(status, f"{status} {HTTPStatus(status).phrase}\n{why}\n".encode(), headers=headers)
