"""The states that an RFC 2217 client is told of when they change: the line's, and that of the modem lines.

A bit of a mask says that a change of that bit is worth a notice. Of the modem lines a client is told by default, of
the line not (RFC 2217, SET-MODEMSTATE-MASK and SET-LINESTATE-MASK).
"""

from __future__ import annotations

import enum
from typing import Final, final

from protocol.telnet.com_port import SubCommand, encoded

__all__ = ["LineState", "ModemState", "Notices"]


@final
class ModemState(enum.IntFlag):
    """The lines that the device drives, as they are; the low half of the byte says which of them changed."""

    CTS = 1 << 4
    DSR = 1 << 5
    RI = 1 << 6
    DCD = 1 << 7


@final
class LineState(enum.IntFlag):
    """The events of a line that a driver counts."""

    OVERRUN = 1 << 1
    PARITY = 1 << 2
    FRAMING = 1 << 3
    BREAK = 1 << 4


_DELTAS: Final = 4
"""A line's bit is so many above the one that says that it changed; of RI that is its falling edge alone."""


@final
class Notices:
    """The masks of one client, and what it has been told."""

    def __init__(self) -> None:
        self.modem_mask = 255
        self.line_mask = 0
        self._modem = self._told = ModemState(0)
        self._events = LineState(0)
        self.suspended = False
        """The client has asked for silence: changes are told when it is over, the newest state once."""

    def modem(self, state: ModemState) -> bytes:
        """Take the modem lines as they are now, and return the notice where it is due; empty where it is not."""
        self._modem = state
        if self.suspended:
            return b""
        changed = state ^ self._told
        deltas = (changed & ~(ModemState.RI & state)) >> _DELTAS
        self._told = state
        due = (int(changed) | int(deltas)) & self.modem_mask
        return encoded(SubCommand.MODEM_STATE, (state | deltas) & self.modem_mask) if due else b""

    def line(self, events: LineState) -> bytes:
        """Take what happened on the line, and return the notice where it is due; empty where it is not."""
        self._events |= events
        if self.suspended:
            return b""
        due, self._events = int(self._events) & self.line_mask, LineState(0)
        return encoded(SubCommand.LINE_STATE, due) if due else b""

    def resume(self) -> bytes:
        """End the silence, and return what was due in it."""
        self.suspended = False
        return self.modem(self._modem) + self.line(LineState(0))

    @property
    def modem_state(self) -> int:
        """The modem lines, as the answer to a client that asks."""
        return int(self._modem)
