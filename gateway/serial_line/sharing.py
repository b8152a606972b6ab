"""The rule by which one line is shared, and what became of its turns: it outlives the times that the device is open."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, final

from protocol.sharing.exchange import Ending

if TYPE_CHECKING:
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["Sharing"]

_HOLDERS: Final = 64
"""Holders whose last turns are remembered."""
_LAST: Final = 10
"""Turns of each that are."""
_UNANSWERED = (Ending.TIME, Ending.SILENCE)


@final
class Sharing:
    """The turns of one line; ``rule`` is None where every writer may write at any time.

    ``char_gap`` are the seconds of quiet behind each character that a slow device wants.
    """

    def __init__(self, rule: TurnRule | None, char_gap: float = 0.0) -> None:
        self.rule = rule
        self.char_gap = char_gap
        self.turns: Counter[Ending] = Counter()
        """Turns by how they ended."""
        self.refused = 0
        """Messages that waited for as long as they may."""
        self.late_until = -math.inf
        """The device went in a turn whose reply may still come until then, when the device is back."""
        self.longest_wait = 0.0
        """The longest time in seconds that a message which was written had waited for its turn."""
        self._last: dict[str, deque[Ending]] = {}

    def lost(self, now: float) -> None:
        """Take note that the device went in a turn: its reply may be due from now on, and be as late as any."""
        if self.rule is not None:
            self.late_until = now + 2 * self.rule.reply_timeout

    def waited(self, seconds: float) -> None:
        """Take note of a wait that ended in a turn."""
        self.longest_wait = max(self.longest_wait, seconds)

    def ended(self, holder: str, ending: Ending) -> None:
        """Take note of the end of a turn."""
        self.turns[ending] += 1
        self._last[holder] = self._last.pop(holder, deque(maxlen=_LAST))
        self._last[holder].append(ending)
        if len(self._last) > _HOLDERS:
            del self._last[next(iter(self._last))]

    def status(self) -> dict[str, object]:
        """Return the rule, and what was counted, as the status shows them."""
        return {
            "rule": None if self.rule is None else self.rule.reply,
            "turns": {ending.value: self.turns[ending] for ending in Ending if self.turns[ending]},
            "longest_wait_ms": round(self.longest_wait * 1000),
            "refused": self.refused,
            "warnings": self.warnings,
        }

    @property
    def warnings(self) -> list[str]:
        """Return in words who costs the others most: the holders most of whose last turns had no reply."""
        unanswered = ((who, sum(end in _UNANSWERED for end in last), len(last)) for who, last in self._last.items())
        return [
            f"{count} of the last {turns} requests of {who} had no whole reply; each costs the others its time"
            for who, count, turns in unanswered
            if turns == _LAST and count > _LAST // 2
        ]
