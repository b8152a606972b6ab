"""The rule by which one line is shared, and the counts of its turns, which go on while the device is closed."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, final

from protocol.sharing.exchange import Ending

if TYPE_CHECKING:
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["Sharing"]

_HOLDERS: Final = 64
"""The most holders whose last turns are remembered."""
_LAST: Final = 10
"""The last turns that are remembered of each."""
_UNANSWERED = (Ending.TIME, Ending.SILENCE)


@final
class Sharing:
    """The turns of one line; ``rule`` is None where every writer may write at any time.

    ``char_gap`` are the seconds of quiet after each character, for a slow device.
    """

    def __init__(self, rule: TurnRule | None, char_gap: float = 0.0) -> None:
        self.rule = rule
        self.char_gap = char_gap
        self.turns: Counter[Ending] = Counter()
        """Turns by how they ended."""
        self.refused = 0
        """Messages that were refused after the longest wait."""
        self.late_until = -math.inf
        """If the device went in a turn: until when the reply may still come after the device is back."""
        self.longest_wait = 0.0
        """The longest time in seconds that a message waited before it was written."""
        self._last: dict[str, deque[Ending]] = {}

    def lost(self, now: float) -> None:
        """Note that the device went in a turn: the reply may still come, as late as any."""
        if self.rule is not None:
            self.late_until = now + 2 * self.rule.reply_timeout

    def waited(self, seconds: float) -> None:
        """Note a wait that ended in a turn."""
        self.longest_wait = max(self.longest_wait, seconds)

    def ended(self, holder: str, ending: Ending) -> None:
        """Note the end of a turn."""
        self.turns[ending] += 1
        self._last[holder] = self._last.pop(holder, deque(maxlen=_LAST))
        self._last[holder].append(ending)
        if len(self._last) > _HOLDERS:
            del self._last[next(iter(self._last))]

    def status(self) -> dict[str, object]:
        """Return the rule and the counts, for the status."""
        return {
            "rule": None if self.rule is None else self.rule.reply,
            "turns": {ending.value: self.turns[ending] for ending in Ending if self.turns[ending]},
            "longest_wait_ms": round(self.longest_wait * 1000),
            "refused": self.refused,
            "warnings": self.warnings,
        }

    @property
    def warnings(self) -> list[str]:
        """Return a sentence for each holder that costs the others most: most of its last turns had no reply."""
        unanswered = ((who, sum(end in _UNANSWERED for end in last), len(last)) for who, last in self._last.items())
        return [
            f"{count} of the last {turns} requests of {who} had no whole reply; each costs the others its time"
            for who, count, turns in unanswered
            if turns == _LAST and count > _LAST // 2
        ]
