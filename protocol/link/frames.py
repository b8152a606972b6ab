"""The table of a remote-port link's frames by type, and the reading of a frame from its parts.

Each class's ``decode`` is the exact inverse of its ``parts``: any other bytes are refused. So unused fields are zero,
nothing trails, and every frame has one form. One comparison ensures that for all types, except the few that pass with
every message, which check it themselves.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import Picture, Survey
from protocol.link.control_frames import LineReport, Look
from protocol.link.header import LIMIT
from protocol.link.hello import Confirm, Hello, HelloReply, Identity
from protocol.link.key_frames import Rekey, Rekeyed
from protocol.link.session_frames import Close, Open, Opened, Ping, Pong, Port
from protocol.link.stream_frames import Ack, Control, Credit, DownData, Gap, Lost, Turn, UpData

if TYPE_CHECKING:
    from protocol.link.header import Parts

__all__ = ["FRAMES", "IGNORABLE", "Frame", "decode"]

IGNORABLE: Final = 0x40
"""Unknown types from here up may be ignored."""

Frame: TypeAlias = (
    Hello
    | HelloReply
    | Confirm
    | Identity
    | Close
    | Open
    | Opened
    | UpData
    | DownData
    | Ack
    | Credit
    | Gap
    | Lost
    | Port
    | Turn
    | Ping
    | Pong
    | Survey
    | Picture
    | Rekey
    | Rekeyed
    | Control
    | LineReport
    | Look
)

FRAMES: Final = {
    frame.code: frame
    for frame in (
        Hello,
        HelloReply,
        Confirm,
        Identity,
        Close,
        Open,
        Opened,
        DownData,
        Ack,
        Credit,
        Gap,
        Lost,
        Port,
        Turn,
        Ping,
        Pong,
        Survey,
        Picture,
        Rekey,
        Rekeyed,
        Control,
        LineReport,
        Look,
    )
}
"""The class that reads each type; DATA has two shapes."""

_STRICT: Final = frozenset({DownData, Ack, Credit})
"""Frames of each message. Their ``decode`` checks the form itself, because writing each again costs too much."""


def decode(code: int, parts: Parts) -> Frame | None:
    """Return the frame, or None for an unknown type that may be ignored. Raises RemoteProtocolError."""
    kind = FRAMES.get(code)
    if kind is None and code >= IGNORABLE:
        return None
    if kind is None:
        raise RemoteProtocolError(f"there is no frame of type {code:#04x}")
    if parts.offset >= LIMIT:
        raise RemoteProtocolError(f"offset {parts.offset} in a {kind.__name__} frame: it must be below 2^62")
    try:
        frame = kind.decode(parts)
    except (ValueError, IndexError, struct.error) as error:
        raise RemoteProtocolError(f"a bad {kind.__name__} frame: {error}") from error
    if kind not in _STRICT and frame.parts() != parts:
        raise RemoteProtocolError(f"a {kind.__name__} frame in another form than its one")
    return frame
