"""Units on a real-time line behind a pty: a two-wire bus of Modbus RTU that collides, and a chain of VISCA cameras.

The pty takes everything at once, and the line does not: each byte that was written has its time on the wire, one
behind the other, and so has each byte that a unit says. On two wires whatever is said while another speaks is
destroyed, both of it. Frames of Modbus end by 3.5 characters of silence, as the standard has it, so two requests that
are sent on each other's heels are one broken frame.

A thread has the line; what happens out there does not wait for the test.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import heapq
import itertools
import os
import random
import select
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from protocol.sharing import modbus_rtu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers import FarEnd

__all__ = ["Cameras", "ModbusUnits", "Precedence", "Wire", "register", "take_precedence"]

_BITS: Final = 10
_DELIVERY: Final = 0.004
"""Seconds of what a unit says that come in one piece, as adapters have it."""


class Precedence(enum.IntEnum):
    """Who goes first on a machine that is all of them: the line, then the gateways, then their clients.

    Each is a machine of its own out there, and beside what else runs here they all go first.
    """

    NONE = 0
    CLIENT = 1
    GATEWAY = 2
    WIRE = 3


def take_precedence(precedence: Precedence) -> None:
    """Have this thread, and the processes that it starts from now on, take precedence, where that is permitted."""
    policy = os.SCHED_FIFO if precedence else os.SCHED_OTHER
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, policy, os.sched_param(precedence))


class Units(Protocol):
    """Who answers on a line."""

    def frame_end(self, heard: bytes, character: float) -> float | None:
        """Return the seconds of silence after which ``heard`` is a frame; None while it is none."""

    def answers(self, frame: bytes) -> list[tuple[float, bytes]]:
        """Return what is said, and how many seconds after the end of the frame it begins."""


@dataclass
class Wire:
    """A line at ``rate`` with its units, behind the master of ``end``; on ``two_wires`` who speaks at once collides."""

    end: FarEnd
    units: Units
    rate: int
    two_wires: bool = True
    collisions: int = 0
    """Times that somebody spoke while another did."""
    unanswered: int = 0
    """Frames that were broken on the wire, or that no unit knew."""
    written: list[tuple[float, bytes]] = field(default_factory=list)
    """Each write, and when it began on the wire, in seconds of the monotonic clock."""

    def __post_init__(self) -> None:
        self._character = _BITS / self.rate
        self._random = random.Random(0)
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._sent_until = self._said_until = 0.0
        self._frame = bytearray()
        self._broken = False
        self._speaking: _Speech | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Wire]:
        """Run the line until the block ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        take_precedence(Precedence.WIRE)  # no unit waits for this machine: what it says comes in one piece
        while not stop.is_set():
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            wait = min(self._due[0][0] - time.monotonic(), 0.05) if self._due else 0.05
            if select.select([self.end.master], [], [], max(wait, 0))[0]:
                try:
                    data = os.read(self.end.master, 65536)
                except OSError:  # nobody has opened the line
                    time.sleep(0.005)
                    continue
                self._sent(data, time.monotonic())

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), what))

    # -- what the gateway says

    def _sent(self, data: bytes, now: float) -> None:
        begins = max(now, self._sent_until)
        self._sent_until = begins + len(data) * self._character
        self.written.append((begins, data))
        self._frame += data
        if self.two_wires and begins < self._said_until and self._speaking is not None:
            self.collisions += 1
            self._speaking.broken = self._broken = True
        if (silence := self.units.frame_end(bytes(self._frame), self._character)) is not None:
            until = self._sent_until
            self._at(until + silence, functools.partial(self._frame_ended, until))

    def _frame_ended(self, until: float) -> None:
        if self._sent_until != until or not self._frame:
            return  # more of it came
        frame, broken = bytes(self._frame), self._broken
        self._frame.clear()
        self._broken = False
        answers = [] if broken else self.units.answers(frame)
        self.unanswered += not answers
        for delay, answer in answers:
            self._at(until + delay, functools.partial(self._say, answer))

    # -- what the units say

    def _say(self, answer: bytes) -> None:
        now = max(time.monotonic(), self._said_until)
        speech = _Speech(answer)
        if self.two_wires and now < max(self._sent_until, self._said_until):
            self.collisions += 1
            speech.broken = self._broken = True
        self._speaking = speech
        self._said_until = now + len(answer) * self._character
        step = max(int(_DELIVERY / self._character), 1)
        for start in range(0, len(answer), step):
            end = min(start + step, len(answer))
            self._at(now + end * self._character, functools.partial(self._deliver, speech, start, end))

    def _deliver(self, speech: _Speech, start: int, end: int) -> None:
        data = self._random.randbytes(end - start) if speech.broken else speech.answer[start:end]
        with contextlib.suppress(OSError):
            os.write(self.end.master, data)


@dataclass
class _Speech:
    """What a unit says; from when it is ``broken``, noise is heard in its place."""

    answer: bytes
    broken: bool = False


def register(unit: int, address: int) -> int:
    """Return what the register of a unit holds: no two of those that are asked for hold the same."""
    return unit << 12 | address & 0xFFF


@dataclass
class ModbusUnits:
    """Units that know function 3, after ``turnaround`` seconds, as real ones need; some answer later, some never."""

    units: tuple[int, ...] = (1, 2, 3)
    turnaround: float = 0.01
    late: dict[int, float] = field(default_factory=dict)
    """Seconds after which a unit answers, by unit."""

    def frame_end(self, heard: bytes, character: float) -> float | None:
        """See Units."""
        return max(3.5 * character, 0.00175) if heard else None

    def answers(self, frame: bytes) -> list[tuple[float, bytes]]:
        """See Units."""
        if len(frame) != 8 or not modbus_rtu.has_crc(frame) or frame[0] not in (*self.units, *self.late):
            return []
        unit, _, address, count = struct.unpack(">BBHH", frame[:6])
        values = struct.pack(f">{count}H", *(register(unit, address + number) for number in range(count)))
        reply = modbus_rtu.framed(bytes((unit, 3, len(values))) + values)
        return [(self.late.get(unit, self.turnaround), reply)]


@dataclass
class Cameras:
    """A chain of VISCA cameras, 1 to 7: each knows what was asked, and has two sockets for commands."""

    moves: float = 0.06
    """Seconds that a command takes."""
    _socket: int = 0

    def frame_end(self, heard: bytes, character: float) -> float | None:
        """See Units."""
        return 0.0 if heard.endswith(b"\xff") else None

    def answers(self, frame: bytes) -> list[tuple[float, bytes]]:
        """See Units."""
        said = []
        for number, packet in enumerate(frame.split(b"\xff")[:-1]):
            source, delay = 0x80 + (packet[0] << 4 & 0x70), 0.01 + number * 0.002
            if packet[1] == 0x09:
                said.append((delay, bytes((source, 0x50, *_nibbles(packet[2:]), 0xFF))))
            else:
                self._socket = self._socket % 2 + 1
                said.append((delay, bytes((source, 0x40 | self._socket, 0xFF))))
                said.append((delay + self.moves, bytes((source, 0x50 | self._socket, 0xFF))))
        return said


def _nibbles(data: bytes) -> list[int]:
    return [nibble for byte in data for nibble in (byte >> 4, byte & 15)]
