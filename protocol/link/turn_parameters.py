"""Turns on the wire: what a message asks for, and how its turn began and ended.

A message without parameters has a turn only if the owner of the line has a turn rule (``protocol.sharing``).
"""

from __future__ import annotations

import enum
import struct
from typing import Final, final

from protocol.frozen import frozen

__all__ = ["MAX_TURN_TIME", "TurnParameters", "TurnPhase", "TurnStatus"]

MAX_TURN_TIME: Final = 9_000
"""The most milliseconds that a turn may last: the longest ``timeout`` that serial.cgi knows.

While one client has the line nobody else can write, so no peer may hold it for longer than a local client.
"""

_LAYOUT: Final = struct.Struct("!HI")


@final
class TurnPhase(enum.IntEnum):
    """The edge of a turn that a TURN frame marks."""

    BEGIN = 0
    END = 1


@final
class TurnStatus(enum.IntEnum):
    """The way in which a turn ended; RUNNING at its beginning."""

    RUNNING = 0
    DELIMITER = 1
    LENGTH = 2
    TIME = 3
    ABORTED = 4
    """The port went down, or the right to it, before the reply was whole."""
    RULE = 5
    """The owner's rule says that the reply is whole, or that there is none."""
    SILENCE = 6
    """The line fell silent in the middle of the reply."""


@final
@frozen
class TurnParameters:
    """The ends of the reply to a message, of which the first one counts.

    ``length`` in bytes (0 to 65535, 0: no length ends it), ``end`` a delimiter (0 to 249 bytes, empty: none
    ends it), ``time`` of the whole turn in milliseconds (0 to MAX_TURN_TIME; 0 ends it at once).
    """

    length: int
    end: bytes
    time: int

    def encode(self) -> bytes:
        """Return the options of a DATA frame; never empty, since empty options mean no turn."""
        return _LAYOUT.pack(self.length, self.time) + self.end

    @classmethod
    def decode(cls, options: bytes) -> TurnParameters:
        """Read the options of a DATA frame that has some. Raises ValueError, or struct.error where they are short."""
        length, time = _LAYOUT.unpack_from(options)
        if time > MAX_TURN_TIME:
            raise ValueError(f"a turn of {time} ms: it may last {MAX_TURN_TIME} ms")
        return cls(length, options[_LAYOUT.size :], time)
