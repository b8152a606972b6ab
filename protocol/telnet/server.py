"""The server's end of a telnet connection to a serial port: bytes in; data, requests and answers out.

What must hold
    Every sub-command that a client waits for is answered exactly once: what concerns the connection alone here, at
    once (signature, masks, states); the settings, lines and purges by whoever has the line, through ``answer``, with
    the value in force.

    Events come in the order of the client's bytes, so a control never overtakes data, nor is overtaken.

    An event is bounded by the piece that brought it, and what is to be sent by a small multiple of that: a caller that
    reads no more until its answers are sent needs no other bound.

Where we differ from the letter
    While a client has suspended us (FLOWCONTROL-SUSPEND) data and notices wait, but its requests are answered: who asks
    waits for that. And a client that has not refused BINARY is taken to speak it: pyserial and raw sockets do, and a
    carriage return of theirs may well have a NUL behind it that belongs to the data.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias, final

from protocol.telnet.com_port import Control, Request, SubCommand, encoded, judged
from protocol.telnet.decoder import Code, Command, Data, Decoder, Negotiation, escaped
from protocol.telnet.notices import LineState, ModemState, Notices
from protocol.telnet.options import Option, Options, Side

__all__ = ["Answer", "Break", "Event", "Flow", "TelnetServer"]

_HERE: Final = b"\r\n[yes]\r\n"
"""The visible sign of life that ARE YOU THERE asks for (RFC 854)."""

_ERRORS: Final = LineState.OVERRUN | LineState.PARITY | LineState.FRAMING


@final
class Answer(NamedTuple):
    """Bytes to send, in their place among the events."""

    data: bytes


@final
class Break(NamedTuple):
    """Telnet's BRK: a break of a length that is left to us."""


@final
class Flow(NamedTuple):
    """The client takes data, or asks for none until it says so."""

    suspended: bool


Event: TypeAlias = Data | Answer | Request | Break | Flow


@final
class TelnetServer:
    """One connection. ``signature`` is told to a client that asks who we are."""

    def __init__(self, signature: str) -> None:
        self._signature = signature.encode()
        self._decoder = Decoder()
        self._options = Options()
        self._notices = Notices()

    def start(self) -> bytes:
        """Return what to send first."""
        return self._options.start()

    @property
    def suspended(self) -> bool:
        """Return whether the client has asked for silence: nothing is to be sent but answers."""
        return self._notices.suspended

    @property
    def has_com_port(self) -> bool:
        """Return whether the client speaks RFC 2217, and not telnet alone.

        It may say so in one direction only: pyserial leaves its own WILL out where our question came first.
        """
        return any(self._options.agreed(side, Option.COM_PORT) for side in Side)

    def receive(self, data: bytes) -> list[Event]:
        """Return what ``data`` says, in its order."""
        events: list[Event] = []
        for cut in self._decoder.feed(data):
            match cut:
                case Data():
                    events.append(cut)
                case Command(Code.BREAK):
                    events.append(Break())
                case Command(Code.ARE_YOU_THERE):
                    events.append(Answer(_HERE))
                case Negotiation():
                    if answer := self._negotiated(cut):
                        events.append(Answer(answer))
                case Command():
                    pass
                case _:
                    if cut.option == Option.COM_PORT and (request := judged(cut.payload)) is not None:
                        events += self._asked(request)
        return events

    def _negotiated(self, asked: Negotiation) -> bytes:
        knew = self.has_com_port
        answer = self._options.receive(asked)
        if self.has_com_port and not knew:
            # A client that polls nothing else knows the lines from here on.
            answer += encoded(SubCommand.MODEM_STATE, self._notices.modem_state & self._notices.modem_mask)
        return answer

    def _asked(self, request: Request) -> list[Event]:
        """Return what becomes of a sub-command: an answer at once, or an event for whoever has the line."""
        notices = self._notices
        answer: int | bytes
        match request.command:
            case SubCommand.SIGNATURE:
                answer = self._signature
            case SubCommand.LINE_STATE:
                answer = 0
            case SubCommand.MODEM_STATE:
                answer = notices.modem_state
            case SubCommand.LINE_MASK:
                notices.line_mask = answer = notices.line_mask if request.value is None else request.value
            case SubCommand.MODEM_MASK:
                notices.modem_mask = answer = notices.modem_mask if request.value is None else request.value
            case SubCommand.SUSPEND:
                notices.suspended = True
                return [Flow(suspended=True)]
            case SubCommand.RESUME:
                due = notices.resume()
                return [*([Answer(due)] if due else []), Flow(suspended=False)]
            case SubCommand.CONTROL if request.value is None:
                # Nobody knows what such a value asks; it is answered as the first question is.
                return [Request(SubCommand.CONTROL, Control.ASK_FLOW)]
            case _:
                return [request]
        return [Answer(encoded(request.command, answer))]

    @property
    def wants_modem(self) -> bool:
        """Return whether the client is to be told of any modem line that changes."""
        return self.has_com_port and self._notices.modem_mask != 0

    @property
    def wants_errors(self) -> bool:
        """Return whether the client is to be told of bytes that came in wrong, or not at all."""
        return self.has_com_port and bool(self._notices.line_mask & _ERRORS)

    def data(self, data: bytes) -> bytes:
        """Return bytes of the line as they are sent."""
        return escaped(data)

    def answer(self, request: Request, value: int) -> bytes:
        """Return the answer to a request that was an event: the value in force, in the numbers of RFC 2217."""
        return encoded(request.command, value)

    def modem(self, state: ModemState) -> bytes:
        """Return the notice that the modem lines are now so; empty where the client is not to be told."""
        notice = self._notices.modem(state)
        return notice if self.has_com_port else b""

    def line(self, events: LineState) -> bytes:
        """Return the notice of what happened on the line; empty where the client is not to be told."""
        notice = self._notices.line(events)
        return notice if self.has_com_port else b""
