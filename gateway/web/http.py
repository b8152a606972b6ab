"""One HTTP connection, from its first byte to its close: h11 says what the bytes mean, trio moves them.

It must not know what any path means, who the caller is, nor how many connections there are: a request goes
to ``respond``, and what that returns goes back. Whatever a peer sends, it ends in an answer or in a close,
within the deadlines of `HttpLimits`; a caller that leaves while its request is being worked on cancels that work.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, final

import h11
import trio

from gateway.web.message import Handover, Request, Response, explain
from gateway.web.prefixed_stream import PrefixedStream

if TYPE_CHECKING:
    from protocol.endpoint import Endpoint

__all__ = ["HttpLimits", "Respond", "Secure", "farewell", "serve"]

logger = logging.getLogger(__name__)

_PIECE = 4096
_CLOSE = ("Connection", "close")
_TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the record that a ClientHello comes in; no method begins so
_VERSIONS = (b"1.0", b"1.1")


@final
@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may cost: sizes in bytes, times in seconds."""

    head: int = 16 * 1024
    body: int = 64 * 1024
    handshake_seconds: float = 10.0
    """For the whole of TLS's."""
    idle_seconds: float = 15.0
    """Until the first byte of a request."""
    head_seconds: float = 10.0
    """From there to the end of its head."""
    body_seconds: float = 20.0
    write_seconds: float = 30.0
    """For a whole answer."""
    half_closed_seconds: float = 0.25
    """How long work goes on for a caller that closed its sending half."""
    linger_seconds: float = 2.0
    """How long a connection that we end is still read from, so that its last answer arrives."""


Answer: TypeAlias = Response | Handover
Respond: TypeAlias = Callable[[Request], Awaitable[Answer]]
Secure: TypeAlias = Callable[[trio.abc.HalfCloseableStream], Awaitable[trio.abc.HalfCloseableStream]]
"""Shake TLS's hands over a stream, and return the one above it; raise trio.BrokenResourceError."""


async def farewell(stream: trio.abc.HalfCloseableStream, limits: HttpLimits) -> None:
    """End a connection so that what was sent last still arrives.

    A close with bytes unread makes the kernel send a reset, and the peer then loses the answer that it has
    not read yet: so our half is closed first, and what comes is read and dropped until the peer closes too.
    """
    with trio.move_on_after(limits.linger_seconds):
        await stream.send_eof()
        while await stream.receive_some(_PIECE):
            pass


async def serve(
    stream: trio.abc.HalfCloseableStream,
    peer: Endpoint,
    respond: Respond,
    limits: HttpLimits | None = None,
    secure: Secure | None = None,
) -> None:
    """Answer the requests of one connection until either side ends it; the caller closes the stream.

    The first byte tells TLS from plain HTTP; with no ``secure``, only the latter is spoken.
    """
    limits = limits or HttpLimits()
    first = b""
    try:
        with trio.move_on_after(limits.idle_seconds):
            first = bytes(await stream.receive_some(_PIECE))
        if first.startswith(_TLS_HANDSHAKE):
            await _serve_securely(PrefixedStream(stream, first), peer, respond, limits, secure)
        elif first:
            await _Connection(PrefixedStream(stream, first), peer, respond, limits).run()
    except trio.BrokenResourceError as exc:
        logger.debug("%s broke the connection: %s", peer, exc.__cause__ or exc)


async def _serve_securely(
    stream: trio.abc.HalfCloseableStream, peer: Endpoint, respond: Respond, limits: HttpLimits, secure: Secure | None
) -> None:
    if secure is None:
        logger.info("%s speaks TLS, and the front door speaks plain HTTP: use http:// here", peer)
        return
    with trio.move_on_after(limits.handshake_seconds) as deadline:
        secured = await secure(stream)
    if deadline.cancelled_caught:
        logger.debug("%s did not finish TLS's handshake within %g s", peer, limits.handshake_seconds)
        return
    await _Connection(secured, peer, respond, limits, secure=True).run()


class _UnacceptableError(Exception):
    """The request is not read any further; ``response`` says why."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _refuse(status: int, why: str) -> _UnacceptableError:
    # Where the next request would begin is unknown from here on.
    return _UnacceptableError(explain(status, why, _CLOSE))


@final
@dataclass(slots=True)
class _Connection:
    stream: trio.abc.HalfCloseableStream
    peer: Endpoint
    respond: Respond
    limits: HttpLimits
    secure: bool = False
    conn: h11.Connection = field(init=False)
    head_only: bool = False
    handover: Handover | None = None

    def __post_init__(self) -> None:
        self.conn = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head)

    async def run(self) -> None:
        """One request after the other, in the order sent: pipelined ones wait in h11's buffer."""
        while await self._one_request():
            self.conn.start_next_cycle()
        if self.handover is not None:
            await self.handover.take(self.stream)
        with contextlib.suppress(trio.ClosedResourceError):  # who took it over may have closed it already
            await farewell(self.stream, self.limits)

    async def _one_request(self) -> bool:
        """Read and answer one; whether another may follow."""
        self.head_only = False
        try:
            request = await self._request()
            answer = await self._work(request) if request else None
        except _UnacceptableError as refused:
            answer = refused.response
        if isinstance(answer, Handover):
            answer = self._hand_over(answer)
        return answer is not None and await self._send_answer(answer)

    def _hand_over(self, handover: Handover) -> Response | None:
        """Leave the connection to another protocol, in which no byte may have been sent yet: it would be lost."""
        if self.conn.trailing_data[0]:
            return explain(400, "Bytes of the new protocol came before its answer: wait for that.", _CLOSE)
        self.handover = handover
        return None

    # --- reading ---

    async def _request(self) -> Request | None:
        """The next request, whole; None where the peer ended the connection or let it idle."""
        if not await self._awake():
            return None
        head = await self._head()
        if head is None:
            return None
        return Request(
            method=head.method.decode("ascii"),
            target=head.target,
            headers=tuple(head.headers),
            body=await self._body(head),
            peer=self.peer,
            secure=self.secure,
        )

    async def _awake(self) -> bool:
        buffered, ended = self.conn.trailing_data
        if buffered or ended:
            return True
        with trio.move_on_after(self.limits.idle_seconds):
            await self._receive()
            return True
        return False

    async def _head(self) -> h11.Request | None:
        with trio.move_on_after(self.limits.head_seconds):
            event = await self._event()
            if isinstance(event, h11.ConnectionClosed):
                return None
            assert isinstance(event, h11.Request)
            self.head_only = event.method == b"HEAD"
            return _understood(event)
        raise _refuse(408, f"The request head did not arrive within {self.limits.head_seconds:g} s.")

    async def _body(self, head: h11.Request) -> bytes:
        self._within_limit(_declared_length(head))
        if self.conn.they_are_waiting_for_100_continue:
            await self._send(self.conn.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        with trio.move_on_after(self.limits.body_seconds):
            while isinstance(event := await self._event(), h11.Data):
                body += event.data
                self._within_limit(len(body))
            return bytes(body)
        raise _refuse(408, f"The request body did not arrive within {self.limits.body_seconds:g} s.")

    def _within_limit(self, length: int) -> None:
        if length > self.limits.body:
            raise _refuse(413, f"The request body is longer than {self.limits.body} bytes: send less.")

    async def _event(self) -> object:
        try:
            while (event := self.conn.next_event()) is h11.NEED_DATA:
                await self._receive()
        except h11.RemoteProtocolError as exc:
            raise _refuse(exc.error_status_hint, self._complaint(exc)) from exc
        return event

    def _complaint(self, exc: h11.RemoteProtocolError) -> str:
        if exc.error_status_hint == 431:
            return f"The request head is longer than {self.limits.head} bytes: send fewer or shorter headers."
        why = str(exc).replace("bytearray", "")  # h11 quotes what came as its own type, which is no caller's concern
        return f"This is not a request of HTTP/1.1 (RFC 9112): {why[:200]}"

    async def _receive(self) -> None:
        self.conn.receive_data(bytes(await self.stream.receive_some(min(_PIECE, self._room()))))

    def _room(self) -> int:
        """How much more may be buffered: h11 looks at its limit only when a head is incomplete."""
        return self.limits.head + 1 - len(self.conn.trailing_data[0])

    # --- answering ---

    async def _work(self, request: Request) -> Answer | None:
        """The answer to a request; None where its caller left before there was one."""
        answer = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_left, nursery.cancel_scope)
            answer = await self._answer(request)
            nursery.cancel_scope.cancel()
        if answer is None:
            logger.debug("%s left before its answer: %s %.60r", self.peer, request.method, request.target)
        return answer

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self.respond(request)
        except Exception:  # a bug of ours: it ends this connection only; the log says where, the caller no more
            logger.exception("%s: no answer to %s %.60r", self.peer, request.method, request.path)
            why = "This is a fault of the gateway, not of the request; its log says more."
            return explain(500, why, _CLOSE)

    async def _cancel_when_left(self, work: trio.CancelScope) -> None:
        """Read on, which is how a leaving caller is noticed; what it pipelines is kept, within the limit."""
        try:
            while self._room() > 0:
                if self.conn.trailing_data[1]:
                    # Closed, or only its sending half (`nc -N`)? Both look alike from here: so what is
                    # answered at once still is, and no line is held for long for somebody who is gone.
                    await trio.sleep(self.limits.half_closed_seconds)
                    break
                await self._receive()
            else:
                return  # it pipelines more than is kept, so nothing more can be seen of it
        except trio.BrokenResourceError:
            logger.debug("%s reset the connection", self.peer)
        work.cancel()

    async def _send_answer(self, answer: Response) -> bool:
        """Send it; whether the connection can take another request."""
        reason = HTTPStatus(answer.status).phrase.encode()
        head = h11.Response(status_code=answer.status, reason=reason, headers=_headers(answer))
        pieces = [self.conn.send(head)]
        if answer.body and not self.head_only:
            pieces.append(self.conn.send(h11.Data(data=answer.body)))
        pieces.append(self.conn.send(h11.EndOfMessage()))
        await self._send(b"".join(pieces))
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.DONE

    async def _send(self, data: bytes) -> None:
        with trio.move_on_after(self.limits.write_seconds) as deadline:
            await self.stream.send_all(data)
        if deadline.cancelled_caught:
            raise trio.BrokenResourceError(f"no answer was read within {self.limits.write_seconds:g} s")


def _declared_length(head: h11.Request) -> int:
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)


def _understood(head: h11.Request) -> h11.Request:
    """What h11 lets through and we do not speak is refused here."""
    if head.http_version not in _VERSIONS:
        raise _refuse(505, f"HTTP/{head.http_version.decode('ascii')} is not spoken here: use HTTP/1.1.")
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in head.headers}:
        # A proxy before us may believe the other of the two, and what follows is then a request to one of us only.
        raise _refuse(400, "Content-Length and Transfer-Encoding are two lengths of one body (RFC 9112): send one.")
    if head.method == b"CONNECT":
        raise _refuse(405, "This is no proxy: use GET or POST.")
    return head


def _headers(answer: Response) -> list[tuple[str, str]]:
    headers = [
        ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
        ("Cache-Control", "no-store"),
        # Values come from callers: a browser must never take them for a page.
        ("X-Content-Type-Options", "nosniff"),
        *answer.headers,
    ]
    if answer.status != HTTPStatus.NO_CONTENT:
        headers += [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
    return headers
