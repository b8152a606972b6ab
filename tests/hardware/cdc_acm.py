"""The USB side of an adapter or board of the CDC ACM class (USB CDC 1.2, PSTN subclass): no CTS, and few errors."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, final

from tests.hardware.adapter import Errors, Uart

if TYPE_CHECKING:
    from tests.hardware.usbip import Setup

__all__ = ["CdcAcm"]

_GET_DESCRIPTOR: Final = (0x80, 6)
_TO_CLASS: Final = 0x21
_FROM_CLASS: Final = 0xA1
_SET_CODING, _GET_CODING, _SET_LINES, _SEND_BREAK = 0x20, 0x21, 0x22, 0x23
_CODING: Final = struct.Struct("<IBBB")
_NOTIFY: Final = 0x83


@final
class CdcAcm:
    """One chip, with the three endpoints of the class."""

    bulk_in, bulk_out = 0x81, 0x02
    name = "/dev/ttyACM"

    def __init__(self, serial: str = "C1") -> None:
        self.uart = Uart()
        self.by_id = f"/dev/serial/by-id/usb-Arduino_CDC_board_{serial}-if00"
        self._serial = serial

    def control(self, setup: Setup, data: bytes) -> bytes | None:
        """See Chip."""
        uart = self.uart
        if (setup.kind, setup.request) == _GET_DESCRIPTOR:
            descriptor = self._descriptor(setup.value >> 8, setup.value & 0xFF)
            return None if descriptor is None else descriptor[: setup.length]
        if setup.kind == 0x80 and setup.request == 0:
            return b"\0\0"
        if setup.kind == _TO_CLASS:
            match setup.request:
                case 0x20:
                    baud, stop, parity, bits = _CODING.unpack(data)
                    uart.set(baud=baud, stop=(1, 1.5, 2)[stop], parity="NOEMS"[parity], bits=bits)
                case 0x22:
                    uart.set(dtr=bool(setup.value & 1), rts=bool(setup.value & 2))
                case 0x23:
                    uart.set(brk=setup.value != 0)
        if setup.kind == _FROM_CLASS and setup.request == _GET_CODING:
            stop = {1: 0, 1.5: 1, 2: 2}[uart.stop]
            return _CODING.pack(uart.baud, stop, "NOEMS".index(uart.parity), uart.bits)
        return b""

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        match kind:
            case 1:
                return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 2, 0, 0, 64, 0x2341, 0x0043, 0x0001, 1, 2, 3, 1)
            case 2:
                line_coding_and_break = 0x06
                control = struct.pack("<9B", 9, 4, 0, 0, 1, 2, 2, 1, 0)
                control += bytes([5, 0x24, 0, 0x10, 1, 5, 0x24, 1, 0, 1, 4, 0x24, 2, line_coding_and_break])
                control += bytes([5, 0x24, 6, 0, 1]) + struct.pack("<BBBBHB", 7, 5, _NOTIFY, 3, 16, 10)
                bulk = struct.pack("<9B", 9, 4, 1, 0, 2, 10, 0, 0, 0)
                bulk += b"".join(struct.pack("<BBBBHB", 7, 5, end, 2, 64, 0) for end in (0x81, 0x02))
                body = control + bulk
                return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0xA0, 45) + body
            case 3 if index == 0:
                return bytes([4, 3, 9, 4])
            case 3:
                text = ("", "Arduino", "CDC board", self._serial)[index].encode("utf-16le")
                return bytes([len(text) + 2, 3]) + text
        return None

    def room(self, length: int) -> int:
        """See Chip."""
        return min(length, 64)

    def received(self, data: bytes, errors: Errors) -> tuple[int, bytes]:
        """See Chip: errors, breaks and lines are a notification of their own, SERIAL_STATE."""
        if data and errors == Errors():
            return self.bulk_in, data
        modem = self.uart.modem
        state = modem.dcd | modem.dsr << 1 | errors.brk << 2 | modem.ri << 3
        state |= errors.framing << 4 | errors.parity << 5 | errors.overrun << 6
        return _NOTIFY, struct.pack("<BBHHHH", 0xA1, 0x20, 0, 0, 2, state)
