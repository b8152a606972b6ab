"""The far end of a serial cable, as a socket: what the device out there hears and says."""

from __future__ import annotations

import socket
import threading
import time
from typing import Final, final

__all__ = ["Line"]

_PATIENCE: Final = 60.0
"""Seconds out here, where a busy machine makes twenty of one in the guest."""


@final
class Line:
    """Hears everything at once, so that nothing is ever held up by who looks at it later."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._heard = bytearray()
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._end.close()

    def _listen(self) -> None:
        while True:
            try:
                data = self._end.recv(65536)
            except OSError:
                return
            if not data:
                return
            with self._more:
                self._heard += data
                self._more.notify_all()

    @property
    def heard(self) -> bytes:
        """All bytes since the start, or since ``forget``."""
        with self._more:
            return bytes(self._heard)

    def forget(self) -> None:
        """Forget what was heard."""
        with self._more:
            self._heard.clear()

    def hear(self, count: int, seconds: float = _PATIENCE) -> bytes:
        """Wait until ``count`` bytes were heard since the start, or the time is over; return, and forget, all."""
        until = time.monotonic() + seconds
        with self._more:
            while len(self._heard) < count and (left := until - time.monotonic()) > 0:
                self._more.wait(left)
            heard = bytes(self._heard)
            self._heard.clear()
        return heard

    def say(self, data: bytes) -> None:
        """Send ``data`` to the guest."""
        self._end.sendall(data)
