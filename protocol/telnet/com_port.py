"""The sub-commands of the COM port option, each judged where it is read (RFC 2217, section 3).

A client waits for the answer to each, and gives up or hangs where there is none. So a sub-command with a value that
makes no sense, or of a wrong length, is one that asks what is in force (``Request.value`` None): it is answered too.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, final

from protocol.telnet.decoder import subnegotiation
from protocol.telnet.options import Option

__all__ = ["ANSWER", "Control", "Parity", "Purge", "Request", "StopBits", "SubCommand", "encoded", "judged"]

ANSWER: Final = 100
"""The number of an answer is that of its sub-command and this."""


@final
class SubCommand(enum.IntEnum):
    """The sub-commands, as a client numbers them."""

    SIGNATURE = 0
    RATE = 1
    DATA_BITS = 2
    PARITY = 3
    STOP_BITS = 4
    CONTROL = 5
    LINE_STATE = 6
    MODEM_STATE = 7
    SUSPEND = 8
    RESUME = 9
    LINE_MASK = 10
    MODEM_MASK = 11
    PURGE = 12


@final
class Parity(enum.IntEnum):
    """SET-PARITY."""

    NONE = 1
    ODD = 2
    EVEN = 3
    MARK = 4
    SPACE = 5


@final
class StopBits(enum.IntEnum):
    """SET-STOPSIZE."""

    ONE = 1
    TWO = 2
    ONE_AND_A_HALF = 3


@final
class Control(enum.IntEnum):
    """SET-CONTROL: flow control, break, DTR and RTS, each with a question for what is in force."""

    ASK_FLOW = 0
    NO_FLOW = 1
    XON_XOFF = 2
    RTS_CTS = 3
    ASK_BREAK = 4
    BREAK_ON = 5
    BREAK_OFF = 6
    ASK_DTR = 7
    DTR_ON = 8
    DTR_OFF = 9
    ASK_RTS = 10
    RTS_ON = 11
    RTS_OFF = 12
    ASK_FLOW_IN = 13
    NO_FLOW_IN = 14
    XON_XOFF_IN = 15
    RTS_CTS_IN = 16
    DCD_FLOW = 17
    DTR_FLOW_IN = 18
    DSR_FLOW = 19


@final
class Purge(enum.IntEnum):
    """PURGE-DATA: the side that is thrown away, as the server sees the line."""

    RECEIVED = 1
    TO_SEND = 2
    BOTH = 3


_DATA_BITS: Final = frozenset({5, 6, 7, 8})
_ALLOWED: Final = {
    SubCommand.DATA_BITS: _DATA_BITS,
    SubCommand.PARITY: frozenset(map(int, Parity)),
    SubCommand.STOP_BITS: frozenset(map(int, StopBits)),
    SubCommand.CONTROL: frozenset(map(int, Control)),
    SubCommand.PURGE: frozenset(map(int, Purge)),
    SubCommand.LINE_MASK: frozenset(range(256)),
    SubCommand.MODEM_MASK: frozenset(range(256)),
}
"""The values of one byte that a client may set."""

_RATE_LENGTH: Final = 4


@final
class Request(NamedTuple):
    """A sub-command; ``value`` is what to set, None where it asks for what is in force, or makes no sense.

    A rate is 1 to 2**32 - 1, data bits are 5 to 8, a mask is any byte; the others are of the enumerations here.
    """

    command: SubCommand
    value: int | None = None


def judged(payload: bytes) -> Request | None:
    """Read a sub-negotiation of COM_PORT; None where its sub-command is none of a client's."""
    if not payload or payload[0] > SubCommand.PURGE:
        return None
    command, rest = SubCommand(payload[0]), payload[1:]
    if command is SubCommand.RATE:
        value = int.from_bytes(rest, "big") if len(rest) == _RATE_LENGTH else 0
        return Request(command, value or None)
    value = rest[0] if len(rest) == 1 else -1
    return Request(command, value if value in _ALLOWED.get(command, frozenset()) else None)


def encoded(command: SubCommand, value: int | bytes) -> bytes:
    """Return the answer to ``command``, ready to be sent: a number in the command's own width, or a text."""
    if isinstance(value, int):
        value = value.to_bytes(_RATE_LENGTH if command is SubCommand.RATE else 1, "big")
    return subnegotiation(Option.COM_PORT, bytes([ANSWER + command]) + value)
