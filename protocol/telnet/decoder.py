"""Cut what a telnet peer sends into data, commands, negotiations and sub-negotiations (RFC 854, RFC 855).

Any bytes are telnet: there is nothing to refuse, only much to pass over. What is kept between two pieces is one
sub-negotiation at the most, of MAX_SUBNEGOTIATION bytes.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias, final

__all__ = [
    "IAC",
    "MAX_SUBNEGOTIATION",
    "Code",
    "Command",
    "Cut",
    "Data",
    "Decoder",
    "Negotiation",
    "Subnegotiation",
    "escaped",
    "subnegotiation",
]

IAC: Final = 0xFF
"""Interpret as command; as data it is sent twice."""

MAX_SUBNEGOTIATION: Final = 256
"""The bytes that are kept of a sub-negotiation; those behind them are passed over up to its end."""

_CR: Final = 0x0D
_BINARY: Final = 0
"""The option that makes a carriage return a byte like any other (RFC 856)."""


@final
class Code(enum.IntEnum):
    """The commands of RFC 854 that mean something here; all others are passed over."""

    SE = 240
    BREAK = 243
    ARE_YOU_THERE = 246
    SB = 250
    WILL = 251
    WONT = 252
    DO = 253
    DONT = 254


@final
class Data(NamedTuple):
    """Bytes of the connection, not empty, with each IAC in them once."""

    data: bytes


@final
class Command(NamedTuple):
    """A command without an option; ``code`` may be any byte."""

    code: int


@final
class Negotiation(NamedTuple):
    """WILL, WONT, DO or DONT with its option, any byte."""

    verb: Code
    option: int


@final
class Subnegotiation(NamedTuple):
    """The parameters of an option, at most MAX_SUBNEGOTIATION bytes of them."""

    option: int
    payload: bytes


Cut: TypeAlias = Data | Command | Negotiation | Subnegotiation


def escaped(data: bytes) -> bytes:
    """Return ``data`` as it is sent: each IAC twice. That is all that binary telnet changes."""
    return data.replace(b"\xff", b"\xff\xff") if IAC in data else data


def subnegotiation(option: int, payload: bytes) -> bytes:
    """Return a sub-negotiation as it is sent."""
    return bytes([IAC, Code.SB, option]) + escaped(payload) + bytes([IAC, Code.SE])


@final
class _State(enum.Enum):
    """The place in the stream: the byte that comes next is ..."""

    DATA = enum.auto()
    """data, or IAC"""
    COMMAND = enum.auto()
    """what follows an IAC"""
    OPTION = enum.auto()
    """the option of a negotiation"""
    SUB_OPTION = enum.auto()
    """the option of a sub-negotiation"""
    SUB = enum.auto()
    """within a sub-negotiation"""
    SUB_COMMAND = enum.auto()
    """what follows an IAC within one"""


@final
class Decoder:
    """Cuts a stream: ``feed`` it with what was read, in any pieces; the cuts are the same for all of them.

    But for Data, which comes as it can be had: at most one between two others, for each piece.
    """

    def __init__(self) -> None:
        self._state = _State.DATA
        self._verb = Code.WILL
        self._option = 0
        self._payload = bytearray()
        self._binary = True
        """False once the peer has refused BINARY: then the NUL behind a carriage return is none of the data."""
        self._after_cr = False

    def feed(self, data: bytes) -> list[Cut]:
        """Return what ``data`` completes."""
        cuts: list[Cut] = []
        plain = bytearray()
        at = 0
        while at < len(data):
            if self._state in (_State.DATA, _State.SUB):
                # In one stride up to the next IAC: this is the way of every byte.
                end = data.find(IAC, at)
                end = len(data) if end < 0 else end
                if self._state is _State.DATA:
                    plain += self._text(data[at:end])
                    after = _State.COMMAND
                else:
                    self._keep(data[at:end])
                    after = _State.SUB_COMMAND
                at = end + 1
                if end < len(data):
                    self._state = after
            else:
                byte = data[at]
                at += 1
                if self._state is _State.COMMAND and byte == IAC:
                    plain.append(IAC)
                    self._after_cr = False
                    self._state = _State.DATA
                elif (cut := self._step(byte)) is not None:
                    if plain:
                        cuts.append(Data(bytes(plain)))
                        plain.clear()
                    cuts.append(cut)
        if plain:
            cuts.append(Data(bytes(plain)))
        return cuts

    def _text(self, data: bytes) -> bytes:
        if self._binary or not data:
            return data
        rest = data[1:] if self._after_cr and not data[0] else data
        self._after_cr = data[-1] == _CR
        return rest.replace(b"\r\0", b"\r")

    def _step(self, byte: int) -> Cut | None:
        """Take a byte that is no data, and return what it completes."""
        cut: Cut | None = None
        match self._state:
            case _State.COMMAND:
                cut = self._command(byte)
            case _State.OPTION:
                cut = self._negotiation(byte)
            case _State.SUB_OPTION:
                self._option = byte
                self._state = _State.SUB
            case _:
                cut = self._sub_command(byte)
        return cut

    def _command(self, byte: int) -> Command | None:
        match byte:
            case Code.WILL | Code.WONT | Code.DO | Code.DONT:
                self._verb = Code(byte)
                self._state = _State.OPTION
            case Code.SB:
                self._payload.clear()
                self._state = _State.SUB_OPTION
            case _:
                self._state = _State.DATA
                return Command(byte)
        return None

    def _negotiation(self, option: int) -> Negotiation:
        if option == _BINARY and self._verb in {Code.WILL, Code.WONT}:
            # Here, for it counts from the very next byte on.
            self._binary, self._after_cr = self._verb is Code.WILL, False
        self._state = _State.DATA
        return Negotiation(self._verb, option)

    def _sub_command(self, byte: int) -> Cut | None:
        if byte == IAC:
            self._keep(b"\xff")
            self._state = _State.SUB
            return None
        if byte == Code.SE:
            self._state = _State.DATA
            return Subnegotiation(self._option, bytes(self._payload))
        # Its end is missing: what was begun is no sub-negotiation, and the command is one by itself.
        return self._command(byte)

    def _keep(self, data: bytes) -> None:
        self._payload += data[: MAX_SUBNEGOTIATION - len(self._payload)]
