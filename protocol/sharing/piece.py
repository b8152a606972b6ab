"""A piece of a client's byte stream as it goes to the line: a message, a request, or a part of a transfer."""

from __future__ import annotations

from typing import NamedTuple, final

__all__ = ["Piece"]


@final
class Piece(NamedTuple):
    """Bytes that go to the line together.

    ``accepted`` is when the first of them was read from the client, in seconds of the caller's clock. ``whole`` says
    that they are a message, to be written in one; else they are a part of a transfer, whose end nobody found.
    """

    data: bytes
    accepted: float
    whole: bool = True
