"""The keys that a remote port server takes: the one in force and, while its clients change theirs, the one before it.

A handshake tests one key, which the server has to choose before its client has proved anything (CPace). It chooses the
one that the client proved last, else the newer one. Where that was wrong, the client says so and dials again at once,
and is judged by the other key: so each change of a key costs one connection, and a guess still tests one key.

Who a client is, is hearsay at that time: whoever gives another's node id from the same address has its next handshake
fail once, and no more.
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
"""A key from before, the one that it is taken beside, and for how many seconds."""
Client: TypeAlias = tuple[bytes, int, str]
"""The node id and the remote port that a client gives, and the address that it comes from."""


@final
class ServerKeys:
    """One or two keys, as the points that handshakes start from."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._point = b""
        self._old_point = b""
        self.old_until: Cell[float] = Cell(-math.inf)
        """When the old key is taken no longer, in seconds of trio's clock; there is none after that."""
        self._tries: dict[Client, tuple[bytes, bool]] = {}
        """The key by which each client is judged next, and whether it failed by the other one just before."""

    @property
    def is_empty(self) -> bool:
        """Return whether anybody may be a client."""
        return not self._key

    @property
    def has_old(self) -> bool:
        """Return whether the key from before is taken too."""
        return trio.current_time() < self.old_until.value

    @property
    def points(self) -> tuple[bytes, ...]:
        """Return the points of the keys that are taken, the newer one first."""
        return (self._point, self._old_point) if self.has_old else (self._point,)

    def change(self, key: str, old: OldKey | None) -> bool:
        """Take up ``key``, and the ``old`` one where that is the key from before; return whether it is another."""
        if key == self._key:
            return False
        before, self._key = self._key, key
        self._point = key_point(key)
        self._tries.clear()
        # A key that somebody set since, without a word, is to keep out whoever has any other; after a restart, too.
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
        """Note that a client does not have that key; return whether it was judged by each that is taken."""
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
