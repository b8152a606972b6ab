"""Wait until two streams are connected end to end, by sending a probe until it is answered.

A chain comes up piece by piece, and drops what is sent before the last piece is there: no other event says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from trio.abc import ReceiveStream, SendStream

__all__ = ["reach"]

_AGAIN: Final = 0.02


async def reach(sender: SendStream, receiver: ReceiveStream, probe: bytes, last: bytes, answer: bytes) -> None:
    """Send ``probe`` until something is received, then ``last``, and receive until ``answer``.

    Bytes stay in order, so that no answer to a probe is under way any more when this returns. Raises
    trio.BrokenResourceError where a stream ends.
    """
    async with trio.open_nursery() as probing:
        probing.start_soon(_repeat, sender, probe)
        received = await receiver.receive_some()
        probing.cancel_scope.cancel()
    newest = received
    await sender.send_all(last)
    while newest and not received.endswith(answer):
        newest = await receiver.receive_some()
        received += newest
    if not newest:
        raise trio.BrokenResourceError("the connection was closed")


async def _repeat(sender: SendStream, probe: bytes) -> None:
    while True:
        await sender.send_all(probe)
        await trio.sleep(_AGAIN)
