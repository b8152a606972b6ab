"""Translate a line's settings into termios and the kernel's RS-485 control, and back; and compute times from them.

Pure functions over ``SerialPort``. A driver's answer becomes a ``SerialPort`` too, so that "did it stick?" is a
comparison of two values of one type.
"""

from __future__ import annotations

import enum
import struct
import termios
from dataclasses import fields, replace
from typing import Any, Final

from protocol.link import message_rules
from protocol.parameters.declare import build
from protocol.parameters.hardware import Hardware, PortMode, SerialHardware
from protocol.parameters.settings import Parity, SerialPort

__all__ = [
    "IN_TERMIOS",
    "NAMES",
    "TERMIOS2",
    "Rs485",
    "attributes",
    "by_name",
    "bytes_per_second",
    "differing",
    "found",
    "in_words",
    "is_custom",
    "line_time",
    "message_limit",
    "message_portion",
    "rate_near",
    "rs485",
    "termios2",
    "wanted",
]

_ALL_HARDWARE: Final = Hardware(
    serial=(SerialHardware(modes=tuple(PortMode), termination=True, bias=True),), managers=()
)
NAMES: Final = {str(declared.path[0]): declared.name for declared in build(SerialPort, _ALL_HARDWARE)[1]}
"""The contract's name of each attribute of ``SerialPort``: ``baud_rate`` is ``BaudRate``."""

IN_TERMIOS: Final = (
    "baud_rate",
    "data_bits",
    "parity",
    "stop_bits",
    "flow_control_xonxoff",
    "flow_control_rtscts",
)
"""The settings that termios has, in the order in which they are tried one by one."""

_CMSPAR: Final = 0o10000000000  # Linux; Python's termios leaves it out
_TERMIOS_PARITY: Final = {
    0: Parity.EVEN,
    termios.PARODD: Parity.ODD,
    _CMSPAR | termios.PARODD: Parity.MARK,
    _CMSPAR: Parity.SPACE,
}
_DATA_BITS: Final = {termios.CS5: 5, termios.CS6: 6, termios.CS7: 7, termios.CS8: 8}
_PARITY_BITS: Final = {Parity.NONE: 0} | {parity: termios.PARENB | bits for bits, parity in _TERMIOS_PARITY.items()}
_SIZES: Final = {bits: size for size, bits in _DATA_BITS.items()}
_RATES: Final = {
    getattr(termios, name): int(name[1:]) for name in dir(termios) if name[:1] == "B" and name[1:].isdigit()
}
_SPEEDS: Final = {rate: speed for speed, rate in _RATES.items() if rate}  # B0 is no rate: it hangs up
_CBAUD: Final = 0o010017
_CIBAUD: Final = _CBAUD << 16
_BOTHER: Final = 0o010000
TERMIOS2: Final = struct.Struct("4IB19s2I")
"""Linux' ``struct termios2``: flags, discipline, characters, rates in and out."""
_TERMIOS2_CHARACTERS: Final = 19
_COOKED: Final = (
    termios.ICANON
    | termios.ECHO
    | termios.ECHOE
    | termios.ECHOK
    | termios.ECHONL
    | termios.ISIG
    | termios.IEXTEN
    | termios.TOSTOP
)

_ENABLED: Final = 1 << 0
_RX_DURING_TX: Final = 1 << 4
_TERMINATE_BUS: Final = 1 << 5
_MODE_RS422: Final = 1 << 9
_MODES: Final = {
    PortMode.RS232: 0,
    PortMode.RS485: _ENABLED,
    PortMode.RS485_4: _ENABLED | _RX_DURING_TX,
    PortMode.RS422: _ENABLED | _MODE_RS422,
}
_MODE_BITS: Final = _ENABLED | _RX_DURING_TX | _MODE_RS422

Rs485 = tuple[int, ...]
"""The eight words of Linux' ``struct serial_rs485``: flags, two RTS delays in ms, addresses and padding."""


def attributes(before: list[Any], line: SerialPort, *, marks: bool = False) -> list[Any]:
    """Return the argument of ``tcsetattr`` for ``line`` on a raw tty, for which ``tcgetattr`` returned ``before``.

    A rate without a name in termios becomes BOTHER here; ``termios2`` sets the number. ``marks``: mark breaks (PARMRK).
    """
    flow = termios.IXON | termios.IXOFF if line.flow_control_xonxoff else 0
    # Not INPCK: it also marks bytes with a wrong parity, and a marked NUL would look like a break.
    iflag = flow | (termios.PARMRK if marks else 0)
    format_bits = termios.CSIZE | termios.CSTOPB | termios.PARENB | termios.PARODD | _CMSPAR | termios.CRTSCTS
    cflag = before[2] & ~(
        format_bits | _CBAUD | termios.HUPCL
    )  # HUPCL drops DTR at the close, which resets many boards
    cflag |= termios.CLOCAL | termios.CREAD | _SIZES[line.data_bits] | _PARITY_BITS[line.parity]
    cflag |= termios.CSTOPB if line.stop_bits == 2 else 0
    cflag |= termios.CRTSCTS if line.flow_control_rtscts else 0
    # A rate of 0 (B0) was found on a line that is hung up, and is being put back: leave the rate alone.
    speed = _SPEEDS.get(line.baud_rate, _BOTHER if line.baud_rate else before[5])
    cflag |= speed
    characters = list(before[6])
    # With VMIN 0 an idle read looks like the end of the file.
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, before[1] & ~termios.OPOST, cflag, before[3] & ~_COOKED, speed, speed, characters]


def is_custom(line: SerialPort) -> bool:
    """Return whether the line's rate has no name in termios, so that ``termios2`` has to set it."""
    return line.baud_rate not in _SPEEDS and line.baud_rate > 0


def termios2(attributes: list[Any], rate: int, discipline: int = 0) -> bytes:
    """Return the argument of TCSETS2 for ``attributes`` at any rate (Linux, ``struct termios2``)."""
    iflag, oflag, cflag, lflag, _ispeed, _ospeed, characters = attributes
    control = bytes(each if isinstance(each, int) else each[0] for each in characters)
    # The input has no rate of its own (CIBAUD 0): it follows the output's.
    flags = iflag, oflag, cflag & ~(_CBAUD | _CIBAUD) | _BOTHER, lflag
    return TERMIOS2.pack(*flags, discipline, control[:_TERMIOS2_CHARACTERS], rate, rate)


def rate_near(found: int, wanted: int) -> int:
    """Return ``wanted`` if the driver's nearest rate, ``found``, is within 2 % of it; otherwise ``found``.

    A clock's divisor seldom gives the exact rate, and a UART can follow one that is off by 2 % (Linux has the same
    bound in ``tty_termios_encode_baud_rate``).
    """
    return wanted if abs(found - wanted) * 50 <= wanted else found


def rs485(line: SerialPort, before: Rs485) -> Rs485:
    """Return the RS-485 control for ``line``: Linux' Documentation/driver-api/serial/serial-rs485.

    The polarity of RTS and the delays are the board's own (its device tree set them), so they stay as ``before``
    has them. A driver that does not know a flag drops it and says so when it is read back.
    """
    ours = _MODE_BITS | _TERMINATE_BUS
    flags = _MODES[line.port_mode] | (_TERMINATE_BUS if wanted(line).termination else 0)
    return (before[0] & ~ours | flags, *before[1:])


def wanted(line: SerialPort) -> SerialPort:
    """Return the settings that a device shows when ``line`` is in force: RS-232 has no termination and no bias."""
    balanced = line.port_mode.balanced
    return replace(line, termination=line.termination and balanced, bias=line.bias and balanced)


def found(attributes: list[Any], control: Rs485, *, bias: bool, custom_rate: int = 0) -> SerialPort:
    """Read the settings in force from what ``tcgetattr`` and ``TIOCGRS485`` returned.

    ``custom_rate`` is the rate from TCGETS2, for a rate that has no name in termios.
    """
    iflag, _oflag, cflag, _lflag, _ispeed, ospeed, _characters = attributes
    return SerialPort(
        port_mode=_mode(control[0]),
        baud_rate=_RATES.get(ospeed, custom_rate),
        data_bits=_DATA_BITS[cflag & termios.CSIZE],
        stop_bits=2 if cflag & termios.CSTOPB else 1,
        parity=_parity(cflag),
        flow_control_xonxoff=iflag & (termios.IXON | termios.IXOFF) == termios.IXON | termios.IXOFF,
        flow_control_rtscts=bool(cflag & termios.CRTSCTS),
        termination=control[0] & (_ENABLED | _TERMINATE_BUS) == _ENABLED | _TERMINATE_BUS,
        bias=bias,
    )


def _parity(cflag: int) -> Parity:
    if not cflag & termios.PARENB:
        return Parity.NONE
    return _TERMIOS_PARITY[cflag & (_CMSPAR | termios.PARODD)]


def _mode(flags: int) -> PortMode:
    if not flags & _ENABLED:
        return PortMode.RS232
    if flags & _MODE_RS422:
        return PortMode.RS422
    return PortMode.RS485_4 if flags & _RX_DURING_TX else PortMode.RS485


def differing(one: SerialPort, other: SerialPort) -> tuple[str, ...]:
    """Name the settings, as attributes, in which two lines differ."""
    return tuple(field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name))


def in_words(line: SerialPort) -> str:
    """Return the settings as people write them: ``RS232 9600 8N1``."""
    flow = " XON/XOFF" * line.flow_control_xonxoff + " RTS/CTS" * line.flow_control_rtscts
    return f"{line.port_mode.value} {line.baud_rate} {line.data_bits}{line.parity.value[0]}{line.stop_bits}{flow}"


def by_name(line: SerialPort) -> dict[str, object]:
    """Return the settings under the contract's names, as JSON can hold them."""
    values = {name: getattr(line, attribute) for attribute, name in NAMES.items()}
    return {name: value.value if isinstance(value, enum.Enum) else value for name, value in values.items()}


def bytes_per_second(line: SerialPort) -> float:
    """Return how many characters the line carries each way in a second, counting start, parity and stop bits."""
    start_bits = 1
    parity_bits = line.parity is not Parity.NONE
    return line.baud_rate / (start_bits + line.data_bits + parity_bits + line.stop_bits)


def line_time(line: SerialPort, characters: int) -> float:
    """Return how many seconds ``characters`` take on the line."""
    return characters / bytes_per_second(line)


def message_portion(line: SerialPort) -> int:
    """Return the bytes of a transfer that go out in one turn (``protocol.link.message_rules``)."""
    return message_rules.portion(bytes_per_second(line))


def message_limit(line: SerialPort) -> int:
    """Return the length up to which a piece of a byte stream is a message, and goes out whole."""
    return message_rules.message_limit(bytes_per_second(line))
