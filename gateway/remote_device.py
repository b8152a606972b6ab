"""A remote port client as the device of a port manager (RemotePort.R#): the way to a line that another CPU owns.

It dials the server, proves the key, and keeps one session over all connections, so that a link that drops and comes
back costs no byte. It must not know who reads or writes: they meet on the bus.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.link import HANDSHAKE_DEADLINE, Link, LinkCutError, innermost, now_ms, reason_text
from gateway.remote_line import RemoteLine
from gateway.servers import NobodyError
from gateway.supervise import Backoff, supervise
from protocol.client_session import ClientSession
from protocol.errors import RemoteProtocolError
from protocol.handshake import Call, Peer, WrongKeyError, key_point
from protocol.reasons import CloseReason, Reason
from protocol.remote_port import Connection
from protocol.session import NO_SESSION, Limits, Resumed
from protocol.session_frames import Close, Port
from protocol.stream_frames import DownData, Gap, Turn
from protocol.upflow import Settled

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.bus import Bus
    from gateway.reconcile import Leaf
    from gateway.servers import Server, Servers
    from protocol.client_session import ClientEvent
    from protocol.frames import Frame
    from protocol.port_state import PortState
    from protocol.settings import RemotePort

__all__ = ["RemoteDevice"]

logger = logging.getLogger(__name__)

RESUME_WINDOW: Final = 60.0
"""Seconds for which a session waits for its next connection."""
_WINDOW: Final = 1 << 20
"""Bytes of the line that may be under way to us: they go to the bus at once."""
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 15.0
_WRONG_KEY_RETRY: Final = 5.0
_CONNECT: Final = 10.0
_REKEY: Final = 24 * 3600.0
"""Seconds after which a connection is made anew, and with it its keys."""


_FAILURES: Final = (OSError, LinkCutError, NobodyError, RemoteProtocolError)
"""What ends one try, and is followed by another."""


@final
class RemoteDevice:
    """RemotePort.R# ``index`` on its bus, while ``run()`` runs; ``node`` is our own node id."""

    def __init__(self, bus: Bus, node: bytes, index: int, settings: RemotePort, servers: Servers) -> None:
        self._bus = bus
        self._node = node
        self._index = index
        self._settings = settings
        self._servers = servers
        self._point = key_point(settings.authentication_key)
        self._session = ClientSession(node, Limits(window=_WINDOW))
        self._line = RemoteLine(self._session, self._flush)
        self._link: Link | None = None
        self._port: PortState | None = None
        self._attempt = trio.CancelScope()
        self._expiry = trio.Event()
        self._abandon_at = float("inf")
        self.peer: Peer | None = None
        """Who owns the line, or leads to it; None before the first handshake."""
        self.links_lost = 0
        """Connections that ended."""

    async def run(self, leaf: Leaf) -> None:
        """Keep the link up until the leaf's scope is cancelled; then end the session in words."""
        leaf.began()
        if self.keyless:
            logger.warning("RemotePort.R%d.AuthenticationKey is empty: anybody may be the server", self._index)
        leaf.settled.set()  # a server that is not there yet is no reason to refuse the settings
        backoff = Backoff(_FIRST_RETRY, _LAST_RETRY)

        def down(why: str) -> None:
            leaf.failing(why)
            self._servers.failed()
            if self._session.id == NO_SESSION:
                self._disconnect(why)

        try:
            async with trio.open_nursery() as nursery:
                with leaf.scope:
                    nursery.start_soon(self._keep_time)
                    while True:
                        with trio.CancelScope() as self._attempt, self._servers.looking(self._settings):
                            live = functools.partial(self._live, leaf)
                            await supervise(live, _FAILURES, down, backoff)
                        self._give_up(Reason.CLOSED, f"the settings of RemotePort.R{self._index} changed")
                        backoff.reset()
                nursery.cancel_scope.cancel()
        finally:
            self._give_up(Reason.CLOSED, f"RemotePort.R{self._index} is closing")

    def adjust(self, settings: RemotePort) -> None:
        """Take up other settings: what differs ends the session and dials at once; the same again is no change."""
        if settings == self._settings:
            return
        if settings.authentication_key != self._settings.authentication_key:
            self._point = key_point(settings.authentication_key)
        self._settings = settings
        self._attempt.cancel()

    @property
    def round_trip(self) -> int | None:
        """The best round trip to the server in milliseconds."""
        return self._session.round_trip

    @property
    def linked(self) -> bool:
        """Whether a connection stands now."""
        return self._link is not None

    @property
    def keyless(self) -> bool:
        """Whether anybody may be the server."""
        return not self._settings.authentication_key

    async def _live(self, leaf: Leaf, backoff: Backoff) -> None:
        """Be connected once. Raises OSError, LinkCutError or RemoteProtocolError."""
        server = await self._servers.next(self._settings, resuming=self._session.id != NO_SESSION)
        sock = await self._connected(server)
        scalar, fresh = os.urandom(32), os.urandom(16)
        link = Link(sock, Connection(Call(self._point, self._node, self._index, scalar, fresh)))
        try:
            await self._greet(link, server)
            await self._carry(link, leaf, backoff)
        except WrongKeyError:
            logger.warning("%s R%d: the server has another key", self._bus.name, self._index)
            link.refuse(Close(CloseReason.WRONG_KEY))
            link.close()
            await trio.sleep(_WRONG_KEY_RETRY)
            raise
        finally:
            link.close()

    async def _connected(self, server: Server) -> socket.socket:
        with trio.move_on_after(_CONNECT):
            stream = await trio.open_tcp_stream(server.host, server.port)
            return socket.socket(fileno=stream.socket.detach())
        raise TimeoutError(f"{server.host} port {server.port} did not answer within {_CONNECT:g} s")

    async def _greet(self, link: Link, server: Server) -> None:
        try:
            with trio.fail_after(HANDSHAKE_DEADLINE):
                peer = await link.handshake(_not_called)
        except trio.TooSlowError:
            raise LinkCutError(f"no handshake within {HANDSHAKE_DEADLINE:g} s") from None
        if server.identity not in (None, (peer.node, peer.index)):
            raise LinkCutError(f"{server.host} port {server.port} is not the server that Bonjour announced there")
        if self.peer is not None and (peer.node, peer.index) != (self.peer.node, self.peer.index):
            logger.warning("%s R%d: another server answers at the same address", self._bus.name, self._index)
        self.peer = peer

    async def _carry(self, link: Link, leaf: Leaf, backoff: Backoff) -> None:
        number = self._session.attach()
        self._link = link
        self._abandon_at = float("inf")

        def take(frame: Frame) -> None:
            for event in self._session.receive(number, frame, now_ms()):
                if isinstance(event, Resumed):
                    backoff.reset()
                    self._servers.worked()
                    leaf.up()
                self._heed(event)

        try:
            why = await _cut(link.carry(lambda: self._session.next_frame(number, now_ms()), take, self._session.ping))
        except trio.Cancelled:
            self._session.close(CloseReason.STOPPING)
            link.flush()
            raise
        finally:
            self._link = None
            self._session.detach()
            self.links_lost += 1
            self._abandon_at = trio.current_time() + RESUME_WINDOW
            self._expiry.set()
        raise LinkCutError(why)

    def _heed(self, event: ClientEvent) -> None:
        match event:
            case DownData():
                self._bus.deliver(event.data)
            case Settled():
                self._line.settled(event)
            case Gap():
                self._bus.miss(event.count, event.reason)
            case Turn():
                self._line.turned(event)
            case Resumed() | Port():
                self._heed_port(event.port if isinstance(event, Resumed) else event.state)
            case Close():
                self._closed(event.reason)

    def _heed_port(self, port: PortState) -> None:
        self._port = port
        self._line.reckon(port.rate)
        self._bus.adjusted(port.rate, port.line)
        self._bus.route(*port.path, self._node)
        if not port.up:
            self._bus.disconnect(port.why)
        elif self._bus.down is not None:
            self._line.begin()
            self._bus.connect(self._line)

    def _closed(self, reason: CloseReason) -> None:
        if reason is not CloseReason.STALE:
            self._give_up(Reason.CLOSED, f"the server ended the session: {reason_text(reason)}")

    def _give_up(self, reason: Reason, why: str) -> None:
        """End the session: its bytes have their fates now, and writes are refused."""
        for settled in self._session.abandon(reason):
            self._line.settled(settled)
        self._disconnect(why)

    def _disconnect(self, why: str) -> None:
        self._bus.route()
        self._bus.disconnect(why)

    def _flush(self) -> None:
        self._expiry.set()
        if self._link is not None:
            self._link.flush()

    async def _keep_time(self) -> None:
        """Drop what grows too old, and the session when its window is over."""
        while True:
            self._expiry = trio.Event()
            for settled in self._session.expire(now_ms()):
                self._line.settled(settled)
            if trio.current_time() >= self._abandon_at:
                self._abandon_at = float("inf")
                self._give_up(Reason.PORT_DOWN, "the server has been away for longer than the resume window")
            expiry = self._session.next_expiry(now_ms())
            deadline = self._abandon_at if expiry is None else min(self._abandon_at, expiry / 1000)
            with trio.move_on_at(deadline):
                await self._expiry.wait()


async def _cut(carrying: Awaitable[None]) -> str:
    """Wait until a link has been cut, or is old enough for new keys; say why."""
    why = "its keys are a day old"
    try:
        with trio.move_on_after(_REKEY):
            await carrying
            why = "the server closed the link"
    except* (LinkCutError, RemoteProtocolError) as group:
        why = f"the link was cut: {innermost(group)}"
    return why


def _not_called(_: object) -> None:
    raise AssertionError("a client is sent no hello")
