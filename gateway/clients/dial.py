"""Connect to another host as a generic TCP client, and again whenever the connection is lost.

Once connected, the peer is a client of the generic TCP server like any other. But AllowedIPAddresses does not apply to
it, because the administrator chose its address.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import trio

from gateway.clients.service import DEAD_CLIENT
from gateway.clients.streams import SocketStream, keep_alive
from gateway.tasks.load import load
from gateway.tasks.supervise import Backoff, supervise
from protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clients.service import Service
    from gateway.port.plan import Dial
    from gateway.tasks.reconcile import Unit

__all__ = ["dial"]

_CONNECT = 10.0
"""Seconds for one attempt."""
_FIRST_RETRY = 0.1
_LAST_RETRY = 15.0
_LASTING = 15.0
"""Seconds after which a connection counts as working. A peer that hangs up sooner is dialled less and less often."""


async def dial(spec: Dial, service: Service, unit: Unit, stopping: Callable[[], bool]) -> None:
    """Keep a connection to the host that ``spec`` names until cancelled, and end it then.

    While the gateway is ``stopping`` the connection is left open, so that the peer may still take what waits for it.
    """

    async def connect(backoff: Backoff) -> None:
        sock = await _connected(spec)
        ended = trio.Event()
        client = service.dialled(SocketStream(sock), str(spec), str(Endpoint.of(sock.getsockname())), ended)
        if client is None:
            raise ConnectionError("this port cannot have the connection: the log says why")
        since = trio.current_time()
        unit.up()
        try:
            await ended.wait()
        except trio.Cancelled:
            if not stopping():
                client.revoke("ConnectTo changed")
            raise
        if trio.current_time() - since > _LASTING:
            backoff.reset()
        raise ConnectionError(f"the connection ended: {client.revoked}")

    unit.began()
    unit.settled.set()  # a peer that is not there yet is no reason to refuse the settings
    # A name that cannot be looked up at all is a UnicodeError.
    await supervise(connect, (OSError, UnicodeError), unit.failing, Backoff(_FIRST_RETRY, _LAST_RETRY))


async def _connected(spec: Dial) -> socket.socket:
    await load("encodings.idna")  # by which trio writes a host's name
    with trio.move_on_after(_CONNECT):
        stream = await trio.open_tcp_stream(spec.host, spec.port)
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(fileno=stream.socket.detach()))
            keep_alive(sock, DEAD_CLIENT)
            if sock.getsockname() == sock.getpeername():
                # TCP's simultaneous open: the kernel chose the port that was dialled, and joined the socket to itself.
                raise ConnectionError("nothing listens there")
            undo.pop_all()
            return sock
    raise TimeoutError(f"no answer within {_CONNECT:g} s")
