"""Send a trace of a port to an operator of this host, a line of JSON for each piece, while the operator reads.

``time`` is in microseconds since 1970, ``way`` one of ``from line``, ``to line`` and ``note``; ``data`` is hexadecimal,
and ``text`` the writer's name or the note. This file is loaded at the first trace.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import trio

from gateway.clients.trace import Trace

if TYPE_CHECKING:
    from gateway.clients.trace import Piece
    from gateway.port.router import Session

__all__ = ["SLICE", "serve", "told"]

_HEAD = b"""HTTP/1.1 200 OK\r
Content-Type: application/x-ndjson\r
Cache-Control: no-store\r
Connection: close\r
\r
"""
SLICE = 32
"""Pieces that are written as JSON before other tasks get their turn."""


async def serve(stream: trio.abc.HalfCloseableStream, session: Session) -> None:
    """Trace the port of ``session`` until it is ended, or its reader leaves; the caller closes the stream."""

    async def say(data: bytes) -> None:
        try:
            await stream.send_all(data)
        except trio.BrokenResourceError:
            session.end("it left")

    async def show(pieces: list[Piece]) -> None:
        for start in range(0, len(pieces), SLICE):
            await say("".join(json.dumps(told(piece)) + "\n" for piece in pieces[start : start + SLICE]).encode())

    async def notice_the_end() -> None:
        try:
            while await stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass
        session.end("it left")

    with contextlib.closing(session):
        trace = Trace(session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notice_the_end)
            await say(_HEAD)
            await trace.run(show)
            trace.note(session.ended or "")
            await show(trace.taken())
            nursery.cancel_scope.cancel()


def told(piece: Piece) -> dict[str, object]:
    """Return a piece for JSON."""
    return {"time": piece.microseconds, "way": piece.way.value, "text": piece.text, "data": piece.data.hex()}
