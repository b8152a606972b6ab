"""The ring of one outgoing stream: whole frames that were sent and not acknowledged, or not sent yet.

Invariant
    The frames touch: each begins where the one before it ends, from the first of ``sent`` through ``unsent`` to
    ``tail``. What will never come stays in the ring as a Gap, so that no range of the stream is ever without a
    frame. (A stream that may drop what it sent has holes at the front of ``sent``; nothing asks for them again but
    a resumption, and then they become a Gap.)

        acked <= next <= tail

        acked    the receiver has settled so far
        next     the next frame to be sent begins here: the border between ``sent`` and ``unsent``
        tail     the next frame that is written will begin here

    ``credit`` is what the receiver allows: data beyond it waits, Gaps and Turns do not. ``size`` is the number of data
    bytes in all frames, which is what bounds the memory; Gaps and Turns have none.

Way of thinking
    Offsets are the stream's truth and frames only its clothes: a frame may be split, widened or replaced, as long
    as the ranges go on touching. So a resumption is nothing but moving the border back to what the receiver has.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

from protocol.errors import RemoteProtocolError
from protocol.link.reasons import Reason
from protocol.link.stream_frames import Channel, DownData, Gap, Turn, UpData

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Entry", "Ring", "StreamFrame"]

StreamFrame: TypeAlias = UpData | DownData | Gap | Turn
"""What the sender of a stream sends on it."""


_DATA: Final = (UpData, DownData)


@final
class Entry(NamedTuple):
    """A frame and the range of the stream that it covers (a Turn covers nothing).

    ``origin`` is where its message begins: for the rest of a split message that is before ``start``.
    """

    start: int
    end: int
    origin: int
    frame: StreamFrame

    @property
    def size(self) -> int:
        """Return how many bytes of data it keeps in memory."""
        return len(self.frame.data) if isinstance(self.frame, _DATA) else 0

    def split(self, at: int) -> tuple[Entry, Entry]:
        """Cut a frame of data at an offset inside it; a message's first part keeps its turn."""
        assert isinstance(self.frame, _DATA)
        head, tail = self.frame.data[: at - self.start], self.frame.data[at - self.start :]
        first: StreamFrame
        rest: StreamFrame
        if isinstance(self.frame, UpData):
            first = self.frame._replace(data=head, more=True)
            rest = self.frame._replace(offset=at, data=tail, turn=None)
        else:
            first, rest = self.frame._replace(data=head), self.frame._replace(offset=at, data=tail)
        return self._replace(end=at, frame=first), self._replace(start=at, frame=rest)

    def gone(self, channel: Channel, reason: Reason) -> Entry:
        """Return the Gap that stands for it."""
        return self._replace(frame=Gap(channel, self.start, self.end - self.start, reason))

    def trimmed(self, start: int) -> Entry:
        """Return a Gap without what is before ``start``, and any other frame as it is."""
        if not isinstance(self.frame, Gap):
            return self
        start = max(start, self.start)
        return self._replace(start=start, frame=replace(self.frame, offset=start, count=self.end - start))


@final
class Ring:
    """Frames in the order of their offsets, from ``acked`` (what the receiver has settled) to ``tail``."""

    def __init__(self, channel: Channel, start: int, max_bytes: int, max_frames: int) -> None:
        self.channel = channel
        self.max_bytes = max_bytes
        self.max_frames = max_frames
        self.acked = start
        self.tail = start
        self.credit = start
        self.size = 0
        self.resent = 0
        """Bytes that were sent, and that a receiver who had not got them had sent once more."""
        self.sent: deque[Entry] = deque()
        self.unsent: deque[Entry] = deque()

    @property
    def next(self) -> int:
        """Return the offset from which the next frame will be sent."""
        return self.unsent[0].start if self.unsent else self.tail

    @property
    def head(self) -> StreamFrame | None:
        """Return the next frame to be sent, whether or not there is credit for it."""
        return self.unsent[0].frame if self.unsent else None

    @property
    def frames(self) -> int:
        """Return how many frames it holds."""
        return len(self.sent) + len(self.unsent)

    def append(self, entry: Entry) -> None:
        """Put a frame behind the others; it begins at the tail."""
        self.unsent.append(entry)
        self.tail = entry.end
        self.size += entry.size

    def ready(self) -> Entry | None:
        """Return the next frame to be sent, as far as credit allows; call ``advance`` when it goes out."""
        if not self.unsent:
            return None
        entry = self.unsent[0]
        if entry.end <= self.credit or not entry.size:
            return entry
        # More credit comes when something is settled. Where nothing is under way and the credit ends inside this
        # frame, none would ever come: then, and only then, the frame is split.
        if not entry.start == self.acked < self.credit:
            return None
        first, rest = self.unsent.popleft().split(self.credit)
        self.unsent.extendleft((rest, first))
        return first

    def advance(self) -> None:
        """Note that the next frame goes out."""
        self.sent.append(self.unsent.popleft())

    def drop(self, judge: Callable[[Entry], Reason | None]) -> None:
        """Put Gaps in the place of those unsent frames for which ``judge`` gives a reason."""
        judged = [(entry, judge(entry)) for entry in self.unsent]
        self.unsent = deque(entry.gone(self.channel, why) if why else entry for entry, why in judged)
        self.size -= sum(entry.size for entry, why in judged if why)

    def drop_sent(self) -> list[Entry]:
        """Forget what was sent, as if it were settled; return its frames."""
        gone = list(self.sent)
        self.sent.clear()
        self.size -= sum(entry.size for entry in gone)
        self.acked = self.credit = self.next
        return gone

    def split_at(self, offset: int) -> None:
        """Cut the oldest frame in two where ``offset`` is inside it, and leave out the first part."""
        if self.sent and self.sent[0].start < offset and self.sent[0].size:
            first, self.sent[0] = self.sent[0].split(offset)
            self.size -= first.size

    def drop_gaps(self) -> None:
        """Forget the Gaps, as if they were settled, where nothing else is left in the ring."""
        self.unsent.clear()
        self.acked = self.credit = self.tail

    def grant(self, offset: int) -> None:
        """Take a CREDIT. Raises RemoteProtocolError where it takes back what was granted."""
        if offset < self.credit:
            raise RemoteProtocolError(f"credit to {offset} after credit to {self.credit}")
        self.credit = offset

    def acknowledge(self, offset: int) -> list[Entry]:
        """Take an ACK; return the frames that it settles whole. Raises RemoteProtocolError.

        A frame that it settles in part stays: what became of its rest is still to be told.
        """
        if not self.acked <= offset <= self.next:
            raise RemoteProtocolError(f"{offset} settled: it must be in {self.acked} to {self.next}")
        self.acked = offset
        settled: list[Entry] = []
        # A Turn that stands right at the offset may not have arrived: only what comes behind it tells.
        while self.sent and self.sent[0].end <= offset and self.sent[0].start < offset:
            settled.append(self.sent.popleft())
            self.size -= settled[-1].size
        return settled

    def rewind(self, received: int) -> None:
        """Go back to what the receiver has: all from there on is to be sent anew, under new credit.

        Raises RemoteProtocolError where that is no boundary of frames that were sent.
        """
        if not self.acked <= received <= self.next:
            raise RemoteProtocolError(f"{received} received: it must be in {self.acked} to {self.next}")
        # A frame that begins at ``received`` goes back too, even if it covers nothing: a Turn may not have arrived.
        while self.sent and (self.sent[-1].end > received or self.sent[-1].start >= received):
            self.unsent.appendleft(self.sent.pop())
            self.resent += self.unsent[0].size
        if self.unsent:
            # A Gap has no bytes that could be cut in the wrong place, so it goes on from wherever the receiver stands.
            self.unsent[0] = self.unsent[0].trimmed(received)
        if self.next > received:
            # The receiver asks for what was dropped after it was sent.
            gap = Gap(self.channel, received, self.next - received, Reason.OVERFLOW)
            self.unsent.appendleft(Entry(received, self.next, received, gap))
        elif self.next < received:
            raise RemoteProtocolError(f"{received} received: that is in the middle of a frame")
        self.credit = received
