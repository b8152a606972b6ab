"""VISCA, for a camera at address 1 (the command list of Sony's EVI-D70).

A message is 8x (x: the address; 88 is for all), the body, FF. An order is answered with ACK (90 41 FF) and
completion (90 51 FF), an inquiry with 90 50 ... FF, a message that cannot be obeyed with 90 60 .. FF or 90 61 41 FF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from gateway.demo.camera.head import ZOOM_SPEED, ZOOM_TOP, Head, Heard, moves
from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["begins", "length", "obey"]

_STEPS_A_DEGREE: Final = 1 / 0.075
_ZOOM_STEPS: Final = 0x4000
_PAN_TOP: Final = 24
_TILT_TOP: Final = 20
_LONGEST: Final = 16
_DONE: Final = bytes.fromhex("9041ff 9051ff")
_TOO_LONG: Final = bytes.fromhex("906001ff")
_SYNTAX: Final = bytes.fromhex("906002ff")
_NOT_EXECUTABLE: Final = bytes.fromhex("906141ff")
_WHILE_OFF: Final = (b"\x01\x04\x00", b"\x09\x04\x00")


def begins(byte: int) -> bool:
    """Return True if a message can begin with this byte."""
    return 0x81 <= byte <= 0x88


def length(data: bytes | bytearray) -> int:
    """Return the length of the message at the front; 0 if its end has not arrived. One that is too long is cut."""
    end = data.find(b"\xff", 0, _LONGEST) + 1
    return end or (_LONGEST if len(data) >= _LONGEST else 0)


def obey(head: Head, message: bytes, now: float) -> Heard:
    """Obey one message."""
    if message[-1] != 0xFF:
        return Heard(f"VISCA without an end: {message.hex()}", _TOO_LONG)
    if message[0] == 0x88:
        return _BROADCASTS.get(message, Heard(f"does not know VISCA {message.hex()}"))
    if message[0] != 0x81:
        return Heard(f"VISCA for address {message[0] & 7}, not for this camera")
    if not head.on and message[1:4] not in _WHILE_OFF:
        return Heard("is off and does nothing", _NOT_EXECUTABLE)
    return _answer(head, message, now)


def _answer(head: Head, message: bytes, now: float) -> Heard:
    order, arguments = _ORDERS.get(message[1:4]), message[4:-1]
    if order is not None and len(arguments) == order.length:
        line = order.obey(head, arguments, now)
        return Heard(line, _DONE) if line else Heard(f"VISCA value out of range: {message.hex()}", _SYNTAX)
    inquiry = _INQUIRIES.get(message[1:-1])
    if inquiry is not None:
        line, value = inquiry(head, now)
        return Heard(f"asked for its {line}", b"\x90\x50" + value + b"\xff")
    return Heard(f"does not know VISCA {message.hex()}", _SYNTAX)


def _drive(head: Head, arguments: bytes, now: float) -> str | None:
    pan_speed, tilt_speed, pan, tilt = arguments
    fast = 0 < pan_speed <= _PAN_TOP and 0 < tilt_speed <= _TILT_TOP
    if not (fast and pan in _PAN and tilt in _TILT):
        return None
    return moves(
        head.pan.drive(_PAN[pan] * pan_speed, _PAN_TOP, now),
        head.tilt.drive(_TILT[tilt] * tilt_speed, _TILT_TOP, now),
    )


def _home(head: Head, _arguments: bytes, _now: float) -> str:
    head.go(0, 0)
    return "home"


def _position(head: Head, arguments: bytes, now: float) -> str | None:
    pan, tilt = _signed(arguments[2:6]), _signed(arguments[6:10])
    if pan is None or tilt is None:
        return None
    head.go(pan / _STEPS_A_DEGREE, tilt / _STEPS_A_DEGREE)
    return f"go to {head.where(now)}"


def _zoom(head: Head, arguments: bytes, now: float) -> str | None:
    kind, speed = arguments[0] >> 4, arguments[0] & 0xF
    if arguments[0] in _PLAIN_ZOOM:
        return head.zoom.drive(_PLAIN_ZOOM[arguments[0]], ZOOM_TOP, now) or "zoom stop"
    if kind not in _VARIABLE_ZOOM or speed > ZOOM_TOP:
        return None
    return head.zoom.drive(_VARIABLE_ZOOM[kind] * (speed + 1), ZOOM_TOP + 1, now)


def _zoom_position(head: Head, arguments: bytes, now: float) -> str | None:
    steps = _signed(arguments)
    if steps is None or not 0 <= steps <= _ZOOM_STEPS:
        return None
    head.zoom.go(steps / _ZOOM_STEPS)
    return f"go to {head.where(now)}"


def _power(head: Head, arguments: bytes, _now: float) -> str | None:
    if arguments[0] not in _POWER:
        return None
    head.on = arguments[0] == 2
    return f"power {_POWER[arguments[0]]}"


def _memory(head: Head, arguments: bytes, now: float) -> str | None:
    action, preset = arguments
    match action:
        case 0:
            return head.forget(preset)
        case 1:
            return head.remember(preset, now)
        case 2:
            return head.recall(preset, now)
    return None


def _position_inquiry(head: Head, now: float) -> tuple[str, bytes]:
    pan, tilt = (round(axis.at(now) * _STEPS_A_DEGREE) for axis in (head.pan, head.tilt))
    return f"position: {head.where(now)}", _nibbles(pan) + _nibbles(tilt)


def _zoom_inquiry(head: Head, now: float) -> tuple[str, bytes]:
    return f"zoom: {head.zoom.at(now):.2f}", _nibbles(round(head.zoom.at(now) * _ZOOM_STEPS))


def _power_inquiry(head: Head, _now: float) -> tuple[str, bytes]:
    code = 2 if head.on else 3
    return f"power: {_POWER[code]}", bytes([code])


def _version_inquiry(_head: Head, _now: float) -> tuple[str, bytes]:
    return "version", bytes.fromhex("0001 0000 0001 02")


def _nibbles(value: int) -> bytes:
    return bytes(value >> shift & 0xF for shift in (12, 8, 4, 0))


def _signed(nibbles: bytes) -> int | None:
    """Return the signed 16-bit number in the low halves of four bytes; None if a high half is not 0."""
    if any(nibble > 0xF for nibble in nibbles):
        return None
    return int.from_bytes(bytes.fromhex(nibbles.hex()[1::2]), signed=True)


@final
@frozen
class _Order:
    """An order: the length of its arguments, and the function that obeys it.

    The function returns a description, or None for a value out of range.
    """

    length: int
    obey: Callable[[Head, bytes, float], str | None]


_PAN: Final = {1: -1, 2: 1, 3: 0}
_TILT: Final = {1: 1, 2: -1, 3: 0}
_PLAIN_ZOOM: Final = {0x00: 0, 0x02: ZOOM_SPEED, 0x03: -ZOOM_SPEED}
_VARIABLE_ZOOM: Final = {2: 1, 3: -1}
_POWER: Final = {2: "on", 3: "off"}
_ORDERS: Final[Mapping[bytes, _Order]] = {
    b"\x01\x06\x01": _Order(4, _drive),
    b"\x01\x06\x02": _Order(10, _position),
    b"\x01\x06\x04": _Order(0, _home),
    b"\x01\x06\x05": _Order(0, _home),
    b"\x01\x04\x00": _Order(1, _power),
    b"\x01\x04\x07": _Order(1, _zoom),
    b"\x01\x04\x47": _Order(4, _zoom_position),
    b"\x01\x04\x3f": _Order(2, _memory),
}
_INQUIRIES: Final[Mapping[bytes, Callable[[Head, float], tuple[str, bytes]]]] = {
    b"\x09\x06\x12": _position_inquiry,
    b"\x09\x04\x47": _zoom_inquiry,
    b"\x09\x04\x00": _power_inquiry,
    b"\x09\x00\x02": _version_inquiry,
}
# A broadcast passes through the chain of cameras and returns: with the next free address, or unchanged.
_BROADCASTS: Final[Mapping[bytes, Heard]] = {
    b"\x88\x30\x01\xff": Heard("takes address 1", b"\x88\x30\x02\xff"),
    b"\x88\x01\x00\x01\xff": Heard("clears its buffers", b"\x88\x01\x00\x01\xff"),
}
