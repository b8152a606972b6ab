"""The sending side of the line's stream: every byte once, the oldest dropped for a link that is too slow.

Invariant
    The ring never holds more than ``max_bytes`` in ``max_frames``, whatever the line says and the link does not
    take; and whatever is dropped is announced by a Gap in its place, unless the client has it already.

Way of thinking
    What was sent goes first, since it has most likely arrived: it leaves a hole, which matters only where a
    resumption asks for it (``Ring.rewind`` makes that a Gap). What was not sent becomes a Gap at the front of
    ``unsent``, which widens over what is dropped after it; a Gap costs a frame, so widening is what keeps the number
    of frames down. A Gap of unknown size (count 0, RESTARTED) is never forgotten, since nobody could miss it later.

    A byte stream has no messages, so small pieces that wait are joined: a line that speaks byte by byte would fill
    the ring with frames, not with bytes. Only whole frames are dropped, so a joined one is a small part of the ring.

    Whom bytes answer stands in their own frame, and not in a mark before them: a mark could be dropped, and then a
    reply would be everybody's. So pieces are joined only where they answer the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from protocol.link.header import LIMIT
from protocol.link.reasons import Reason
from protocol.link.stream_frames import MAX_DATA, Channel, DownData, Gap, Turn
from protocol.session.ring import Entry, Ring, StreamFrame

if TYPE_CHECKING:
    from protocol.link.stream_frames import Asker

__all__ = ["LineStream"]

_PIECE: Final = 4096
"""The most bytes of a joined piece."""
_SHARE: Final = 16
"""The part of the ring that a joined piece may be: a sixteenth."""


@final
class LineStream:
    """The down stream of a server's session, from offset ``start``.

    The ring holds at most ``max_bytes`` in ``max_frames`` (at least 2).
    """

    def __init__(self, start: int, max_bytes: int, max_frames: int) -> None:
        self.ring = Ring(Channel.LINE, start, max_bytes, max(max_frames, 2))
        """What the client has not acknowledged: to look at, and to take its ACK and CREDIT."""
        self.dropped = 0
        """Bytes that the client was told it will not get, because the ring was full."""

    @property
    def exhausted(self) -> bool:
        """Return whether the offsets are at their end, so that nothing more can be said in this session.

        No line gets there in a thousand years, but a client's OPEN or a server's GAPs may.
        """
        return self.ring.tail >= LIMIT

    def line(self, data: bytes, asker: Asker | None = None) -> None:
        """Take bytes from the line, for everybody or for ``asker`` alone."""
        if self._join(data, asker):
            return
        size = min(MAX_DATA, self.ring.max_bytes)
        for at in range(0, len(data), size):
            frame = DownData(self.ring.tail, data[at : at + size], asker)
            self._append(frame.end, frame)

    def gap(self, count: int, reason: Reason) -> None:
        """Say that so many bytes of the line never reached this node; 0 where nobody knows how many."""
        frame = Gap(Channel.LINE, self.ring.tail, count, reason)
        self._append(frame.end, frame)

    def turn(self, turn: Turn) -> None:
        """Mark the beginning or the end of a turn among the bytes."""
        self._append(self.ring.tail, turn)

    def next_frame(self) -> StreamFrame | None:
        """Return what is to be sent next, if anything may be."""
        entry = self.ring.ready()
        if entry is None:
            return None
        self.ring.advance()
        if isinstance(entry.frame, Gap) and entry.frame.reason is Reason.OVERFLOW:
            self.dropped += entry.frame.count
        return entry.frame

    def _join(self, data: bytes, asker: Asker | None) -> bool:
        """Put ``data`` into the last frame, where that waits, answers the same, and both are small."""
        ring = self.ring
        last = ring.unsent[-1] if ring.unsent else None
        if (
            last is None
            or not isinstance(last.frame, DownData)
            or last.frame.asker != asker
            or last.size + len(data) > min(_PIECE, ring.max_bytes // _SHARE)
        ):
            return False
        frame = DownData(last.start, last.frame.data + data, asker)
        ring.unsent[-1] = last._replace(end=frame.end, frame=frame)
        ring.tail = frame.end
        ring.size += len(data)
        self._trim()
        return True

    def _append(self, end: int, frame: StreamFrame) -> None:
        start = self.ring.tail
        self.ring.append(Entry(start, end, start, frame))
        self._trim()

    def _trim(self) -> None:
        """Drop the oldest frames until the bounds hold."""
        ring = self.ring
        while ring.size > ring.max_bytes or ring.frames > ring.max_frames:
            if ring.sent:
                ring.size -= ring.sent.popleft().size
                continue
            first = last = ring.unsent.popleft()
            reason = Reason.OVERFLOW
            if isinstance(first.frame, Gap):
                # To drop a Gap would not help: it widens over the frame behind it, and of two reasons the greater
                # stands, so that an unknown size stays one.
                last = ring.unsent.popleft()
                reason = max(first.frame.reason, last.frame.reason if isinstance(last.frame, Gap) else reason)
            ring.size -= last.size
            if first.start < last.end or isinstance(first.frame, Gap):  # a Turn alone covers nothing: it just goes
                gap = Gap(Channel.LINE, first.start, last.end - first.start, reason)
                ring.unsent.appendleft(Entry(first.start, last.end, first.start, gap))
