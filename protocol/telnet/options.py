"""Negotiate telnet's options, each in both directions, without ever answering an answer (RFC 1143, the Q method).

Way of thinking
    For each option two questions are open, and independent: do we (WILL, answered by DO) and does the peer (DO,
    answered by WILL)? What changes nothing gets no answer, for two peers that answer everything never come to an end.
    We ask once, at the start, and never take a yes back, so of the six states of RFC 1143 these three are left.

    That holds between peers that keep to it. Where words got lost or doubled a pair of them can go round for ever, each
    a change, each answered: so a side of an option is answered a few times, and then left as it is.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import Final, final

from protocol.telnet.decoder import IAC, Code, Negotiation

__all__ = ["Option", "Options", "Side"]


@final
class Option(enum.IntEnum):
    """The options that are agreed to; all others are refused."""

    BINARY = 0
    """Eight bits, and a carriage return like any other byte (RFC 856)."""
    ECHO = 1
    """The device at the line echoes, or does not; the peer's terminal is not to (RFC 857)."""
    SUPPRESS_GO_AHEAD = 3
    """Both ends send at any time (RFC 858)."""
    COM_PORT = 44
    """RFC 2217."""


@final
class Side(enum.Enum):
    """Who does what an option says."""

    US = "us"
    PEER = "peer"


@final
class _Answer(enum.Enum):
    NO = enum.auto()
    ASKED = enum.auto()
    YES = enum.auto()


_OFFERED: Final = {
    Side.US: frozenset(Option),
    Side.PEER: frozenset({Option.BINARY, Option.SUPPRESS_GO_AHEAD, Option.COM_PORT}),
}
"""The options that we agree to. Nobody is to echo what the line says back into the line."""

_ASKED_FIRST: Final = (
    (Side.US, Option.ECHO),
    (Side.US, Option.SUPPRESS_GO_AHEAD),
    (Side.PEER, Option.SUPPRESS_GO_AHEAD),
    (Side.US, Option.BINARY),
    (Side.PEER, Option.BINARY),
    (Side.PEER, Option.COM_PORT),
)

_PATIENCE: Final = 8
"""The answers that one side of an option gets."""

_YES: Final = {Side.US: Code.WILL, Side.PEER: Code.DO}
_NO: Final = {Side.US: Code.WONT, Side.PEER: Code.DONT}


@final
class Options:
    """The options of one connection, at the server."""

    def __init__(self) -> None:
        self._answers = {(side, option): _Answer.NO for side in Side for option in Option}
        self._given: Counter[tuple[Side, int]] = Counter()

    def start(self) -> bytes:
        """Return the questions that a server begins with."""
        for question in _ASKED_FIRST:
            self._answers[question] = _Answer.ASKED
        return b"".join(_said(_YES[side], option) for side, option in _ASKED_FIRST)

    def agreed(self, side: Side, option: Option) -> bool:
        """Return whether both ends want it."""
        return self._answers[side, option] is _Answer.YES

    def receive(self, asked: Negotiation) -> bytes:
        """Take what the peer said, and return the answer: empty where it changes nothing."""
        side = Side.PEER if asked.verb in {Code.WILL, Code.WONT} else Side.US
        key, wanted = (side, asked.option), asked.verb in {Code.WILL, Code.DO}
        if self._given[key] >= _PATIENCE:
            return b""
        if asked.option not in _OFFERED[side]:
            answer = _NO[side] if wanted else None  # a refusal of what was not asked for is true already
        else:
            option = Option(asked.option)
            before = self._answers[side, option]
            self._answers[side, option] = _Answer.YES if wanted else _Answer.NO
            answer = (_YES if wanted else _NO)[side] if before is (_Answer.NO if wanted else _Answer.YES) else None
        if answer is None:
            return b""
        self._given[key] += 1
        return _said(answer, asked.option)


def _said(verb: Code, option: int) -> bytes:
    return bytes([IAC, verb, option])
