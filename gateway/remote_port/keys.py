"""The keys that a remote port server accepts: the one in force and, for a time after a change, the one before it.

A handshake tests one key, which the server must choose before its client has proved anything (CPace). It chooses the
key that the client proved last, or else the newer one. If that was wrong the client dials again at once, and is judged
by the other key. So each change of a key costs a client one connection, and a guess still tests only one key.

At that time a client's node id is not proved. A stranger that gives another's node id from the same address can only
make that one's next handshake fail, once.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias, final

import trio

from gateway.tasks.watch import Cell
from protocol.link.handshake import key_point

__all__ = ["OldKey", "ServerKeys"]

_MOST_CLIENTS: Final = 256

OldKey: TypeAlias = tuple[str, str, float]
"""An old key, the key beside which it is accepted, and for how many seconds."""
Client: TypeAlias = tuple[bytes, int, str]
"""The node id and remote port that a client gives, and its address."""


@final
class ServerKeys:
    """One or two keys, as the points that handshakes start from."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._point = b""
        self._old_point = b""
        self.old_until: Cell[float] = Cell(-math.inf)
        """When the old key ends, in seconds of trio's clock; there is no old key after that."""
        self._tries: dict[Client, tuple[bytes, bool]] = {}
        """The key by which each client is judged next, and whether it has just failed by the other one."""

    @property
    def is_empty(self) -> bool:
        """Return whether anybody may be a client."""
        return not self._key

    @property
    def has_old(self) -> bool:
        """Return whether the old key is accepted too."""
        return trio.current_time() < self.old_until.value

    @property
    def points(self) -> tuple[bytes, ...]:
        """Return the points of the accepted keys, the newer one first."""
        return (self._point, self._old_point) if self.has_old else (self._point,)

    def change(self, key: str, old: OldKey | None) -> bool:
        """Take up ``key``, and ``old`` if that is the key before it; return whether the key has changed."""
        if key == self._key:
            return False
        before, self._key = self._key, key
        self._point = key_point(key)
        self._tries.clear()
        # If the key was set once more since, without time for the old one, that must shut out all others; also if this
        # happened before a restart.
        if old is not None and old[1] == key and before in (None, old[0]):
            self._old_point = key_point(old[0])
            self.old_until.set(trio.current_time() + old[2])
        else:
            self.old_until.set(-math.inf)
        return True

    def choose(self, client: Client) -> bytes:
        """Return the point by which a client is judged now."""
        point, _ = self._tries.get(client, (self._point, False))
        return point if point in self.points else self._point

    def proved(self, client: Client, point: bytes) -> None:
        """Note which key a client has."""
        self._note(client, point, is_second=False)

    def failed(self, client: Client, point: bytes) -> bool:
        """Note that a client does not have that key; return whether it has failed by every accepted key."""
        _, is_second = self._tries.pop(client, (b"", False))
        other = next((each for each in self.points if each != point), None)
        if other is None:
            return True
        self._note(client, other, is_second=not is_second)
        return is_second

    def _note(self, client: Client, point: bytes, *, is_second: bool) -> None:
        self._tries.pop(client, None)
        self._tries[client] = point, is_second
        if len(self._tries) > _MOST_CLIENTS:
            del self._tries[next(iter(self._tries))]
