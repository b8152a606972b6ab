"""Hand the bytes of one line to every reader, and give writers access to the line.

The bus outlives its device: clients stay connected while a cable is out, and meet the next device on the same bus.
Readers are called one after the other in the device's own task, so each delays all the others. That is why a reader
never waits: it queues what its client does not take at once (``clients.relay``).

It is also why a reader's exception is contained here: that reader is detached and its session ended, and all other
readers still get the same bytes. The device's task never sees the exception. This costs nothing without an exception:
``deliver`` is one plain loop, and after a failure the same iterator goes on with the next reader.

On a line with a turn rule, what is heard in a turn belongs to the asker: only readers of the asker's *party* hear it,
and monitors, which hear everything. A reader without a party is a monitor. Readers of turns are told where a turn
begins and ends, in its place among the bytes, because a link must tell its CPU whose bytes they are.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar, final

from gateway.port.line import PortDown, settings_by_name
from gateway.port.log import PortLogger
from gateway.port.rights import Right
from gateway.tasks.event_log import EventLog
from gateway.tasks.ready import run_clock
from gateway.tasks.watch import Cell
from protocol.frozen import frozen

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
"""The settings in words, ``9600 8N1 RTS/CTS``, which may be all that is known of another CPU's line."""


@final
@frozen
class PortStatus:
    """The state of a port: everything that changes seldom, as one value to follow."""

    down: str | None
    """The reason why the port cannot be used, or None while it can."""
    in_force: Mapping[str, object] | None = None
    """The settings that the driver keeps, or kept last, by the contract's names; None where they are unknown."""
    rate: int = 0
    """The line's rate in bits a second; 0 while it was never known."""
    settings: str = ""
    """The line's settings in words."""
    path: tuple[bytes, ...] = ()
    """The node ids from the owner of the line to this node; empty while there is no way to a line."""
    rights: int = EVERY_CLASS
    """The classes that the owner of a remote line lets links write: bit ``1 << channel`` for each."""
    cuts: int = 0
    """Readers that were cut because they were too slow."""
    last_cut: str = ""
    """The reader that was cut last, and why."""
    control_rights: Right = Right.LINES | Right.CONFIGURE
    """The rights beside writing that the owner of a remote line gives to chained clients."""
    breaks: int = 0
    """Breaks that came from the line."""
    modem_lines: ModemLines | None = None
    """The modem lines, while a client wants to know of them; None where the device has none."""
    line_errors: LineErrors | None = None
    """The driver's error counters, while a client wants to know of them; None where it counts nothing."""
    controls: int = 0
    """Requests that moved DTR or RTS ..."""
    controlled_by: str = ""
    """... and the holder of the last of them."""
    turn_rule: TurnRule | None = None
    """The rule by which the line's owner has writers take turns; None where it has none."""
    message_rule: MessageRule | None = None
    """The rule by which a client's byte stream is cut to messages; None where a message is what one read returned."""
    asleep: bool = False
    """The device is closed until a client needs it, or is being opened for one; ``down`` says so too."""

    @property
    def word(self) -> str:
        """Return the word of the status: ``up``, ``closed`` (until a client needs the device) or ``down``."""
        return "up" if self.down is None else "closed" if self.asleep else "down"

    @property
    def known_settings(self) -> Mapping[str, object]:
        """Return the line's settings by the contract's names; empty while they are unknown.

        They come from the driver, or from the words of the line's owner.
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
        self._now = run_clock()
        self.heard_at = self._now()
        """When the last of them came, in seconds of trio's clock."""
        self.missed = 0
        """Bytes of the line that never reached this node, where their number is known."""
        self.gaps = 0
        """Places in the line where bytes are missing, including gaps of unknown size."""
        self.dropped = 0
        """Bytes from clients, also from those who have left, that will not reach the line."""
        self.rubbish = 0
        """Of them, bytes that were in no request, on a line with a turn rule that knows requests."""
        self.superseded = 0
        """Requests of this CPU's clients that were replaced by newer ones before they were known to have begun."""
        self._readers: tuple[Callable[[bytes], None], ...] = ()
        self._parties: dict[object, object] = {}
        """The party of each reader that has one."""
        self._gap_readers: tuple[Callable[[int, Reason], None], ...] = ()
        self._turn_readers: tuple[Callable[[Asker | None, Ending | None], None], ...] = ()
        self.watchers: tuple[Callable[[bytes, str], None], ...] = ()
        """Called with what is written. While it is empty a line skips the call, so that it costs nothing."""
        self.writers = Counter[object]()
        """The clients that may write, each with the number of its sessions."""
        self.is_reply = False
        """True while the bytes being handed out are for ``asker`` and monitors alone."""
        self.asker: Asker | None = None
        """The asker that they are for; None for nobody at this CPU."""
        self._ends: dict[object, Callable[[str], None] | None] = {}
        """How to end the session of a reader that fails."""
        self._logger = PortLogger(logger, name)
        self.events = EventLog(self._logger)
        """The log of events at this port that a client or a peer can repeat at will, with a limit."""
        self._line: Line | None = None
        self.needs = Cell(0)
        """The sessions that need the device open: those that may write, and links."""
        self.lookers = Cell(0)
        """The number of sessions that want to know of the modem lines and errors: without any, nobody looks."""
        self.state = Cell(PortStatus("the port has not been opened yet"))
        """The port's state: it changes when the device comes or goes, is set, a reader is cut, or a break comes."""

    def attach(
        self, reader: Callable[[bytes], None], end: Callable[[str], None] | None = None, party: object = None
    ) -> None:
        """Hand ``reader`` every byte from now on. If it raises, detach it and call ``end`` with a reason.

        With a ``party`` it hears only the replies to its own party, on a line with a turn rule.
        """
        self._readers = (*self._readers, reader)
        self._ends[reader] = end
        if party is not None:
            self._parties[reader] = party

    def detach(self, reader: Callable[[bytes], None]) -> None:
        """Hand ``reader`` nothing more, from this instant. Idempotent."""
        # ``!=``, not ``is not``: each access to a method makes another bound-method object.
        self._readers = tuple(other for other in self._readers if other != reader)
        self._ends.pop(reader, None)
        self._parties.pop(reader, None)

    def attach_for_gaps(self, reader: Callable[[int, Reason], None], end: Callable[[str], None] | None = None) -> None:
        """Tell ``reader`` from now on where bytes are missing, in the place of the gap; otherwise as ``attach``."""
        self._gap_readers = (*self._gap_readers, reader)
        self._ends[reader] = end

    def detach_for_gaps(self, reader: Callable[[int, Reason], None]) -> None:
        """Tell ``reader`` nothing more. Idempotent."""
        self._gap_readers = tuple(other for other in self._gap_readers if other != reader)
        self._ends.pop(reader, None)

    def attach_for_turns(
        self, reader: Callable[[Asker | None, Ending | None], None], end: Callable[[str], None] | None = None
    ) -> None:
        """Tell ``reader`` of the turns of a rule from now on: the asker when one begins, the ending when it ends.

        The asker is None where the bytes of the turn belong to nobody here. Otherwise as ``attach``.
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
        """Tell the watchers what the tty of the line's owner took, and the name of its writer."""
        for watcher in self.watchers:
            try:
                watcher(data, holder)
            except Exception:  # as in deliver(): a watcher's bug must not hit the writer
                self._logger.exception("a bug: a reader of what is written failed, and is detached")
                self._fail(watcher, self.detach_for_writing)

    def turn_begins(self, asker: Asker | None) -> None:
        """Begin a turn: what comes next is for the asker and monitors, until ``turn_ends``; None: monitors alone."""
        self._tell_turn(asker, None)

    def turn_ends(self, ending: Ending) -> None:
        """End the turn: what comes next is for everybody again."""
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
        """Hand ``data`` of the line to every reader: the same bytes object to all."""
        self._deliver(data, self._readers)

    def _deliver(self, data: bytes, among: Iterable[Callable[[bytes], None]]) -> None:
        self.received += len(data)
        self.heard_at = self._now()
        readers = iter(among)
        while True:
            try:
                for reader in readers:
                    reader(data)
            except Exception:  # an error in one reader must not cost the others the line's bytes
                self._logger.exception("a bug: a reader of the line failed, and is detached")
                self._fail(reader, self.detach)
            else:
                return

    def miss(self, count: int, reason: Reason) -> None:
        """Note that ``count`` bytes of the line never came (0: an unknown number)."""
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
        """Note that this holder has moved DTR or RTS, for the clients that show them."""
        now = self.state.value
        self.state.set(replace(now, controls=now.controls + 1, controlled_by=holder))

    def begin_to_write(self, client: object) -> None:
        """Count a session of this client among those that may write."""
        self.writers[client] += 1

    def end_to_write(self, client: object) -> None:
        """Stop counting it."""
        self.writers[client] -= 1
        if not self.writers[client]:
            del self.writers[client]

    def look(self, change: int) -> None:
        """Count one session more (1) or less (-1) that wants to know of the modem lines and errors."""
        self.lookers.set(self.lookers.value + change)

    def beside(self, modem_lines: ModemLines | None, line_errors: LineErrors | None) -> None:
        """Note the modem lines and errors of the line."""
        self.state.set(replace(self.state.value, modem_lines=modem_lines, line_errors=line_errors))

    def permit_controls(self, rights: Right) -> None:
        """Note the rights beside writing that the owner of a remote line gives to chained clients."""
        self.state.set(replace(self.state.value, control_rights=rights))

    def _fail(self, reader: R, detach: Callable[[R], None]) -> None:
        """Detach a reader that raised, and end its session, because its client would miss bytes without knowing."""
        end = self._ends.get(reader)
        detach(reader)
        if end is not None:
            end("a bug ended it")

    def connect(self, line: Line) -> None:
        """Take ``line`` for writing: the device is there."""
        self._line = line
        self.state.set(replace(self.state.value, down=None, asleep=False))

    def disconnect(self, why: str) -> None:
        """Refuse all writers, also those that wait: the device is gone."""
        self._leave(why, asleep=False)

    def sleep(self, why: str) -> None:
        """Do without a device until a client needs it: see ``Session.woken``."""
        self._leave(why, asleep=True)

    def _leave(self, why: str, *, asleep: bool) -> None:
        line, self._line = self._line, None
        # The state first, because a writer that ``end`` refuses looks here for the reason.
        self.state.set(replace(self.state.value, down=why, asleep=asleep))
        if line is not None:
            line.end(why)

    def need(self) -> None:
        """Open the device if it sleeps, and keep it open until ``release`` is called as often as this."""
        self.needs.set(self.needs.value + 1)

    def release(self) -> None:
        """End one ``need``; the device may sleep after the last."""
        self.needs.set(self.needs.value - 1)

    def route(self, *path: bytes, rights: int = EVERY_CLASS) -> None:
        """Note the nodes from the owner of the line to this one; none where there is no way to a line.

        ``rights`` is what the owner lets links write.
        """
        self.state.set(replace(self.state.value, path=path, rights=rights))

    def share(self, turn_rule: TurnRule | None, message_rule: MessageRule | None) -> None:
        """Note the rules by which writers share the line, as its owner has them."""
        self.state.set(replace(self.state.value, turn_rule=turn_rule, message_rule=message_rule))

    def adjusted(self, rate: int, settings: str, in_force: Mapping[str, object] | None = None) -> None:
        """Note the line's settings: in words and, for our own line, as the driver keeps them."""
        self.state.set(replace(self.state.value, rate=rate, settings=settings, in_force=in_force))

    def cut(self, who: str) -> None:
        """Note a reader that was too slow."""
        self.state.set(replace(self.state.value, cuts=self.state.value.cuts + 1, last_cut=who))

    def broke(self, count: int) -> None:
        """Note ``count`` breaks that came from the line; they are no bytes of it."""
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
