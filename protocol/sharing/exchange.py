"""One request on a shared line and what is heard after it: who hears which bytes, and when the next may begin.

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
    The asker gets only what may belong to its reply, in order: no echo of its own request, no late bytes of another
    unit, nothing of a quarantine. Of Modbus it gets only whole replies, of VISCA whole packets, because half of one
    would spoil the next. Everything that is heard goes somewhere: what is nobody's to monitors, what follows a whole
    reply to everybody.

    Every state except OVER has a deadline, and a quarantine has a final one that no byte moves. So a turn is bounded
    whatever is heard: by ``longest_reply`` bytes with ``patience`` before each, and one more ``reply_timeout``.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["Audience", "Ending", "Exchange"]

_CHARACTERS = 3.5
"""The least characters of quiet after which a line counts as silent, even if ``reply_silence`` is shorter."""
_PACKET_END = b"\xff"


@final
class Audience(enum.Enum):
    """The readers that hear some bytes of the line; monitors hear all."""

    EVERYBODY = enum.auto()
    ASKER = enum.auto()
    MONITORS = enum.auto()


@final
class Ending(enum.Enum):
    """How a turn ended."""

    WHOLE = "whole"
    """The rule found the reply whole."""
    NONE = "none"
    """The request has no reply."""
    SILENCE = "silence"
    """The line fell silent in the middle of the reply."""
    TIME = "time"
    """No reply came in time, or it did not end."""
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
        """The bytes since the request, without its echo once that is known."""
        self._echo_known = not rule.echo
        self._told = 0
        """The bytes at the start of ``_heard`` that were handed out."""
        self._last = math.inf
        """In QUARANTINE, the time when it ends in any case."""
        self.ending: Ending | None = None
        """How the turn ended; None while the reply is due."""
        self.deadline = math.inf
        """When to call ``expire``; in OVER, when the line became quiet after this request."""

    @classmethod
    def isolated(cls, rule: TurnRule, character: float, until: float) -> Exchange:
        """Return the quarantine after a turn whose end was not seen here: its reply may come ``until`` then."""
        exchange = cls(rule, b"", character)
        exchange._isolate(Ending.TIME, until)
        return exchange

    @property
    def over(self) -> bool:
        """Return whether the next request may begin, after the rule's quiet."""
        return self._state is _State.OVER

    def sent(self, at: float) -> None:
        """Note that the last byte of the request leaves the wire at the time ``at``."""
        if self._state is not _State.SENDING:
            return
        if not self._rule.expects_reply(self._request):
            self._end(Ending.NONE, at)
            return
        self._state = _State.REPLY
        self.deadline = at + self._patience

    def hear(self, data: bytes, now: float) -> list[tuple[Audience, bytes]]:
        """Take bytes of the line; return those whose audience is known by now, with the audience."""
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
                return told  # until its end comes it may turn out to be something else
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
        """Go on after nothing came until ``deadline``; return the kept bytes, with their audience."""
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
        """End it, because the device has gone or nothing of the request was written; return the kept bytes."""
        told = self._tell(Audience.MONITORS, len(self._heard))
        if self._state is not _State.OVER:
            self._end(self.ending or Ending.ABORTED, now)
        return told

    def all_told(self) -> None:
        """Note that everything heard by now has been handed out already."""
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
        """The number of bytes, from the start, that the asker may get before the reply is whole."""
        match self._rule.reply:
            case "modbus-rtu":
                return 0
            case "visca":
                return self._heard.rfind(_PACKET_END) + 1
            case _:
                return len(self._heard)

    def _tell(self, audience: Audience, until: int) -> list[tuple[Audience, bytes]]:
        """Hand out the bytes up to ``until`` that were not handed out yet."""
        data, self._told = self._heard[self._told : until], max(self._told, until)
        return [(audience, data)] if data else []

    def _forget(self, count: int) -> None:
        """Drop what is no part of the reply from the start of what was heard."""
        self._heard = self._heard[count:]
        self._told = max(self._told - count, 0)

    def _isolate(self, ending: Ending, last: float, now: float = math.inf) -> None:
        """Begin the quarantine: wait until ``last`` for a missing reply, or for silence after a broken one."""
        self._state, self.ending, self._last = _State.QUARANTINE, ending, last
        self.deadline = min(now + self._silence, last) if self._heard else last

    def _end(self, ending: Ending | None, at: float) -> None:
        self._state, self.ending, self.deadline = _State.OVER, ending, at
