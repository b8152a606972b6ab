"""Asking the peer what the chain looks like on its side, and answering: SURVEY and PICTURE of one connection.

At most one of each waits to be sent, and one question stands. A newer question takes the place of an older one, so a
peer that floods us with them fills nothing.
"""

from __future__ import annotations

from typing import final

from protocol.link.chain_frames import Picture, Survey

__all__ = ["Inquiry"]


@final
class Inquiry:
    """The questions and answers of one connection; both sides have agreed on the feature."""

    def __init__(self) -> None:
        self._number = 0
        self._question: Survey | None = None
        self._answer: Picture | None = None
        self._stands = False

    def ask(self, patience: int) -> None:
        """Have a question sent, whose answer is awaited for so many milliseconds."""
        self._number += 1
        self._question = Survey(self._number, patience)
        self._stands = True

    def answer(self, number: int, tree: bytes) -> None:
        """Have the answer to the peer's question of that number sent."""
        self._answer = Picture(number, tree)

    def heard(self, frame: Survey | Picture) -> list[Survey | Picture]:
        """Return what came, unless it answers a question that does not stand any more."""
        if isinstance(frame, Picture):
            if not self._stands or frame.number != self._number:
                return []
            self._stands = False
        return [frame]

    def next_frame(self) -> Survey | Picture | None:
        """Return what there is to say."""
        if (answer := self._answer) is not None:
            self._answer = None
            return answer
        question, self._question = self._question, None
        return question
