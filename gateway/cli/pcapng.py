"""Write a trace as pcapng, which Wireshark and tshark open.

A packet is what one read brought, or one write took. Its link type is RTAC Serial (250, of tcpdump.org's list), the one
for serial lines that says the direction and that Wireshark hands on to any dissector ("Decode As"); the flags of the
packet say the direction too, and its comment the writer. pcapng is draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Final, final

from gateway import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Capture", "packet", "preamble"]

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_UNKNOWN_LENGTH: Final = -1
_RTAC_SERIAL: Final = 250
_COMMENT: Final = 1
_FLAGS: Final = 2
_NAME: Final = 2
_APPLICATION: Final = 4
_INBOUND: Final = 1
_OUTBOUND: Final = 2
_WAYS: Final = {"from line": (2, _INBOUND), "to line": (1, _OUTBOUND), "note": (0, 0)}
"""The event type of the link type's header (DATA_RX_START, DATA_TX_START, STATUS_CHANGE), and the packet's flags."""


def preamble(port: str) -> bytes:
    """Return what a file begins with; ``port`` is the name of its one interface."""
    section = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
    application = _option(_APPLICATION, f"Daisyport {__version__}".encode())
    interface = struct.pack("<HHI", _RTAC_SERIAL, 0, 0)
    return _block(_SECTION, section, application) + _block(_INTERFACE, interface, _option(_NAME, port.encode()))


def packet(microseconds: int, way: str, text: str, data: bytes) -> bytes:
    """Return one packet: ``way`` and ``text`` are those of a piece of a trace."""
    event, flags = _WAYS[way]
    # The state of the modem lines is not known here, and the footer has no meaning.
    head = struct.pack(">IIBBH", *divmod(microseconds, 1_000_000), event, 0, 0)
    size = len(head) + len(data)
    fixed = struct.pack("<IIIII", 0, microseconds >> 32, microseconds & 0xFFFFFFFF, size, size)
    options = (_option(_FLAGS, struct.pack("<I", flags)) if flags else b"") + (
        _option(_COMMENT, text.encode()) if text else b""
    )
    return _block(_PACKET, fixed + _padded(head + data), options)


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    if options:
        options += struct.pack("<HH", 0, 0)
    size = 12 + len(body) + len(options)
    return struct.pack("<II", kind, size) + body + options + struct.pack("<I", size)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


@final
class Capture:
    """A file of packets that is open. Beyond ``most`` bytes it becomes FILE.1, that FILE.2, and so on to ``keep``.

    Only its owner may read it, for it may hold passwords. Its errors are OSError.
    """

    def __init__(self, path: Path, port: str, most: int, keep: int) -> None:
        self._path = path
        self._preamble = preamble(port)
        self._most = most
        self._keep = keep
        self._begin()

    def _begin(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._put(self._preamble)

    def write(self, data: bytes) -> None:
        """Add one packet, to the next file where this one is full."""
        if self._size > len(self._preamble) and self._size + len(data) > self._most:
            self.close()
            for older, newer in self._names():
                with contextlib.suppress(FileNotFoundError):
                    newer.rename(older)
            self._begin()
        self._put(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _names(self) -> Iterator[tuple[Path, Path]]:
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._keep + 1))]
        return zip(reversed(names[1:]), reversed(names[:-1]), strict=True)

    def _put(self, data: bytes) -> None:
        while data:
            written = os.write(self._fd, data)
            self._size += written
            data = data[written:]
