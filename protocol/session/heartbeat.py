"""Asking whether the peer is there, and answering: PING and PONG of one connection.

Answers come in the order of the questions, since both travel in one TCP stream. So an answer proves more than life:
everything that was sent before its question has arrived.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

from protocol.errors import RemoteProtocolError
from protocol.link.session_frames import Ping, Pong
from protocol.session.clock import PeerClock, to_wire

__all__ = ["MAX_QUESTIONS", "Heartbeat"]

MAX_QUESTIONS: Final = 16
"""Questions of one side that may stand unanswered. Who asks more without an answer fills our queue, not his need."""


@final
class Heartbeat:
    """The questions and answers of one connection. OPEN and OPENED count among them: both carry clocks."""

    def __init__(self) -> None:
        self.clock = PeerClock()
        self._asked: deque[int] = deque()
        self._heard: deque[int] = deque()
        self._due = False
        self.has_news = False
        """There may be something to say."""

    def ask(self) -> None:
        """Have a PING sent."""
        self._due = self.has_news = True

    def asked(self, now: int) -> int:
        """Note that a question goes out; return the clock that it must carry."""
        self._asked.append(to_wire(now))
        return self._asked[-1]

    def heard(self, clock: int) -> None:
        """Note the peer's question, to be answered. Raises RemoteProtocolError where too many have no answer yet."""
        if len(self._heard) >= MAX_QUESTIONS:
            raise RemoteProtocolError(f"more than {MAX_QUESTIONS} questions without an answer")
        self._heard.append(clock)
        self.has_news = True

    def answered(self, echo: int, clock: int, now: int) -> None:
        """Take the answer to our oldest question. Raises RemoteProtocolError where it answers another."""
        if not self._asked or self._asked.popleft() != echo:
            raise RemoteProtocolError(f"an answer to {echo}, which was not asked, or not next")
        self.clock.answered(echo, clock, now)

    def next_frame(self, now: int) -> Ping | Pong | None:
        """Return what there is to say, answers first: the peer's patience is shorter than ours."""
        if self._heard:
            return Pong(self._heard.popleft(), to_wire(now))
        if not self._due or len(self._asked) >= MAX_QUESTIONS:
            self.has_news = self._due
            return None
        self._due = False
        return Ping(self.asked(now))
