"""A WebSocket client of a port: bytes, and what is beside them (modem lines, breaks, events)."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Final, final

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Message, Ping, Request, TextMessage

__all__ = ["WebSocket"]

_PATIENCE: Final = 60.0
"""Seconds out here, where a busy machine makes twenty of one in the guest."""


@final
class WebSocket:
    """One client, connected."""

    def __init__(self, port: int, target: str, login: str) -> None:
        self.events: list[dict[str, Any]] = []
        """What the gateway told and nobody asked for."""
        self.heard = b""
        """The bytes of the line."""
        self._answers: list[dict[str, Any]] = []
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self._connection = WSConnection(ConnectionType.CLIENT)
        authorization = [(b"Authorization", login.encode())]
        self._send(Request(host=f"127.0.0.1:{port}", target=target, extra_headers=authorization))
        self._accepted = False
        self._until(lambda: self._accepted)

    def _send(self, event: Any) -> None:
        self._socket.sendall(self._connection.send(event))

    def _until(self, holds: Any, seconds: float = _PATIENCE) -> None:
        until = time.monotonic() + seconds
        while not holds():
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            data = self._socket.recv(65536)
            self._connection.receive_data(data or None)
            for event in self._connection.events():
                self._take(event)

    def _take(self, event: Any) -> None:
        match event:
            case AcceptConnection():
                self._accepted = True
            case Ping():
                self._send(event.response())
            case TextMessage():
                message = json.loads(event.data)
                (self._answers if "answer" in message else self.events).append(message)
            case BytesMessage():
                self.heard += event.data

    def send(self, data: bytes) -> None:
        """Send one message of bytes to the line."""
        self._send(Message(data=data))

    def ask(self, **request: object) -> dict[str, Any]:
        """Send a request (``request="modem"``) and return its answer."""
        self._send(Message(data=json.dumps(request)))
        self._until(lambda: self._answers)
        return self._answers.pop(0)

    def told(self, event: str) -> dict[str, Any]:
        """Wait for an event of this name; return, and forget, the first."""
        self._until(lambda: any(each["event"] == event for each in self.events))
        found = next(each for each in self.events if each["event"] == event)
        self.events.remove(found)
        return found

    def hear(self, count: int) -> bytes:
        """Wait for so many bytes of the line; return, and forget, all."""
        self._until(lambda: len(self.heard) >= count)
        heard, self.heard = self.heard, b""
        return heard

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
