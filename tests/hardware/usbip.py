"""A USB device at the end of a TCP connection, for the guest's vhci_hcd: Linux' Documentation/usb/usbip_protocol.rst.

The kernel's own driver talks to it and cannot tell it from one that is plugged in. Here are transfers and who waits
for them; what they mean is the device's (``adapter``).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Setup", "Transfer", "UsbWire"]

_HEADER: Final = struct.Struct(">5I")
_SUBMIT, _UNLINK, _SUBMITTED, _UNLINKED = 1, 2, 3, 4
_STALL: Final = -32
_UNLINKED_IN_TIME: Final = -104


class Setup(NamedTuple):
    """The eight bytes with which a control transfer begins: USB 2.0, 9.3."""

    kind: int
    request: int
    value: int
    place: int
    length: int


class Transfer(NamedTuple):
    """A bulk or interrupt transfer that waits: to the device with its ``data``, or from it with room for ``length``."""

    number: int
    data: bytes
    length: int


@final
class UsbWire:
    """The transfers of one device, from the moment when it is plugged in.

    ``control`` answers a control transfer: the bytes for the host, or None to stall it. All else waits in ``waiting``
    of its endpoint (0x81: IN 1) until somebody ends it with ``complete``, or the driver gives up. Who looks at that
    holds ``changed``, which is notified of every change.
    """

    def __init__(self, end: socket.socket, control: Callable[[Setup, bytes], bytes | None]) -> None:
        self.changed = threading.Condition()
        self.alive = True
        self._end = end
        self._control = control
        self._waiting: dict[int, list[Transfer]] = {}
        threading.Thread(target=self._serve, daemon=True).start()

    def waiting(self, endpoint: int) -> list[Transfer]:
        """Return the transfers of an endpoint that wait, the oldest first."""
        return self._waiting.setdefault(endpoint, [])

    def complete(self, endpoint: int, transfer: Transfer, data: bytes = b"") -> bool:
        """End a transfer; return whether it was still there. ``data`` goes to the host."""
        with self.changed:
            if transfer not in self.waiting(endpoint):
                return False
            self.waiting(endpoint).remove(transfer)
            self._answer(transfer.number, 0, len(transfer.data) or len(data), data)
            self.changed.notify_all()
            return True

    def close(self) -> None:
        """Go, as an adapter does that is pulled out."""
        with self.changed:
            self.alive = False
            self._waiting.clear()
            self.changed.notify_all()
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def _answer(self, number: int, status: int, count: int, data: bytes = b"") -> None:
        with contextlib.suppress(OSError):
            self._end.sendall(_HEADER.pack(_SUBMITTED, number, 0, 0, 0) + struct.pack(">iI20x", status, count) + data)

    def _serve(self) -> None:
        try:
            while True:
                command, number, _device, to_host, endpoint = _HEADER.unpack(self._read(_HEADER.size))
                rest = self._read(28)
                if command == _UNLINK:
                    self._unlink(number, struct.unpack(">I", rest[:4])[0])
                    continue
                _flags, length = struct.unpack(">II", rest[:8])
                data = b"" if to_host else self._read(length)
                if endpoint:
                    with self.changed:
                        self.waiting(endpoint | (0x80 if to_host else 0)).append(Transfer(number, data, length))
                        self.changed.notify_all()
                else:
                    answer = self._control(Setup(*struct.unpack("<BBHHH", rest[20:])), data)
                    with self.changed:
                        if answer is None:
                            self._answer(number, _STALL, 0)
                        else:
                            self._answer(number, 0, len(answer) if to_host else length, answer)
        except (EOFError, OSError):
            self.close()

    def _unlink(self, number: int, victim: int) -> None:
        with self.changed:
            found = False
            for transfers in self._waiting.values():
                for transfer in [each for each in transfers if each.number == victim]:
                    transfers.remove(transfer)
                    found = True
            header = _HEADER.pack(_UNLINKED, number, 0, 0, 0)
            self._end.sendall(header + struct.pack(">i24x", _UNLINKED_IN_TIME if found else 0))
            self.changed.notify_all()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._end.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data
