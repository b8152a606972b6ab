"""The sending side of the line's stream: every byte once, the oldest dropped for a link that is too slow.

It must not know of connections. What is dropped after it was sent leaves a hole, which matters only where a
resumption asks for it; what is dropped before becomes a GAP in its place.
"""

from __future__ import annotations

from typing import Final, final

from protocol.link.reasons import Reason
from protocol.link.stream_frames import MAX_DATA, Channel, DownData, Gap, Turn
from protocol.session.ring import Entry, Ring, StreamFrame

__all__ = ["LineStream"]

_PIECE: Final = 4096  # small pieces that wait are joined up to this: a line that speaks byte by byte fills no ring
_SHARE: Final = 16  # of the ring that one joined piece may be: only whole frames are dropped


@final
class LineStream:
    """The down stream of a server's session, from offset ``start``.

    The ring holds at most ``max_bytes`` in ``max_frames`` (at least 2).
    """

    def __init__(self, start: int, max_bytes: int, max_frames: int) -> None:
        self._ring = Ring(Channel.LINE, start, max_bytes, max(max_frames, 2))
        self.dropped = 0

    @property
    def ring(self) -> Ring:
        """What the client has not acknowledged (to look at)."""
        return self._ring

    def line(self, data: bytes) -> None:
        """Take bytes from the line."""
        if self._join(data):
            return
        size = min(MAX_DATA, self._ring.max_bytes)
        for at in range(0, len(data), size):
            frame = DownData(self._ring.tail, data[at : at + size])
            self._append(frame.end, frame)

    def gap(self, count: int, reason: Reason) -> None:
        """Say that so many bytes of the line never reached this node; 0 where nobody knows how many."""
        frame = Gap(Channel.LINE, self._ring.tail, count, reason)
        self._append(frame.end, frame)

    def turn(self, turn: Turn) -> None:
        """Mark the beginning or the end of a turn among the bytes."""
        self._append(self._ring.tail, turn)

    def next_frame(self) -> StreamFrame | None:
        """Return what is to be sent next, if anything may be."""
        entry = self._ring.ready()
        if entry is None:
            return None
        self._ring.advance()
        if isinstance(entry.frame, Gap) and entry.frame.reason is Reason.OVERFLOW:
            self.dropped += entry.frame.count
        return entry.frame

    def _join(self, data: bytes) -> bool:
        """Put ``data`` into the last frame, where that waits and both are small."""
        ring = self._ring
        last = ring.unsent[-1] if ring.unsent else None
        if (
            last is None
            or not isinstance(last.frame, DownData)
            or last.size + len(data) > min(_PIECE, ring.max_bytes // _SHARE)
        ):
            return False
        frame = DownData(last.start, last.frame.data + data)
        ring.unsent[-1] = last._replace(end=frame.end, frame=frame)
        ring.tail = frame.end
        ring.size += len(data)
        self._trim()
        return True

    def _append(self, end: int, frame: StreamFrame) -> None:
        start = self._ring.tail
        self._ring.append(Entry(start, end, start, frame))
        self._trim()

    def _trim(self) -> None:
        ring = self._ring
        while ring.size > ring.max_bytes or ring.frames > ring.max_frames:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        ring = self._ring
        if ring.sent:
            ring.size -= ring.sent.popleft().size
            return
        first = ring.unsent.popleft()
        if isinstance(first.frame, Gap):
            self._widen(first, first.frame.reason, ring.unsent.popleft())
        else:
            self._widen(first, Reason.OVERFLOW, first)

    def _widen(self, first: Entry, reason: Reason, last: Entry) -> None:
        """Let one Gap stand for all from ``first`` to ``last``; for a Turn alone there is none."""
        ring = self._ring
        ring.size -= last.size
        reason = max(reason, last.frame.reason if isinstance(last.frame, Gap) else Reason.OVERFLOW)
        if first.start < last.end or isinstance(first.frame, Gap):
            gap = Gap(Channel.LINE, first.start, last.end - first.start, reason)
            ring.unsent.appendleft(Entry(first.start, last.end, first.start, gap))
