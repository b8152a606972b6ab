"""The frames that open, watch and close a session, and tell the state of its port.

``decode`` reads what ``parts`` wrote, and refuses every other form; see ``frames``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias, final

from protocol.frozen import frozen
from protocol.link.header import LIMIT, Parts
from protocol.link.port_state import PortState
from protocol.link.reasons import CloseReason

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NOWHERE", "Close", "Open", "Opened", "Ping", "Pong", "Port", "Position", "Positions"]

_OPEN: Final = struct.Struct("!16sQI8Q")
_OPENED: Final = struct.Struct("!16sII8Q")
_CLOSE: Final = struct.Struct("!B8Q")
_CLOCK: Final = struct.Struct("!I")
_CLOCKS: Final = struct.Struct("!II")


@final
class Position(NamedTuple):
    """The progress of a stream, as one side knows it, in bytes from its start.

    ``reached``: received, or, by the side that sends the stream, sent. ``settled``: handed on or lost for
    good, or, by the side that sends it, known to be so.
    """

    reached: int
    settled: int


Positions: TypeAlias = tuple[Position, Position, Position, Position]
"""A Position for each Channel, in its order."""

NOWHERE: Final[Positions] = (Position(0, 0),) * 4


def _positions(numbers: Sequence[int]) -> Positions:
    """Read the positions of all channels. Raises ValueError."""
    if max(numbers) >= LIMIT:
        raise ValueError(f"position {max(numbers)}: it must be below 2^62")
    line, ptz, tcp, cgi = (Position(*numbers[at : at + 2]) for at in range(0, 8, 2))
    return line, ptz, tcp, cgi


def _numbers(positions: Positions) -> list[int]:
    return [number for position in positions for number in position]


@final
@frozen
class Close:
    """The connection ends, and with it the session (but see CloseReason); ``last`` is used by STALE alone."""

    code: ClassVar[int] = 4
    reason: CloseReason
    positions: Positions = NOWHERE
    last: int = 0

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_CLOSE.pack(self.reason, *_numbers(self.positions)), offset=self.last)

    @classmethod
    def decode(cls, parts: Parts) -> Close:
        """Read the frame back. Raises ValueError or struct.error."""
        reason, *numbers = _CLOSE.unpack(parts.payload)
        if parts.offset and reason != CloseReason.STALE:
            raise ValueError("only STALE names a connection number")
        return cls(CloseReason(reason), _positions(numbers), parts.offset)


@final
@frozen
class Open:
    """A to B: the session to go on with (16 zero bytes: none), the connection's number, A's clock."""

    code: ClassVar[int] = 5
    session: bytes
    number: int
    clock: int
    positions: Positions

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_OPEN.pack(self.session, self.number, self.clock, *_numbers(self.positions)))

    @classmethod
    def decode(cls, parts: Parts) -> Open:
        """Read the frame back. Raises ValueError or struct.error."""
        session, number, clock, *numbers = _OPEN.unpack(parts.payload)
        if number >= LIMIT:
            raise ValueError(f"connection number {number}: it must be below 2^62")
        return cls(session, number, clock, _positions(numbers))


@final
@frozen
class Opened:
    """B to A: the session that goes on from here; another id than OPEN asked for means a new one.

    ``echo`` is OPEN's clock, ``clock`` B's, which A answers by a PONG before anything else.
    """

    code: ClassVar[int] = 6
    session: bytes
    echo: int
    clock: int
    positions: Positions
    port: PortState

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        fixed = _OPENED.pack(self.session, self.echo, self.clock, *_numbers(self.positions))
        return Parts(fixed + self.port.encode())

    @classmethod
    def decode(cls, parts: Parts) -> Opened:
        """Read the frame back. Raises ValueError, IndexError or struct.error."""
        session, echo, clock, *numbers = _OPENED.unpack_from(parts.payload)
        port = PortState.decode(parts.payload[_OPENED.size :])
        return cls(session, echo, clock, _positions(numbers), port)


@final
@frozen
class Port:
    """B to A: the port's state, at every change of it."""

    code: ClassVar[int] = 12
    state: PortState

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(self.state.encode())

    @classmethod
    def decode(cls, parts: Parts) -> Port:
        """Read the frame back. Raises ValueError, IndexError or struct.error."""
        return cls(PortState.decode(parts.payload))


@final
@frozen
class Ping:
    """The question whether the peer is there. ``clock`` is the sender's, in milliseconds (u32)."""

    code: ClassVar[int] = 14
    clock: int

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_CLOCK.pack(self.clock))

    @classmethod
    def decode(cls, parts: Parts) -> Ping:
        """Read the frame back. Raises struct.error."""
        return cls(*_CLOCK.unpack(parts.payload))


@final
@frozen
class Pong:
    """The answer to a PING (or to OPENED): its clock, and the answerer's."""

    code: ClassVar[int] = 15
    echo: int
    clock: int

    def parts(self) -> Parts:
        """Return the frame's own part of the wire: payload, channel, flags and offset."""
        return Parts(_CLOCKS.pack(self.echo, self.clock))

    @classmethod
    def decode(cls, parts: Parts) -> Pong:
        """Read the frame back. Raises struct.error."""
        return cls(*_CLOCKS.unpack(parts.payload))
