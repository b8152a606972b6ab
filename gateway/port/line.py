"""The line as its writers see it: Line, Hold (a turn on it) and Claim (what a writer brings to its turn).

Two lines exist: ``serial_line.arbiter.Arbiter`` writes to a tty of this CPU, ``remote_port.line.RemoteLine`` to that
of another. A writer cannot tell which one it has, except by what only a tty can do: modem lines, and breaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, final

from protocol.frozen import frozen
from protocol.link.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.port.control import Step
    from gateway.port.receive_buffer import ReceiveBuffer
    from gateway.port.rights import Right

__all__ = ["Claim", "Hold", "Line", "LineError", "ModemLines", "PortDown", "Reply", "settings_by_name"]


class LineError(Exception):
    """The line did not carry out a request beside the data; the message says which, why, and what to do."""


@final
@frozen
class ModemLines:
    """The modem lines; True is asserted. DTR and RTS are ours, the others the peer's."""

    dtr: bool
    rts: bool
    cts: bool
    dsr: bool
    ri: bool
    dcd: bool


_PARITIES: Final = {name[0]: name for name in ("None", "Odd", "Even", "Mark", "Space")}


def settings_by_name(
    rate: int, data_bits: int, parity: str, stop_bits: int, xon_xoff: bool, rts_cts: bool
) -> dict[str, object]:
    """Return settings of a line by the contract's names; ``parity`` is the first letter of the contract's word."""
    return {
        "BaudRate": rate,
        "DataBits": data_bits,
        "Parity": _PARITIES[parity],
        "StopBits": stop_bits,
        "FlowControlXONXOFF": xon_xoff,
        "FlowControlRTSCTS": rts_cts,
    }


@final
class PortDown(Exception):
    """The line cannot be written now; the message says why, and ``reason`` is the same for a link."""

    def __init__(self, why: str, reason: Reason = Reason.PORT_DOWN) -> None:
        super().__init__(why)
        self.reason = reason


@final
class Reply(NamedTuple):
    """The end of the reply that a turn waits for: whichever of the three comes first."""

    length: float
    """The number of bytes; ``math.inf`` for no limit."""
    until: bytes | None
    """The last bytes of the reply; None for no such mark."""
    seconds: float
    """Seconds after the message was written."""


class Asker(Protocol):
    """The one that a reply is for: a writer's claim, or one message of it that another CPU's line took."""

    @property
    def holder(self) -> str:
        """The name of the writer."""

    @property
    def party(self) -> object:
        """The readers that hear the reply are those with an equal party."""


class Claim(Protocol):
    """A message's writer as the line sees it: it says whether the message is still wanted, and counts its bytes."""

    @property
    def traffic(self) -> Right:
        """The class of traffic that the message belongs to."""

    @property
    def holder(self) -> str:
        """The name of the writer."""

    @property
    def party(self) -> object:
        """The readers that hear replies to the writer are those with an equal party."""

    @property
    def is_mixed(self) -> bool:
        """True where its messages are of several clients, as on a link: then none replaces another."""

    @property
    def age_limit(self) -> float:
        """Seconds after which a message that has not begun is stale."""

    def check(self, accepted: float, ahead: float = 0.0) -> None:
        """Raise if the session is over, or the message is older than its age limit.

        The line calls this when the turn begins, and again after each wait for the tty. ``accepted`` is when the
        message was read from its client, in seconds of trio's clock; ``math.inf`` for a message that has begun, which
        is finished however old it grows. ``ahead`` is the least number of seconds that it still has to wait.
        """

    def wrote(self, count: int) -> None:
        """Count ``count`` bytes that the kernel took, perhaps after the writer has left."""

    def lost(self, count: int, reason: Reason) -> None:
        """Count ``count`` bytes that were on their way and will never be written."""


class Hold(Protocol):
    """A writer's turn on the line: ``arbiter.LineTurn``, or a turn that the line's owner holds for us."""

    ended_early: bool
    """The line went on to a PTZ command before the reply was whole."""

    async def write(self, began: Callable[[], None]) -> None:
        """Write the message that it was taken for."""

    async def replied(self, heard: ReceiveBuffer, reply: Reply) -> None:
        """Wait until the reply is over."""

    def close(self) -> None:
        """Let the next writer in."""


class Line(Protocol):
    """The writing half of a device."""

    @property
    def is_ready(self) -> bool:
        """Return whether a message that comes now can begin at once."""

    def write_nowait(self, data: bytes, claim: Claim, accepted: float, *, whole: bool) -> int:
        """Begin a message, or a piece of a byte stream, if it need not wait; return how many of its bytes were taken.

        0: it has to wait, and nothing has happened. If only a part was taken, the line is kept for the rest, and
        ``write`` or ``transfer`` must go on with it, with that count as ``done``. Raises PortDown, or what the claim
        raises.
        """

    async def write(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> Asker | None:
        """Write one message whole; return the asker that its reply will name, None where that is the claim."""

    async def transfer(self, data: bytes, claim: Claim, accepted: float, done: int = 0) -> None:
        """Write a piece of a byte stream."""

    async def turn(self, claim: Claim, accepted: float, message: bytes, reply: Reply | None) -> Hold:
        """Take a turn to write ``message`` and hear its reply."""

    def supersede(self, claim: Claim, data: bytes) -> int:
        """Replace this writer's waiting request by ``data``; return the old one's size, 0 where none waits."""

    def begun(self, claim: Claim) -> int:
        """Return how many bytes of this writer are on their way to the tty."""

    def end(self, why: str) -> None:
        """Refuse all writers, also those that wait: the device is gone."""

    def modem_lines(self) -> ModemLines:
        """Return the lines as they are now, or as another CPU told them last. Raises LineError where there are none."""

    async def look_at_lines(self) -> ModemLines:
        """Return the lines as they are now: another CPU that has them is asked. Raises LineError or PortDown.

        How long that may take is the caller's to say.
        """

    async def control(self, steps: Sequence[Step], claim: Claim, accepted: float) -> None:
        """Carry out ``steps`` in one turn. Raises LineError, or as a turn."""

    def let_go(self, claim: Claim) -> None:
        """End what this writer's steps still hold: settings, a break."""
