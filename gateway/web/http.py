"""One HTTP connection, from its first byte to its close: h11 says what the bytes mean, trio moves them.

Invariants.

1. Whatever a peer sends ends in an answer or in a close. Nothing a peer sends raises out of `serve`; inside it only
   trio.BrokenResourceError, when the peer has left.
2. Every wait for the peer has a deadline of `HttpLimits`, and every buffer a limit. No deadline covers the work on a
   request: serial.cgi itself decides how long it waits for a line.
3. During the work on a request exactly one task reads from the stream, and only to notice that the caller has left.
   What a pipelining client sends meanwhile stays in h11's buffer, in order.
4. If the start of the next request is in doubt (a bad head, two lengths, a body that is too long), the connection ends
   with the answer: reading on could take a body for requests.

Way of thinking. A connection is a loop: read a whole request, work on it, send the whole answer. A refusal while
reading is an exception that carries the answer, so that each rule stands where its fact becomes known. The end is slow
on purpose (`lingering_close`), because a reset could destroy the last answer on its way.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, final

import h11
import trio

from gateway.web.forwarded import from_client, is_trusted
from gateway.web.message import Handover, Request, Response, explain
from gateway.web.pace import Pace, PacedStream
from gateway.web.prefixed_stream import PrefixedStream
from protocol.frozen import frozen

if TYPE_CHECKING:
    from gateway.clients.connections import ClientConnection
    from gateway.web.places import Place, Places
    from protocol.endpoint import Endpoint
    from protocol.parameters.addresses import AddressList

__all__ = ["TLS_HANDSHAKE", "Held", "HttpLimits", "Respond", "Secure", "lingering_close", "serve"]

logger = logging.getLogger(__name__)

_PIECE = 4096
_CLOSE = ("Connection", "close")
TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the record type of a ClientHello; no HTTP method begins with it
_VERSIONS = (b"1.0", b"1.1")
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
"""A host and port (RFC 9110, 7.2, and RFC 3986, 3.2.2), with the zone of an address that clients forget to drop."""
_CHUNKS_A_TURN = 16
# No cache may keep what changes, and no browser may take data for a page.
_ALWAYS = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


@final
@frozen
class HttpLimits:
    """The most that one connection may cost: sizes in bytes, times in seconds."""

    head: int = 16 * 1024
    lines: int = 128
    """The most lines of a head: each costs as much time as a kilobyte."""
    body: int = 64 * 1024
    chunks: int = 1024
    """The most pieces of a chunked body: an embedded client may send it word by word."""
    handshake_seconds: float = 10.0
    """For the whole TLS handshake."""
    idle_seconds: float = 15.0
    """Until the first byte of a request."""
    head_seconds: float = 10.0
    """From the first byte of a request to the end of its head."""
    body_seconds: float = 20.0
    write_seconds: float = 30.0
    """For a whole answer."""
    half_closed_seconds: float = 0.25
    """How long the work goes on for a caller that has closed its sending half."""
    linger_seconds: float = 2.0
    """How long we still read from a connection that we end, so that its last answer arrives."""


Answer: TypeAlias = Response | Handover
Respond: TypeAlias = Callable[[Request], Awaitable[Answer]]
Secure: TypeAlias = Callable[[trio.abc.HalfCloseableStream], Awaitable[trio.abc.HalfCloseableStream]]
"""Do the TLS handshake over a stream and return the stream above it. Raise trio.BrokenResourceError."""


@final
@frozen
class Held:
    """A connection's place at its server, and its count among all connections."""

    places: Places
    place: Place
    connection: ClientConnection
    trusted_proxies: AddressList
    pace: Pace


async def lingering_close(stream: trio.abc.HalfCloseableStream, limits: HttpLimits) -> None:
    """End a connection so that what was sent last still arrives.

    Closing a socket with unread bytes makes the kernel send a reset, and the peer then loses the answer that it has not
    read yet. So our half is closed first, and what comes is read and dropped until the peer closes too.
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
    held: Held | None = None,
) -> None:
    """Answer the requests of one connection until either side ends it; the caller closes the stream.

    The first byte tells TLS from plain HTTP; without ``secure``, only plain HTTP is spoken. The place in ``held`` is
    given back as soon as the last answer is sent.
    """
    limits = limits or HttpLimits()
    first = b""
    try:
        with trio.move_on_after(limits.idle_seconds):
            first = bytes(await stream.receive_some(_PIECE))
        if first.startswith(TLS_HANDSHAKE):
            await _serve_tls(PrefixedStream(stream, first), peer, respond, limits, secure, held)
        elif first:
            await _Connection(PrefixedStream(stream, first), peer, respond, limits, held=held).run()
    except trio.BrokenResourceError as exc:
        logger.debug("%s broke the connection: %s", peer, exc.__cause__ or exc)


async def _serve_tls(
    stream: trio.abc.HalfCloseableStream,
    peer: Endpoint,
    respond: Respond,
    limits: HttpLimits,
    secure: Secure | None,
    held: Held | None,
) -> None:
    if held is not None:
        await held.pace.turn()  # the handshake's signature is work
    if secure is None:
        logger.info("%s speaks TLS, and there is no certificate here: use http://", peer)
        return
    with trio.move_on_after(limits.handshake_seconds) as deadline:
        secured = await secure(stream)
    if deadline.cancelled_caught:
        logger.debug("%s did not finish the TLS handshake within %g s", peer, limits.handshake_seconds)
        return
    await _Connection(secured, peer, respond, limits, secure=True, held=held).run()


@functools.lru_cache(1)
def _date(second: int) -> str:
    """Write a time as HTTP does (RFC 9110, 5.6.7). Cached, since many answers go out in one second."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))


class _RefusedError(Exception):
    """The request is refused while it is read; ``response`` says why."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _refusal(status: int, why: str) -> _RefusedError:
    # The start of the next request is unknown from here on, so the connection closes (invariant 4).
    return _RefusedError(explain(status, why, _CLOSE))


@final
@dataclass(eq=False, repr=False, slots=True)
class _Connection:
    """One connection from its first request to its last."""

    stream: trio.abc.HalfCloseableStream
    peer: Endpoint
    respond: Respond
    limits: HttpLimits
    secure: bool = False
    held: Held | None = None
    conn: h11.Connection = field(init=False)
    head_only: bool = False
    """The current request is a HEAD, whose answer has no body."""
    persistent: bool = False
    """The current request lets the connection live on after its answer."""
    handover: Handover | None = None
    """Set once another protocol is to take over the connection."""

    @property
    def pace(self) -> Pace:
        """The pace of its server; its own for a connection without a server."""
        return self.held.pace if self.held is not None else Pace()

    def __post_init__(self) -> None:
        self.conn = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head)

    async def run(self) -> None:
        """Answer one request after the other, in the order sent; then hand over, or close."""
        while await self._exchange():
            self._next_cycle()
        if self.handover is not None:
            if self.held is not None:
                # A WebSocket needs no place here: its port counts it among its clients.
                self.held.places.give_back(self.held.place)
            await self.handover.take(PacedStream(self.stream, self.pace))
        if self.held is not None and not self.held.places.linger(self.held.place):
            return
        with contextlib.suppress(trio.ClosedResourceError):  # the handover may have closed it already
            await lingering_close(self.stream, self.limits)

    def _next_cycle(self) -> None:
        """Prepare for the next request, which may be in h11's buffer already, after empty lines."""
        buffered, _ = self.conn.trailing_data
        if not buffered.startswith((b"\r", b"\n")):
            self.conn.start_next_cycle()
            return
        # h11 takes an empty line for a head without a request line, and its buffer cannot be changed. So make a new
        # h11.Connection. If the peer has ended its sending, the stream will say so again.
        self.conn = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head)
        if rest := buffered.lstrip(b"\r\n"):
            self.conn.receive_data(rest)

    async def _exchange(self) -> bool:
        """Read and answer one request. Return whether another may follow."""
        self.head_only = self.persistent = False
        try:
            request = await self._read_request()
            answer = await self._work(self._of_its_client(request)) if request else None
        except _RefusedError as refused:
            answer = refused.response
        if isinstance(answer, Handover):
            if not self.conn.trailing_data[0]:
                self.handover = answer
                return False
            # The new protocol reads from the stream, and would never see what h11 has already buffered.
            answer = explain(400, "Bytes of the new protocol came before its answer: wait for that.", _CLOSE)
        return answer is not None and await self._send_answer(answer)

    # --- reading ---

    async def _read_request(self) -> Request | None:
        """Read the next whole request. Return None if the peer ended the connection or let it idle."""
        buffered, ended = self.conn.trailing_data
        with trio.move_on_after(self.limits.idle_seconds) as idle:
            while not buffered and not ended:
                received = bytes(await self.stream.receive_some(_PIECE))
                # RFC 9112, 2.2: a server should skip empty lines before a request; some clients end a body with one.
                buffered, ended = received.lstrip(b"\r\n"), not received
                if buffered or ended:
                    self.conn.receive_data(buffered)
        if idle.cancelled_caught:
            return None
        head = await self._read_head()
        if head is None:
            return None
        event, headers = head
        fields = dict(headers)
        if event.http_version == b"1.0" and b"upgrade" in fields:
            # RFC 9110, 7.8: a proxy of HTTP/1.0 before us would not know that HTTP ends here.
            headers = [field for field in headers if field[0] != b"upgrade"]
        return Request(
            method=event.method.decode("ascii"),
            target=event.target,
            headers=tuple(headers),
            body=await self._read_body(fields),
            peer=self.peer,
            secure=self.secure,
            connection=None if self.held is None else self.held.connection,
        )

    async def _read_head(self) -> tuple[h11.Request, list[tuple[bytes, bytes]]] | None:
        """Read a request head, and refuse what h11 accepts but we do not."""
        await self.pace.turn()
        event = self._whole_event()
        if event is h11.NEED_DATA:  # a head usually comes whole, and a deadline costs as much as reading it
            with trio.move_on_after(self.limits.head_seconds) as deadline:
                event = await self._next_event()
            if deadline.cancelled_caught:
                raise _refusal(408, f"The request head did not arrive within {self.limits.head_seconds:g} s.")
        if isinstance(event, h11.ConnectionClosed):
            return None
        assert isinstance(event, h11.Request)
        self.head_only = event.method == b"HEAD"
        # Read once, because h11 makes new pairs for each access.
        headers = list(event.headers)
        fields = dict(headers)
        connection = b",".join([value.lower() for name, value in headers if name == b"connection"])
        self.persistent = event.http_version == b"1.1" and b"close" not in connection
        if event.http_version not in _VERSIONS:
            raise _refusal(505, f"HTTP/{event.http_version.decode('ascii')} is not spoken here: use HTTP/1.1.")
        if b"content-length" in fields and b"transfer-encoding" in fields:
            # A proxy in front of us may believe the other one, and then only one of us would take what follows for a
            # request.
            raise _refusal(
                400, "Content-Length and Transfer-Encoding are two lengths of one body (RFC 9112): send one."
            )
        if _HOST.fullmatch(fields.get(b"host", b"")) is None:
            # RFC 9112, 3.2: 400, because two readers may take it for two hosts.
            raise _refusal(400, "Host is no host and port (RFC 9110, 7.2).")
        if event.method == b"CONNECT":
            raise _refusal(405, "This is not a proxy: use GET or POST.")
        return event, headers

    async def _read_body(self, fields: dict[bytes, bytes]) -> bytes:
        declared = int(fields.get(b"content-length", 0))
        too_long = f"The request body is longer than {self.limits.body} bytes: send less."
        # Before 100 Continue, which would invite the very body that is refused.
        if declared > self.limits.body:
            raise _refusal(413, too_long)
        if self.conn.they_are_waiting_for_100_continue:
            await self._send(self.conn.send(h11.InformationalResponse(status_code=100, headers=[])))
        if not declared and b"transfer-encoding" not in fields:
            self._whole_event()  # the end of a message that has no body
            return b""
        body = bytearray()
        chunks = 0
        with trio.move_on_after(self.limits.body_seconds):
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
                chunks += event.chunk_start
                if len(body) > self.limits.body:  # a chunked body declares no length
                    raise _refusal(413, too_long)
                if chunks > self.limits.chunks:
                    raise _refusal(
                        413, f"The request body has more than {self.limits.chunks} chunks: send longer ones."
                    )
                if event.chunk_start and chunks % _CHUNKS_A_TURN == 0:
                    await self.pace.turn()
            return bytes(body)
        raise _refusal(408, f"The request body did not arrive within {self.limits.body_seconds:g} s.")

    async def _next_event(self) -> object:
        while (event := self._whole_event()) is h11.NEED_DATA:
            await self._receive()
        return event

    def _whole_event(self) -> object:
        """Return the next event, or NEED_DATA if it is not complete. Raises _RefusedError."""
        try:
            self._check_lines()
            return self.conn.next_event()
        except h11.RemoteProtocolError as exc:
            if exc.error_status_hint == 431:
                why = f"The request head is longer than {self.limits.head} bytes: send fewer or shorter headers."
            else:
                told = str(exc).replace("bytearray", "")  # h11 quotes what came by its own type's name
                why = f"This is not a request of HTTP/1.1 (RFC 9112): {told[:200]}"
            raise _refusal(exc.error_status_hint, why) from exc

    def _check_lines(self) -> None:
        """Refuse a head with too many lines before h11 reads it: a thousand of them would delay all others."""
        if self.conn.their_state is not h11.IDLE:
            return
        buffered, _ = self.conn.trailing_data
        end = _END_OF_HEAD.search(buffered)
        if buffered.count(b"\n", 0, end.start() if end else len(buffered)) >= self.limits.lines:
            raise _refusal(431, f"The request head has more than {self.limits.lines} lines: send fewer headers.")

    async def _receive(self) -> None:
        self.conn.receive_data(bytes(await self.stream.receive_some(min(_PIECE, self._room()))))

    def _room(self) -> int:
        """Return how many more bytes may be buffered: h11 checks its limit only while a head is incomplete."""
        return self.limits.head + 1 - len(self.conn.trailing_data[0])

    # --- answering ---

    async def _work(self, request: Request) -> Answer | None:
        """Return the answer to a request, or None if its caller left before."""
        answer: Answer | None = None
        if self.held is not None:
            self.held.place.working = True
        async with trio.open_nursery() as nursery:
            # A caller that hangs up must free the line at once, which only a read beside the work can notice.
            nursery.start_soon(self._cancel_when_left, nursery.cancel_scope)
            try:
                answer = await self.respond(request)
            except Exception:  # a bug of ours ends this connection alone; the log has the details, the answer none
                logger.exception("%s: no answer to %s %.60r", request.peer, request.method, request.path)
                why = "This is a fault of the gateway, not of the request; its log says more."
                answer = explain(500, why, _CLOSE)
            nursery.cancel_scope.cancel()
        if self.held is not None:
            place = self.held.place
            place.working, place.since = False, trio.current_time()
            place.proven = place.proven or (isinstance(answer, Response) and answer.proven)
        if answer is None:
            logger.debug("%s left before its answer: %s %.60r", request.peer, request.method, request.target)
        return answer

    def _of_its_client(self, request: Request) -> Request:
        """If a trusted proxy brought the request, return it as its client's, and count its place for that client.

        Raises _RefusedError if that client has too many places.
        """
        if self.held is None:
            return request
        held = self.held
        if is_trusted(request.peer, held.trusted_proxies):
            request = from_client(request, held.trusted_proxies)
            if not held.places.rename(held.place, request.peer.network):
                why = f"All connections that {request.peer.network} may have are taken: close some, or try again."
                raise _RefusedError(explain(503, why, ("Retry-After", "1"), _CLOSE))
            held.connection.rename(request.peer.network)
        return request

    async def _cancel_when_left(self, work: trio.CancelScope) -> None:
        """Read on to notice a leaving caller; keep what it pipelines, within the limit."""
        try:
            while self._room() > 0:
                if self.conn.trailing_data[1]:
                    # The caller closed all, or only its sending half (`nc -N`): both look alike. So an answer that
                    # comes soon is still sent, and no line is held for long for a caller that is gone.
                    await trio.sleep(self.limits.half_closed_seconds)
                    break
                await self._receive()
            else:
                # It pipelines more than is kept, so nothing more is read. Its connection still shows when it is gone.
                if self.held is None:
                    return
                await self.held.connection.broken.wait()
        except trio.BrokenResourceError:
            logger.debug("%s reset the connection", self.peer)
        work.cancel()

    async def _send_answer(self, answer: Response) -> bool:
        """Send an answer; return whether the connection can take another request."""
        headers: list[tuple[str, str]] = [("Date", _date(int(time.time()))), *_ALWAYS, *answer.headers]
        if self.persistent and _CLOSE not in answer.headers:
            # So that a client's next request does not cross our close on the way.
            headers.append(("Keep-Alive", f"timeout={self.limits.idle_seconds:.0f}"))
        if answer.status != HTTPStatus.NO_CONTENT:
            headers += [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
        reason = HTTPStatus(answer.status).phrase.encode()
        pieces = [self.conn.send(h11.Response(status_code=answer.status, reason=reason, headers=headers))]
        if answer.body and not self.head_only:
            pieces.append(self.conn.send(h11.Data(data=answer.body)))
        pieces.append(self.conn.send(h11.EndOfMessage()))
        await self._send(b"".join(pieces))
        return set(self.conn.states.values()) == {h11.DONE}

    async def _send(self, data: bytes) -> None:
        with trio.move_on_after(self.limits.write_seconds) as deadline:
            await self.stream.send_all(data)
        if deadline.cancelled_caught:
            raise trio.BrokenResourceError(f"no answer was read within {self.limits.write_seconds:g} s")
