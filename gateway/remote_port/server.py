"""The remote port server of a port: it admits clients that prove the key, and keeps their sessions.

A session outlives its connections. Whatever a client does ends at most its own connection or session: each runs in a
task of its own, and an unexpected exception is logged and ends that task alone.

Until the key is proved a client is a stranger, and strangers must not cost much. These are bounded: the handshakes at a
time, in all and of each network, the second to send HELLO, and the guesses at the key. If no place is left, the oldest
stranger that has sent nothing yet gives way. A client with the key sends HELLO at once, so it is hardly ever that one.
"""

from __future__ import annotations

import functools
import logging
import math
import operator
import os
from typing import TYPE_CHECKING, Any, Final, final

import trio

from gateway.clients.connections import Connections
from gateway.discovery.interfaces import on_own_link
from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.remote_port.class_writer import Pace
from gateway.remote_port.key_news import KeyLink, KeyNews
from gateway.remote_port.keys import ServerKeys
from gateway.remote_port.line import CHANNELS
from gateway.remote_port.link import HANDSHAKE_DEADLINE, Link, LinkCutError, now_ms, reason_text
from gateway.remote_port.session import RemoteSession
from gateway.tasks.root_cause import root_cause
from protocol.endpoint import Endpoint
from protocol.errors import RemoteProtocolError
from protocol.link.chain_tree import NO_PORT, Alarm, Branch, Cpu, Hop, Seen, Way
from protocol.link.connection import Connection
from protocol.link.handshake import Acceptor, WrongKeyError
from protocol.link.header import CutError
from protocol.link.key_frames import Told, ToldCpu
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason
from protocol.link.session_frames import Close, Open
from protocol.parameters.addresses import AddressList
from protocol.session.register import Refused, Register
from protocol.session.session import SessionLimits

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gateway.clients.connections import ClientConnection
    from gateway.port.router import Handle
    from gateway.remote_port.chain import Chain
    from gateway.remote_port.keys import OldKey
    from protocol.link.guesses import GuessLimit
    from protocol.link.handshake import Peer
    from protocol.link.hello import Hello
    from protocol.link.identity import NodeKey
    from protocol.link.key_frames import Rekey
    from protocol.session.register import Ended
    from protocol.session.server import ServerSession

__all__ = ["RemotePortService"]

RESUME_WINDOW: Final = 60.0
"""Seconds for which a session waits for its next connection."""
_HANDSHAKES: Final = 32
"""The most handshakes at once: each costs two multiplications on a curve."""
_SHARE: Final = 24
"""The most handshakes at once from one network, so that places are left for others."""
_FIRST_FRAME: Final = 1.0
"""Seconds for a client's HELLO, which it sends at once."""
_FLAPPING: Final = 60.0
"""Seconds within which two CPUs that disconnect each other are known to use one node id."""
_ANSWER: Final = 1.0
"""Seconds for the older link to prove that it lives then."""
_KEEP_OUT: Final = 300.0
"""Seconds for which the newer one is refused then."""
_MOST_CHANGES: Final = 256
"""The most changes of address that are remembered."""
_OLDEST_KEYS: Final = 25 * 3600.0
"""Seconds after which a connection is cut if its client has not renewed the keys."""
_RING: Final = 1 << 20
"""Bytes of the line that are kept for a client that is away or slow; more bytes become a gap."""
_CLASSES: Final = Right.PTZ | Right.TCP | Right.CGI
_NOTHING: Final = Right(0)
_GUESSED: Final = "too many wrong keys came from there"
_LOST: Final = 16
"""The most clients gone for good that the chain still shows, so that an operator finds the broken hop."""
_LOST_SECONDS: Final = 24 * 3600.0
"""Seconds after which they are forgotten."""
_WRONG_KEY_SECONDS: Final = 120.0
"""Seconds for which the chain shows a wrong key: a CPU with a wrong key tries again at least each minute."""
_RETIRE: Final = 1.2
"""Seconds for messages under way when the gateway stops."""


@final
class _Handshake:
    """A client that has not proved the key yet; ``scope`` ends it."""

    def __init__(self, peer: Endpoint, connection: ClientConnection) -> None:
        self.peer = peer
        self.connection = connection
        self.scope = trio.CancelScope(deadline=trio.current_time() + _FIRST_FRAME)
        self.silent = True
        """True until its HELLO has come."""
        self.client = b"", 0, peer.address
        """Its claimed node id and remote port, and its address ..."""
        self.point = b""
        """... and the key by which it is judged, as a point."""

    def spoke(self) -> None:
        """Note its HELLO, and give it the time of a whole handshake."""
        self.silent = False
        self.scope.deadline = trio.current_time() + HANDSHAKE_DEADLINE


@final
class RemotePortService:
    """An open remote port server on port manager ``index``; ``node`` and ``chassis`` are ours.

    ``tasks`` is the nursery of its connections and sessions, which outlives it; ``connections`` counts them with all
    others of the process. Without a key it admits clients on this
    host's own links only, unless ``keyless``.
    """

    def __init__(
        self,
        index: int,
        node: NodeKey,
        chassis: str,
        handle: Handle,
        tasks: trio.Nursery,
        guesses: GuessLimit,
        connections: Connections | None = None,
        *,
        chain: Callable[[], Chain],
        keyless: bool = False,
        old_key: Callable[[], OldKey | None] = lambda: None,
    ) -> None:
        self.handle = handle
        self._logger = PortLogger(logging.getLogger(__name__), f"P{index}")
        self._events = handle.events
        self._index = index
        self._node = node
        self._chassis = chassis
        self._tasks = tasks
        self._guesses = guesses
        self._connections = connections or Connections()
        self._allowed = AddressList()
        self._keys = ServerKeys()
        self._key_news = KeyNews()
        self._old_key = old_key
        self._rights = self._controls = Right(0)
        self._register = Register(SessionLimits(ring_bytes=_RING))
        self._sessions: dict[ServerSession, RemoteSession] = {}
        self._handshakes: list[_Handshake] = []
        self._keyless = keyless
        self._changes: dict[tuple[bytes, int], tuple[float, str]] = {}
        """For each client, when its session was last replaced from another address, and the address that lost it."""
        self._duplicates: dict[tuple[bytes, int], tuple[float, str]] = {}
        """The clients that two CPUs claim to be: until when the newer is refused, and what the status says."""
        self._left = trio.Event()
        self._pace = Pace()
        self._port = handle.attenuate(Right.READ, "remote port server").open(Right(0))
        self.refused = 0
        """Clients that were refused before their handshake."""
        self.wrong_keys = 0
        """Handshakes that failed because of the key."""
        self._chain = chain
        self._wrong_key: tuple[float, str] = -math.inf, ""
        """The time and the address of the last of them."""
        self._lost: dict[tuple[bytes, int], tuple[float, str, str, str]] = {}
        """The clients gone for good: when, their name and address, and why."""

    @property
    def sessions(self) -> tuple[RemoteSession, ...]:
        """Return all sessions, connected or not."""
        return tuple(self._sessions.values())

    @property
    def keyless(self) -> bool:
        """Return whether anybody may be a client."""
        return self._keys.is_empty

    @property
    def warning(self) -> str:
        """Return a warning about a missing key; empty if there is one."""
        if not self.keyless:
            return ""
        who = "anybody" if self._keyless else "anybody on this host's own links"
        return f"RemotePortServer.AuthenticationKey is empty: {who} may chain to it"

    @property
    def old_key_seconds(self) -> int:
        """Return for how many seconds the old key is still accepted; 0 if it is not."""
        return round(self._keys.old_until.value - trio.current_time()) if self._keys.has_old else 0

    def has_old_key(self, session: RemoteSession) -> bool:
        """Return whether a client has proved the old key, but not yet the present one."""
        return session.point != self._keys.points[0]

    @property
    def duplicates(self) -> tuple[str, ...]:
        """Return a sentence for each node id that two CPUs use, so that one of them is refused."""
        now = trio.current_time()
        return tuple(what for until, what in self._duplicates.values() if now < until)

    @property
    def alarms(self) -> list[tuple[Alarm, str]]:
        """Return what an operator has to mend, and at which CPU."""
        alarms = [(Alarm.CLONED, what) for what in self.duplicates]
        at, address = self._wrong_key
        if trio.current_time() - at < _WRONG_KEY_SECONDS:
            alarms.append((Alarm.WRONG_KEY, address))
        return [*alarms, (Alarm.NO_KEY, "any CPU below")] if self.keyless else alarms

    @property
    def lost(self) -> tuple[Branch, ...]:
        """Return the clients gone for good, as branches of the chain."""
        now = trio.current_time()
        self._lost = {key: each for key, each in self._lost.items() if now - each[0] < _LOST_SECONDS}
        return tuple(
            Branch(
                Hop(Way.DOWN, Seen.GONE, None, int(now - at), 0, 0, address, why).encode(),
                Cpu(node, NO_PORT, name).encode(),
            )
            for (node, _), (at, name, address, why) in self._lost.items()
        )

    @property
    def port(self) -> PortState:
        """Return the state of the port for links."""
        state = self._port.state.value
        rights = sum(1 << channel for right, channel in CHANNELS.items() if right in self._granted)
        up = state.down is None and bool(state.path)
        why = "" if up else state.down or "the path to the line is too long to be extended"
        rules = state.turn_rule, state.message_rule
        return PortState(rights, up, state.rate, why, state.settings, state.path, *rules)

    @property
    def _granted(self) -> Right:
        """Return the rights of links: those that we give, as far as the line's owner gives them to us."""
        owner = self._port.state.value.rights
        classes = Right(sum(right.value for right, channel in CHANNELS.items() if owner >> channel & 1))
        return classes & self._rights | self._port.state.value.control_rights & self._controls

    def update_policy(self, allowed: AddressList, key: str, ptz: bool, controls: Right = _NOTHING) -> None:
        """Take up new settings: another key ends all sessions without it, another list those that it does not allow.

        ``ptz`` tells whether links may write PTZ commands; the other classes have no switch of their own. ``controls``
        are the rights that their clients have beside writing.
        """
        self._allowed = allowed
        self._controls = controls
        self._rights = _CLASSES if ptz else _CLASSES & ~Right.PTZ
        if self._keys.change(key, self._old_key()):
            self._end_those_without_a_key()
            if not key:
                self._logger.warning("remote-port server: %s", self.warning)
        for session in self.sessions:
            if not allowed.allows(session.address):
                self._end(self._register.end(session.session, CloseReason.REVOKED))
        self._tell_port()

    async def rekey(self, told: Rekey, seconds: float) -> list[ToldCpu]:
        """Carry the key in force to the clients that it is for; return the outcome at each, within ``seconds``."""

        def links() -> list[KeyLink]:
            return [session.key_link for session in self.sessions]

        cpus = await self._key_news.tell(told, self._keys.points[0], links, seconds)
        linked = {session.session.key for session in self.sessions}
        lost = {key: name for key, (_, name, _, _) in self._lost.items() if key not in linked}
        return [*cpus, *(ToldCpu(node, name, Told.GONE) for (node, _), name in lost.items())]

    def apart(self) -> list[ToldCpu]:
        """Return the clients as APART: they have a key of their own, so a key from above is not sent to them."""
        return [ToldCpu(session.session.key[0], session.name, Told.APART) for session in self.sessions]

    def welcome(self, sock: socket.socket, sockaddr: Any) -> None:
        """Take an accepted client: begin its handshake, or close it if its address may not come."""
        peer = Endpoint.of(sockaddr)
        if not self._allowed.allows(peer.address):
            self._refuse_address(sock, peer, "its address is not among AllowedIPAddresses")
        elif self.keyless and not self._keyless and not on_own_link(peer.address):
            self._refuse_address(sock, peer, "there is no AuthenticationKey, and its address is not on an own link")
        elif not self._guesses.allows(peer.network, trio.current_time()):
            self._refuse_address(sock, peer, _GUESSED)
        elif not self._make_room(peer, self._connections.has_room_for_link(sock.fileno())):
            self._refuse_address(sock, peer, "too many handshakes are under way")
        else:
            handshake = _Handshake(peer, self._connections.open(sock.fileno(), peer.network))
            self._handshakes.append(handshake)
            self._tasks.start_soon(self._serve, sock, handshake)

    def _make_room(self, peer: Endpoint, has_descriptor: bool) -> bool:
        """Return whether there is a place for another handshake; if need be, end the oldest silent one.

        Without a free descriptor there is a place only if a silent one ends.
        """
        crowd = [other for other in self._handshakes if other.peer.network == peer.network]
        if len(crowd) < _SHARE:
            crowd = self._handshakes
            if len(crowd) < _HANDSHAKES and has_descriptor:
                return True
        for other in crowd:  # the oldest first
            if other.silent:
                self._handshakes.remove(other)
                other.scope.cancel()
                return True
        return False

    async def run(self) -> None:
        """Report the port's changes to links, and end sessions that waited too long, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._retire_old_key)
            async for _ in self._port.state.changes():
                self._tell_port()

    async def retire(self) -> None:
        """Stop with the gateway: let begun messages finish, then end all sessions, so that nothing is uncertain."""
        for session in self.sessions:
            session.retire()
        with trio.move_on_after(_RETIRE):
            for session in self.sessions:
                await session.idle()
        self._end_all(CloseReason.STOPPING)
        self.handle.revoke("the gateway stops")

    def revoke(self, why: str) -> None:
        """End the service and all its sessions."""
        self._end_all(CloseReason.REVOKED)
        self.handle.revoke(why)

    async def _serve(self, sock: socket.socket, handshake: _Handshake) -> None:
        peer = handshake.peer

        def choose(hello: Hello) -> bytes:
            handshake.client = hello.node, hello.index, peer.address
            handshake.point = self._keys.choose(handshake.client)
            return handshake.point

        with sock:
            try:
                link = Link(sock, Connection(Acceptor(choose, self._node, self._index, self._chassis, os.urandom(32))))
                client, opening = await self._greet(link, handshake)
                node = f"{client.name} {client.node.hex()[:8]}".lstrip()
                name = f"{peer} ({node}, R{client.index})"
                duplicate = await self._is_duplicate(client, opening, peer.address)
                # Settings may have changed since the client connected. There is no checkpoint between this and
                # _admitted().
                if (reason := self._refusal(handshake.point, peer.address)) is not None:
                    self._refuse(link, name, Close(reason))
                elif duplicate:
                    self._refuse(link, name, Close(CloseReason.DUPLICATE))
                elif (session := self._admitted(link, client, opening, name, peer.address)) is not None:
                    session.point = handshake.point
                    await self._carry(link, session)
            except (LinkCutError, RemoteProtocolError, OSError) as exc:
                self._event("connections that ended", "%s: %s", peer, exc)
            except Exception:  # an error in one client ends that client alone
                self._logger.exception("remote-port server: %s: a bug ended the connection", peer)
            finally:
                self._release(handshake)
                handshake.connection.close()

    async def _greet(self, link: Link, handshake: _Handshake) -> tuple[Peer, Open]:
        """Let a client prove the key and send OPEN, as one of the handshakes. Raises what ends the handshake."""
        network, why = handshake.peer.network, "it said nothing"

        def charge(_: Hello) -> None:
            nonlocal why
            why = f"no handshake within {HANDSHAKE_DEADLINE:g} s"
            handshake.spoke()
            # Check again, because many may have been accepted before the first of them was charged.
            if not self._guesses.allows(network, trio.current_time()):
                raise LinkCutError(_GUESSED)
            self._guesses.charge(network, trio.current_time())

        try:
            with handshake.scope:
                client = await link.handshake(charge)
                why = "it proved the key, and opened no session"
                self._keys.proved(handshake.client, handshake.point)
                self._guesses.refund(network)
                handshake.scope.deadline = trio.current_time() + HANDSHAKE_DEADLINE
                if isinstance(opening := await link.opening(), Open):
                    return client, opening
            raise LinkCutError(why)
        except WrongKeyError:
            self._note_wrong_key(handshake)
            raise
        except LinkCutError as exc:
            if exc.reason is CloseReason.WRONG_KEY:
                self._note_wrong_key(handshake)
            raise
        finally:
            self._release(handshake)

    def _release(self, handshake: _Handshake) -> None:
        """Give back its place, unless another one has it already. Idempotent."""
        if handshake in self._handshakes:
            self._handshakes.remove(handshake)

    async def _is_duplicate(self, client: Peer, opening: Open, address: str) -> bool:
        """Return whether another live CPU has the client's node id.

        Two such CPUs would disconnect each other for ever: each finds that its session was replaced, and opens another.
        The sign is an address that lost its session to another one, and comes back within a minute while the link that
        took the session still answers. A CPU that only moved to another address has no second link that answers.
        """
        key = client.node, client.index
        current = next((session for session in self.sessions if session.session.key == key), None)
        if current is None or current.address == address or current.session.id == opening.session:
            return False
        now = trio.current_time()
        if now < self._duplicates.get(key, (0.0, ""))[0]:
            return current.link is not None
        at, loser = self._changes.get(key, (-math.inf, ""))
        if now - at > _FLAPPING or loser != address or not await current.answers(_ANSWER):
            self._changes.pop(key, None)
            self._changes[key] = now, current.address
            if len(self._changes) > _MOST_CHANGES:
                del self._changes[next(iter(self._changes))]
            return False
        what = f"node {client.node.hex()[:8]} R{client.index} is at {current.address} and at {address}"
        self._duplicates = {other: each for other, each in self._duplicates.items() if now < each[0]}
        self._duplicates[key] = now + _KEEP_OUT, what
        self._logger.error(
            "remote-port server: %s: two CPUs use one node id, as a cloned image does. The link of %s is kept, %s is "
            "refused. Stop the daisyport service on one of the two, remove the file node_key from its state directory, "
            "and start it again",
            what,
            current.address,
            address,
        )
        return True

    def _note_wrong_key(self, handshake: _Handshake) -> None:
        if self._keys.failed(handshake.client, handshake.point):
            self.wrong_keys += 1
            self._wrong_key = trio.current_time(), handshake.peer.address
            self._event("wrong keys", "wrong key from %s", handshake.peer, level=logging.WARNING)

    def _refusal(self, point: bytes, address: str) -> CloseReason | None:
        """Return why a client that proved the key of ``point`` may not come in any more; None if it may."""
        if self.handle.revoked is not None or not self._allowed.allows(address):
            return CloseReason.REVOKED
        if point not in self._keys.points:
            return CloseReason.KEY_CHANGED
        return None if self._port.state.value.path else CloseReason.NO_PATH

    def _refuse(self, link: Link, name: str, close: Close) -> None:
        self._event("sessions refused", "%s refused: %s", name, reason_text(close.reason))
        link.refuse(close)

    def _admitted(self, link: Link, client: Peer, opening: Open, name: str, address: str) -> RemoteSession | None:
        """Find or make the session that a client asks for, and start its task; return None if it is refused."""
        admitted = self._register.admit(client, opening, os.urandom(16), self.port, Endpoint(address, 0).network)
        self._end(admitted.ended)
        if isinstance(admitted, Refused):
            self._refuse(link, name, admitted.close)
            return None
        session = self._sessions.get(admitted.session)
        if session is None:
            handle = self.handle.attenuate(self.handle.rights, name)
            session = self._sessions[admitted.session] = RemoteSession(
                admitted.session,
                handle,
                self._logger,
                self._events,
                self._pace,
                self._chain,
                self._key_news,
                self._fail,
            )
            session.permit(self._granted)
            self._tasks.start_soon(self._run_session, session)
        session.address, session.name, session.features = address, client.name, client.features
        self._lost.pop(session.session.key, None)
        return session

    async def _run_session(self, session: RemoteSession) -> None:
        self._event("sessions begun", "%s connected", session.handle.holder)
        try:
            await session.run()
        except Exception as exc:  # noqa: BLE001  # it is logged by fail(), and ends this session alone
            session.fail(exc)

    def _fail(self, session: RemoteSession) -> None:
        self._end(self._register.end(session.session, CloseReason.PROTOCOL))

    async def _carry(self, link: Link, session: RemoteSession) -> None:
        """Carry frames of a session's new connection, which replaces the one before it."""
        name = session.handle.holder
        try:
            closed = await session.carry(link, _OLDEST_KEYS)
        except* (LinkCutError, CutError) as group:
            session.chain_link.why = str(root_cause(group))
            self._event("links cut", "%s: the link was cut: %s", name, session.chain_link.why)
            closed = False
        except* RemoteProtocolError as group:
            cause = root_cause(group)
            self._event("broken rules", "%s broke the protocol: %s", name, cause, level=logging.WARNING)
            self._end(self._register.end(session.session, CloseReason.PROTOCOL))
            if (word := session.session.last_word(CloseReason.PROTOCOL)) is not None:
                link.refuse(word)
            closed = False
        except* Exception as group:  # noqa: BLE001  # it is logged by fail(); what state it left must not go on
            session.fail(group)
            closed = False
        finally:
            self._left.set()
        if closed:
            self._end(self._register.end(session.session, CloseReason.STOPPING))

    def kick(self, session: RemoteSession) -> None:
        """End a session; its client may open another."""
        self._end(self._register.end(session.session, CloseReason.REVOKED))

    def _end_all(self, reason: CloseReason) -> None:
        for session in tuple(self._sessions):
            self._end(self._register.end(session, reason))

    def _end(self, ended: tuple[Ended, ...]) -> None:
        for each in ended:
            session = self._sessions.pop(each.session)
            why = reason_text(each.reason)
            self._event("sessions ended", "%s gone: %s", session.handle.holder, why)
            self._lost.pop(session.session.key, None)
            link_why = session.chain_link.why if each.reason is CloseReason.DETACHED else why
            self._lost[session.session.key] = trio.current_time(), session.name, session.address, link_why
            if len(self._lost) > _LOST:
                del self._lost[next(iter(self._lost))]
            session.end(why)

    def _tell_port(self) -> None:
        port = self.port
        for session in self.sessions:
            try:
                session.permit(self._granted)
                session.tell(port)
            except Exception as exc:  # noqa: BLE001  # it is logged by fail(), and ends this session alone
                session.fail(exc)

    async def _retire_old_key(self) -> None:
        """When the old key expires, end the sessions of clients that have only that."""
        while True:
            until = self._keys.old_until.value
            with trio.move_on_at(until if self._keys.has_old else math.inf) as waiting:
                await self._keys.old_until.wait_for(functools.partial(operator.ne, until))
            if waiting.cancelled_caught:
                self._logger.info("remote-port server: the old key is no longer accepted")
                self._end_those_without_a_key()

    def _end_those_without_a_key(self) -> None:
        """End the sessions of clients whose key is not accepted any more."""
        for session in self.sessions:
            if session.point not in self._keys.points:
                self._end(self._register.end(session.session, CloseReason.KEY_CHANGED))

    async def _sweep(self) -> None:
        """End the sessions whose clients stay away for too long."""
        while True:
            self._left = trio.Event()
            self._end(self._register.sweep(now_ms(), int(RESUME_WINDOW * 1000)))
            away = [since for session in self._sessions if (since := session.detached_at) is not None]
            with trio.move_on_at(min(away) / 1000 + RESUME_WINDOW + 0.001 if away else math.inf):
                await self._left.wait()

    def _refuse_address(self, sock: socket.socket, peer: Endpoint, why: str) -> None:
        self.refused += 1
        self._event("addresses refused", "refused %s: %s", peer.address, why, level=logging.WARNING)
        sock.close()

    def _event(self, kind: str, message: str, *args: object, level: int = logging.INFO) -> None:
        self._events.log(level, f"remote-port server: {kind}", f"remote-port server: {message}", *args)
