"""Serial lines for the benchmark: a pty whose master end is the device, here in the measuring process.

Everything blocks; `deadline` ends a wait for bytes that were lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tty
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Line", "Lost", "Stalled", "connect", "deadline", "free_ports"]


class Lost(Exception):
    """Bytes did not arrive, or not those that were sent."""


class Stalled(Lost):
    """No byte moves any more, in either direction."""


@final
class Line:
    """A serial line without a rate: the gateway reads what is written to it, and the other way round."""

    def __init__(self) -> None:
        self.fd, self.slave = os.openpty()
        tty.setraw(self.slave)
        # This end stays open, or the master would read EIO whenever no gateway has it open.
        self.device = os.ttyname(self.slave)

    def fileno(self) -> int:
        """Return the descriptor of the device's end."""
        return self.fd

    def write(self, data: bytes) -> None:
        """Send `data` to the gateway; block while it takes nothing."""
        while data:
            data = data[os.write(self.fd, data) :]

    def read(self) -> bytes:
        """Return what the gateway wrote; block until there is something."""
        return os.read(self.fd, 65536)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.fd)
        os.close(self.slave)


def connect(port: int, receive_buffer: int = 0) -> socket.socket:
    """Connect to a TCP port of loopback, without Nagle's delay; `receive_buffer` in bytes, 0 for the usual one."""
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", port))
    return client


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raise Lost in whatever blocks after so many seconds; one at a time, in the main thread."""

    def raise_lost(_signal: int, _frame: FrameType | None) -> None:
        raise Lost(f"{what}: nothing for {seconds:g} s")

    before = signal.signal(signal.SIGALRM, raise_lost)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
