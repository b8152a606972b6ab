"""One TCP connection of a remote-port link: ``protocol.link.connection.Connection``, driven by trio.

Frames are sealed in the order in which they are sent, and a sealed frame cannot be overtaken. So they are taken from
their source as late as possible: only while less than ``_UNSENT`` bytes wait in the kernel, so that a command never
waits behind much of a transfer. ``flush`` is synchronous and called from anywhere, also from the task of the line; what
the socket does not take at once is left to the task ``_send_rest``. So ``flush`` never raises: an error is kept, and
ends ``carry``.

A peer is alive only while it answers. Bytes alone prove nothing, because a peer could send and never read: a question
without an answer within ``_ANSWER`` ends the connection as silence does.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import socket
import struct
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.clients.streams import keep_alive
from gateway.tasks.ready import closing, run_clock, when_readable
from protocol.errors import LocalProtocolError
from protocol.link.handshake import HandshakeError, IdentityError, OwnNodeError, VersionError, WrongKeyError
from protocol.link.hello import Hello
from protocol.link.reasons import CloseReason
from protocol.link.session_frames import Close, Pong

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.link.connection import Connection, Event
    from protocol.link.frames import Frame
    from protocol.link.handshake import Peer

__all__ = ["HANDSHAKE_DEADLINE", "Link", "LinkCutError", "now_ms", "reason_text"]

HANDSHAKE_DEADLINE: Final = 5.0
"""Seconds for a handshake, from the first byte to the last."""

_DEAD_PEER: Final = 2.0
"""Seconds after which TCP gives up: a link's reader never pauses, so a window of zero means a dead peer."""
_UNSENT: Final = 16384
"""The most bytes to wait in the kernel, because sealed bytes cannot be overtaken."""
_TCP_NOTSENT_LOWAT: Final = 25
_SIOCOUTQNSD: Final = 0x894B
_NUMBER: Final = struct.Struct("i")
_READ_SIZE: Final = 65536

_QUIET: Final = 1.0
"""Seconds without a byte from the peer after which it gets a PING."""
_SILENT: Final = 3.0
"""Seconds for the answer to that."""
_PROVE: Final = 5.0
"""Seconds after which it gets a PING in any case: the answer proves what it has received."""
_WHOLE: Final = 2.0
"""Seconds for an incomplete frame to become whole."""
_ANSWER: Final = 10.0
"""Seconds for the answer to a question, whatever else the peer sends: answers go before everything else."""
_SLICE: Final = 8
"""Frames to handle before other tasks get their turn: one read may bring two thousand."""
_LOOK: Final = 0.5
"""Seconds between two looks at these times."""

_REFUSALS: Final[dict[type[HandshakeError], CloseReason]] = {
    WrongKeyError: CloseReason.WRONG_KEY,
    OwnNodeError: CloseReason.OWN_NODE,
    VersionError: CloseReason.VERSION,
    IdentityError: CloseReason.IDENTITY,
}
"""The reason that is sent, in clear, to a peer whose handshake failed with each error."""


@final
class LinkCutError(Exception):
    """The connection has gone, or was given up; the session may go on with another.

    ``reason`` is the peer's, if it sent CLOSE instead of finishing the handshake.
    """

    def __init__(self, why: str, reason: CloseReason | None = None) -> None:
        super().__init__(why)
        self.reason = reason


def now_ms() -> int:
    """Return the time for links: milliseconds of trio's clock."""
    return int(trio.current_time() * 1000)


@final
class _Then(enum.Enum):
    """What to do after handling some frames."""

    GO_ON = enum.auto()
    """There are more frames; other tasks get their turn first."""
    END = enum.auto()
    """The peer said CLOSE."""


@final
class Link:
    """A connected TCP socket, and the protocol on it; it becomes non-blocking. ``close()`` it in the end."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        sock.setblocking(False)
        keep_alive(sock, _DEAD_PEER)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)
        self._socket = sock
        self._connection = connection
        self._source: Callable[[], Frame | None] = _nothing
        self._sealed = b""
        self._pushed = 0
        self._stuck = trio.Event()
        self._handling = False
        """Frames are being handled; the replies are sent once, after the last of them."""
        self._now = run_clock()
        self._heard_at = self._whole_at = self._asked_at = self._now()
        self.now = now_ms()
        """The time of the last read or flush, as ``now_ms``, used for all of its frames."""
        self._partial_since: float | None = None
        self._unanswered_since: float | None = None
        self._carrying = trio.CancelScope()
        self._failure: Exception | None = None

    async def handshake(self, on_hello: Callable[[Hello], None]) -> Peer:
        """Prove the key to each other; the caller bounds it. Raises LinkCutError or RemoteProtocolError.

        ``on_hello`` is called before the peer's hello is answered, because the answer lets it test one guess. An
        exception from it ends the handshake before the answer.
        """
        self._push(self._connection.data_to_send())
        while self._connection.peer is None:
            try:
                event = await self._next_event()
            except HandshakeError as exc:
                if (reason := _REFUSALS.get(type(exc))) is not None:
                    self.refuse(Close(reason))
                raise
            if isinstance(event, Close):
                raise LinkCutError(f"refused by the peer: {reason_text(event.reason)}", event.reason)
            if isinstance(event, Hello):
                on_hello(event)
            self._push(self._connection.data_to_send())
        return self._connection.peer

    async def opening(self) -> Event:
        """Return the first frame after the handshake; the caller bounds it."""
        return await self._next_event()

    async def carry(
        self, source: Callable[[], Frame | None], take: Callable[[Frame], None], ask: Callable[[], None]
    ) -> None:
        """Carry frames until the connection ends: send those of ``source``, and pass those that come to ``take``.

        ``ask`` queues a PING. Raises LinkCutError or RemoteProtocolError, in an exception group or alone; also what
        ``source`` raised in a ``flush``.
        """
        self._source = source
        self._asked_at = trio.current_time()  # OPEN and OPENED are questions
        async with trio.open_nursery() as nursery:
            self._carrying = nursery.cancel_scope
            nursery.start_soon(self._send_rest)
            nursery.start_soon(self._keep_watch, ask)
            self.flush()
            try:
                await self._receive(take)
            finally:
                # The line goes on speaking while the tasks of this link end, but nothing may be sent any more.
                self._source = _nothing
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    def flush(self, *, at_once: bool = False) -> None:
        """Send the source's frames, as far as the socket takes them now; the rest follows. Never raises.

        While frames are being handled it waits for the last of them, except with ``at_once``.
        """
        if self._handling and not at_once:
            return
        self.now = int(self._now() * 1000)
        self._flush()

    def _flush(self) -> None:
        try:
            more = True
            while more and not self._sealed and self._room():
                more = self._push_batch()
        except Exception as exc:  # noqa: BLE001  # it is raised by carry(); whoever called must not pay for this link
            self.fail(exc)
            return
        if more or self._sealed:
            self._stuck.set()

    def fail(self, error: Exception) -> None:
        """Let ``carry`` end by raising ``error``."""
        self._failure = error
        self._source = _nothing
        self._carrying.cancel()

    def _push_batch(self) -> bool:
        """Seal the source's frames, as far as there is room, and send them in one system call.

        Return whether there may be more.
        """
        batch, room = [], _UNSENT - self._pushed
        frame = self._source()
        while frame is not None:
            batch.append(self._connection.send(frame))
            room -= len(batch[-1])
            if room <= 0:
                break
            frame = self._source()
        if batch:
            self._push(b"".join(batch))
        return frame is not None

    def leave(self, source: Callable[[], Frame | None]) -> None:
        """Send the remaining frames of ``source``, as far as the socket takes them now."""
        self._source = source
        self.flush()
        self._source = _nothing

    def refuse(self, close: Close) -> None:
        """Send a CLOSE, if the state allows it; nothing follows."""
        with contextlib.suppress(LocalProtocolError):  # nothing may be sent in this state
            self._push(self._connection.send(close))

    def close(self) -> None:
        """Close the socket at once."""
        self._source = _nothing
        if self._socket.fileno() >= 0:
            closing(self._socket.fileno())
        self._socket.close()

    async def _receive(self, take: Callable[[Frame], None]) -> None:
        def read() -> _Then | None:
            return self._handle(take) if self._read() else None

        try:
            then = self._handle(take)  # the last read of the handshake may have brought more frames
            while then is not _Then.END:
                if then is _Then.GO_ON:
                    await trio.lowlevel.checkpoint()
                    self.now = now_ms()
                    then = self._handle(take)
                else:
                    then = await when_readable(self._socket.fileno(), read)
        finally:
            self._source = _nothing  # from this instant, because a frame after the end would be an error

    def _handle(self, take: Callable[[Frame], None]) -> _Then | None:
        """Pass the frames that came, or a slice of them, to ``take``; return None if these were all."""
        then: _Then | None = _Then.GO_ON
        self._handling = True
        try:
            for _ in range(_SLICE):
                event = self._connection.next_event()
                if event is None:
                    then = None
                    break
                self._whole_at = self._heard_at
                if isinstance(event, Pong):
                    self._unanswered_since = None  # another question follows within seconds
                take(event)  # type: ignore[arg-type]  # after the handshake every event is a frame
                if isinstance(event, Close):
                    return _Then.END
        finally:
            self._handling = False
        self._flush()
        return then

    async def _next_event(self) -> Event:
        while (event := self._connection.next_event()) is None:
            await when_readable(self._socket.fileno(), self._read)
        return event

    def _read(self) -> bool | None:
        """Read what has come and return True; None if nothing has. Raises LinkCutError."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise LinkCutError(exc.strerror or str(exc)) from exc
        self._heard_at = self._now()
        self.now = int(self._heard_at * 1000)
        self._connection.receive_data(data)
        return True

    def _room(self) -> bool:
        """Return whether a frame sealed now would leave soon."""
        if self._pushed < _UNSENT:
            return True
        try:
            waiting: int = _NUMBER.unpack(fcntl.ioctl(self._socket, _SIOCOUTQNSD, bytes(_NUMBER.size)))[0]
        except (OSError, ValueError):  # it is gone, or closed
            return False
        self._pushed = waiting
        return waiting < _UNSENT

    def _push(self, data: bytes) -> None:
        if self._sealed:
            data = self._sealed + data
        try:
            sent = self._socket.send(data) if data else 0
        except OSError:
            sent = 0  # full, or gone: the reading task meets the same error
        self._pushed += sent
        self._sealed = data[sent:]

    async def _send_rest(self) -> None:
        while True:
            await self._stuck.wait()
            self._stuck = trio.Event()
            await trio.lowlevel.wait_writable(self._socket)
            self._push(b"")
            self._pushed = 0
            self.flush()

    async def _keep_watch(self, ask: Callable[[], None]) -> None:
        while True:
            await trio.sleep(_LOOK)
            now = trio.current_time()
            quiet = now - self._heard_at
            if quiet > _QUIET + _SILENT:
                raise LinkCutError(f"the peer has been silent for {quiet:.1f} s")
            if self._unanswered_since is not None and now - self._unanswered_since > _ANSWER:
                raise LinkCutError(f"the peer sends, but has not answered for {now - self._unanswered_since:.0f} s")
            self._check_partial(now)
            if (quiet > _QUIET and self._asked_at < self._heard_at) or now - self._asked_at > _PROVE:
                self._asked_at = now
                if self._unanswered_since is None:
                    self._unanswered_since = now
                ask()
                self.flush()

    def _check_partial(self, now: float) -> None:
        if not self._connection.incomplete:
            self._partial_since = None
        elif self._partial_since is None or self._whole_at >= self._partial_since:
            self._partial_since = now
        elif now - self._partial_since > _WHOLE:
            raise LinkCutError(f"a frame was not whole within {_WHOLE:g} s")


def reason_text(reason: CloseReason) -> str:
    """Return a CLOSE's reason in words."""
    if reason is CloseReason.OWN_NODE:
        return "both have the same node id, so one of them may be a cloned image"
    if reason is CloseReason.DUPLICATE:
        return "another CPU uses our node id, so one of the two is a cloned image, and its link is older"
    return reason.name.lower().replace("_", " ")


def _nothing() -> None:
    return None
