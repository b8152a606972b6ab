"""Connect to another host as a generic TCP client, and again whenever the connection is lost.

It must not know what is carried: once connected, the peer is a client like any other.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from gateway.listeners import DEAD_CLIENT
from gateway.streams import SocketStream, keep_alive
from gateway.supervise import Backoff, supervise

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.doors import Doorway
    from gateway.plan import Dial
    from gateway.reconcile import Leaf

__all__ = ["dial"]

_CONNECT = 10.0
"""Seconds that one try may take."""
_FIRST_RETRY = 0.1
_LAST_RETRY = 15.0
_LASTING = 15.0
"""Seconds after which a connection counts as one that works; a peer that hangs up at once is not dialled at once."""


async def dial(spec: Dial, door: Doorway, leaf: Leaf, stopping: Callable[[], bool]) -> None:
    """Keep a connection to the host that ``spec`` names, until cancelled; the connection ends then.

    But where the gateway is ``stopping``, its client may still take what waits for it.
    """

    async def connect(backoff: Backoff) -> None:
        sock = await _connected(spec)
        ended = trio.Event()
        seat = door.seat(SocketStream(sock), str(spec), ended=ended)
        since = trio.current_time()
        leaf.up()
        try:
            await ended.wait()
        finally:
            if seat is not None and not stopping():
                seat.revoke("ConnectTo changed")
        if trio.current_time() - since > _LASTING:
            backoff.reset()
        raise ConnectionError("the connection ended")

    leaf.began()
    leaf.settled.set()  # a peer that is not there yet is no reason to refuse the settings
    await supervise(connect, (OSError,), leaf.failing, Backoff(_FIRST_RETRY, _LAST_RETRY))


async def _connected(spec: Dial) -> socket.socket:
    with trio.move_on_after(_CONNECT):
        stream = await trio.open_tcp_stream(spec.host, spec.port)
        sock = socket.socket(fileno=stream.socket.detach())
        keep_alive(sock, DEAD_CLIENT)
        return sock
    raise TimeoutError(f"no answer within {_CONNECT:g} s")
