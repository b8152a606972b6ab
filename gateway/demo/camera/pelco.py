"""Pelco-D, for a camera at address 1.

A message is FF, address, command 1, command 2, data 1, data 2, and the sum of those five modulo 256. With
bit 0 of command 2 clear, the other bits are directions and the data are speeds; with it set, command 2 is a
number. Angles are hundredths of a degree from 0 to 35999, counted to the right for pan and downward for tilt. Only
questions are answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.demo.camera.head import ZOOM_SPEED, ZOOM_TOP, Head, Heard, moves

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SYNC", "length", "obey"]

SYNC: Final = 0xFF
_LENGTH: Final = 7
_TOP: Final = 0x40


def length(data: bytes | bytearray) -> int:
    """Return the length of the message at the front; 0 if more is needed, 1 if its checksum is wrong.

    One byte is then skipped: a message may begin at any of the others.
    """
    if len(data) < _LENGTH:
        return 0
    return _LENGTH if data[6] == _checksum(data[1:6]) else 1


def obey(head: Head, message: bytes, now: float) -> Heard:
    """Obey one message of seven bytes."""
    address, first, second, *_ = message[1:6]
    if address != 1:
        return Heard(f"Pelco-D for address {address}, not for this camera")
    if not head.on:
        return Heard("is off and does nothing")
    if first == 0 and second in _QUESTIONS:
        return _answer(head, second, now)
    if first == 0 and second in _ORDERS:
        return Heard(_ORDERS[second](head, int.from_bytes(message[4:6]), now))
    if first == 0 and not second & 0x81:
        return Heard(_drive(head, message, now))
    return Heard(f"does not know Pelco-D {message.hex()}")


def _drive(head: Head, message: bytes, now: float) -> str:
    bits, pan_speed, tilt_speed = message[3], *(min(speed, _TOP) for speed in message[4:6])
    return moves(
        head.pan.drive(_either(bits, 0x02, 0x04) * pan_speed, _TOP, now),
        head.tilt.drive(_either(bits, 0x08, 0x10) * tilt_speed, _TOP, now),
        head.zoom.drive(_either(bits, 0x20, 0x40) * ZOOM_SPEED, ZOOM_TOP, now),
    )


def _either(bits: int, forward: int, backward: int) -> int:
    return bool(bits & forward) - bool(bits & backward)


def _pan(head: Head, hundredths: int, now: float) -> str:
    head.pan.go(_turn(hundredths))
    return f"go to {head.where(now)}"


def _tilt(head: Head, hundredths: int, now: float) -> str:
    head.tilt.go(-_turn(hundredths))
    return f"go to {head.where(now)}"


def _zoom(head: Head, share: int, now: float) -> str:
    head.zoom.go(share / 0xFFFF)
    return f"go to {head.where(now)}"


def _turn(hundredths: int) -> float:
    """Convert hundredths of a degree round the circle to degrees from -180 to 180."""
    return (hundredths / 100 + 180) % 360 - 180


def _checksum(body: bytes | bytearray) -> int:
    return sum(body) % 256


def _answer(head: Head, question: int, now: float) -> Heard:
    name, answer, value = _QUESTIONS[question]
    number = value(head, now)
    body = bytes((1, 0, answer)) + number.to_bytes(2)
    return Heard(f"asked for its {name}: {head.where(now)}", b"\xff" + body + bytes([_checksum(body)]))


_ORDERS: Final[Mapping[int, Callable[[Head, int, float], str]]] = {
    0x03: lambda head, preset, now: head.remember(preset & 0xFF, now),
    0x05: lambda head, preset, _now: head.forget(preset & 0xFF),
    0x07: lambda head, preset, now: head.recall(preset & 0xFF, now),
    0x4B: _pan,
    0x4D: _tilt,
    0x4F: _zoom,
}
_QUESTIONS: Final[Mapping[int, tuple[str, int, Callable[[Head, float], int]]]] = {
    0x51: ("pan", 0x59, lambda head, now: round(head.pan.at(now) * 100) % 36000),
    0x53: ("tilt", 0x5B, lambda head, now: round(-head.tilt.at(now) * 100) % 36000),
    0x55: ("zoom", 0x5D, lambda head, now: round(head.zoom.at(now) * 0xFFFF)),
}
