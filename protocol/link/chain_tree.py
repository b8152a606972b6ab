"""The CPUs of a chain as one of them sees them: a tree that is passed on from link to link.

The CPU that answers is the root. Its branches lead to the CPUs at its other links, never back to the one that asked, so
that no CPU comes twice, and no answer contains itself.

What must hold
    A tree is written in preorder, each CPU after its depth. So any bytes of a peer are either a tree or an error: there
    are no references, and so no cycles. A tree has at most MAX_TREE bytes and MAX_DEPTH levels.

    A CPU in the middle judges the trees that it gets, and passes them on unchanged, except for what does not fit. A
    branch that is too large loses its own rest, and no other branch loses anything: each has an equal share of the
    room, and what small branches do not use goes to the larger ones.

    It contains what operators need to find the broken hop. It names no client and no holder.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple, final

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import MAX_TREE
from protocol.link.header import LIMIT
from protocol.link.port_state import NODE_ID, decode_text, encode_text

__all__ = ["MAX_DEPTH", "NO_PORT", "UNKNOWN", "Alarm", "Branch", "Cpu", "Hop", "Seen", "Way", "decode_tree"]

MAX_DEPTH: Final = 16
"""Levels of a tree: a path names 8 CPUs, and a tree leads up to the owner and down again."""
UNKNOWN: Final = bytes(NODE_ID)
"""The node id of a CPU that has not proved one yet."""
NO_PORT: Final = 255
"""The index of a port manager that is not known."""

_MOST: Final = MAX_DEPTH - 1
_CLIENT_KINDS: Final = 16
_ALARMS: Final = 8
_NO_ROUND_TRIP: Final = 65535

_ENTRY: Final = struct.Struct("!BB")
_HOP: Final = struct.Struct("!BBHIIQ")
_CPU: Final = struct.Struct("!16sBBIQ")
_COUNT: Final = struct.Struct("!H")


@final
class Way(enum.IntEnum):
    """The direction in which a link leads from the CPU that tells of it."""

    UP = 1
    """Towards the line."""
    DOWN = 2
    """Away from the line."""


@final
class Seen(enum.IntEnum):
    """How much is known of the CPU at the other end of a link."""

    TOLD = 0
    """It answered."""
    SILENT = 1
    """The link stands, and no answer came in time."""
    OLDER = 2
    """The link stands, and the version there does not know the question."""
    GONE = 3
    """The link is down."""


@final
class Alarm(enum.IntEnum):
    """Something that an operator has to mend; the text beside it names the CPU. Readers leave out unknown ones."""

    CLONED = 1
    """Two CPUs use one node id."""
    WRONG_KEY = 2
    """A CPU has another AuthenticationKey."""
    NO_KEY = 3
    """There is no AuthenticationKey: anybody may be at the other end."""


@final
class Hop(NamedTuple):
    """One link, as the CPU nearer to the root of the tree knows it."""

    way: Way
    seen: Seen
    round_trip: int | None
    """The best round trip in milliseconds, at most 65534; None where it is not known."""
    seconds: int
    """For how long the link has stood, or been down."""
    resumes: int
    """Connections that went on with the session of the one before."""
    lost: int
    """Bytes that were lost, or may have been: commands towards the line, and the line's bytes from it."""
    address: str
    """The address of the other CPU."""
    why: str
    """Why the link is down; empty while it stands."""

    def encode(self) -> bytes:
        """Return the hop's bytes; texts are cleaned and cut, and counts are the wire's most at most."""
        trip = _NO_ROUND_TRIP if self.round_trip is None else min(self.round_trip, _NO_ROUND_TRIP - 1)
        seconds, resumes = (min(number, 2**32 - 1) for number in (self.seconds, self.resumes))
        fixed = _HOP.pack(self.way, self.seen, trip, seconds, resumes, min(self.lost, LIMIT - 1))
        return fixed + encode_text(self.address, 64) + encode_text(self.why, 120)

    @classmethod
    def decode(cls, data: bytes, start: int = 0) -> tuple[Hop, int]:
        """Read a hop at ``start``; return it and the offset after it. Raises ValueError, IndexError or struct.error."""
        way, seen, trip, seconds, resumes, lost = _HOP.unpack_from(data, start)
        address, start = _text(data, start + _HOP.size, 64)
        why, start = _text(data, start, 120)
        trip = None if trip == _NO_ROUND_TRIP else trip
        return cls(Way(way), Seen(seen), trip, seconds, resumes, _number(lost), address, why), start


@final
class Cpu(NamedTuple):
    """What a CPU reports of its port, or what its neighbour knows if it has reported nothing."""

    node: bytes
    """Its node id; UNKNOWN for one that has not proved it."""
    port: int = NO_PORT
    """The index of its port manager."""
    name: str = ""
    version: str = ""
    up: bool = False
    why: str = ""
    """Why its port is down."""
    missed: int = 0
    """Bytes of the line that never reached it."""
    gaps: int = 0
    """Places in the line where bytes are missing."""
    clients: tuple[tuple[str, int], ...] = ()
    """Its clients, by the kind of service."""
    alarms: tuple[tuple[Alarm, str], ...] = ()

    def encode(self) -> bytes:
        """Return the CPU's bytes, cleaned and cut as those of a hop."""
        gaps, missed = min(self.gaps, 2**32 - 1), min(self.missed, LIMIT - 1)
        clients, alarms = self.clients[:_CLIENT_KINDS], self.alarms[:_ALARMS]
        return b"".join(
            (
                _CPU.pack(self.node, self.port, self.up, gaps, missed),
                encode_text(self.name, 64),
                encode_text(self.version, 32),
                encode_text(self.why, 120),
                bytes([len(clients)]),
                *(encode_text(kind, 32) + _COUNT.pack(min(count, 65535)) for kind, count in clients),
                bytes([len(alarms)]),
                *(bytes([alarm]) + encode_text(of_whom, 120) for alarm, of_whom in alarms),
            )
        )

    @classmethod
    def decode(cls, data: bytes, start: int = 0) -> tuple[Cpu, int]:
        """Read a CPU at ``start``; return it and the offset after it. Raises ValueError, IndexError or struct.error."""
        node, port, up, gaps, missed = _CPU.unpack_from(data, start)
        if up > 1:
            raise ValueError("a port is up or down")
        name, start = _text(data, start + _CPU.size, 64)
        version, start = _text(data, start, 32)
        why, start = _text(data, start, 120)
        clients, alarms = [], []
        count, start = data[start], start + 1
        if count > _CLIENT_KINDS:
            raise ValueError(f"more than {_CLIENT_KINDS} kinds of clients")
        for _ in range(count):
            kind, start = _text(data, start, 32)
            clients.append((kind, _COUNT.unpack_from(data, start)[0]))
            start += _COUNT.size
        count, start = data[start], start + 1
        if count > _ALARMS:
            raise ValueError(f"more than {_ALARMS} alarms")
        for _ in range(count):
            of_whom, end = _text(data, start + 1, 120)
            if data[start] in _KNOWN:
                alarms.append((Alarm(data[start]), of_whom))
            start = end
        known = cls(node, port, name, version, bool(up), why, _number(missed), gaps, tuple(clients), tuple(alarms))
        return known, start


@final
class Branch:
    """A CPU of the tree, with all behind it, as it goes over the wire; ``hop`` is empty at the root."""

    __slots__ = ("branches", "cpu", "cut", "hop", "weight")

    def __init__(self, hop: bytes, cpu: bytes, branches: tuple[Branch, ...] = (), *, cut: bool = False) -> None:
        self.hop = hop
        self.cpu = cpu
        self.branches = branches
        self.cut = cut
        """Branches were left out for lack of room."""
        self.weight: int = _ENTRY.size + len(hop) + len(cpu) + sum(branch.weight for branch in branches)
        """Bytes of the tree from here on."""

    def behind(self, hop: bytes) -> Branch:
        """Return the same, seen over another hop."""
        return Branch(hop, self.cpu, self.branches, cut=self.cut)

    def fitted(self, room: int = MAX_TREE, depth: int = 0) -> Branch:
        """Return the same without what does not fit into ``room`` bytes, or is too deep."""
        if self.weight <= room and not self.branches:
            return self
        left = len(self.branches) if depth < _MOST else 0
        room -= _ENTRY.size + len(self.hop) + len(self.cpu)
        kept: dict[int, Branch] = {}
        for at in sorted(range(left), key=lambda at: self.branches[at].weight):
            branch, share = self.branches[at], room // left
            left -= 1
            if _ENTRY.size + len(branch.hop) + len(branch.cpu) <= share:
                kept[at] = branch.fitted(share, depth + 1)
                room -= kept[at].weight
        return Branch(
            self.hop,
            self.cpu,
            tuple(kept[at] for at in sorted(kept)),
            cut=self.cut or len(kept) < len(self.branches),
        )

    def encode(self, depth: int = 0) -> bytes:
        """Return the bytes of a tree that was ``fitted``."""
        own = _ENTRY.pack(depth, self.cut) + self.hop + self.cpu
        return own + b"".join(branch.encode(depth + 1) for branch in self.branches)


_KNOWN: Final = frozenset(Alarm)


def decode_tree(data: bytes) -> Branch:
    """Read and judge a peer's report of the chain. Raises RemoteProtocolError."""
    try:
        return _decode_tree(data)
    except (ValueError, IndexError, struct.error) as exc:
        raise RemoteProtocolError(f"a tree of CPUs that cannot be read: {exc}") from None


@final
class _Open(NamedTuple):
    """A CPU that was read, while the CPUs behind it are being read."""

    hop: bytes
    cpu: bytes
    cut: bool
    way: Way | None
    seen: Seen
    branches: list[Branch]

    def closed(self) -> Branch:
        return Branch(self.hop, self.cpu, tuple(self.branches), cut=self.cut)


def _decode_tree(data: bytes) -> Branch:
    line: list[_Open] = []
    """From the root to the CPU that was read last."""
    start = 0
    while start < len(data):
        depth, cut = _ENTRY.unpack_from(data, start)
        if depth > min(len(line), _MOST) or (depth == 0) != (start == 0) or cut > 1:
            raise ValueError(f"a CPU at depth {depth} behind one at depth {len(line) - 1}")
        _close(line, depth)
        start = end = start + _ENTRY.size
        way, seen = None, Seen.TOLD
        if depth:
            hop, end = Hop.decode(data, start)
            way, seen = hop.way, hop.seen
            _check_way(way, line[-1])
        _, after = Cpu.decode(data, end)
        line.append(_Open(data[start:end], data[end:after], bool(cut), way, seen, []))
        start = after
    _close(line, 1)
    return line[0].closed()


def _close(line: list[_Open], depth: int) -> None:
    """Hang what was read below ``depth`` on the CPUs above it; the next one is read at that depth."""
    while len(line) > max(depth, 1):
        done = line.pop().closed()
        line[-1].branches.append(done)


def _check_way(way: Way, above: _Open) -> None:
    """Raise ValueError where no CPU can have such a branch: it has one way up, and none where it is reached by that."""
    if way is Way.UP and (above.way is Way.DOWN or any(other.hop[0] == Way.UP for other in above.branches)):
        raise ValueError("a CPU with two ways up")
    if above.seen is not Seen.TOLD:
        raise ValueError("branches behind a CPU that told nothing")


def _text(data: bytes, start: int, most: int) -> tuple[str, int]:
    text, end = decode_text(data, start)
    if end > len(data) or end - start - 1 > most:
        raise ValueError(f"a text of more than {most} bytes")
    return text, end


def _number(number: int) -> int:
    if number >= LIMIT:
        raise ValueError(f"{number}: it must be below 2^62")
    return number
