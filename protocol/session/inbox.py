"""The receiving side of one traffic class: whole messages, out of the frames that bring them.

A message may come in parts, where the sender had too little credit for it at once. Nothing of it is given out before
it is whole, so a message is never begun whose rest a GAP then takes away.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, final

from protocol.errors import RemoteProtocolError
from protocol.link.message_rules import MAX_MESSAGE, MAX_WAITING
from protocol.session.receive_stream import ReceiveStream

if TYPE_CHECKING:
    from protocol.link.control_steps import ControlRequest
    from protocol.link.stream_frames import Channel, Gap, UpData
    from protocol.link.turn_parameters import TurnParameters

__all__ = ["Inbox", "Message"]


@final
class Message(NamedTuple):
    """A whole message to be written in one turn, or where it is a ``control`` to be carried out in one.

    ``offset`` is its place in the stream; ``accepted`` when it was read from its client, in milliseconds of
    our own clock, never later than it truly was.
    """

    channel: Channel
    offset: int
    data: bytes
    accepted: int
    turn: TurnParameters | None
    control: ControlRequest | None = None

    @property
    def end(self) -> int:
        """Return the offset after the last byte."""
        return self.offset + len(self.data)


@final
class Inbox:
    """One incoming class from offset ``start``; ``window`` bytes may wait for the line."""

    def __init__(self, channel: Channel, start: int, window: int) -> None:
        self.stream = ReceiveStream(channel, start, window)
        self._parts: list[UpData] = []
        self._ends: deque[int] = deque()
        """Where the messages end that have no outcome yet."""

    def take(self, frame: UpData) -> tuple[UpData, bytes] | None:
        """Take a frame; return the first frame and all the bytes of a message that is now whole.

        Raises RemoteProtocolError.
        """
        end = frame.end
        self.stream.take(frame.offset, end)
        self._parts.append(frame)
        first = self._parts[0]
        if frame is not first and (frame.turn is not None or frame.accepted != first.accepted):
            raise RemoteProtocolError(f"a later part on {frame.channel!r} with options, or accepted at another time")
        if type(frame) is not type(first):
            raise RemoteProtocolError(f"a message on {frame.channel!r} that is a control in part")
        if end - first.offset > MAX_MESSAGE:
            raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE} bytes on {frame.channel!r}")
        if frame.more:
            self.stream.partial = first.offset
            return None
        # Credit counts bytes, and a message of one byte costs us more than that.
        while self._ends and self._ends[0] <= self.stream.settled:
            self._ends.popleft()
        if len(self._ends) >= MAX_WAITING:
            raise RemoteProtocolError(f"more than {MAX_WAITING} messages on {frame.channel!r} without an outcome")
        self._ends.append(end)
        data = frame.data if frame is first else b"".join(part.data for part in self._parts)
        self._end_message()
        return first, data

    def skip(self, gap: Gap) -> None:
        """Take a GAP. Raises RemoteProtocolError."""
        self.stream.skip(gap)
        self._end_message()

    def _end_message(self) -> None:
        self._parts.clear()
        self.stream.partial = None
