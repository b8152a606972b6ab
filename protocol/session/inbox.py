"""The receiving side of one traffic class: messages, whole, out of the frames that bring them.

It must not know of connections, nor who writes the messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from protocol.errors import RemoteProtocolError
from protocol.link.message_rules import MAX_MESSAGE
from protocol.session.receive_stream import ReceiveStream

if TYPE_CHECKING:
    from protocol.link.stream_frames import Channel, Gap, UpData
    from protocol.link.turn_parameters import TurnParameters

__all__ = ["Inbox", "Message"]


@final
@dataclass(frozen=True, slots=True)
class Message:
    """A whole message to be written in one turn.

    ``offset`` is its place in the stream; ``accepted`` when it was read from its client, in milliseconds of
    our own clock, never later than it truly was.
    """

    channel: Channel
    offset: int
    data: bytes
    accepted: int
    turn: TurnParameters | None

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


@final
class Inbox:
    """One incoming class from offset ``start``; ``window`` bytes may wait for the line."""

    def __init__(self, channel: Channel, start: int, window: int) -> None:
        self.flow = ReceiveStream(channel, start, window)
        self._parts: list[UpData] = []

    def resize(self, window: int) -> None:
        """Let so many bytes wait for the line from now on; what is granted stays granted."""
        self.flow.window = window

    def take(self, frame: UpData) -> tuple[UpData, bytes] | None:
        """Take a frame; return the first frame and all the bytes of a message that is now whole.

        Raises RemoteProtocolError.
        """
        self.flow.take(frame.offset, frame.end)
        self._parts.append(frame)
        first = self._parts[0]
        if frame.end - first.offset > MAX_MESSAGE:
            raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE} bytes on {frame.channel!r}")
        if frame.more:
            self.flow.partial = first.offset
            return None
        data = b"".join(part.data for part in self._parts)
        self._clear()
        return first, data

    def skip(self, gap: Gap) -> None:
        """Take a GAP. Raises RemoteProtocolError."""
        self.flow.skip(gap)
        self._clear()

    def _clear(self) -> None:
        self._parts.clear()
        self.flow.partial = None
