"""The steps of a request to a line beside its bytes, and the request as a link carries it to the line's owner.

Like ``message_rules`` this imports no other part of the wire, so that a port can use the steps without loading it.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, TypeAlias, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "LONGEST_BREAK",
    "LONGEST_PAUSES",
    "MAX_STEPS",
    "SETTINGS",
    "Break",
    "Configure",
    "ControlRequest",
    "HoldBreak",
    "Pause",
    "Purge",
    "SetLines",
    "Step",
    "checked",
]

LONGEST_BREAK: Final = 5.0
"""The longest break in seconds, also for a break that another request should end."""
LONGEST_PAUSES: Final = 2.0
"""The most seconds for all pauses of a request together, because all other clients wait for them."""
MAX_STEPS: Final = 16
"""The most steps of a request."""


@final
@frozen
class Configure:
    """Set the line differently from Serial.Ser#, while this session lasts.

    ``values`` are texts by the contract's names, as param.cgi takes them: ``{"BaudRate": "19200"}``. A setting that the
    rules or the driver refuse stays as it is, and so do all while another session holds settings. The caller must look
    at what is in force.
    """

    values: tuple[tuple[str, str], ...]


@final
@frozen
class SetLines:
    """Assert or release DTR and RTS; None leaves one as it is."""

    dtr: bool | None = None
    rts: bool | None = None


@final
@frozen
class Break:
    """Hold the line in break for ``seconds``, at most LONGEST_BREAK."""

    seconds: float


@final
@frozen
class HoldBreak:
    """Begin a break, or end it. It ends by itself after LONGEST_BREAK, and with the session that began it."""

    on: bool


@final
@frozen
class Purge:
    """Throw away what waits in the driver to be sent; skipped while the line has other writing clients."""


@final
@frozen
class Pause:
    """Pause for ``seconds``; all pauses of a request are at most LONGEST_PAUSES together."""

    seconds: float


Step: TypeAlias = Configure | SetLines | Break | HoldBreak | Purge | Pause

SETTINGS: Final = (
    "BaudRate",
    "DataBits",
    "Parity",
    "StopBits",
    "FlowControlXONXOFF",
    "FlowControlRTSCTS",
)
"""What a client at another CPU may hold, by the contract's names, in the order of their numbers from 1.

The mode of the wiring (RS-232, RS-485) is not among them, because a wrong one stops the bus for everybody.
"""

_LONGEST_VALUE: Final = 16
_NUMBER: Final = struct.Struct("!I")
_MILLISECONDS: Final = struct.Struct("!H")
_DTR, _DTR_ON, _RTS, _RTS_ON = (1 << bit for bit in range(4))


@final
class _Kind(enum.IntEnum):
    CONFIGURE = 1
    SET_LINES = 2
    BREAK = 3
    HOLD_BREAK = 4
    PURGE = 5
    PAUSE = 6


def checked(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return the steps. Raises ValueError where there are too many, or a break or the pauses are too long."""
    if len(steps) > MAX_STEPS:
        raise ValueError(f"a request has at most {MAX_STEPS} steps")
    if any(not 0 < step.seconds <= LONGEST_BREAK for step in steps if isinstance(step, Break)):
        raise ValueError(f"a break lasts at most {LONGEST_BREAK:g} s")
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    if min(pauses, default=0) < 0 or round(sum(pauses), 6) > LONGEST_PAUSES:
        raise ValueError(f"the pauses of a request last at most {LONGEST_PAUSES:g} s together")
    return tuple(steps)


@final
@frozen
class ControlRequest:
    """A client's request for one turn of the line; without steps the client leaves, and all its holds end.

    ``client`` is the number that its CPU gave it for this session (u32).
    """

    client: int
    steps: tuple[Step, ...] = ()

    def encode(self) -> bytes:
        """Return the request's bytes, the whole of a message.

        Times are cut to milliseconds, at least one. A value that is too long for any, and a setting that is none of
        SETTINGS, is left out: the owner would refuse it as silently.
        """
        return _NUMBER.pack(self.client) + b"".join(map(_encoded, self.steps))

    @classmethod
    def decode(cls, data: bytes) -> ControlRequest:
        """Read a request. Raises ValueError, IndexError or struct.error where it is none, or in another form."""
        (client,) = _NUMBER.unpack_from(data)
        steps: list[Step] = []
        at = _NUMBER.size
        while at < len(data):
            step, at = _decoded(data, at)
            steps.append(step)
        request = cls(client, checked(steps))
        if request.encode() != data:
            raise ValueError("a request in another form than its one")
        return request


def _encoded(step: Step) -> bytes:
    match step:
        case Configure():
            values = [
                bytes([SETTINGS.index(name) + 1, len(value)]) + value.encode("ascii")
                for name, value in step.values
                if name in SETTINGS and len(value) <= _LONGEST_VALUE and _is_plain(value)
            ]
            return bytes([_Kind.CONFIGURE, len(values)]) + b"".join(values)
        case SetLines():
            dtr = 0 if step.dtr is None else _DTR | _DTR_ON * step.dtr
            rts = 0 if step.rts is None else _RTS | _RTS_ON * step.rts
            return bytes([_Kind.SET_LINES, dtr | rts])
        case Break():
            return bytes([_Kind.BREAK]) + _MILLISECONDS.pack(max(1, round(step.seconds * 1000)))
        case HoldBreak():
            return bytes([_Kind.HOLD_BREAK, step.on])
        case Purge():
            return bytes([_Kind.PURGE])
        case _:
            return bytes([_Kind.PAUSE]) + _MILLISECONDS.pack(round(step.seconds * 1000))


def _decoded(data: bytes, at: int) -> tuple[Step, int]:
    """Read the step at ``at``; return it and the offset after it. Raises ValueError, IndexError or struct.error."""
    kind, at = data[at], at + 1
    match kind:
        case _Kind.CONFIGURE:
            values = []
            count, at = data[at], at + 1
            for _ in range(count):
                number, length = data[at], data[at + 1]
                value = data[at + 2 : at + 2 + length].decode("ascii")
                if not 1 <= number <= len(SETTINGS):
                    raise ValueError(f"there is no setting of number {number}")
                values.append((SETTINGS[number - 1], value))
                at += 2 + length
            if len({name for name, _ in values}) < len(values):
                raise ValueError("a setting twice in one step")
            return Configure(tuple(values)), at
        case _Kind.SET_LINES:
            bits = data[at]
            dtr = bool(bits & _DTR_ON) if bits & _DTR else None
            rts = bool(bits & _RTS_ON) if bits & _RTS else None
            return SetLines(dtr, rts), at + 1
        case _Kind.BREAK:
            return Break(_MILLISECONDS.unpack_from(data, at)[0] / 1000), at + 2
        case _Kind.HOLD_BREAK:
            return HoldBreak(bool(data[at])), at + 1
        case _Kind.PURGE:
            return Purge(), at
        case _Kind.PAUSE:
            return Pause(_MILLISECONDS.unpack_from(data, at)[0] / 1000), at + 2
    raise ValueError(f"there is no step of kind {kind}")


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable()
