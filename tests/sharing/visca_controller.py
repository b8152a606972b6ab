"""A VISCA controller over TCP: inquiries or commands, one after the other; print what became of them, as JSON."""

from __future__ import annotations

import json
import socket
import sys
import time

TIMEOUT = 3.0


class Controller:
    """Reads packets; whatever is none of its own is wrong."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = b""
        self.result = {"right": 0, "wrong": 0, "timeouts": 0}

    def say(self, packet: bytes) -> None:
        self._socket.sendall(packet)

    def packet(self) -> bytes | None:
        """Return the next packet; None where none comes in time."""
        until = time.monotonic() + TIMEOUT
        while b"\xff" not in self._heard:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                return None
            assert data, "the connection ended"
            self._heard += data
        packet, _, self._heard = self._heard.partition(b"\xff")
        return packet + b"\xff"

    def ask(self, camera: int, what: bytes) -> None:
        """Send an inquiry; a camera of the model answers the nibbles of what it was asked."""
        self.say(bytes((0x80 | camera, 0x09)) + what + b"\xff")
        nibbles = bytes(nibble for byte in what for nibble in (byte >> 4, byte & 15))
        self._note(self.packet(), bytes((0x80 | camera << 4, 0x50)) + nibbles + b"\xff")

    def command(self, camera: int, what: bytes) -> None:
        """Send a command; it is right with its ACK, and the completion of the same socket behind it."""
        self.say(bytes((0x80 | camera, 0x01)) + what + b"\xff")
        source = 0x80 | camera << 4
        ack = self.packet()
        if ack is None or len(ack) != 3 or ack[0] != source or ack[1] & 0xF0 != 0x40:
            self._note(ack, b"an ACK")
            return
        self._note(self.packet(), bytes((source, 0x50 | ack[1] & 15, 0xFF)))

    def _note(self, heard: bytes | None, expected: bytes) -> None:
        self.result["timeouts" if heard is None else "right" if heard == expected else "wrong"] += 1


def main(port: int, begin: float, seconds: float, kind: str, camera: int, what: bytes) -> None:
    """Ask or command ``camera`` for so many seconds from ``begin`` on (seconds since 1970)."""
    controller = Controller(port)
    time.sleep(max(begin - time.time(), 0))
    while time.time() < begin + seconds:
        (controller.ask if kind == "inquiry" else controller.command)(camera, what)
    print(json.dumps(controller.result))


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        float(sys.argv[2]),
        float(sys.argv[3]),
        sys.argv[4],
        int(sys.argv[5]),
        bytes.fromhex(sys.argv[6]),
    )
