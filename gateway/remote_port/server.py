"""The remote port server of a port: who may chain to it, and which sessions there are.

A door like any other, but that its clients prove a key, and may go and come back. It must not know how clients
connect, nor see the router: it is given a handle, and narrows it for each session.
"""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any, Final, final

import trio

from gateway.port.rights import Right
from gateway.remote_port.line import CHANNELS
from gateway.remote_port.link import HANDSHAKE_DEADLINE, Link, LinkCutError, now_ms, reason_text
from gateway.remote_port.session import RemoteSession
from gateway.tasks.root_cause import root_cause
from protocol.endpoint import Endpoint
from protocol.errors import RemoteProtocolError
from protocol.link.connection import Connection
from protocol.link.handshake import Acceptor, WrongKeyError, key_point
from protocol.link.header import CutError
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason
from protocol.link.session_frames import Close, Open
from protocol.parameters.addresses import AddressList
from protocol.session.register import Refused, Register
from protocol.session.session import SessionLimits

if TYPE_CHECKING:
    import socket

    from gateway.port.router import Handle
    from protocol.link.guesses import GuessLimit
    from protocol.link.handshake import Peer
    from protocol.link.hello import Hello
    from protocol.session.register import Ended
    from protocol.session.server import ServerSession

__all__ = ["RemotePortService"]

logger = logging.getLogger(__name__)

RESUME_WINDOW: Final = 60.0
"""Seconds for which a session waits for its next connection."""
_HANDSHAKES: Final = 32
"""Handshakes at once: each costs two multiplications on a curve."""
_OLDEST_KEYS: Final = 25 * 3600.0
"""Seconds after which a connection whose client does not renew its keys is cut."""
_RING: Final = 1 << 20
"""Bytes of the line that are kept for a client that is away or slow; what is more becomes a gap."""
_CLASSES: Final = Right.PTZ | Right.TCP | Right.CGI
_GUESSED: Final = "too many wrong keys came from there"
_RETIRE: Final = 1.2
"""Seconds that messages under way have when the gateway stops."""
_QUIET: Final = 1.0
"""Seconds for which the same reason to turn clients away is not logged again: who hammers must not fill the log."""


@final
class RemotePortService:
    """An open remote port server on port manager ``index``; ``node`` and ``chassis`` are ours."""

    def __init__(
        self, index: int, node: bytes, chassis: str, handle: Handle, clients: trio.Nursery, guesses: GuessLimit
    ) -> None:
        self.handle = handle
        self._index = index
        self._node = node
        self._chassis = chassis
        self._clients = clients
        self._guesses = guesses
        self._allowed = AddressList()
        self._key: str | None = None
        self._point = b""
        self._rights = Right(0)
        self._register = Register(SessionLimits(ring_bytes=_RING))
        self._seats: dict[ServerSession, RemoteSession] = {}
        self._addresses: dict[RemoteSession, str] = {}
        self._handshakes = 0
        self._left = trio.Event()
        self._watch = handle.attenuate(Right.READ, "remote port server").open(Right(0))
        self._said = ("", -math.inf)
        self.refused = 0
        """Clients turned away."""
        self.wrong_keys = 0
        """Handshakes that failed because of the key."""

    @property
    def children(self) -> tuple[RemoteSession, ...]:
        """The sessions that there are, connected or not."""
        return tuple(self._seats.values())

    @property
    def keyless(self) -> bool:
        """Whether anybody may be a client."""
        return not self._key

    @property
    def port(self) -> PortState:
        """The port as links are told."""
        state = self._watch.state.value
        rights = sum(1 << channel for right, channel in CHANNELS.items() if right in self._granted)
        return PortState(rights, state.down is None, state.rate, state.down or "", state.settings, state.path)

    @property
    def _granted(self) -> Right:
        """What links may write: what we let them, as far as the owner of the line lets us."""
        owner = self._watch.state.value.rights
        return Right(sum(right.value for right, channel in CHANNELS.items() if owner >> channel & 1)) & self._rights

    def update_policy(self, allowed: AddressList, key: str, ptz: bool) -> None:
        """Take up new settings: another key ends all sessions, another list those that it leaves out.

        ``ptz`` says whether links may write PTZ commands; the other classes have no switch of their own.
        """
        self._allowed = allowed
        self._rights = _CLASSES if ptz else _CLASSES & ~Right.PTZ
        if key != self._key:
            self._set_key(key)
        for seat, address in tuple(self._addresses.items()):
            if not allowed.allows(address):
                self._end(self._register.end(seat.session, CloseReason.REVOKED))
        self._tell_port()

    def _set_key(self, key: str) -> None:
        self._key = key
        self._point = key_point(key)
        self._end_all(CloseReason.KEY_CHANGED)
        if not key:
            logger.warning("P%d: RemotePortServer.AuthenticationKey is empty: anybody may chain to it", self._index)

    def welcome(self, sock: socket.socket, sockaddr: Any) -> None:
        """Take a client that a listener accepted."""
        peer = Endpoint.of(sockaddr)
        self.admit(sock, str(peer), peer.address)

    def admit(self, sock: socket.socket, holder: str, address: str) -> None:
        """Let a client prove itself, where its address may; close it otherwise."""
        if not self._allowed.allows(address):
            self._turn_away(sock, holder, "its address is not among AllowedIPAddresses")
        elif not self._guesses.allows(Endpoint(address, 0).network, trio.current_time()):
            self._turn_away(sock, holder, _GUESSED)
        elif self._handshakes >= _HANDSHAKES:
            self._turn_away(sock, holder, f"{_HANDSHAKES} handshakes are under way")
        else:
            self._clients.start_soon(self._serve, sock, holder, address)

    async def run(self) -> None:
        """Tell links of the port's changes, and end sessions that waited too long, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            async for _ in self._watch.state.changes():
                self._tell_port()

    async def retire(self) -> None:
        """The gateway stops: let what was begun be finished, then end all sessions, which leaves nothing uncertain."""
        for seat in self.children:
            seat.retire()
        with trio.move_on_after(_RETIRE):
            for seat in self.children:
                await seat.idle()
        self._end_all(CloseReason.STOPPING)
        self.handle.revoke("the gateway stops")

    def revoke(self, why: str) -> None:
        """Close the door and end all sessions."""
        self._end_all(CloseReason.REVOKED)
        self.handle.revoke(why)

    async def _serve(self, sock: socket.socket, holder: str, address: str) -> None:
        point = self._point
        with sock:
            try:
                link = Link(sock, Connection(Acceptor(point, self._node, self._index, self._chassis, os.urandom(32))))
                peer = await self._greet(link, address)
                opening = await self._opening(link)
                name = f"{holder} (node {peer.node.hex()[:8]}, R{peer.index})"
                if (refusal := self._refusal(point, address)) is not None:
                    self._refuse(link, name, Close(refusal))
                elif (seat := self._admitted(link, peer, opening, name, address)) is not None:
                    await self._carry(link, seat)
            except (LinkCutError, RemoteProtocolError, OSError) as exc:
                logger.info("%s: %s", holder, exc)
            except Exception:  # the first ring: what goes wrong with one client ends that client
                logger.exception("%s: a bug ended it", holder)

    async def _greet(self, link: Link, address: str) -> Peer:
        network = Endpoint(address, 0).network

        def charge(_: Hello) -> None:
            # Judged once more: many may have come in before the first of them was charged.
            if not self._guesses.allows(network, trio.current_time()):
                raise LinkCutError(_GUESSED)
            self._guesses.charge(network, trio.current_time())

        self._handshakes += 1
        try:
            with trio.fail_after(HANDSHAKE_DEADLINE):
                peer = await link.handshake(charge)
        except trio.TooSlowError:
            raise LinkCutError(f"no handshake within {HANDSHAKE_DEADLINE:g} s") from None
        except WrongKeyError:
            self._note_wrong_key(address)
            raise
        except LinkCutError as exc:
            if exc.reason is CloseReason.WRONG_KEY:
                self._note_wrong_key(address)
            raise
        finally:
            self._handshakes -= 1
        self._guesses.refund(network)
        return peer

    def _note_wrong_key(self, address: str) -> None:
        self.wrong_keys += 1
        self._warn(f"{address} has another AuthenticationKey than P{self._index}'s remote port server")

    async def _opening(self, link: Link) -> Open:
        with trio.move_on_after(HANDSHAKE_DEADLINE):
            if isinstance(opening := await link.opening(), Open):
                return opening
        raise LinkCutError("it proved the key, and opened no session")

    def _refusal(self, point: bytes, address: str) -> CloseReason | None:
        """Say what has changed since the client connected, if it may not come in any more."""
        if self.handle.revoked is not None or not self._allowed.allows(address):
            return CloseReason.REVOKED
        if point is not self._point:
            return CloseReason.KEY_CHANGED
        return None if self._watch.state.value.path else CloseReason.NO_PATH

    def _refuse(self, link: Link, holder: str, close: Close) -> None:
        logger.info("%s refused: %s", holder, reason_text(close.reason))
        link.refuse(close)

    def _admitted(self, link: Link, peer: Peer, opening: Open, holder: str, address: str) -> RemoteSession | None:
        """Find or make the seat of the session that the peer asks for; None where it is refused."""
        admitted = self._register.admit(peer, opening, os.urandom(16), self.port)
        self._end(admitted.ended)
        if isinstance(admitted, Refused):
            self._refuse(link, holder, admitted.close)
            return None
        seat = self._seats.get(admitted.session) or self._new_seat(admitted.session, holder)
        self._addresses[seat] = address
        return seat

    def _new_seat(self, session: ServerSession, holder: str) -> RemoteSession:
        seat = RemoteSession(session, self.handle.attenuate(self.handle.rights, holder))
        seat.permit(self._granted)
        self._seats[session] = seat
        self._clients.start_soon(self._run_seat, seat)
        return seat

    async def _run_seat(self, seat: RemoteSession) -> None:
        logger.info("%s seated", seat.handle.holder)
        try:
            await seat.run()
        except Exception:  # the first ring, as for connections
            logger.exception("%s: a bug ended it", seat.handle.holder)
            self._end(self._register.end(seat.session, CloseReason.PROTOCOL))

    async def _carry(self, link: Link, seat: RemoteSession) -> None:
        """Carry frames of a seat's new connection, which takes the place of the one before it."""
        session = seat.session
        try:
            closed = await seat.carry(link, _OLDEST_KEYS)
        except* (LinkCutError, CutError) as group:
            logger.info("%s: the link was cut: %s", seat.handle.holder, root_cause(group))
            closed = False
        except* RemoteProtocolError as group:
            logger.warning("%s broke the protocol: %s", seat.handle.holder, root_cause(group))
            self._end(self._register.end(session, CloseReason.PROTOCOL))
            if (word := session.last_word(CloseReason.PROTOCOL)) is not None:
                link.refuse(word)
            closed = False
        finally:
            self._left.set()
        if closed:
            self._end(self._register.end(session, CloseReason.STOPPING))

    def _end_all(self, reason: CloseReason) -> None:
        for session in tuple(self._seats):
            self._end(self._register.end(session, reason))

    def _end(self, ended: tuple[Ended, ...]) -> None:
        for each in ended:
            seat = self._seats.pop(each.session)
            self._addresses.pop(seat, None)
            logger.info("%s gone: %s", seat.handle.holder, reason_text(each.reason))
            seat.end(reason_text(each.reason))

    def _tell_port(self) -> None:
        port = self.port
        for seat in self.children:
            seat.permit(self._granted)
            seat.tell(port)

    async def _sweep(self) -> None:
        """End the sessions whose clients stay away for too long."""
        while True:
            self._left = trio.Event()
            self._end(self._register.sweep(now_ms(), int(RESUME_WINDOW * 1000)))
            away = [session.detached_at for session in self._seats if not session.attached]
            with trio.move_on_at(min(away) / 1000 + RESUME_WINDOW + 0.001 if away else math.inf):
                await self._left.wait()

    def _turn_away(self, sock: socket.socket, holder: str, why: str) -> None:
        self.refused += 1
        self._warn(f"{holder.rpartition(':')[0]} is turned away from P{self._index}'s remote port server: {why}")
        sock.close()

    def _warn(self, what: str) -> None:
        said, at = self._said
        if what != said or trio.current_time() > at + _QUIET:
            self._said = what, trio.current_time()
            logger.warning("%s", what)
