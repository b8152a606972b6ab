"""VISCA on a line that controllers share: where a packet ends, and which one ends the turn of a request.

A packet is a header, 1 to 14 bytes, and FF: ``8x`` to camera x (1 to 7), ``88`` to all; ``y0`` from camera y - 8
(Sony, EVI-D70 technical manual, "Overview of VISCA"). To a command a camera says ACK at once (``y0 4z FF``) and its
completion when it has moved (``y0 5z FF``), z being the socket, 1 or 2; to an inquiry its completion alone, socket 0,
with data. An error (``y0 6z .. FF``) ends either. A broadcast comes back round the chain of cameras. ``y0 38 FF``
(network change) is nobody's reply.

A completion of another socket than the one of our ACK belongs to a command whose turn is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["END", "MAX_PACKET", "MAX_REPLY", "between_packets", "is_header", "is_packet", "reply_end", "reply_start"]

END: Final = 0xFF
"""The last byte of every packet."""

MAX_PACKET: Final = 16
"""The most bytes of a packet, its end included."""

MAX_REPLY: Final = 4 * MAX_PACKET
"""The most bytes of a turn: ACK and completion, an error or a network change between them, and one late packet."""

_LEAST_PACKET: Final = 3
_BROADCAST: Final = 0x88
_INQUIRY: Final = 0x09
_ACK: Final = 0x40
_COMPLETION: Final = 0x50
_ERROR: Final = 0x60


def is_header(byte: int) -> bool:
    """Return whether a packet to a camera, or to all, begins with ``byte``."""
    return 0x81 <= byte <= _BROADCAST


def is_packet(data: bytes) -> bool:
    """Return whether ``data``, which ends with FF, is a packet to a camera, or to all."""
    return _LEAST_PACKET <= len(data) <= MAX_PACKET and is_header(data[0])


def between_packets(heard: bytes) -> bool:
    """Return whether the line stands behind a packet, so that it may well be silent for a while."""
    return heard.endswith(bytes([END]))


def reply_start(request: bytes, heard: bytes) -> int:
    """Return how many bytes at the start of ``heard`` are whole packets that do not answer ``request``."""
    start = 0
    for packet in _packets(heard):
        if _answers(request, packet, None):
            break
        start += len(packet)
    return start


def reply_end(request: bytes, heard: bytes) -> int | None:
    """Return after how many bytes of ``heard`` the completion of ``request``, or an error, has come; None before."""
    end, socket = 0, None
    for packet in _packets(heard):
        end += len(packet)
        if _answers(request, packet, socket):
            if request[0] == _BROADCAST or packet[1] & 0xF0 != _ACK:
                return end
            socket = packet[1] & 0x0F
    return None


def _packets(heard: bytes) -> Iterator[bytes]:
    start = 0
    while (end := heard.find(END, start) + 1) > 0:
        yield heard[start:end]
        start = end


def _answers(request: bytes, packet: bytes, socket: int | None) -> bool:
    """Return whether ``packet`` answers ``request``, which an ACK has given ``socket``, if one came."""
    if not is_packet(request) or len(packet) < _LEAST_PACKET:
        return False
    if request[0] == _BROADCAST:
        return packet[0] == _BROADCAST
    if packet[0] != 0x80 | (request[0] & 0x07) << 4:
        return False
    kind, number = packet[1] & 0xF0, packet[1] & 0x0F
    if kind == _ACK:
        return request[1] != _INQUIRY
    # An error may name the socket that there would have been, so it is somebody else's only behind our own ACK.
    return (kind == _COMPLETION and number in {0, socket}) or (kind == _ERROR and (not socket or number in {0, socket}))
