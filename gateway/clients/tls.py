"""Admit TCP clients to a service over TLS, as the users that their certificates name.

The certificate is the whole login, because a byte stream has no place for a password. The user is the one common name
(CN) of its subject, spelled as in `daisyport user`; PostgreSQL, Mosquitto and nginx do the same. Alternative names are
for hosts and mail addresses, and no kind of them is agreed on for users.

Until its certificate is proved a client is a stranger, and strangers must not cost much. A stranger takes no place
among the clients of the service. Its handshake has ten seconds and one of a few places, and all handshakes together do
one piece of work in each pass of the scheduler, so that the lines go on in between. If there is no place for a new
handshake, the oldest one ends: of the same network if that has its share, else of the network with the most handshakes.
An honest handshake takes two round trips, so it is hardly ever the oldest.

A client may stay only as long as its user may connect, which is checked four times a second. Its certificate is checked
only when it connects.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import trio

from gateway.clients.relay import Manner, relay
from gateway.clients.service import NOT_ALLOWED
from gateway.clients.streams import SocketStream
from gateway.clients.tls_stream import TlsSocketStream
from gateway.port.rights import Right

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from gateway.clients.connections import ClientConnection
    from gateway.clients.service import Service
    from gateway.clients.streams import Stream
    from gateway.port.router import Session
    from gateway.tasks.watch import Cell
    from protocol.endpoint import Endpoint

__all__ = ["Logins", "NotAdmitted", "TlsHandshakes", "common_name"]

logger = logging.getLogger(__name__)

_HANDSHAKES: Final = 32
"""The most handshakes at once: each costs a signature."""
_SHARE: Final = 24
"""The most handshakes at once from one network, so that places are left for others."""
_SECONDS: Final = 10.0
"""Seconds for a whole handshake."""
_LINGER: Final = 1.0
"""Seconds for a refused client to read the reason."""
_LOOK: Final = 0.25
"""Seconds between two checks that the users may stay."""


@final
class NotAdmitted(Exception):
    """A certificate that admits nobody; the message says why."""


class Logins(Protocol):
    """The users that may come to a port, and the certificate by which this host proves itself to them."""

    @property
    def context(self) -> ssl.SSLContext | None:
        """The context of a new connection; None while there is no certificate that can be used."""

    def rights(self, user: str, network: str) -> Right:
        """Return the rights of a user who connects from this network. Raises NotAdmitted."""

    def revoked(self, user: str, rights: Right) -> str | None:
        """Return why a user who was admitted with these rights may not stay; None while the user may."""


@final
class _Handshake:
    """A client that has not proved yet who it is; ``scope`` ends it."""

    def __init__(self, peer: Endpoint) -> None:
        self.peer = peer
        self.scope = trio.CancelScope(deadline=trio.current_time() + _SECONDS)
        self.gave_way = False
        """A newer handshake took its place."""


@final
class TlsHandshakes:
    """The TLS handshakes of one service, which serves each client in this ``manner`` afterwards."""

    def __init__(self, logins: Logins, manner: Manner) -> None:
        self._logins = logins
        self._manner = manner
        self._under_way: list[_Handshake] = []
        """The oldest first."""
        self._turn = trio.Lock()
        self._users: dict[Session, str] = {}
        self._came = trio.Event()
        """Set when a user is connected."""
        self._service: Service
        self._tasks: trio.Nursery

    async def run(self, service: Service) -> None:
        """Do the handshakes of ``service``, and end clients whose users may not stay, until cancelled."""
        self._service = service
        async with trio.open_nursery() as self._tasks:
            while True:
                if not self._users:
                    self._came = trio.Event()
                    await self._came.wait()
                await trio.sleep(_LOOK)
                for session, user in self._users.items():
                    if (why := self._logins.revoked(user, Right.READ | session.traffic)) is not None:
                        session.end(why)

    def begin(self, sock: socket.socket, connection: ClientConnection, peer: Endpoint) -> None:
        """Begin the handshake with an accepted client, or refuse one that may not come anyway."""
        context = self._logins.context
        why = None if self._service.allows(peer.address) else NOT_ALLOWED
        why = why or connection.refusal()
        if why is None and context is not None:
            self._make_room(peer.network)
            handshake = _Handshake(peer)
            self._under_way.append(handshake)
            self._tasks.start_soon(self._meet, TlsSocketStream(sock, context, connection), handshake)
        else:
            none = "TLS has no certificate that can be used; the status and the log say why"
            self._service.refuse(SocketStream(sock, connection), str(peer), why or none)

    async def carry(self, stream: Stream, session: Session, idle_limit: Cell[int]) -> None:
        """Serve a client whose user is known; see ``service.Carry``."""
        assert isinstance(stream, TlsSocketStream)
        self._users[session] = stream.user
        self._came.set()
        try:
            await relay(stream, session, idle_limit, self._manner)
        finally:
            del self._users[session]

    def _make_room(self, network: str) -> None:
        """End the oldest handshake where one more from ``network`` would be too many."""
        crowds = Counter(other.peer.network for other in self._under_way)
        if crowds[network] < _SHARE:
            if len(self._under_way) < _HANDSHAKES:
                return
            network = crowds.most_common(1)[0][0]
        oldest = next(other for other in self._under_way if other.peer.network == network)
        self._under_way.remove(oldest)
        oldest.gave_way = True
        oldest.scope.cancel()

    async def _meet(self, stream: TlsSocketStream, handshake: _Handshake) -> None:
        """Do a handshake, then admit its client to the service or refuse it. Never raises."""
        peer, why = handshake.peer, ""
        is_here = False
        try:
            with handshake.scope:
                try:
                    await stream.do_handshake(self._turn)
                    stream.user = common_name(stream.certificate)
                    rights = self._logins.rights(stream.user, peer.network)
                    self._service.admit(stream, f"{stream.user} at {peer}", peer.address, rights)
                    is_here = True
                except NotAdmitted as exc:
                    why = str(exc)
                except ssl.SSLError as exc:
                    why = _explained(exc)
                except OSError:
                    what = "%s left during its handshake"
                    self._service.handle.events.log(logging.INFO, "handshakes broken off", what, peer)
                if why:
                    self._service.count_refusal(str(peer), why)
                    with trio.move_on_after(_LINGER):
                        await stream.linger()
            if handshake.scope.cancelled_caught and not why:
                late = f"no handshake in {_SECONDS:g} s"
                why = "its handshake gave way to a newer one" if handshake.gave_way else late
                self._service.count_refusal(str(peer), why)
        except Exception:  # the first ring: an error in one client ends that client alone
            logger.exception("%s: a bug ended its handshake", peer)
        finally:
            if handshake in self._under_way:
                self._under_way.remove(handshake)
            if not is_here:
                stream.close()


def common_name(certificate: Mapping[str, Any]) -> str:
    """Return the user that a certificate names; it has the form of ssl.SSLSocket.getpeercert.

    Raises NotAdmitted where it names none or several, or has expired. OpenSSL checks the dates too, but not when a
    session is resumed (TLS 1.2), which may be long after the first handshake.
    """
    if ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time():
        raise NotAdmitted("its certificate: certificate has expired")
    names = [value for pairs in certificate["subject"] for name, value in pairs if name == "commonName"]
    if len(names) != 1:
        raise NotAdmitted(f"its certificate has {len(names)} common names (CN), and one is the user's name")
    return str(names[0])


def _explained(exc: ssl.SSLError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate: {exc.verify_message}"
    return f"TLS: {(exc.reason or str(exc)).replace('_', ' ').lower()}"
