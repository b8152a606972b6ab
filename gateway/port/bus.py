"""Hand what one line says to every reader, and show each writer the line.

The bus outlives its device: clients stay connected while a cable is out, and meet the next device on the same bus.
Readers are called one after the other in the device's own task, so the time of each is time of all the others. That
is why a reader never waits: what its client does not take at once, it queues (``clients.relay``).

It is also why a reader that raises is contained here: it is detached and its session ended, and all other readers
still get the very bytes that it failed on. The device's task never sees it. An exception costs nothing where there is
none: ``deliver`` is one plain loop, and after a failure the same iterator goes on with the next reader.

On a line with a turn rule, what is heard in a turn belongs to the asker: readers of his *party* hear it, and monitors,
which hear everything. A reader without a party is a monitor. Readers of turns are told where one begins and ends, in
its place among the bytes, for a link has to tell its CPU whose they are.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

from gateway.port.line import PortDown, settings_by_name
from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.tasks.event_log import EventLog
from gateway.tasks.watch import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gateway.port.line import Asker, Line, ModemLines
    from protocol.link.control_frames import LineErrors
    from protocol.link.reasons import Reason
    from protocol.sharing.exchange import Ending
    from protocol.sharing.message_rule import MessageRule
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["EVERY_CLASS", "Bus", "PortStatus"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

EVERY_CLASS = 0b1110
"""The rights to all traffic classes, as the wire writes them: bit ``1 << channel`` for PTZ, TCP and CGI."""

_WORDS: Final = re.compile(r"(\d+) ([5-8])([NOEMS])([12])(?: (.*))?$")
"""The settings in words, ``9600 8N1 RTS/CTS``: all that is known of another CPU's line."""


@final
@dataclass(frozen=True, slots=True)
class PortStatus:
    """The state of a port: all that changes seldom, as one value that others follow."""

    down: str | None
    """The reason why the port cannot be used, or None while it can."""
    in_force: Mapping[str, object] | None = None
    """The settings that the driver keeps, or kept last, by the contract's names; None where nobody tells them."""
    rate: int = 0
    """The line's rate in bits a second; 0 where that was never known."""
    settings: str = ""
    """The line's settings in words."""
    path: tuple[bytes, ...] = ()
    """The node ids from the owner of the line to this node; empty while there is no way to a line."""
    rights: int = EVERY_CLASS
    """What the owner of a remote line lets links write: bit ``1 << channel`` for each traffic class."""
    cuts: int = 0
    """Readers that were cut because they were too slow."""
    last_cut: str = ""
    """The reader that was cut last, and why."""
    control_rights: Right = Right.LINES | Right.CONFIGURE
    """What the owner of a remote line lets chained clients do beside writing."""
    breaks: int = 0
    """Breaks that came from the line."""
    modem_lines: ModemLines | None = None
    """The lines beside the data, as long as anybody wants to know of them; None where there are none."""
    line_errors: LineErrors | None = None
    """What the driver has counted, as long as anybody wants to know of it; None where it counts nothing."""
    controls: int = 0
    """Requests that moved DTR or RTS ..."""
    controlled_by: str = ""
    """... and whose the last of them was."""
    turn_rule: TurnRule | None = None
    """The rule by which the line's owner has writers take turns; None where it has none."""
    message_rule: MessageRule | None = None
    """The rule by which a client's byte stream is cut to messages; None where a message is what one read returned."""
    asleep: bool = False
    """The device is closed until somebody needs it, or is just being opened for somebody; ``down`` says so too."""

    @property
    def word(self) -> str:
        """Return ``up``, ``closed`` (until somebody needs it) or ``down``, as the status says it."""
        return "up" if self.down is None else "closed" if self.asleep else "down"

    @property
    def known_settings(self) -> Mapping[str, object]:
        """Return the line's settings by the contract's names; empty where nobody knows them.

        They are the driver's, or what the owner of the line says in words.
        """
        if self.in_force is not None:
            return self.in_force
        if (words := _WORDS.search(self.settings)) is None:
            return {}
        rate, data_bits, parity, stop_bits, flow = words.groups("")
        return settings_by_name(
            int(rate), int(data_bits), parity, int(stop_bits), "XON/XOFF" in flow, "RTS/CTS" in flow
        )


@final
class Bus:
    """The place where one port manager's device and its clients meet.

    A reader is a callable that takes the bytes at once. It never waits.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """The port manager, as ``P0``."""
        self.received = 0
        """Bytes that came from the line."""
        self.heard_at = trio.current_time()
        """When the last of them came, in seconds of trio's clock."""
        self.missed = 0
        """Bytes of the line that never reached this node, as far as their number is known."""
        self.gaps = 0
        """Places in the line where bytes are missing, those of unknown size too."""
        self.dropped = 0
        """Bytes that clients sent, those who have left since too, and that will not reach the line."""
        self.rubbish = 0
        """Those of them that were in no request, where a turn rule says what one looks like."""
        self.superseded = 0
        """Requests whose sender, a client of this CPU, sent another before they were known to have begun."""
        self._readers: tuple[Callable[[bytes], None], ...] = ()
        self._parties: dict[object, object] = {}
        """The party of each reader that has one."""
        self._gap_readers: tuple[Callable[[int, Reason], None], ...] = ()
        self._turn_readers: tuple[Callable[[Asker | None, Ending | None], None], ...] = ()
        self.watchers: tuple[Callable[[bytes, str], None], ...] = ()
        """Those who are told what is written. A line that finds none says nothing, so that it costs nothing."""
        self.writers = Counter[object]()
        """The clients that may write, each with the number of its sessions."""
        self.is_reply = False
        """Whether the bytes that are handed out just now are for ``asker`` and monitors alone."""
        self.asker: Asker | None = None
        """Whom they are for; None: for nobody at this CPU."""
        self._ends: dict[object, Callable[[str], None] | None] = {}
        """How to end the session of a reader that fails."""
        self._logger = PortLogger(logger, name)
        self.events = EventLog(self._logger)
        """The log of events at this port that a client or a peer can repeat at will."""
        self._line: Line | None = None
        self.needs = Cell(0)
        """The sessions that need the device open: those that may write, and links."""
        self.lookers = Cell(0)
        """The sessions that want to know of the modem lines and the errors: nobody looks at them for nobody."""
        self.state = Cell(PortStatus("the port has not been opened yet"))
        """Changes when the device comes or goes, its settings change, a reader is cut, or a break comes."""

    def attach(
        self, reader: Callable[[bytes], None], end: Callable[[str], None] | None = None, party: object = None
    ) -> None:
        """Hand ``reader`` every byte from now on; where it raises, detach it and call ``end`` with a reason.

        With a ``party`` it hears of the replies on a line with a turn rule only those to its own.
        """
        self._readers = (*self._readers, reader)
        self._ends[reader] = end
        if party is not None:
            self._parties[reader] = party

    def detach(self, reader: Callable[[bytes], None]) -> None:
        """Hand ``reader`` nothing more, from this instant. Idempotent."""
        # By equality: each access to a method makes another bound-method object.
        self._readers = tuple(other for other in self._readers if other != reader)
        self._ends.pop(reader, None)
        self._parties.pop(reader, None)

    def attach_for_gaps(self, reader: Callable[[int, Reason], None], end: Callable[[str], None] | None = None) -> None:
        """Tell ``reader``, in its place among the bytes, where some of them are missing, from now on; as ``attach``."""
        self._gap_readers = (*self._gap_readers, reader)
        self._ends[reader] = end

    def detach_for_gaps(self, reader: Callable[[int, Reason], None]) -> None:
        """Tell ``reader`` nothing more. Idempotent."""
        self._gap_readers = tuple(other for other in self._gap_readers if other != reader)
        self._ends.pop(reader, None)

    def attach_for_turns(
        self, reader: Callable[[Asker | None, Ending | None], None], end: Callable[[str], None] | None = None
    ) -> None:
        """Tell ``reader`` of the turns of a rule from now on: the asker at the beginning, the ending at the end.

        The asker is None where the bytes up to the end are nobody's. Otherwise as ``attach``.
        """
        self._turn_readers = (*self._turn_readers, reader)
        self._ends[reader] = end

    def detach_for_turns(self, reader: Callable[[Asker | None, Ending | None], None]) -> None:
        """Tell ``reader`` nothing more. Idempotent."""
        self._turn_readers = tuple(other for other in self._turn_readers if other != reader)
        self._ends.pop(reader, None)

    def attach_for_writing(
        self, watcher: Callable[[bytes, str], None], end: Callable[[str], None] | None = None
    ) -> None:
        """Tell ``watcher`` what is written to the line, and the name of its writer, from now on; as ``attach``."""
        self.watchers = (*self.watchers, watcher)
        self._ends[watcher] = end

    def detach_for_writing(self, watcher: Callable[[bytes, str], None]) -> None:
        """Tell ``watcher`` nothing more. Idempotent."""
        self.watchers = tuple(other for other in self.watchers if other != watcher)
        self._ends.pop(watcher, None)

    def wrote(self, data: bytes, holder: str) -> None:
        """Tell the watchers what the tty took, its owner's where that is another CPU, and of whom."""
        for watcher in self.watchers:
            try:
                watcher(data, holder)
            except Exception:  # as in deliver(): a writer must not pay for who watches it
                self._logger.exception("a bug: a reader of what is written failed, and is detached")
                self._fail(watcher, self.detach_for_writing)

    def turn_begins(self, asker: Asker | None) -> None:
        """Say that what comes next is for the asker and monitors, until ``turn_ends``; None: for monitors alone."""
        self._tell_turn(asker, None)

    def turn_ends(self, ending: Ending) -> None:
        """Say that what comes next is for everybody again."""
        self._tell_turn(None, ending)

    def _tell_turn(self, asker: Asker | None, ending: Ending | None) -> None:
        for reader in self._turn_readers:
            try:
                reader(asker, ending)
            except Exception:  # as in deliver()
                self._logger.exception("a bug: a reader of turns failed, and is detached")
                self._fail(reader, self.detach_for_turns)

    def deliver_in_turn(self, data: bytes, asker: Asker | None) -> None:
        """Hand ``data`` to the readers of the asker's party, and to monitors."""
        party = None if asker is None else asker.party
        hears = (other for other in self._readers if (own := self._parties.get(other)) is None or own is party)
        self.is_reply, self.asker = True, asker
        self._deliver(data, tuple(hears))
        self.is_reply, self.asker = False, None

    def deliver(self, data: bytes) -> None:
        """Hand ``data``, which the line said, to every reader: one bytes object for all."""
        self._deliver(data, self._readers)

    def _deliver(self, data: bytes, among: Iterable[Callable[[bytes], None]]) -> None:
        self.received += len(data)
        self.heard_at = trio.current_time()
        readers = iter(among)
        while True:
            try:
                for reader in readers:
                    reader(data)
            except Exception:  # whatever one reader has wrong, the others get the line's bytes
                self._logger.exception("a bug: a reader of the line failed, and is detached")
                self._fail(reader, self.detach)
            else:
                return

    def miss(self, count: int, reason: Reason) -> None:
        """Take note that ``count`` bytes of the line never came (0: nobody knows how many)."""
        self.missed += count
        self.gaps += 1
        size = f"{count} bytes" if count else "an unknown number of bytes"
        self.events.log(
            logging.WARNING, "gaps in the line", "%s of the line are missing: %s", size, reason.name.lower()
        )
        readers = iter(self._gap_readers)
        while True:
            try:
                for reader in readers:
                    reader(count, reason)
            except Exception:  # as in deliver()
                self._logger.exception("a bug: a reader of gaps failed, and is detached")
                self._fail(reader, self.detach_for_gaps)
            else:
                return

    def set_lines(self, holder: str) -> None:
        """Take note that this holder has moved DTR or RTS, for all who show them."""
        now = self.state.value
        self.state.set(replace(now, controls=now.controls + 1, controlled_by=holder))

    def begin_to_write(self, client: object) -> None:
        """Count a session of this client among those that may write."""
        self.writers[client] += 1

    def end_to_write(self, client: object) -> None:
        """Count it no more."""
        self.writers[client] -= 1
        if not self.writers[client]:
            del self.writers[client]

    def look(self, change: int) -> None:
        """Have the modem lines and the errors looked at for one more (1), or one less (-1)."""
        self.lookers.set(self.lookers.value + change)

    def beside(self, modem_lines: ModemLines | None, line_errors: LineErrors | None) -> None:
        """Take note of what is beside the line's bytes."""
        self.state.set(replace(self.state.value, modem_lines=modem_lines, line_errors=line_errors))

    def permit_controls(self, rights: Right) -> None:
        """Take note of what the owner of a remote line lets chained clients do beside writing."""
        self.state.set(replace(self.state.value, control_rights=rights))

    def _fail(self, reader: R, detach: Callable[[R], None]) -> None:
        """Detach a reader that raised, and end its session: a client that hears only a part must not go on."""
        end = self._ends.get(reader)
        detach(reader)
        if end is not None:
            end("a bug ended it")

    def connect(self, line: Line) -> None:
        """Take ``line`` as the way to write: the device is there."""
        self._line = line
        self.state.set(replace(self.state.value, down=None, asleep=False))

    def disconnect(self, why: str) -> None:
        """Refuse all who wait to write, and all who come: the device is gone."""
        self._leave(why, asleep=False)

    def sleep(self, why: str) -> None:
        """Do without a device until somebody needs it: see ``Session.woken``."""
        self._leave(why, asleep=True)

    def _leave(self, why: str, *, asleep: bool) -> None:
        line, self._line = self._line, None
        # The state first: whoever is refused by ``end`` looks here for the reason.
        self.state.set(replace(self.state.value, down=why, asleep=asleep))
        if line is not None:
            line.end(why)

    def need(self) -> None:
        """Have the device opened, if it sleeps, and kept open until ``release`` is called as often."""
        self.needs.set(self.needs.value + 1)

    def release(self) -> None:
        """Let the device sleep for one that needed it."""
        self.needs.set(self.needs.value - 1)

    def route(self, *path: bytes, rights: int = EVERY_CLASS) -> None:
        """Take note of the nodes from the owner of the line to this one; none where there is no way to a line.

        ``rights`` is what the owner lets links write.
        """
        self.state.set(replace(self.state.value, path=path, rights=rights))

    def share(self, turn_rule: TurnRule | None, message_rule: MessageRule | None) -> None:
        """Take note of the rules by which the line's owner has writers share it."""
        self.state.set(replace(self.state.value, turn_rule=turn_rule, message_rule=message_rule))

    def adjusted(self, rate: int, settings: str, in_force: Mapping[str, object] | None = None) -> None:
        """Take note of the line's settings: in words, and where it is our own as the driver keeps them."""
        self.state.set(replace(self.state.value, rate=rate, settings=settings, in_force=in_force))

    def cut(self, who: str) -> None:
        """Take note of a reader that was too slow."""
        self.state.set(replace(self.state.value, cuts=self.state.value.cuts + 1, last_cut=who))

    def broke(self, count: int) -> None:
        """Take note of ``count`` breaks that came from the line, which are no bytes of it."""
        self.state.set(replace(self.state.value, breaks=self.state.value.breaks + count))

    @property
    def line(self) -> Line:
        """The writing half of the device. Raises PortDown while there is none."""
        if self._line is None:
            raise PortDown(self.state.value.down or "")
        return self._line

    @property
    def down(self) -> str | None:
        """The reason why the port cannot be used, or None while it can."""
        return self.state.value.down
