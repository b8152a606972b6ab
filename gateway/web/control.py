"""What is said beside the bytes of a line: events that a port tells, and requests that it answers, as JSON.

A browser's WebSocket carries them as text messages. This room knows what they mean at the port; it must not know how
they travel, nor who may connect.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, final

import msgspec

from gateway.port.line import LineError, PortDown
from gateway.port.router import Forbidden
from gateway.serial_line.settings import by_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.port.bus import PortStatus
    from gateway.port.router import Session

__all__ = ["answer", "events"]

JsonObject: TypeAlias = dict[str, Any]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="request"):
    id: int | str | None = None
    """Comes back with the answer."""


@final
class _Break(_Request, tag="break", frozen=True):
    milliseconds: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 250


@final
class _Modem(_Request, tag="modem", frozen=True):
    pass


@final
class _Set(_Request, tag="set", frozen=True):
    dtr: bool | None = None
    rts: bool | None = None


_decode = msgspec.json.Decoder(_Break | _Modem | _Set).decode


def events(before: PortStatus | None, now: PortStatus, *, all_told: bool) -> Iterator[JsonObject]:
    """Say what became different at the port; ``before`` is None for somebody who knows nothing yet.

    The line's settings and other clients are told where ``all_told``: param.cgi and the status keep them from viewers.
    """
    if before is None or before.down != now.down:
        yield {"event": "port", "state": "up" if now.down is None else "down", "reason": now.down or ""}
    if not all_told:
        return
    if now.settings and (before is None or (before.line, before.settings) != (now.line, now.settings)):
        known = None if now.line is None else by_name(now.line)
        yield {"event": "line", "words": now.settings, "settings": known}
    if before is not None and before.cuts != now.cuts:
        yield {"event": "cut", "count": now.cuts, "reason": now.last_cut}


async def answer(text: str, session: Session) -> JsonObject:
    """Do what a request asks, and say what came of it; whatever is wrong with it is in the answer's ``error``."""
    try:
        request = _decode(text.encode())
    except (msgspec.MsgspecError, UnicodeEncodeError) as exc:
        return {"answer": None, "error": f"this is not a request: {exc}"}
    known: JsonObject = {"answer": request.__struct_config__.tag}
    if request.id is not None:
        known["id"] = request.id
    try:
        return known | await _done(request, session)
    except (LineError, PortDown, Forbidden) as exc:
        return known | {"error": str(exc)}


async def _done(request: _Break | _Modem | _Set, session: Session) -> JsonObject:
    match request:
        case _Break(milliseconds=milliseconds):
            await session.send_break(milliseconds / 1000)
            return {"milliseconds": milliseconds}
        case _Set(dtr=dtr, rts=rts):
            session.set_modem_lines(dtr, rts)
    return {"lines": asdict(session.modem_lines())}
