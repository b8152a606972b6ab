"""One request on a shared line and what is heard after it: who hears what, and when the next may begin.

Bytes and times in, bytes with their audience out; seconds are of any one clock.

The states
    SENDING     the request is on its way to the wire: until ``sent`` tells when its last byte will have left it
    REPLY       the reply is due, or comes
    QUARANTINE  the turn is over without a whole reply, which may still come: it is nobody's
    OVER        the next may begin, after the rule's quiet

    SENDING --sent--> REPLY          an answer is due
    SENDING --sent--> OVER           none is, at the time when the last byte has left (NONE)
    REPLY   --hear--> OVER           the rule finds the reply whole (WHOLE)
    REPLY   --expire--> OVER         the line fell silent, and the rule takes that for its end (WHOLE)
    REPLY   --expire--> QUARANTINE   nothing came (TIME), or a part and then silence (SILENCE)
    REPLY   --hear--> QUARANTINE     more came than any reply has (TIME)
    QUARANTINE --expire--> OVER      silent after what came late, or the time is over
    any but OVER --abort--> OVER     the device has gone (ABORTED)

What must hold
    The asker is given only what may belong to its reply, in order: no echo of its own request, no late words of
    another unit, nothing of a quarantine. Of Modbus it is given whole replies alone, of VISCA whole packets: half of
    one would spoil the next. All that is heard is given to somebody: what is nobody's goes to monitors, what stands
    behind a whole reply to everybody.

    Every state but OVER has a deadline, and a quarantine has a last one that no byte moves. So a turn is bounded
    whatever is heard: by ``longest_reply`` bytes with ``patience`` before each, and ``reply_timeout`` once more.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["Audience", "Ending", "Exchange"]

_CHARACTERS = 3.5
"""Characters of quiet after which a line counts as silent, however short ``reply_silence`` is."""
_PACKET_END = b"\xff"


@final
class Audience(enum.Enum):
    """The readers that hear some bytes of the line; monitors hear all."""

    EVERYBODY = enum.auto()
    ASKER = enum.auto()
    MONITORS = enum.auto()


@final
class Ending(enum.Enum):
    """The way in which a turn ended."""

    WHOLE = "whole"
    """The rule found the reply whole."""
    NONE = "none"
    """Nobody answers such a request."""
    SILENCE = "silence"
    """The line fell silent in the middle of the reply."""
    TIME = "time"
    """Nothing came in time, or no end of what came."""
    ABORTED = "aborted"
    """The device has gone, or the request was withdrawn."""


@final
class _State(enum.Enum):
    SENDING = enum.auto()
    REPLY = enum.auto()
    QUARANTINE = enum.auto()
    OVER = enum.auto()


@final
class Exchange:
    """The turn of ``request`` under ``rule``, on a line whose characters take ``character`` seconds each."""

    def __init__(self, rule: TurnRule, request: bytes, character: float) -> None:
        self._rule = rule
        self._request = request
        self._character = character
        self._state = _State.SENDING
        self._heard = b""
        """What came since the request, without its echo once that is known."""
        self._echo_known = not rule.echo
        self._told = 0
        """Bytes at the start of ``_heard`` that have had their audience."""
        self._last = math.inf
        """In QUARANTINE, when it ends whatever comes."""
        self.ending: Ending | None = None
        """How the turn ended; None while the reply is due."""
        self.deadline = math.inf
        """When ``expire`` is to be called; in OVER, when the line is quiet of this request."""

    @classmethod
    def isolated(cls, rule: TurnRule, character: float, until: float) -> Exchange:
        """Return the quarantine after a turn whose end nobody here has seen: its reply may come ``until`` then."""
        exchange = cls(rule, b"", character)
        exchange._isolate(Ending.TIME, until)
        return exchange

    @property
    def over(self) -> bool:
        """Return whether the next request may begin, after the rule's quiet."""
        return self._state is _State.OVER

    def sent(self, at: float) -> None:
        """Take note that the last byte of the request leaves the wire at the time ``at``."""
        if self._state is not _State.SENDING:
            return
        if not self._rule.expects_reply(self._request):
            self._end(Ending.NONE, at)
            return
        self._state = _State.REPLY
        self.deadline = at + self._patience

    def hear(self, data: bytes, now: float) -> list[tuple[Audience, bytes]]:
        """Take what the line says, and return it, or what is known of it by now, with its audience."""
        if self._state is _State.OVER:
            return [(Audience.EVERYBODY, data)]
        if self._state is _State.QUARANTINE:
            self.deadline = min(now + self._silence, self._last)
            return [(Audience.MONITORS, data)]
        self._heard += data
        told: list[tuple[Audience, bytes]] = []
        if not self._echo_known:
            echoed = self._rule.echoed(self._request, self._heard)
            if echoed is None:
                return told  # its end is still to come, and until then it may be something else
            self._echo_known = True
            told += self._tell(Audience.MONITORS, echoed)
            self._forget(echoed)
        strange = self._rule.reply_start(self._request, self._heard)
        told += self._tell(Audience.MONITORS, strange)
        self._forget(strange)
        end = self._rule.reply_end(self._request, self._heard)
        if end is not None:
            told += [*self._tell(Audience.ASKER, end), *self._tell(Audience.EVERYBODY, len(self._heard))]
            self._end(Ending.WHOLE, now)
        elif len(self._heard) >= max(self._rule.longest_reply, 1) and self._state is _State.REPLY:
            told += self._tell(Audience.MONITORS, len(self._heard))
            self._isolate(Ending.TIME, now + self._rule.reply_timeout, now)
        else:
            told += self._tell(Audience.ASKER, self._certain)
            if self._heard and self._state is _State.REPLY:
                self.deadline = now + self._patience
        return told

    def expire(self, now: float) -> list[tuple[Audience, bytes]]:
        """Go on where nothing came until ``deadline``; return what was kept until its audience was known."""
        if now < self.deadline or self._state is _State.OVER:
            return []
        if self._state is _State.QUARANTINE:
            self._end(self.ending, now)
            return []
        if self._echo_known and self._rule.is_whole(self._request, self._heard):
            told = self._tell(Audience.ASKER, len(self._heard))
            self._end(Ending.WHOLE, now)
            return told
        told = self._tell(Audience.MONITORS, len(self._heard))
        self._isolate(Ending.SILENCE if self._heard else Ending.TIME, now + self._rule.reply_timeout, now)
        return told

    def abort(self, now: float) -> list[tuple[Audience, bytes]]:
        """End it, for the device has gone, or nothing of the request was written; return what was kept."""
        told = self._tell(Audience.MONITORS, len(self._heard))
        if self._state is not _State.OVER:
            self._end(self.ending or Ending.ABORTED, now)
        return told

    def all_told(self) -> None:
        """Take note that all that was heard by now had its audience already, whatever that was."""
        self._told = len(self._heard)

    @property
    def _patience(self) -> float:
        if not self._echo_known:
            return self._rule.reply_timeout
        return self._rule.patience(self._request, self._heard, self._character)

    @property
    def _silence(self) -> float:
        return max(self._rule.reply_silence, _CHARACTERS * self._character)

    @property
    def _certain(self) -> int:
        """How many bytes at the start of what was heard the asker may have before the reply is whole."""
        match self._rule.reply:
            case "modbus-rtu":
                return 0
            case "visca":
                return self._heard.rfind(_PACKET_END) + 1
            case _:
                return len(self._heard)

    def _tell(self, audience: Audience, until: int) -> list[tuple[Audience, bytes]]:
        """Give what has had no audience yet, up to ``until``, to this one."""
        data, self._told = self._heard[self._told : until], max(self._told, until)
        return [(audience, data)] if data else []

    def _forget(self, count: int) -> None:
        """Drop what is no part of the reply from the start of what was heard."""
        self._heard = self._heard[count:]
        self._told = max(self._told - count, 0)

    def _isolate(self, ending: Ending, last: float, now: float = math.inf) -> None:
        """Begin the quarantine: what never came may come until ``last``, what broke off has to be silent."""
        self._state, self.ending, self._last = _State.QUARANTINE, ending, last
        self.deadline = min(now + self._silence, last) if self._heard else last

    def _end(self, ending: Ending | None, at: float) -> None:
        self._state, self.ending, self.deadline = _State.OVER, ending, at
