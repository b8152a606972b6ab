"""Hand what one line says to the right readers: to all, or in a turn under a rule only to the asker's.

The bus is told where the bytes of a turn begin and end, because a link must tell its CPU whose they are. ``Sharing``
counts each turn once: when its reply is over, or its asker cannot get it any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from protocol.sharing.exchange import Audience, Ending

if TYPE_CHECKING:
    from gateway.port.bus import Bus
    from gateway.port.line import Claim
    from gateway.serial_line.sharing import Sharing

__all__ = ["Hearing"]


@final
class Hearing:
    """Decides by ``sharing``'s rule whose the next bytes of the line are; ``bus`` hands them out."""

    def __init__(self, bus: Bus, sharing: Sharing) -> None:
        self._bus = bus
        self._sharing = sharing
        self.asker: Claim | None = None
        """The asker of the reply; None where no reply is due, or its asker has gone."""
        self.is_marked = False
        """The bus was told that what comes is for the asker, or for nobody."""
        self.since = 0.0
        """When the last turn was taken."""

    def begin(self, asker: Claim) -> None:
        """Begin the turn of a request."""
        self.asker, self.since = asker, trio.current_time()
        if not self._everybody_hears:
            self._mark(asker)

    def isolate(self) -> None:
        """Let only monitors hear what comes next. Idempotent."""
        if not self.is_marked or self.asker is not None:
            self._mark(None)

    def say(self, data: bytes) -> None:
        """Hand out bytes that belong to no exchange."""
        if self.is_marked:
            self._bus.deliver_in_turn(data, self.asker)
        else:
            self._bus.deliver(data)

    def tell(self, heard: list[tuple[Audience, bytes]], ending: Ending | None) -> None:
        """Hand out what was heard in an exchange, which has this ``ending`` by then, if any."""
        for audience, data in heard:
            if audience is Audience.EVERYBODY and ending is not None:
                self.end(ending)
            if audience is Audience.EVERYBODY or (audience is Audience.ASKER and self._everybody_hears):
                self._bus.deliver(data)
            else:
                self._bus.deliver_in_turn(data, self.asker if audience is Audience.ASKER else None)

    def answered(self, ending: Ending) -> None:
        """Count the turn and tell the bus: its reply is over. Idempotent."""
        if self.asker is not None:
            self._sharing.ended(self.asker.holder, ending)
            self.end(ending)
            self.asker = None

    def withdraw(self) -> None:
        """End a turn in which nothing was asked."""
        self.end(Ending.ABORTED)
        self.asker = None

    def end(self, ending: Ending) -> None:
        """Tell the bus that what comes next is for everybody again. Idempotent."""
        if self.is_marked:
            self.is_marked = False
            self._bus.turn_ends(ending)

    @property
    def _everybody_hears(self) -> bool:
        return self._sharing.rule is not None and self._sharing.rule.reply_to == "all"

    def _mark(self, asker: Claim | None) -> None:
        self.is_marked = True
        self._bus.turn_begins(asker)
