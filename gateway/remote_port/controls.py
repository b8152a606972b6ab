"""Carry out what the clients of a linked CPU ask of the line beside their bytes, and tell that CPU how the line is.

Each of them that has asked for anything has a session of its own here, under the number that its CPU gave it. So what
one holds is its own, is not another's of the same link, and is put back when it leaves, when the link is over for good,
or when the right to it is withdrawn. The link's own handle is above theirs: with that they end.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.port.control import rights
from gateway.port.line import LineError, ModemLines, PortDown, settings_by_name
from gateway.port.rights import Right
from gateway.port.router import Forbidden
from protocol.link.control_frames import CONFIGURE, LINES, LineFormat, LineReport, Look
from protocol.link.reasons import Reason
from protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.port.router import Handle, Session
    from protocol.link.control_steps import ControlRequest
    from protocol.session.server import ServerSession

__all__ = ["CONTROLS", "LinkControls", "in_force", "modem_lines", "rights_of"]

CONTROLS: Final = Right.LINES | Right.CONFIGURE
"""The rights beside those to write."""
_MOST_CLIENTS: Final = 64
"""Clients of a link that may hold anything at once."""
_BURST: Final = 64
_PAUSE: Final = 0.02
"""Seconds in which a link may ask once more, when it has asked that often at once."""
_PATIENCE: Final = 1.5
"""Seconds for the CPU above to say how its modem lines are, where we do not have them."""

_MODEM: Final = ("dtr", "rts", "cts", "dsr", "ri", "dcd")
"""The lines in the order of their bits."""


@final
class LinkControls:
    """The controls of one link's ``session``, by its ``handle``; ``line`` is how it hears the port.

    ``flush`` has the link look at the session again.
    """

    def __init__(
        self, session: ServerSession, handle: Handle, line: Session, kin: object, flush: Callable[[], None]
    ) -> None:
        self._flush = flush
        self._session = session
        self._handle = handle
        self._line = line
        self._kin = kin
        self._may = Right(0)
        self._clients: dict[int, Session] = {}
        self._bucket = TokenBucket(_BURST, _PAUSE, trio.current_time())
        self._asked = self._answered = 0
        """The last question how the lines are, and the last that was answered."""
        self._looking = False
        """``answer`` runs for that."""

    def permit(self, may: Right) -> None:
        """Let the link's clients use the rights in ``may``; what they hold by one that goes is put back."""
        if self._may & ~may:
            for number in tuple(self._clients):
                self._leave(number, "the right to it was withdrawn")
        self._may = may & CONTROLS

    async def carry_out(self, request: ControlRequest, traffic: Right, accepted: float) -> Reason | None:
        """Do what a client asks, as traffic of that class; return why it was not done, None where it was.

        The session has been told how the line is then.
        """
        if not request.steps:
            self._leave(request.client, "it has left")
            return None
        needed = rights(request.steps)
        is_new = request.client not in self._clients
        if needed not in self._may or (is_new and len(self._clients) >= _MOST_CLIENTS):
            return Reason.FORBIDDEN
        await self._pause()
        if is_new:
            handle = self._handle.attenuate(
                self._may | traffic | Right.READ, f"{self._handle.holder} client {request.client}"
            )
            self._clients[request.client] = handle.open(traffic, kin=self._kin)
        client = self._clients[request.client]
        reason: Reason | None = Reason.FORBIDDEN  # unless it comes to an end of its own
        with trio.CancelScope() as client.scope:
            try:
                await client.control(*request.steps, accepted=accepted)
                reason = None
            except LineError:
                reason = Reason.INCOMPLETE
            except PortDown as exc:
                reason = exc.reason
            except Forbidden:
                reason = Reason.FORBIDDEN
            self.report()
        return reason

    async def _pause(self) -> None:
        """Wait until the link may have the line asked or set once more."""
        await trio.sleep(self._bucket.wait(trio.current_time()))
        self._bucket.take(trio.current_time())

    def _leave(self, number: int, why: str) -> None:
        if (client := self._clients.pop(number, None)) is not None:
            client.end(why)
            client.close()

    def look(self, look: Look) -> None:
        """Have the modem lines looked at while somebody at the CPU below wants to know of them; see ``answer``."""
        self._line.watch_lines(look.wanted)
        if look.wanted:
            self._asked = look.question

    async def answer(self) -> None:
        """Look at the lines, where the client has asked; all that it asks meanwhile has one more look."""
        if self._looking:
            return
        self._looking = True
        try:
            while self._asked != self._answered:
                await self._pause()
                asked = self._asked
                with trio.move_on_after(_PATIENCE) as patience, contextlib.suppress(LineError, PortDown):
                    await self._line.look_at_lines()
                if not patience.cancelled_caught:
                    self._answered = asked
                    self.report()
                    self._flush()
                elif asked == self._asked:
                    return  # nobody can say how they are, and the client has patience of its own
        finally:
            self._looking = False

    def report(self) -> None:
        """Tell the client how the line is, where that is news to it."""
        state = self._line.state.value
        lines = state.modem_lines
        with contextlib.suppress(LineError, PortDown):
            lines = self._line.modem_lines()
        may = LINES * (Right.LINES in self._may) | CONFIGURE * (Right.CONFIGURE in self._may)
        modem = None if lines is None else sum(1 << bit for bit, name in enumerate(_MODEM) if getattr(lines, name))
        known = state.known_settings
        self._session.report(
            LineReport(
                may, _format(known) if known else None, modem, state.breaks % 2**32, state.line_errors, self._answered
            )
        )


def rights_of(report: LineReport) -> Right:
    """Return what a report lets us ask."""
    may = Right.LINES if report.rights & LINES else Right(0)
    return may | (Right.CONFIGURE if report.rights & CONFIGURE else Right(0))


def modem_lines(report: LineReport) -> ModemLines | None:
    """Return the modem lines as a report tells them."""
    modem = report.modem
    return None if modem is None else ModemLines(*(bool(modem >> bit & 1) for bit in range(len(_MODEM))))


def in_force(report: LineReport) -> dict[str, object] | None:
    """Return the settings as a report tells them, by the contract's names."""
    return None if report.format is None else settings_by_name(*report.format)


def _format(known: Mapping[str, object]) -> LineFormat:
    rate, data_bits, stop_bits = (int(str(known[name])) for name in ("BaudRate", "DataBits", "StopBits"))
    flow = bool(known["FlowControlXONXOFF"]), bool(known["FlowControlRTSCTS"])
    return LineFormat(rate, data_bits, str(known["Parity"])[0], stop_bits, *flow)
