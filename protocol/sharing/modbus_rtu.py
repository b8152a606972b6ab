"""Modbus RTU on a line that masters share: where a request ends, and where its reply does.

A frame is the unit, a function code, its data, and a CRC of two bytes; nothing in it says where it ends. On the wire
silence does, but a TCP stream has none: there the function code tells the length, and the CRC whether that was right.
(Modbus application protocol V1.1b3, section 6; Modbus over serial line V1.02, section 2.5.)

Way of thinking
    ``_REQUESTS`` and ``_REPLIES`` tell the length of a frame from its first bytes. A function code that is in neither
    is somebody's own; its frame ends where the CRC is right and then nothing follows. What has a wrong CRC is no frame.
    A reply is looked for behind every byte that was heard, since a unit that answers too late, or a disturbance, may
    stand before it: the unit, the function code and the CRC together are right by chance once in a billion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "BROADCAST",
    "MAX_FRAME",
    "crc",
    "expects_reply",
    "find_reply",
    "framed",
    "has_crc",
    "reply_start",
    "request_length",
    "shortest_frame",
]

MAX_FRAME: Final = 256
"""The most bytes of a frame."""

BROADCAST: Final = 0
"""The unit that all listen to, and nobody answers for."""

_LEAST_FRAME: Final = 4
_EXCEPTION: Final = 0x80
"""The bit of the function code that makes a reply an exception."""
_EXCEPTION_LENGTH: Final = 5
_DIAGNOSTICS: Final = 8
_MEI: Final = 43
_DEVICE_IDENTIFICATION: Final = 14


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE: Final = _crc_table()


def crc(data: bytes) -> int:
    """Return the CRC-16 of Modbus over ``data``; a frame carries its low byte first."""
    value = 0xFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value


def framed(data: bytes) -> bytes:
    """Return ``data``, from the unit on, with its CRC behind it."""
    return data + crc(data).to_bytes(2, "little")


def has_crc(frame: bytes) -> bool:
    """Return whether ``frame`` has the length of one, and the right CRC."""
    return _LEAST_FRAME <= len(frame) <= MAX_FRAME and not crc(frame)


def shortest_frame(data: bytes) -> int:
    """Return the length of the shortest start of ``data`` that is a frame with the right CRC; 0 if there is none."""
    value = 0xFFFF
    for length, byte in enumerate(data[:MAX_FRAME], 1):
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
        if not value and length >= _LEAST_FRAME:
            return length
    return 0


def _fixed(length: int) -> Callable[[bytes], int | None]:
    return lambda _: length


def _counted(at: int) -> Callable[[bytes], int | None]:
    """Return the length of frames whose byte ``at`` counts the bytes between itself and the CRC."""
    return lambda head: at + 1 + head[at] + 2 if len(head) > at else None


def _fifo(head: bytes) -> int | None:
    return 4 + int.from_bytes(head[2:4], "big") + 2 if len(head) >= 4 else None


def _identification(head: bytes) -> int | None:
    """Return the length of the objects of a device identification (6.21), as far as they have come.

    Unit, function, type, code, conformity, more follows, next object, number of objects; then id, length and value of
    each. Another type of encapsulated interface has a form of its own: 0, ended by its CRC.
    """
    if len(head) < 3:
        return None
    if head[2] != _DEVICE_IDENTIFICATION:
        return 0
    if len(head) < 8:
        return None
    end = 8
    for _ in range(head[7]):
        if len(head) < end + 2:
            return None
        end += 2 + head[end + 1]
    return end + 2


def _encapsulated(head: bytes) -> int | None:
    if len(head) < 3:
        return None
    return 7 if head[2] == _DEVICE_IDENTIFICATION else 0


def _diagnostics(head: bytes) -> int | None:
    """Return the length of a diagnostics request: sub-function 0 has the master's own data, any number of words."""
    if len(head) < 4:
        return None
    return 0 if head[2:4] == b"\0\0" else 8


_EIGHT: Final = dict.fromkeys((1, 2, 3, 4, 5, 6), _fixed(8))
_FOUR: Final = dict.fromkeys((7, 11, 12, 17), _fixed(4))

_REQUESTS: Final[Mapping[int, Callable[[bytes], int | None]]] = {
    **_EIGHT,
    **_FOUR,
    _DIAGNOSTICS: _diagnostics,
    15: _counted(6),
    16: _counted(6),
    20: _counted(2),
    21: _counted(2),
    22: _fixed(10),
    23: _counted(10),
    24: _fixed(6),
    _MEI: _encapsulated,
}
"""Function code -> the length of a request from its first bytes: None while these are too few, 0 where none tells."""

_REPLIES: Final[Mapping[int, Callable[[bytes], int | None]]] = {
    **dict.fromkeys((1, 2, 3, 4, 12, 17, 20, 21, 23), _counted(2)),
    **dict.fromkeys((5, 6, 11, 15, 16), _fixed(8)),
    7: _fixed(5),
    22: _fixed(10),
    24: _fifo,
    _MEI: _identification,
}
"""The same for a reply; that to diagnostics is as long as its request."""


def request_length(head: bytes) -> int | None:
    """Return the length of the request that begins with ``head``: None while too little of it is there.

    0 where nothing but its CRC and the silence behind it can tell, and -1 where no request begins like that.
    """
    if len(head) < 2:
        return None
    function = head[1]
    if not 0 < function < _EXCEPTION:
        return -1
    length = _REQUESTS.get(function, _fixed(0))(head)
    return -1 if length is not None and length > MAX_FRAME else length


def expects_reply(request: bytes) -> bool:
    """Return whether a unit answers ``request``: a broadcast has no reply."""
    return request[:1] != bytes([BROADCAST])


def reply_start(request: bytes, heard: bytes) -> int:
    """Return how many bytes at the start of ``heard`` cannot be of the reply to ``request``."""
    at = 0
    while at < len(heard) and _length_at(request, heard, at) == -1:
        at += 1
    return at


def find_reply(request: bytes, heard: bytes, *, silent: bool = False) -> slice | None:
    """Return where in ``heard`` the reply to ``request``, or an exception, is whole; None where it is not.

    ``silent`` says that the line has fallen silent: it ends a reply whose length nothing tells.
    """
    for at in range(len(heard)):
        length = _length_at(request, heard, at)
        if length is None or length < 0:
            continue
        end = at + length if length else len(heard)
        if length and end <= len(heard):
            return slice(at, end)
        if not length and silent and has_crc(heard[at:]):
            return slice(at, end)
    return None


def _length_at(request: bytes, heard: bytes, at: int) -> int | None:
    """Return the length of the reply that begins at ``at``, as ``request_length`` does: -1 where none does.

    What is there whole has the right CRC too.
    """
    head = heard[at : at + MAX_FRAME]
    if len(request) < _LEAST_FRAME or head[0] != request[0]:
        return -1
    function = request[1]
    if len(head) > 1 and head[1] & ~_EXCEPTION != function:
        return -1
    if len(head) == 1:
        return None
    if head[1] & _EXCEPTION:
        length: int | None = _EXCEPTION_LENGTH
    elif function == _DIAGNOSTICS:
        length = len(request)
    else:
        length = _REPLIES.get(function, _fixed(0))(head)
    if length and (length > MAX_FRAME or (length <= len(head) and not has_crc(head[:length]))):
        return -1
    return length
