"""Waiting until a way is there by using it: what is said before that is nobody's, and is forgotten.

It must not know what the way leads over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from trio.abc import ReceiveStream, SendStream

__all__ = ["reach"]

_AGAIN: Final = 0.02


async def reach(mouth: SendStream, ear: ReceiveStream, knock: bytes, last: bytes, answer: bytes) -> None:
    """Say ``knock`` until something is heard, then ``last``, and hear everything until ``answer``.

    Bytes stay in order: after this, all that was said has been answered.
    """
    async with trio.open_nursery() as knocking:
        knocking.start_soon(_repeat, mouth, knock)
        heard = await ear.receive_some()
        knocking.cancel_scope.cancel()
    await mouth.send_all(last)
    while not heard.endswith(answer):
        heard += await ear.receive_some()


async def _repeat(mouth: SendStream, knock: bytes) -> None:
    while True:
        await mouth.send_all(knock)
        await trio.sleep(_AGAIN)
