"""Find the requests in the byte stream of one master, on a line with turns of Modbus RTU or VISCA.

A TCP read may bring half a request, or three. The turn depends on the request, so the stream is cut where its client is
connected, and from there on each request is one message at every hop.

What must hold
    Every byte is either in one request, in order, or counted in ``rubbish``. At most MAX_FRAME bytes wait, and none
    longer than PATIENCE after the last byte that came, while their client is read.

    The cost of a stream is bounded too: after MAX_RUN bytes of rubbish in a row each read is judged only at its first
    byte, until that begins a request, or nothing came for PATIENCE. Such a client speaks another protocol.

Way of thinking
    What waits is judged at its first byte. It is a whole request, the beginning of one, or none. If none, only that
    byte is dropped, because the next may begin one. A beginning whose rest does not come within PATIENCE is none
    either: a master that was cut off in mid-request sends it again, after the half.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, final

from protocol.sharing import modbus_rtu, visca
from protocol.sharing.piece import Piece

if TYPE_CHECKING:
    from protocol.sharing.turn_rule import TurnRule

__all__ = ["MAX_RUN", "PATIENCE", "RequestSplitter"]

MAX_RUN: Final = modbus_rtu.MAX_FRAME
"""The most bytes of rubbish in a row of which each is judged."""

PATIENCE: Final = 0.25
"""Seconds for the rest of a request to come: longer than TCP takes to send a lost segment again."""


@final
class RequestSplitter:
    """Cuts what one client sends into requests: ``feed`` what was read, ``expire`` at ``deadline``.

    Under a rule that does not say what a request looks like, each read is one.
    """

    def __init__(self, rule: TurnRule) -> None:
        self._kind = rule.reply
        self._waiting = b""
        self._first = self._last = 0.0
        """When the first and the last byte of what waits were read, at the latest and the earliest."""
        self._resumed = -math.inf
        """When reading from the client began again after a pause."""
        self.rubbish = 0
        """Bytes that were in no request, and were dropped."""
        self._run = 0
        """The number of the last ones in a row."""

    @property
    def waiting(self) -> int:
        """The number of bytes that wait for the rest of their request."""
        return len(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When ``expire`` is due; None while nothing waits."""
        return max(self._last, self._resumed) + PATIENCE if self._waiting else None

    def resume(self, now: float) -> None:
        """Note that nobody read from the client until ``now``: the rest may have come, and wait to be read."""
        self._resumed = now

    def feed(self, data: bytes, now: float) -> list[Piece]:
        """Take what was read at ``now``; return the requests that are whole by then."""
        if not data:
            return []
        if self._kind not in ("modbus-rtu", "visca"):
            return [Piece(data, now)]
        requests = self.expire(now)
        if not self._waiting:
            self._first = now
        if now >= self._last + PATIENCE:
            self._run = 0
        self._waiting += data
        self._last = now
        return requests + self._requests(len(data), silent=False)

    def expire(self, now: float) -> list[Piece]:
        """Give up the rest that a request has waited for too long by ``now``; return those that stood behind it."""
        if self.deadline is None or now < self.deadline:
            return []
        return self._requests(0, silent=True)

    def finish(self) -> list[Piece]:
        """Give up what waits, since its client has left or ended its sending; return the requests in it."""
        return self._requests(0, silent=True)

    def _requests(self, new: int, *, silent: bool) -> list[Piece]:
        """Take the requests out of what waits, of which the last ``new`` bytes came just now."""
        found: list[Piece] = []
        at = 0
        while at < len(self._waiting):
            head = self._waiting[at : at + modbus_rtu.MAX_FRAME]
            length = _modbus(head, silent) if self._kind == "modbus-rtu" else _visca(head, silent)
            if length is None:
                break
            if length:
                first = self._last if at >= len(self._waiting) - new else self._first
                found.append(Piece(head[:length], first))
                self._run = 0
                at += length
            else:
                dropped = 1 if self._run < MAX_RUN else len(self._waiting) - at
                self.rubbish += dropped
                self._run += dropped
                at += dropped
        if at >= len(self._waiting) - new:
            self._first = self._last
        self._waiting = self._waiting[at:]
        return found


def _modbus(head: bytes, silent: bool) -> int | None:
    """Return the length of the request at the start of ``head``: 0 where there is none, None while that is open.

    ``silent`` says that nothing more will come. A function code of somebody's own is believed at once where all that
    is there has the right CRC, and else when the stream falls silent.
    """
    length = modbus_rtu.request_length(head)
    if length is None:
        return 0 if silent else None
    if length > 0:
        if length > len(head):
            return 0 if silent else None
        return length if modbus_rtu.has_crc(head[:length]) else 0
    if length < 0:
        return 0
    if modbus_rtu.has_crc(head):
        return len(head)
    return modbus_rtu.shortest_frame(head) if silent or len(head) >= modbus_rtu.MAX_FRAME else None


def _visca(head: bytes, silent: bool) -> int | None:
    """Return the same of VISCA, whose packets end with FF."""
    if not visca.is_header(head[0]):
        return 0
    end = head.find(visca.END, 0, visca.MAX_PACKET) + 1
    if end:
        return end if visca.is_packet(head[:end]) else 0
    return 0 if silent or len(head) >= visca.MAX_PACKET else None
