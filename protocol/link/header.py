"""The sixteen bytes in front of every frame of a remote-port link, and the cutting of a byte stream at them.

Until a frame's tag is verified only the length in its header is used, because everything may be forged. The worst that
a forged length can do is to make us wait, and keep the bytes of one frame.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, final

from protocol.errors import RemoteProtocolError

__all__ = ["LIMIT", "MAX_LENGTH", "SIZE", "CutError", "FrameDecoder", "Parts", "RawFrame", "encoded_header"]

_LAYOUT: Final = struct.Struct("!BBBBIQ")
SIZE: Final = _LAYOUT.size
"""Bytes of a header."""

MAX_LENGTH: Final = 16_400
"""The most that may follow a header: 16 KiB of payload and a tag."""

LIMIT: Final = 2**62
"""Every number of 64 bits on the wire is below this, and so is the end of every range.

It is checked where a frame is decoded. So adding a window or a count to such a number needs no other check: the sum
fits 64 bits, and no peer can make our own arithmetic raise.
"""


class CutError(RemoteProtocolError):
    """These bytes cannot be trusted, or ended too early: the connection is over, its session stays."""


def encoded_header(version: int, code: int, channel: int, flags: int, length: int, offset: int) -> bytes:
    """Return the sixteen bytes; ``length`` counts all bytes after them, the tag included."""
    return _LAYOUT.pack(version, code, channel, flags, length, offset)


@final
class Parts(NamedTuple):
    """The part of the wire that a frame itself fills in: its payload, and the fields of the header that are its own."""

    payload: bytes = b""
    channel: int = 0
    flags: int = 0
    offset: int = 0


@final
class RawFrame(NamedTuple):
    """One frame as it was cut from the stream: the fields of its header, the header's very bytes, and what followed."""

    version: int
    code: int
    channel: int
    flags: int
    offset: int
    head: bytes
    body: bytes


@final
class FrameDecoder:
    """Cuts a stream into frames, however its bytes arrive.

    Bounded: it holds less than one frame if the caller takes every whole frame after each piece. Nothing is consumed
    before its frame is whole.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        """Where the next frame begins: so a piece with many frames is not moved in memory for each frame."""

    def __len__(self) -> int:
        """Return how many bytes wait for the rest of their frame (which has two seconds)."""
        return len(self._buffer) - self._at

    def receive_data(self, data: bytes) -> None:
        """Take what the connection brought."""
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def next_frame(self) -> RawFrame | None:
        """Return the next whole frame, or None until more has come.

        Raises CutError as soon as a header announces more than MAX_LENGTH, and again ever after.
        """
        buffer, start = self._buffer, self._at
        body = start + SIZE
        if len(buffer) < body:
            self._buffer, self._at = buffer[start:], 0
            return None
        version, code, channel, flags, length, offset = _LAYOUT.unpack_from(buffer, start)
        if length > MAX_LENGTH:
            raise CutError(f"a frame of {length} bytes: at most {MAX_LENGTH} may follow a header")
        end = body + length
        if len(buffer) < end:
            return None
        self._at = end
        return RawFrame(version, code, channel, flags, offset, buffer[start:body], buffer[body:end])
