"""The sessions of one port: which OPEN goes on with which session, and which sessions must end for it.

Way of thinking
    Whoever has the key can make as many nodes as he likes, so a session is cheap, and only its age is not. There is
    room for so many, a share of it for each place (an address, as the caller counts them) and each node; a newcomer
    beyond a share is refused.

    A few places could fill the room all the same. So where it is full, a newcomer from elsewhere takes the room of the
    youngest link of the place that has most, where that has more links than any one node may have: a place with one
    CPU never loses a link to others.

The register knows sessions, not links: it returns what it ended (``Ended``), and whoever called it ends the links.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, final

from protocol.errors import RemoteProtocolError
from protocol.frozen import frozen
from protocol.link.reasons import CloseReason
from protocol.link.session_frames import Close
from protocol.session.server import ServerSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol.link.handshake import Peer
    from protocol.link.port_state import PortState
    from protocol.link.session_frames import Open
    from protocol.session.session import SessionLimits

__all__ = [
    "MAX_DETACHED",
    "MAX_LEAP",
    "MAX_LINKS",
    "MAX_OF_NODE",
    "MAX_OF_PLACE",
    "Admitted",
    "Ended",
    "Refused",
    "Register",
]

MAX_LINKS: Final = 64
MAX_DETACHED: Final = 16
MAX_OF_PLACE: Final = 24
"""Links of one place: three eighths of all, so that one address cannot keep everybody else out."""
MAX_OF_NODE: Final = 8
"""Sessions of one node, which has as many remote ports at most."""
MAX_LEAP: Final = 2**20
"""The most by which a connection number may grow at once: a client that dials for weeks in vain does not leap so far.

A greater one would use up the numbers that its node has left.
"""


@final
@frozen
class Ended:
    """A session that is no more: discard and count its messages, say CLOSE where it is still attached."""

    session: ServerSession
    reason: CloseReason


@final
@frozen
class Admitted:
    """The session that an OPEN goes on with, and what had to end for it."""

    session: ServerSession
    ended: tuple[Ended, ...]


@final
@frozen
class Refused:
    """The CLOSE that refuses an OPEN, and what had to end for it."""

    close: Close
    ended: tuple[Ended, ...] = ()


@final
class Register:
    """The sessions of one port, at most one for each (node id, R index)."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._sessions: dict[tuple[bytes, int], ServerSession] = {}
        """In the order in which they were made: the oldest first."""

    def __iter__(self) -> Iterator[ServerSession]:
        return iter(tuple(self._sessions.values()))

    def admit(self, peer: Peer, opening: Open, fresh_id: bytes, port: PortState, place: str = "") -> Admitted | Refused:
        """Find or make the session that an OPEN asks for, and put it on this connection.

        ``fresh_id`` is 16 random bytes for a new session, ``place`` where the connection comes from. The link that
        the session had before is to be dropped: nothing of it counts any more.
        """
        key = peer.node, peer.index
        current = self._sessions.get(key)
        # The number is judged before the id: an older connection that comes late must not throw out the newer one,
        # though it names the right session.
        if current is not None and opening.number <= current.number:
            return Refused(Close(CloseReason.STALE, last=current.number))
        if current is not None and opening.number - current.number > MAX_LEAP:
            return Refused(Close(CloseReason.PROTOCOL))
        if current is not None and current.id == opening.session:
            try:
                current.attach(opening, place, peer.features)
            except RemoteProtocolError:
                return Refused(Close(CloseReason.PROTOCOL), self.end(current, CloseReason.PROTOCOL))
            return Admitted(current, ended=())
        # From here on it is a new session. The one that it replaces takes no room away from it, and is ended only once
        # it is certain that the newcomer gets in: who is refused loses nothing.
        others = [session for session in self if session is not current]
        links = Counter(session.place for session in others if session.attached)
        of_node = sum(session.key[0] == peer.node for session in others)
        if links[place] >= MAX_OF_PLACE or of_node >= MAX_OF_NODE:
            return Refused(Close(CloseReason.BUSY))
        ended: tuple[Ended, ...] = ()
        if links.total() >= MAX_LINKS:
            crowd, size = links.most_common(1)[0]
            # Taking a link from the largest place must leave it larger than the newcomer's, or two places of one size
            # would throw each other out in turn.
            if size <= max(MAX_OF_NODE, links[place] + 1):
                return Refused(Close(CloseReason.BUSY))
            # The youngest, because a session's age is the one thing that a flood of new nodes cannot make.
            youngest = next(each for each in reversed(others) if each.attached and each.place == crowd)
            ended = self.end(youngest, CloseReason.BUSY)
        if current is not None:
            ended += self.end(current, CloseReason.REPLACED)
        session = self._sessions[key] = ServerSession(fresh_id, key, opening, port, self._limits, place, peer.features)
        return Admitted(session, ended=ended)

    def end(self, session: ServerSession, reason: CloseReason) -> tuple[Ended, ...]:
        """End a session, if it has not ended before."""
        if self._sessions.get(session.key) is not session:
            return ()
        del self._sessions[session.key]
        session.close(reason)
        return (Ended(session, reason),)

    def sweep(self, now: int, window: int) -> tuple[Ended, ...]:
        """End the sessions that wait for longer than ``window`` milliseconds, and the youngest of too many."""
        away = [(session, session.detached_at) for session in self if session.detached_at is not None]
        # Those whose time is over go first: they leave room, and so spare some of the others.
        over = [session for session, since in away if now - since > window]
        waiting = [session for session, _ in away if session not in over]
        surplus = len(waiting) - MAX_DETACHED
        # First those of a place that has more than half of the room, then any.
        counts = Counter(session.place for session in waiting)
        for share in (MAX_DETACHED // 2, 0):
            for session in reversed(waiting):
                if surplus > 0 and counts[session.place] > share and session not in over:
                    over.append(session)
                    counts[session.place] -= 1
                    surplus -= 1
        return tuple(ended for session in over for ended in self.end(session, CloseReason.DETACHED))
