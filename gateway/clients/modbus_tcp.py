"""Serve Modbus TCP on a line of Modbus RTU: each request is one turn of the line, and its reply the answer.

A client's requests are asked one after the other, in their order. One of these events ends each request; the last one
bounds it:

    The port refuses it: it is down, or the request waited for too long.
    Its bytes were lost on their way to the CPU that owns the line.
    Its turn has ended. What the line said in that turn is the reply, or is none.
    ``_patience`` is over, because the end of the turn was lost with a link.

A reply is never taken for that to another request: only what is heard within the request's own turn counts, and it must
have the same unit and function and a right CRC. The exceptions that this gateway itself answers with are in
``protocol.sharing.modbus_tcp``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.clients.relay import until_gone, watch_connection, watch_idle
from gateway.port.line import PortDown
from gateway.port.router import Revoked
from protocol.link.reasons import Reason
from protocol.sharing.exchange import Ending
from protocol.sharing.modbus_rtu import MAX_FRAME
from protocol.sharing.modbus_tcp import MbapDecoder, ModbusException

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.clients.streams import Stream
    from gateway.port.bus import PortStatus
    from gateway.port.line import Asker
    from gateway.port.router import Session
    from gateway.tasks.watch import Cell
    from protocol.sharing.modbus_tcp import TcpRequest
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["converse"]

_BITS: Final = 11
"""Bits of a character, at most."""
_SLOWEST: Final = 300
"""Bits a second of the slowest line, where the rate is not known."""
_LINKS: Final = 2.0
"""Seconds that the links of a chain may add to a turn, at most."""


async def converse(stream: Stream, session: Session, idle_limit: Cell[int], units: Collection[int] = ()) -> None:
    """Answer a client's requests until it leaves, the session is ended, or it was idle for ``idle_limit`` seconds.

    Requests to any unit but these ``units`` are answered with NO_PATH; empty means all units. Closes the session and
    the stream.
    """
    client = _Client(stream, session, units)
    session.listen(client)
    session.listen_for_turns(client.turned)
    session.outcome = client.settled
    try:
        with session.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_idle, session, idle_limit)
                if stream.connection is not None:
                    nursery.start_soon(watch_connection, session, stream.connection)
                with session.pumping:
                    await session.woken()
                    await until_gone(session, client.run)
                nursery.cancel_scope.cancel()
    finally:
        session.close()
        stream.close()


@final
class _Client:
    """One Modbus TCP client; the Reader of its session."""

    def __init__(self, stream: Stream, session: Session, units: Collection[int]) -> None:
        self._stream = stream
        self._session = session
        self._units = units
        self.size = 0
        """As a Reader: nothing waits for the client here."""
        self.sent = 0
        """As a Reader: bytes of answers that the client took."""
        self._asked: Asker | None = None
        """The name that another CPU's line gave to the request being asked; None on a line of our own."""
        self._in_turn = False
        """True from the beginning of our request's turn to its end."""
        self._heard = bytearray()
        """What the line said in that turn."""
        self._ending: Ending | None = None
        self._lost: Reason | None = None
        self._over = trio.Event()
        """Set when either of the two is known."""
        self._refused = ""
        """The last reason why the port could not be used; it is logged once."""

    async def run(self) -> None:
        """Answer request by request until the client ends its sending. Raises OSError, as the stream."""
        decoder = MbapDecoder()
        while decoder.broken is None:
            data = await self._stream.receive()
            if not data:
                return
            accepted = trio.current_time()
            for request in decoder.feed(data):
                try:
                    answer = await self._answer(request, accepted)
                except Revoked:
                    return
                while answer:
                    took = await self._stream.send(answer)
                    self.sent += took
                    answer = answer[took:]
        self._session.end(f"it does not speak Modbus TCP: {decoder.broken}")

    # -- a request

    async def _answer(self, request: TcpRequest, accepted: float) -> bytes:
        """Ask the line, and return the answer; it is empty for a broadcast. Raises Revoked."""
        fault = request.fault
        if fault is None and self._units and request.unit not in self._units:
            fault = ModbusException.NO_PATH
        if fault is not None:
            return request.refuse(fault)
        state = self._session.state.value
        rule = state.turn_rule
        if (why := state.down or _unfit(state)) is not None or rule is None:
            self._log_once(why or "")
            return request.refuse(ModbusException.NO_PATH)
        return await self._ask(request, accepted, _patience(rule, state.rate))

    async def _ask(self, request: TcpRequest, accepted: float, patience: float) -> bytes:
        self._asked = self._ending = self._lost = None
        self._heard.clear()
        self._over = trio.Event()
        try:
            self._asked = await self._session.write(request.rtu, accepted)
            with trio.move_on_after(patience):
                await self._over.wait()
        except PortDown as exc:
            self._log_once(str(exc))
            return request.refuse(_exception(exc.reason))
        if self._lost is not None:
            return request.refuse(_exception(self._lost))
        if self._ending is Ending.NONE:
            return b""
        if self._ending is Ending.ABORTED:
            return request.refuse(ModbusException.NO_PATH)
        self._refused = ""
        return request.answer(bytes(self._heard))

    def _log_once(self, why: str) -> None:
        if why != self._refused:
            what = "%s: its requests are refused: %s"
            self._session.events.log(logging.WARNING, "writes refused", what, self._session.holder, why)
        self._refused = why

    # -- what the port tells

    def deliver(self, data: bytes) -> None:
        """As a Reader: keep what the line says in our own turn."""
        if self._in_turn:
            self._heard += data

    def turned(self, asker: Asker | None, ending: Ending | None) -> None:
        """Note that a turn begins or ends."""
        if ending is None:
            self._in_turn = asker is not None and asker is (self._asked or self._session)
        elif self._in_turn:
            self._in_turn = False
            self._ending = ending
            self._over.set()

    def settled(self, _: int, lost: Reason | None) -> None:
        """Note the outcome of the bytes of our request."""
        if lost is not None:
            self._lost = lost
            self._over.set()


def _unfit(state: PortStatus) -> str | None:
    """Return why the line cannot be asked by Modbus TCP; None where it can."""
    rule = state.turn_rule
    if rule is None or rule.reply != "modbus-rtu" or rule.reply_to != "sender":
        return 'its line has no turns of Modbus RTU: turn.reply = "modbus-rtu", whose replies go to the sender'
    return None


def _exception(reason: Reason) -> ModbusException:
    """Return the exception for a refusal of the port: it tells the master whether trying again later makes sense."""
    return ModbusException.BUSY if reason is Reason.TOO_OLD else ModbusException.NO_PATH


def _patience(rule: TurnRule, rate: int) -> float:
    """Return the seconds after which the end of a request's turn will not be reported any more."""
    character = _BITS / (rate or _SLOWEST)
    # The quarantine after a turn without a reply lasts for one more timeout.
    return rule.max_wait + rule.longest_course(MAX_FRAME, character) + rule.reply_timeout + _LINKS
