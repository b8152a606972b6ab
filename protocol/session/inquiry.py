"""What is said beside the streams: what the chain looks like (SURVEY, PICTURE), and a new key (REKEY, REKEYED).

At most one of each waits to be sent, and one question stands. A newer one takes the place of an older one, so a peer
that floods us with them fills nothing. A key is answered over whichever connection there is by then, for it is the key
that the next one begins with: so whether an answer belongs to anything is judged by who told the key.
"""

from __future__ import annotations

from typing import TypeAlias, final

from protocol.link.chain_frames import Picture, Survey
from protocol.link.key_frames import Rekey, Rekeyed

__all__ = ["Aside", "Inquiry"]

Aside: TypeAlias = Survey | Picture | Rekey | Rekeyed


@final
class Inquiry:
    """The questions and answers of one connection; both sides have agreed on the features."""

    def __init__(self) -> None:
        self._number = 0
        self._question: Survey | None = None
        self._answer: Picture | None = None
        self._stands = False
        self._key: Rekey | Rekeyed | None = None
        self.has_news = False
        """There may be something to say."""

    def ask(self, patience: int) -> None:
        """Have a question sent, whose answer is awaited for so many milliseconds."""
        self._number += 1
        self._question = Survey(self._number, patience)
        self._stands = self.has_news = True

    def answer(self, number: int, tree: bytes) -> None:
        """Have the answer to the peer's question of that number sent."""
        self._answer = Picture(number, tree)
        self.has_news = True

    def tell(self, key: Rekey | Rekeyed) -> None:
        """Have a new key sent to a client, or by a client what became of one."""
        self._key = key
        self.has_news = True

    def heard(self, frame: Survey | Picture) -> list[Survey | Picture]:
        """Return what came, unless it answers a question that does not stand any more."""
        if isinstance(frame, Picture):
            if not self._stands or frame.number != self._number:
                return []
            self._stands = False
        return [frame]

    def next_frame(self) -> Aside | None:
        """Return what there is to say."""
        if (answer := self._answer) is not None:
            self._answer = None
            return answer
        if (key := self._key) is not None:
            self._key = None
            return key
        question, self._question, self.has_news = self._question, None, False
        return question
