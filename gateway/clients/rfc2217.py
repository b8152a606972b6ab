"""Serve RFC 2217 clients: telnet with the COM port option, over the same relay as every other client's bytes.

``relay`` is given a stream that speaks telnet underneath. ``receive`` returns the client's data, and carries out its
requests in their place among the data: a request begins only when the line has taken the data before it, and nothing
after it is read until it is answered. It waits for its turn of the line as a message does, so it never splits a reply.

Every request is tried, and then answered with what is in force. If the client may not change a setting, another session
holds it, or the rules or the driver refuse it, the answer is the old value: RFC 2217 has no other way to say no. For a
device without modem lines (a pty) the answer for DTR, RTS and a break is what was last asked for. Such a device has no
other state, and clients give up when the answer is not what they asked for.

A request runs in a task of its own, because ``receive`` is cancelled at every deadline of the pump; the next
``receive`` waits for it first.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.clients.relay import Outbox, relay, until_gone
from gateway.port import control
from gateway.port.line import LineError, PortDown
from gateway.port.router import Forbidden
from protocol.telnet.com_port import Control, Parity, Purge, Request, SubCommand
from protocol.telnet.decoder import Data
from protocol.telnet.notices import LineState, ModemState
from protocol.telnet.server import Answer, Break, Flow, TelnetServer

if TYPE_CHECKING:
    from gateway.clients.relay import Manner
    from gateway.clients.streams import Stream
    from gateway.port.bus import PortStatus
    from gateway.port.line import ModemLines
    from gateway.port.router import Session
    from gateway.tasks.watch import Cell
    from protocol.link.control_frames import LineErrors
    from protocol.telnet.server import Event

__all__ = ["serve"]

_BREAK: Final = 0.25
"""The length of telnet's BRK in seconds, which is left to the server."""
_PATIENCE: Final = 2.0
"""Seconds that another CPU has to report the modem lines, where it owns the line."""
_UNSENT: Final = 65_536
"""Bytes of unread answers above which nothing more is read from a client."""

_PARITIES: Final = {parity.name.title(): parity for parity in Parity}
"""RFC 2217's numbers for the contract's words."""

_FLOWS: Final = {
    Control.NO_FLOW: (False, False),
    Control.XON_XOFF: (True, False),
    Control.RTS_CTS: (False, True),
}
"""Each control that asks for flow control, and the settings (XON/XOFF, RTS/CTS) that it means."""
_LINES: Final = {
    Control.DTR_ON: control.SetLines(dtr=True),
    Control.DTR_OFF: control.SetLines(dtr=False),
    Control.RTS_ON: control.SetLines(rts=True),
    Control.RTS_OFF: control.SetLines(rts=False),
}
_ERRORS: Final = (LineState.OVERRUN, LineState.PARITY, LineState.FRAMING)
"""In the order of the driver's counters."""
_INBOUND: Final = range(Control.ASK_FLOW_IN, Control.RTS_CTS_IN + 1)
"""Requests about inbound flow control, which is always the same as outbound flow control here."""
_NAMES: Final = {
    SubCommand.RATE: "BaudRate",
    SubCommand.DATA_BITS: "DataBits",
    SubCommand.PARITY: "Parity",
    SubCommand.STOP_BITS: "StopBits",
}
"""The contract's name of each setting."""


async def serve(stream: Stream, session: Session, idle_limit: Cell[int], manner: Manner, signature: str) -> None:
    """Serve a client until it leaves, the session is ended, or it was idle for ``idle_limit`` seconds; closes both.

    ``signature`` is the answer to a client that asks who we are. The session of a client that ended its sending ends at
    once: it asks nothing more, and what it holds would keep the next client, maybe its own next connection, from
    setting the line.
    """
    async with trio.open_nursery() as nursery:
        telnet = _Telnet(stream, session, nursery, signature)
        nursery.start_soon(telnet.run)
        await relay(telnet, session, idle_limit, replace(manner, linger=0.0))
        nursery.cancel_scope.cancel()


@final
class _Telnet:
    """One client's telnet connection, as the Stream of its bytes; ``run`` sends what the socket does not take."""

    exact = False

    def __init__(self, stream: Stream, session: Session, nursery: trio.Nursery, signature: str) -> None:
        self._stream = stream
        self._session = session
        self._nursery = nursery
        self.connection = stream.connection
        self._server = TelnetServer(signature)
        self._events: deque[Event] = deque()
        self._asked: trio.Event | None = None
        """Set when the current request is answered; None while there is none."""
        self._unsent = bytearray(self._server.start())
        self._moved = trio.lowlevel.ParkingLot()
        """Tasks that wait for unsent bytes to change, or for the client to accept data again."""
        self._held: dict[SubCommand, int] = {}
        """The settings that the client made, and the values it was told."""
        self._dtr = self._rts = True
        """The last request for each of these lines, for a device without them."""
        self._in_break = False
        self._errors: LineErrors | None = None
        """The counters up to which the client has been told of errors, or at which it began to ask."""

    # -- as a Stream: what the line says

    def send_nowait(self, data: bytes) -> int:
        """See Stream. All of it is taken, or nothing: no byte of telnet may come between the two of an escape."""
        if self._unsent or self._server.suspended:
            return 0
        self._send(self._server.data(data))
        return len(data)

    async def send(self, data: bytes) -> int:
        """See Stream."""
        while not (took := self.send_nowait(data)):
            await self._moved.park()
        return took

    async def skip(self, count: int) -> None:
        """See Stream: telnet cannot tell."""
        await self._stream.skip(count)

    def _send(self, data: bytes) -> None:
        """Send ``data`` after what waits; at once where nothing waits."""
        if not self._unsent:
            data = data[self._stream.send_nowait(data) :]
        self._unsent += data
        self._moved.unpark_all()

    def close(self) -> None:
        """See Stream."""
        self._stream.close()

    # -- what the client says

    async def receive(self) -> bytes:
        """See Stream: return the next data, once every request before it is answered."""
        while True:
            if self._asked is not None:
                await self._asked.wait()
                self._asked = None
            if not self._events:
                while len(self._unsent) > _UNSENT:
                    await self._moved.park()
                if not (data := await self._stream.receive()):
                    return b""
                if not self._server.wants_modem:
                    self._tell_of_lines()  # it may ask for them from now on
                self._events.extend(self._server.receive(data))
                self._have_looked()
                continue
            match event := self._events.popleft():
                case Data():
                    return event.data
                case Answer():
                    self._send(event.data)
                case Flow():
                    self._moved.unpark_all()
                case _:
                    self._asked = trio.Event()
                    self._nursery.start_soon(self._carry_out, event, self._asked)

    async def _carry_out(self, asked: Request | Break, answered: trio.Event) -> None:
        try:
            if isinstance(asked, Break):
                await self._try(control.Break(_BREAK))
            else:
                self._send(self._server.answer(asked, await self._tried(asked)))
            self._tell_of_settings()  # what changed meanwhile
        finally:
            answered.set()

    async def _tried(self, asked: Request) -> int:
        """Try what is asked; return what is in force then, in RFC 2217's numbers."""
        match asked.command:
            case SubCommand.CONTROL:
                assert asked.value is not None, "the server answers no other"
                return await self._controlled(Control(asked.value))
            case SubCommand.PURGE:
                await self._purged(Purge(asked.value or Purge.BOTH))
                return asked.value or Purge.BOTH
        if asked.value is not None:
            value = Parity(asked.value).name.title() if asked.command is SubCommand.PARITY else str(asked.value)
            await self._try(control.Configure(((_NAMES[asked.command], value),)))
        found = _in_force(self._session.state.value).get(asked.command, 0)
        if found == asked.value:
            self._held[asked.command] = found
        return found

    async def _controlled(self, asked: Control) -> int:
        if asked in (Control.ASK_BREAK, Control.BREAK_ON, Control.BREAK_OFF):
            return await self._break_held(asked)
        if asked in _LINES or asked in (Control.ASK_DTR, Control.ASK_RTS):
            return await self._lines_moved(asked)
        if asked in _FLOWS:
            xon_xoff, rts_cts = ("yes" if on else "no" for on in _FLOWS[asked])
            # One before the other: some hardware has only one of them.
            for values in ((("FlowControlXONXOFF", xon_xoff),), (("FlowControlRTSCTS", rts_cts),)):
                await self._try(control.Configure(values))
        flow = _flow(self._session.state.value)
        return flow + (Control.NO_FLOW_IN - Control.NO_FLOW) if asked in _INBOUND else flow

    async def _break_held(self, asked: Control) -> int:
        if asked is not Control.ASK_BREAK:
            with contextlib.suppress(PortDown, Forbidden):
                with contextlib.suppress(LineError):
                    await self._session.control(control.HoldBreak(asked is Control.BREAK_ON))
                self._in_break = asked is Control.BREAK_ON
        return Control.BREAK_ON if self._in_break else Control.BREAK_OFF

    async def _lines_moved(self, asked: Control) -> int:
        is_dtr = asked in (Control.ASK_DTR, Control.DTR_ON, Control.DTR_OFF)
        try:
            if asked in _LINES:
                await self._try(_LINES[asked])
            with trio.fail_after(_PATIENCE):
                is_known = asked in _LINES  # told before the outcome
                lines = self._session.modem_lines() if is_known else await self._session.look_at_lines()
            on = lines.dtr if is_dtr else lines.rts
        except (LineError, PortDown, trio.TooSlowError):
            if asked in (Control.DTR_ON, Control.DTR_OFF):
                self._dtr = asked is Control.DTR_ON
            elif asked in _LINES:
                self._rts = asked is Control.RTS_ON
            on = self._dtr if is_dtr else self._rts
        if is_dtr:
            return Control.DTR_ON if on else Control.DTR_OFF
        return Control.RTS_ON if on else Control.RTS_OFF

    async def _purged(self, what: Purge) -> None:
        if what is not Purge.TO_SEND and isinstance(self._session.reader, Outbox):
            self._session.reader.purge()
        if what is not Purge.RECEIVED:
            await self._try(control.Purge())

    async def _try(self, *steps: control.Step) -> bool:
        """Ask the line for these steps; return whether it did them. A failure shows in the answer to the client."""
        with contextlib.suppress(LineError, PortDown, Forbidden):
            await self._session.control(*steps)
            return True
        return False

    # -- what happens beside the bytes

    async def run(self) -> None:
        """Send what the socket did not take at once, and report changes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_gone, self._session, self._send_rest)
            nursery.start_soon(self._tell_of_the_port)

    async def _send_rest(self) -> None:
        """Send the unsent bytes whenever there are some. Raises OSError, as the stream."""
        while True:
            while not self._unsent:
                await self._moved.park()
            took = await self._stream.send(bytes(self._unsent))
            del self._unsent[:took]
            self._moved.unpark_all()

    async def _tell_of_the_port(self) -> None:
        """Tell the client of breaks, errors and modem lines, and of its settings that an admin has changed.

        A client takes any such notice for the answer to its own request, and would give up where the value is another.
        So it is told only of settings that it has made.
        """
        breaks = self._session.state.value.breaks
        async for state in self._session.state.changes():
            if state.breaks != breaks:
                breaks = state.breaks
                self._send(self._server.line(LineState.BREAK))
            self._tell_of_errors(state.line_errors)
            if state.modem_lines is not None:
                self._send(self._server.modem(_modem_state(state.modem_lines)))
            if self._asked is None:
                self._tell_of_settings()

    def _tell_of_settings(self) -> None:
        for command, value in _in_force(self._session.state.value).items():
            if self._held.get(command, value) != value:
                del self._held[command]
                self._send(self._server.answer(Request(command), value))

    def _have_looked(self) -> None:
        """Have the port look at the modem lines and errors only while the client wants to know of them."""
        wanted = self._server.wants_modem or self._server.wants_errors
        self._session.watch_lines(wanted)
        if not wanted:
            self._errors = None

    def _tell_of_lines(self) -> None:
        """Send the modem lines as they are now, where the device has any."""
        with contextlib.suppress(LineError, PortDown):
            self._send(self._server.modem(_modem_state(self._session.modem_lines())))

    def _tell_of_errors(self, counted: LineErrors | None) -> None:
        """Send the errors since the last notice, or since the client asked for notices.

        While there is no count (no device, no link) the last one stands, so that errors of that time are sent later.
        """
        if counted is None:
            return
        before, self._errors = self._errors, counted
        if before is None:
            return
        events = LineState(0)
        for event, then, now in zip(_ERRORS, before, counted, strict=True):
            if 0 < (now - then) % 2**32 < 2**31:  # the count starts from 0 again when another device comes
                events |= event
        self._send(self._server.line(events))


def _modem_state(lines: ModemLines) -> ModemState:
    asserted = {"CTS": lines.cts, "DSR": lines.dsr, "RI": lines.ri, "DCD": lines.dcd}
    return ModemState(sum(ModemState[name] for name, on in asserted.items() if on))


def _in_force(state: PortStatus) -> dict[SubCommand, int]:
    """Return the line's settings in RFC 2217's numbers; empty where nobody knows them."""
    values = state.known_settings
    if not values:
        return {}
    found = {command: str(values[name]) for command, name in _NAMES.items()}
    return {command: _PARITIES[text] if command is SubCommand.PARITY else int(text) for command, text in found.items()}


def _flow(state: PortStatus) -> int:
    values = state.known_settings
    wanted = (bool(values.get("FlowControlXONXOFF")), bool(values.get("FlowControlRTSCTS")))
    return next((asked for asked, flow in _FLOWS.items() if flow == wanted), Control.XON_XOFF)
