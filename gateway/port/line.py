"""What a bus writes to, and what a writer brings: a line, a turn on it, and a claim.

A line is the tty of this CPU (``turns``) or that of another (``remote_line``); nothing here knows which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from protocol.link.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.port.receive_buffer import ReceiveBuffer
    from gateway.port.rights import Right

__all__ = ["Claim", "Hold", "Line", "LineError", "ModemLines", "PortDown", "Reply"]


class LineError(Exception):
    """The line did not do what was asked beside the data; the message says what, why, and what would be right."""


@final
@dataclass(frozen=True, slots=True)
class ModemLines:
    """The lines beside the data; true is asserted. DTR and RTS are ours, the others the peer's."""

    dtr: bool
    rts: bool
    cts: bool
    dsr: bool
    ri: bool
    dcd: bool


@final
class PortDown(Exception):
    """The line cannot be written now; the message says why, and ``reason`` in the terms of remote ports."""

    def __init__(self, why: str, reason: Reason = Reason.PORT_DOWN) -> None:
        super().__init__(why)
        self.reason = reason


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """What ends a turn: so many bytes heard, or these bytes among them, or so many seconds."""

    length: float
    until: bytes | None
    seconds: float


class Claim(Protocol):
    """A writer's word that its message is still wanted."""

    @property
    def traffic(self) -> Right:
        """The class of traffic that the message is of."""

    def check(self, accepted: float) -> None:
        """Raise what ends the write: the session is over, or the message is older than its age limit.

        Called synchronously when the turn begins, and after each wait for the tty. ``accepted`` is when the message
        was read from its client, in seconds of trio's clock.
        """

    def wrote(self, count: int) -> None:
        """Count ``count`` bytes of this writer that the kernel took, maybe after the writer has left."""

    def lost(self, count: int, reason: Reason) -> None:
        """Count ``count`` bytes that were on their way and will not be written."""


class Hold(Protocol):
    """A writer's turn on the line: ``turns.Turn``, or one asked for from afar."""

    async def write(self, began: Callable[[], None]) -> None:
        """Write the message that it was taken for."""

    async def replied(self, heard: ReceiveBuffer, reply: Reply) -> None:
        """Wait until the reply is over."""

    async def send_break(self, seconds: float) -> None:
        """Hold the line in break for ``seconds``. Raises LineError."""

    def close(self) -> None:
        """Let the next writer in."""


class Line(Protocol):
    """The writing half of a device: ``turns.Arbiter`` of a tty, or ``remote_line.RemoteLine``."""

    async def write(self, data: bytes, claim: Claim, accepted: float) -> None:
        """Write one message whole."""

    async def transfer(self, data: bytes, claim: Claim, accepted: float) -> None:
        """Write a piece of a byte stream."""

    async def turn(self, claim: Claim, accepted: float, message: bytes, reply: Reply | None) -> Hold:
        """Take a turn to write ``message``, and to hear ``reply``."""

    def begun(self, claim: Claim) -> int:
        """Return how many bytes of this writer are on their way to the tty."""

    def end(self, why: str) -> None:
        """Refuse everybody: the device is gone."""

    def modem_lines(self) -> ModemLines:
        """Return the lines as they are now. Raises LineError where they cannot be read from here."""

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        """Assert or release DTR and RTS; None leaves one as it is. Raises LineError."""
