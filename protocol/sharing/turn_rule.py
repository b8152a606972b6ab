"""The rule by which the writers of a half-duplex line take turns: one request, its reply, the next.

A rule is data, and its methods are pure functions: the caller passes the bytes of the request, and all bytes that were
heard since, each time from the first one. So there is no state that could be wrong. The caller counts the seconds, and
``longest_reply`` bounds what may be heard in one turn.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, final, get_args

from protocol.frozen import frozen
from protocol.sharing import modbus_rtu, visca

__all__ = ["KINDS", "MAX_END", "MAX_REPLY", "MAX_TIME", "ReplyKind", "ReplyTo", "TurnRule"]

ReplyKind: TypeAlias = Literal["none", "modbus-rtu", "visca", "line", "length", "silence"]
ReplyTo: TypeAlias = Literal["sender", "all"]

KINDS: Final[tuple[ReplyKind, ...]] = get_args(ReplyKind)
"""The ways in which the end of a reply is known."""

MAX_REPLY: Final = 1024
"""The most bytes of a reply without a bound by a standard: about a second of line at 9600 bits a second."""

MAX_END: Final = 16
"""The most bytes that end a reply."""

MAX_TIME: Final = 9.0
"""The most seconds of each time of a rule: no turn lasts longer than the longest of serial.cgi."""

_LEAST_TIME: Final = 0.001
_CHARACTERS: Final = 3.5
"""Characters of quiet that certainly end a frame, whatever the kind; Modbus RTU has the number from its standard."""
_MODBUS_GAP: Final = 0.00175
"""Seconds of quiet between two frames of Modbus RTU at any rate (Modbus over serial line V1.02, 2.5.1.1)."""


@final
@frozen
class TurnRule:
    """The end of a request's reply, and the times of a turn in seconds (0.001 to MAX_TIME).

    ``reply`` tells how the end of a reply is known: "line" by its last bytes, ``end`` (1 to MAX_END), "length" by
    their number, ``length`` (1 to MAX_REPLY); no other kind has either. ``reply_timeout`` runs from when the request
    has left the wire to the first byte, ``reply_silence`` between the bytes of the reply. ``gap`` is the quiet before
    the next request (None: that of the kind, else 0 to MAX_TIME). A request that waited for longer than ``max_wait``
    is refused. ``echo`` says that the adapter hears what it sends. Raises ValueError for anything else.
    """

    reply: ReplyKind
    end: bytes = b""
    length: int = 0
    reply_timeout: float = 0.3
    reply_silence: float = 0.02
    gap: float | None = None
    max_wait: float = 1.0
    reply_to: ReplyTo = "sender"
    echo: bool = False

    def __post_init__(self) -> None:
        if self.reply not in KINDS:
            raise ValueError(f"a reply is known by one of {', '.join(KINDS)}")
        if self.reply_to not in get_args(ReplyTo):
            raise ValueError("a reply goes to one of sender, all")
        if bool(self.end) != (self.reply == "line") or len(self.end) > MAX_END:
            raise ValueError(f'a reply "line" ends with 1 to {MAX_END} bytes, and no other has such an end')
        if bool(self.length) != (self.reply == "length") or not 0 <= self.length <= MAX_REPLY:
            raise ValueError(f'a reply "length" has 1 to {MAX_REPLY} bytes, and no other has a length')
        for seconds in (self.reply_timeout, self.reply_silence, self.max_wait):
            if not _LEAST_TIME <= seconds <= MAX_TIME:
                raise ValueError(f"a time of a turn is {_LEAST_TIME:g} to {MAX_TIME:g} s")
        if self.gap is not None and not 0 <= self.gap <= MAX_TIME:
            raise ValueError(f"a gap is 0 to {MAX_TIME:g} s")

    # -- a request

    @property
    def has_requests(self) -> bool:
        """Return whether the rule tells where a request ends: elsewhere one is a message."""
        return self.reply in ("modbus-rtu", "visca")

    def expects_reply(self, request: bytes) -> bool:
        """Return whether ``request`` has a reply; a Modbus broadcast has none."""
        if self.reply == "modbus-rtu":
            return modbus_rtu.expects_reply(request)
        return self.reply != "none"

    def supersedes(self, newer: bytes, waiting: bytes) -> bool:
        """Return whether a request replaces an earlier one of the same client that has not begun.

        A Modbus master that sends again has given up the request before. In other protocols only the same bytes replace
        a request: VISCA's stop, and a focus after it, must both be sent.
        """
        return self.reply == "modbus-rtu" or newer == waiting

    def echoed(self, request: bytes, heard: bytes) -> int | None:
        """Return how many bytes at the start of ``heard`` are our own request; None while that is open.

        Anything else than the whole request is no echo: another unit spoke over it, or the adapter has no echo.
        """
        if not self.echo or not heard.startswith(request[: len(heard)]):
            return 0
        return len(request) if len(heard) >= len(request) else None

    # -- its reply: ``heard`` is what came behind the request, and behind its echo

    def reply_start(self, request: bytes, heard: bytes) -> int:
        """Return how many bytes at the start of ``heard`` are certainly no part of the reply to ``request``.

        Such are late bytes of another unit. Only a protocol whose replies name the unit can tell.
        """
        match self.reply:
            case "modbus-rtu":
                return modbus_rtu.reply_start(request, heard)
            case "visca":
                return visca.reply_start(request, heard)
            case _:
                return 0

    def reply_end(self, request: bytes, heard: bytes) -> int | None:
        """Return after how many bytes of ``heard`` the reply to ``request`` is whole; None while it is not."""
        match self.reply:
            case "modbus-rtu":
                found = modbus_rtu.find_reply(request, heard)
                return None if found is None else found.stop
            case "visca":
                return visca.reply_end(request, heard)
            case "line":
                at = heard.find(self.end)
                return at + len(self.end) if at >= 0 else None
            case "length":
                return self.length if len(heard) >= self.length else None
            case _:
                return None

    def is_whole(self, request: bytes, heard: bytes) -> bool:
        """Return whether ``heard`` is a whole reply now that the line has fallen silent, though nothing else ended it.

        So it is under "silence", and for a function code of Modbus that no standard describes.
        """
        if self.reply == "modbus-rtu":
            return modbus_rtu.find_reply(request, heard, silent=True) is not None
        return self.reply == "silence" and bool(heard)

    def patience(self, request: bytes, heard: bytes, character: float) -> float:
        """Return the seconds of silence behind ``heard`` after which nothing more of the reply will come.

        ``character`` is the line time of one, in seconds. A VISCA camera is silent between its ACK and the completion
        for as long as it takes to move, so there the whole ``reply_timeout`` runs anew.
        """
        if not heard or (self.reply == "visca" and visca.between_packets(heard)):
            return self.reply_timeout
        return max(self.reply_silence, _CHARACTERS * character)

    @property
    def longest_reply(self) -> int:
        """The most bytes that a reply has, and so the most that one turn hears."""
        match self.reply:
            case "none":
                return 0
            case "modbus-rtu":
                return modbus_rtu.MAX_FRAME
            case "visca":
                return visca.MAX_REPLY
            case "length":
                return self.length
            case _:
                return MAX_REPLY

    # -- the line

    def quiet(self, character: float) -> float:
        """Return the seconds of quiet before the next request; ``character`` is the line time of one, in seconds."""
        if self.gap is not None:
            return self.gap
        return max(_CHARACTERS * character, _MODBUS_GAP) if self.reply == "modbus-rtu" else 0.0

    def longest_course(self, request: int, character: float) -> float:
        """Return the seconds from the first byte of a request of so many bytes to the end of its longest reply."""
        if self.reply == "none":
            return request * character + self.quiet(character)
        echo = request if self.echo else 0
        return (request + echo + self.longest_reply) * character + self.reply_timeout + self.quiet(character)
