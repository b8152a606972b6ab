"""The owner's rules of sharing as a port's state carries them: where a turn ends, and where a message does.

The CPU that a client is connected to cuts what it sends by these, so that one DATA at the owner is one request.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, final

from protocol.sharing.message_rule import MessageRule
from protocol.sharing.turn_rule import ReplyKind, TurnRule

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ReplyCode", "decode_rules", "encode_rules"]


@final
class ReplyCode(enum.IntEnum):
    """The way in which the end of a reply is known."""

    NO_RULE = 0
    NONE = 1
    MODBUS_RTU = 2
    VISCA = 3
    LINE = 4
    LENGTH = 5
    SILENCE = 6


_KINDS: Final[Mapping[ReplyCode, ReplyKind]] = {
    ReplyCode.NONE: "none",
    ReplyCode.MODBUS_RTU: "modbus-rtu",
    ReplyCode.VISCA: "visca",
    ReplyCode.LINE: "line",
    ReplyCode.LENGTH: "length",
    ReplyCode.SILENCE: "silence",
}
_CODES: Final[Mapping[ReplyKind, ReplyCode]] = {kind: code for code, kind in _KINDS.items()}

_TURN: Final = struct.Struct("!BHHHH")
"""Flags, then reply timeout, reply silence, gap and longest wait in milliseconds."""
_LENGTH: Final = struct.Struct("!H")
_ALL: Final = 1
_ECHO: Final = 2
_GAP_OF_KIND: Final = 0xFFFF


def encode_rules(turn: TurnRule | None, message: MessageRule | None) -> bytes:
    """Return both rules in the bytes of the wire, their times cut to milliseconds."""
    return _encode_turn(turn) + _encode_message(message)


def decode_rules(data: bytes, start: int) -> tuple[TurnRule | None, MessageRule | None, int]:
    """Read both at ``start``; return the offset behind them too. Raises ValueError, IndexError or struct.error."""
    turn, start = _decode_turn(data, start)
    message, start = _decode_message(data, start)
    return turn, message, start


def _encode_turn(rule: TurnRule | None) -> bytes:
    if rule is None:
        return bytes([ReplyCode.NO_RULE])
    flags = (_ALL if rule.reply_to == "all" else 0) | (_ECHO if rule.echo else 0)
    gap = _GAP_OF_KIND if rule.gap is None else _milliseconds(rule.gap)
    times = (_milliseconds(time) for time in (rule.reply_timeout, rule.reply_silence, rule.max_wait))
    timeout, silence, max_wait = times
    data = bytes([_CODES[rule.reply]]) + _TURN.pack(flags, timeout, silence, gap, max_wait)
    match rule.reply:
        case "line":
            return data + bytes([len(rule.end)]) + rule.end
        case "length":
            return data + _LENGTH.pack(rule.length)
    return data


def _decode_turn(data: bytes, start: int) -> tuple[TurnRule | None, int]:
    code = ReplyCode(data[start])
    start += 1
    if code is ReplyCode.NO_RULE:
        return None, start
    flags, timeout, silence, gap, max_wait = _TURN.unpack_from(data, start)
    start += _TURN.size
    end, length = b"", 0
    if code is ReplyCode.LINE:
        end = data[start + 1 : start + 1 + data[start]]
        start += 1 + data[start]
    elif code is ReplyCode.LENGTH:
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
    rule = TurnRule(
        _KINDS[code],
        end=end,
        length=length,
        reply_timeout=timeout / 1000,
        reply_silence=silence / 1000,
        gap=None if gap == _GAP_OF_KIND else gap / 1000,
        max_wait=max_wait / 1000,
        reply_to="all" if flags & _ALL else "sender",
        echo=bool(flags & _ECHO),
    )
    return rule, start


def _encode_message(rule: MessageRule | None) -> bytes:
    end = (rule and rule.end) or b""
    gap = _milliseconds((rule and rule.gap) or 0)
    return bytes([gap, len(end)]) + end


def _decode_message(data: bytes, start: int) -> tuple[MessageRule | None, int]:
    gap, size = data[start], data[start + 1]
    end = data[start + 2 : start + 2 + size]
    rule = MessageRule(end or None, gap / 1000 if gap else None) if gap or size else None
    return rule, start + 2 + size


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
