"""Modbus TCP in front of an RTU line: the MBAP header off, the CRC on, and back.

A request is a transaction id, protocol 0, a length, the unit, and a PDU of 1 to 253 bytes (Modbus messaging on TCP/IP
V1.0b, section 3.1.3). The stream cannot be found again behind a header that makes no sense, so that ends it. What the
line does not do is told by an exception: 0x0A where there is no way to the unit, 0x0B where it does not answer (Modbus
application protocol V1.1b3, section 7).
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple, final

from protocol.sharing import modbus_rtu

__all__ = ["MAX_ADU", "MAX_PDU", "MbapDecoder", "ModbusException", "TcpRequest"]

MAX_PDU: Final = 253
"""The most bytes of a function code and its data."""

MAX_ADU: Final = 7 + MAX_PDU
"""The most bytes of a request or an answer."""

_HEADER: Final = struct.Struct("!HHHB")
_UNIT: Final = 1
"""Bytes that the header's length counts beside the PDU."""


@final
class ModbusException(enum.IntEnum):
    """The exceptions that a gateway says of its own."""

    FUNCTION = 0x01
    """No request has such a function code."""
    VALUE = 0x03
    """A request of this function code is longer, or shorter."""
    BUSY = 0x06
    """The gateway has too much to do; the master may try again later."""
    NO_PATH = 0x0A
    """The gateway has no way to the unit: it is not served here, or the port is down."""
    NO_ANSWER = 0x0B
    """The unit did not answer, or what came was no answer."""


@final
class TcpRequest(NamedTuple):
    """One request of a Modbus TCP client; ``pdu`` has 1 to MAX_PDU bytes."""

    transaction: int
    unit: int
    pdu: bytes

    @property
    def rtu(self) -> bytes:
        """The frame for the line."""
        return modbus_rtu.framed(bytes([self.unit]) + self.pdu)

    @property
    def fault(self) -> ModbusException | None:
        """The exception for a request that no unit could read, and that would only cost the line a timeout."""
        frame = self.rtu
        length = modbus_rtu.request_length(frame)
        if not 0 < self.pdu[0] < 0x80:
            return ModbusException.FUNCTION
        return None if length in {0, len(frame)} else ModbusException.VALUE

    def answer(self, heard: bytes) -> bytes:
        """Return what to answer when the line said ``heard``: the reply in it, or NO_ANSWER where there is none."""
        found = modbus_rtu.find_reply(self.rtu, heard, silent=True)
        return self.refuse(ModbusException.NO_ANSWER) if found is None else self._adu(heard[found][1:-2])

    def refuse(self, why: ModbusException) -> bytes:
        """Return the answer that says why there is no other."""
        return self._adu(bytes([self.pdu[0] | 0x80, why]))

    def _adu(self, pdu: bytes) -> bytes:
        return _HEADER.pack(self.transaction, 0, _UNIT + len(pdu), self.unit) + pdu


@final
class MbapDecoder:
    """Cuts what a Modbus TCP client sends to requests; less than MAX_ADU bytes wait for their rest."""

    def __init__(self) -> None:
        self._waiting = b""
        self.broken: str | None = None
        """Why nothing more can be read, once a header made no sense: end the connection."""

    @property
    def waiting(self) -> int:
        """The number of bytes that wait for the rest of their request."""
        return len(self._waiting)

    def feed(self, data: bytes) -> list[TcpRequest]:
        """Take what was read; return the requests that are whole."""
        self._waiting += data
        requests: list[TcpRequest] = []
        while self.broken is None and len(self._waiting) >= _HEADER.size:
            transaction, protocol, length, unit = _HEADER.unpack_from(self._waiting)
            end = _HEADER.size - _UNIT + length
            if protocol or not _UNIT < length <= _UNIT + MAX_PDU:
                self.broken = f"a Modbus TCP header with protocol {protocol} and length {length}"
            elif len(self._waiting) >= end:
                requests.append(TcpRequest(transaction, unit, self._waiting[_HEADER.size : end]))
                self._waiting = self._waiting[end:]
            else:
                break
        if self.broken is not None:
            self._waiting = b""
        return requests
