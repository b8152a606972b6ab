"""The frames, beside CONTROL, for the modem lines and settings of a chained CPU's line: a feature of both sides.

LINE_REPORT is a state, as PORT is: the newest counts, and each connection begins with it. LOOK is one, too.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final, NamedTuple, final

from protocol.frozen import frozen
from protocol.link.header import Parts

__all__ = ["CONFIGURE", "CONTROLS", "LINES", "LineErrors", "LineFormat", "LineReport", "Look"]

CONTROLS: Final = 0b0100
"""The feature bit of those who know CONTROL, LINE_REPORT and LOOK."""

LINES, CONFIGURE = 0b01, 0b10
"""The rights of a report: to move lines, send breaks and purge; and to hold settings."""

_REPORT: Final = struct.Struct("!BBIBcBBBIIIII")
_LOOK: Final = struct.Struct("!BI")
_FORMAT_KNOWN, _MODEM_KNOWN, _ERRORS_KNOWN = (1 << bit for bit in range(3))
_PARITIES: Final = "NOEMS"
_XON_XOFF, _RTS_CTS = 0b01, 0b10
_MODEM_LINES: Final = 0b111111


@final
class LineFormat(NamedTuple):
    """The settings in force at the owner; ``parity`` is the first letter of None, Odd, Even, Mark or Space."""

    rate: int
    data_bits: int
    parity: str
    stop_bits: int
    xon_xoff: bool
    rts_cts: bool


@final
class LineErrors(NamedTuple):
    """What the owner's driver has counted of a line, modulo 2^32; only differences mean anything."""

    overrun: int
    parity: int
    framing: int


@final
@frozen
class LineReport:
    """B to A: the line as its owner knows it, and what A's clients may ask of it.

    ``rights`` is of LINES and CONFIGURE. ``modem`` has a bit for each line that is asserted: DTR, RTS, CTS, DSR, RI and
    DCD from the lowest on; None where the device has none, or nobody looks. ``breaks`` counts those that came, modulo
    2^32. The format and the errors are None where nobody knows them. ``answered`` is the number of the last question
    after which the lines were looked at.
    """

    code: ClassVar[int] = 0x55
    rights: int
    format: LineFormat | None = None
    modem: int | None = None
    breaks: int = 0
    errors: LineErrors | None = None
    answered: int = 0

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        known = 0
        rate, data_bits, parity, stop_bits, flow = 0, 0, b"\0", 0, 0
        if self.format is not None:
            known |= _FORMAT_KNOWN
            rate, data_bits, stop_bits = self.format.rate, self.format.data_bits, self.format.stop_bits
            parity = self.format.parity.encode()
            flow = _XON_XOFF * self.format.xon_xoff | _RTS_CTS * self.format.rts_cts
        known |= 0 if self.modem is None else _MODEM_KNOWN
        known |= 0 if self.errors is None else _ERRORS_KNOWN
        errors = self.errors or LineErrors(0, 0, 0)
        modem = self.modem or 0
        settings = rate, data_bits, parity, stop_bits, flow
        return Parts(_REPORT.pack(self.rights, known, *settings, modem, self.breaks, *errors, self.answered))

    @classmethod
    def decode(cls, parts: Parts) -> LineReport:
        """Read the frame back. Raises ValueError or struct.error."""
        rights, known, rate, data_bits, parity, stop_bits, flow, modem, breaks, *errors, answered = _REPORT.unpack(
            parts.payload
        )
        if rights & ~(LINES | CONFIGURE):
            raise ValueError(f"rights {rights:#04x} have bits of no right")
        line = None
        if known & _FORMAT_KNOWN:
            line = LineFormat(
                rate, data_bits, parity.decode("latin-1"), stop_bits, bool(flow & _XON_XOFF), bool(flow & _RTS_CTS)
            )
            if not rate or line.data_bits not in range(5, 9) or line.parity not in _PARITIES or stop_bits not in (1, 2):
                raise ValueError("settings that no line has")
        if modem & ~_MODEM_LINES:
            raise ValueError(f"modem lines {modem:#04x} have bits of no line")
        counted = LineErrors(*errors) if known & _ERRORS_KNOWN else None
        # What is not known is zero, and so are the other bits of what is: the frame would not be written otherwise.
        return cls(rights, line, modem if known & _MODEM_KNOWN else None, breaks, counted, answered)


@final
@frozen
class Look:
    """A to B: whether anybody there wants to know of the modem lines and the errors, which costs B a look each 100 ms.

    A connection begins without. ``question`` has another number where somebody wants to know how the lines are now.
    """

    code: ClassVar[int] = 0x56
    wanted: bool
    question: int = 0

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_LOOK.pack(self.wanted, self.question))

    @classmethod
    def decode(cls, parts: Parts) -> Look:
        """Read the frame back. Raises struct.error."""
        wanted, question = _LOOK.unpack(parts.payload)
        return cls(bool(wanted), question)
