"""JSON beside the bytes of a line: events of a port, and requests with their answers.

A WebSocket carries them as text messages. docs/api.md, section WebSocket, is the contract; a test holds every line of
its examples against this file.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from gateway.port.control import LONGEST_BREAK, Break, Configure, SetLines
from gateway.port.line import LineError, PortDown
from gateway.port.router import Forbidden

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.port.bus import PortStatus
    from gateway.port.router import Session

__all__ = ["answer", "events"]

JsonObject: TypeAlias = dict[str, Any]

_ARGUMENTS = {"break": {"milliseconds"}, "modem": set[str](), "set": {"dtr", "rts"}, "configure": {"settings"}}
"""The requests, and the arguments of each beside ``request`` and ``id``."""
_BREAK_MILLISECONDS = 250
_LONGEST_BREAK = int(LONGEST_BREAK * 1000)
_MOST_SETTINGS = 16
_PATIENCE = 2.0
"""Seconds for the owner of the line, where it is another CPU, to say how its modem lines are."""


class _BadRequestError(Exception):
    """The text is not a request; the message says why."""


def events(before: PortStatus | None, now: PortStatus, *, all_told: bool) -> Iterator[JsonObject]:
    """Yield an event for each change of the port; ``before`` is None for a new client.

    Events on the line's settings and other clients come only with ``all_told``, since viewers may not see these.
    """
    if before is None or before.down != now.down:
        yield {"event": "port", "state": now.word, "reason": now.down or ""}
    if now.turn_rule != (None if before is None else before.turn_rule):
        yield {"event": "turns", "reply": None if now.turn_rule is None else now.turn_rule.reply}
    if before is not None and before.breaks != now.breaks:
        yield {"event": "break", "count": now.breaks}
    if before is not None and before.controls != now.controls:
        yield {"event": "modem", "by": now.controlled_by} if all_told else {"event": "modem"}
    if not all_told:
        return
    if now.settings and (before is None or (before.in_force, before.settings) != (now.in_force, now.settings)):
        yield {"event": "line", "words": now.settings, "settings": now.in_force}
    if before is not None and before.cuts != now.cuts:
        yield {"event": "cut", "count": now.cuts, "reason": now.last_cut}


async def answer(text: str, session: Session) -> JsonObject:
    """Carry out a request and return its answer. An error becomes the answer's ``error``; nothing is raised."""
    try:
        request = _parsed(text)
    except _BadRequestError as exc:
        return {"answer": None, "error": f"not a request: {exc}"}
    known: JsonObject = {"answer": request["request"]}
    if request.get("id") is not None:
        known["id"] = request["id"]
    try:
        match request["request"]:
            case "break":
                milliseconds = request.get("milliseconds", _BREAK_MILLISECONDS)
                await session.control(Break(milliseconds / 1000))
                return known | {"milliseconds": milliseconds}
            case "configure":
                await session.control(Configure(tuple(request.get("settings", {}).items())))
                return known | {"settings": session.state.value.in_force}
            case "set":
                await session.control(SetLines(request.get("dtr"), request.get("rts")))
                return known | {"lines": asdict(session.modem_lines())}
        with trio.move_on_after(_PATIENCE):
            return known | {"lines": asdict(await session.look_at_lines())}
        return known | {"error": f"the owner of the line did not say within {_PATIENCE:g} s how its modem lines are"}
    except (LineError, PortDown, Forbidden) as exc:
        return known | {"error": str(exc)}


def _parsed(text: str) -> JsonObject:
    """Read a request and check every member of it. Raise _BadRequestError."""
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):  # ValueError also stands for an integer of thousands of digits
        raise _BadRequestError("it must be JSON") from None
    if not isinstance(request, dict):
        raise _BadRequestError("it must be a JSON object")
    name = request.get("request")
    if not isinstance(name, str) or name not in _ARGUMENTS:
        raise _BadRequestError(f"request must be one of {', '.join(_ARGUMENTS)}")
    if unknown := sorted(request.keys() - _ARGUMENTS[name] - {"request", "id"}):
        raise _BadRequestError(f"{name} has no argument {unknown[0][:40]!a}")
    # Python counts True among its integers; JSON does not.
    if isinstance(request.get("id"), bool) or not isinstance(request.get("id"), int | str | None):
        raise _BadRequestError("id must be an integer or a string")
    for line in ("dtr", "rts"):
        if not isinstance(request.get(line), bool | None):
            raise _BadRequestError(f"{line} must be true, false or null")
    settings = request.get("settings", {})
    if not isinstance(settings, dict) or len(settings) > _MOST_SETTINGS:
        raise _BadRequestError(f"settings must be an object with at most {_MOST_SETTINGS} members")
    if not all(isinstance(value, str) for value in settings.values()):
        raise _BadRequestError("settings must be strings, as param.cgi takes them")
    milliseconds = request.get("milliseconds", _BREAK_MILLISECONDS)
    if type(milliseconds) is not int or not 1 <= milliseconds <= _LONGEST_BREAK:
        raise _BadRequestError(f"milliseconds must be an integer from 1 to {_LONGEST_BREAK}")
    return request
