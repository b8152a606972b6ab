"""The USB side of an FT232R, as the driver ftdi_sio knows it (drivers/usb/serial/ftdi_sio.h)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, final

from tests.hardware.adapter import Errors, Uart

if TYPE_CHECKING:
    from tests.hardware.usbip import Setup

__all__ = ["Ftdi"]

_FROM_DEVICE: Final = 0x80
_VENDOR: Final = 0x40
_GET_STATUS, _GET_DESCRIPTOR = 0, 6
_RESET, _SET_MODEM, _SET_FLOW, _SET_BAUD, _SET_DATA, _GET_MODEM = range(6)
_SET_LATENCY, _GET_LATENCY = 9, 10
_EIGHTHS: Final = (0, 4, 2, 1, 3, 5, 6, 7)
"""The fraction of the divisor, by its code."""


@final
class Ftdi:
    """One chip. ``stalls`` are the parities that it refuses, as some clones do with Mark and Space."""

    bulk_in, bulk_out = 0x81, 0x02
    name = "/dev/ttyUSB"

    def __init__(self, serial: str = "A1", stalls: str = "") -> None:
        self.uart = Uart()
        self.by_id = f"/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_{serial}-if00-port0"
        self._serial = serial
        self._stalls = stalls

    def control(self, setup: Setup, data: bytes) -> bytes | None:
        """See Chip."""
        if setup.kind == _FROM_DEVICE and setup.request == _GET_DESCRIPTOR:
            descriptor = self._descriptor(setup.value >> 8, setup.value & 0xFF)
            return None if descriptor is None else descriptor[: setup.length]
        if setup.kind == _FROM_DEVICE and setup.request == _GET_STATUS:
            return b"\0\0"
        if setup.kind == _VENDOR:
            return self._tell(setup)
        if setup.kind == _VENDOR | _FROM_DEVICE and setup.request == _GET_MODEM:
            return self._status(Errors())
        if setup.kind == _VENDOR | _FROM_DEVICE and setup.request == _GET_LATENCY:
            return bytes([self.uart.latency])
        # The rest of the standard requests tell the device what it need not know; its EEPROM is not there.
        return None if setup.kind & _VENDOR else b""

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        match kind:
            case 1:
                return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0110, 0, 0, 0, 8, 0x0403, 0x6001, 0x0600, 1, 2, 3, 1)
            case 2:
                interface = struct.pack("<9B", 9, 4, 0, 0, 2, 255, 255, 255, 2)
                endpoints = b"".join(struct.pack("<BBBBHB", 7, 5, end, 2, 64, 0) for end in (0x81, 0x02))
                body = interface + endpoints
                return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 1, 1, 0, 0xA0, 45) + body
            case 3 if index == 0:
                return bytes([4, 3, 9, 4])
            case 3:
                text = ("", "FTDI", "FT232R USB UART", self._serial)[index].encode("utf-16le")
                return bytes([len(text) + 2, 3]) + text
        return None

    def _tell(self, setup: Setup) -> bytes | None:
        value, uart = setup.value, self.uart
        match setup.request:
            case 1:
                if value & 0x100:
                    uart.set(dtr=bool(value & 1))
                if value & 0x200:
                    uart.set(rts=bool(value & 2))
            case 2:
                uart.set(rts_cts=bool(setup.place >> 8 & 1), xon_xoff=bool(setup.place >> 8 & 4))
            case 3:
                divisor = value & 0x3FFF
                eighths = _EIGHTHS[value >> 14 | (setup.place & 1) << 2]
                fastest = {(0, 0): 3_000_000, (1, 0): 2_000_000}
                uart.set(baud=fastest.get((divisor, eighths)) or round(24_000_000 / (8 * divisor + eighths)))
            case 4:
                parity = "NOEMS"[value >> 8 & 7]
                if parity in self._stalls:
                    return None
                uart.set(bits=value & 15, parity=parity, stop=(1, 1.5, 2)[value >> 11 & 3], brk=bool(value & 0x4000))
            case 9:
                uart.set(latency=value & 0xFF)
        return b""

    def _status(self, errors: Errors) -> bytes:
        modem = self.uart.modem
        lines = 0x01 | modem.cts << 4 | modem.dsr << 5 | modem.ri << 6 | modem.dcd << 7
        return bytes([lines, 0x60 | errors.overrun << 1 | errors.parity << 2 | errors.framing << 3 | errors.brk << 4])

    def room(self, length: int) -> int:
        """See Chip: every 64 bytes begin with two of status, and one such packet is sent at a time."""
        return min(length, 64) - 2

    def received(self, data: bytes, errors: Errors) -> tuple[int, bytes]:
        """See Chip."""
        return self.bulk_in, self._status(errors) + (b"\0" if errors.brk else data)
