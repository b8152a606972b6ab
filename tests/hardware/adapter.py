"""A USB serial adapter with its cable: what its driver in the guest made of it, and what the far end hears and says.

The chips that differ are ``ftdi`` and ``cdc_acm``. All have a UART, and that is here. A transfer is heard whole, when
the line has carried its last byte, or not at all, if the driver takes it back before: so the driver's arithmetic is
exact. (Of a transfer that is taken back, a real chip may have sent the beginning, and tells nobody.)
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, final

from tests.hardware.agent import USB_PORT
from tests.hardware.guest import Clock, GuestError
from tests.hardware.usbip import UsbWire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hardware.guest import Guest
    from tests.hardware.usbip import Setup

__all__ = ["Adapter", "Chip", "Errors", "ModemInputs", "Uart"]

FULL_SPEED: Final = 2
_PATIENCE: Final = 60.0
"""Seconds out here, where a busy machine makes twenty of one in the guest."""


@final
@dataclass
class ModemInputs:
    """The lines that the far end drives."""

    cts: bool = True
    dsr: bool = True
    ri: bool = False
    dcd: bool = True


@final
@dataclass(frozen=True)
class Errors:
    """What was wrong with received bytes. A break and an overrun come with no byte of their own."""

    parity: bool = False
    framing: bool = False
    overrun: bool = False
    brk: bool = False


@final
@dataclass
class Uart:
    """What the driver set. ``parity`` is one of N, O, E, M, S; ``log`` has every change with its time."""

    baud: int = 9600
    bits: int = 8
    parity: str = "N"
    stop: float = 1
    rts_cts: bool = False
    xon_xoff: bool = False
    dtr: bool = False
    rts: bool = False
    brk: bool = False
    latency: int = 16
    """Milliseconds for which a short packet waits for more."""
    modem: ModemInputs = field(default_factory=ModemInputs)
    log: list[tuple[float, str]] = field(default_factory=list)

    def set(self, **values: object) -> None:
        """Take new values of attributes, and log those that change."""
        for name, value in values.items():
            if getattr(self, name) != value:
                setattr(self, name, value)
                self.log.append((time.monotonic(), f"{name}={value}"))

    @property
    def frame(self) -> str:
        """The frame in the usual words: ``9600 8N1``."""
        return f"{self.baud} {self.bits}{self.parity}{self.stop:g}"

    def line_time(self, count: int) -> float:
        """Return how many seconds the line needs for so many bytes."""
        return count * (1 + self.bits + (self.parity != "N") + self.stop) / (self.baud or 9600)

    def edges(self, name: str) -> list[tuple[float, str]]:
        """Return the changes of one attribute."""
        return [(when, what) for when, what in self.log if what.startswith(f"{name}=")]


class Chip(Protocol):
    """The USB side of an adapter."""

    uart: Uart
    bulk_in: int
    bulk_out: int
    name: str
    """Of the device file in the guest, with its number missing: ``/dev/ttyUSB``."""
    by_id: str
    """The name that stays, which udev gives it."""

    def control(self, setup: Setup, data: bytes) -> bytes | None:
        """Answer a control transfer; None stalls it."""

    def room(self, length: int) -> int:
        """Return how many bytes of the line fit into a transfer of ``length``."""

    def received(self, data: bytes, errors: Errors) -> tuple[int, bytes]:
        """Return the endpoint and the transfer that bring ``data``, or a change of the modem lines, to the host."""


@final
class Adapter:
    """One adapter: ``plug`` and ``unplug`` it, and be its far end meanwhile."""

    def __init__(self, guest: Guest, chip: Chip, paced: bool = False, guests_time: bool = False) -> None:
        self.chip = chip
        self.uart = chip.uart
        self.hold = False
        """Whether the chip takes no bytes, whatever its flow control says."""
        self.paced = paced
        """Whether bytes take the time that the line needs for them."""
        self.guests_time = guests_time
        """Whether that time is the guest's, whose clock is slower when it is busy, and not this machine's."""
        self._guest = guest
        self._heard = bytearray()
        self._said: list[tuple[bytes, Errors]] = []
        self._modem_told = True
        self._wire: UsbWire | None = None
        self._usb_port = -1
        self._device = ""

    # -- the USB end

    def plug(self) -> str:
        """Plug it in; return its device file, as soon as it is there."""
        before = set(self._guest.call("names", f"{self.chip.name}*"))
        end = socket.create_connection(("127.0.0.1", self._guest.ports[USB_PORT]))
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wire = wire = UsbWire(end, self.chip.control)
        self._modem_told = True
        for task in (self._listen, self._speak):
            threading.Thread(target=self._run, args=(task, wire), daemon=True).start()
        self._usb_port = self._guest.call("attach", FULL_SPEED)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if new := set(self._guest.call("names", f"{self.chip.name}*")) - before:
                self._device = str(new.pop())
                return self._device
            time.sleep(0.05)
        raise TimeoutError(f"no driver took the adapter; {self._guest.sh('dmesg | tail -n 20')}")

    def unplug(self) -> None:
        """Pull it out; what the line had not yet carried is gone with it. Idempotent."""
        if self._wire is None:
            return
        wire, self._wire = self._wire, None
        wire.close()
        self._said.clear()
        with contextlib.suppress(GuestError):  # the guest's hub may have seen it first
            self._guest.call("detach", self._usb_port)
        until = time.monotonic() + _PATIENCE
        while self._guest.call("names", self._device) and time.monotonic() < until:
            time.sleep(0.02)  # or the next adapter would be taken for this one

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    # -- the far end of the cable

    @property
    def heard(self) -> bytes:
        """All bytes that the line carried, since the start or since ``hear``."""
        return bytes(self._heard)

    def hear(self, count: int, seconds: float = _PATIENCE) -> bytes:
        """Wait until so many bytes were heard, or the time is over; return, and forget, all."""
        until = time.monotonic() + seconds
        while len(self._heard) < count and time.monotonic() < until:
            time.sleep(0.005)
        heard = bytes(self._heard)
        del self._heard[: len(heard)]
        return heard

    def say(self, data: bytes, **errors: bool) -> None:
        """Send ``data`` to the guest, with errors if need be: ``parity=True``; a break has no data."""
        self._said.append((data, Errors(**errors)))
        self._wake()

    def set_lines(self, **lines: bool) -> None:
        """Raise or lower modem inputs: ``cts=False``."""
        for name, value in lines.items():
            setattr(self.uart.modem, name, value)
        self._modem_told = False
        self._wake()

    def set_hold(self, hold: bool) -> None:
        """Stop taking bytes, or go on."""
        self.hold = hold
        self._wake()

    def _pace(self, count: int, clock: Callable[[], float]) -> None:
        """Let the time pass that the line needs for so many bytes."""
        until = clock() + self.uart.line_time(count)
        while (left := until - clock()) > 0:
            time.sleep(left)  # never too long: the guest's clock does not outrun this one

    def _wake(self) -> None:
        if self._wire is not None:
            with self._wire.changed:
                self._wire.changed.notify_all()

    @property
    def _held(self) -> bool:
        return self.hold or (self.uart.rts_cts and not self.uart.modem.cts)

    def _run(self, task: Callable[[UsbWire, Callable[[], float]], None], wire: UsbWire) -> None:
        if not self.guests_time:
            task(wire, time.monotonic)
            return
        with Clock(self._guest) as clock:
            task(wire, clock)

    def _listen(self, wire: UsbWire, clock: Callable[[], float]) -> None:
        """Carry the bytes of the guest to the far end."""
        while True:
            with wire.changed:
                while wire.alive and (self._held or not wire.waiting(self.chip.bulk_out)):
                    wire.changed.wait()
                if not wire.alive:
                    return
                transfer = wire.waiting(self.chip.bulk_out)[0]
            if self.paced:
                self._pace(len(transfer.data), clock)
            with wire.changed:
                if wire.complete(self.chip.bulk_out, transfer):
                    mask = (1 << self.uart.bits) - 1
                    self._heard += bytes(byte & mask for byte in transfer.data)

    def _speak(self, wire: UsbWire, clock: Callable[[], float]) -> None:
        """Carry the bytes of the far end, and the changes of its lines, to the guest."""
        while True:
            with wire.changed:
                while wire.alive and not (self._said or not self._modem_told):
                    wire.changed.wait()
                if not wire.alive:
                    return
                self._modem_told = True
                data, errors = self._said.pop(0) if self._said else (b"", Errors())
                endpoint, _ = self.chip.received(data, errors)
                while wire.alive and not wire.waiting(endpoint):
                    wire.changed.wait()
                if not wire.alive:
                    return
                transfer = wire.waiting(endpoint)[0]
                room = self.chip.room(transfer.length)
                if data[room:]:
                    self._said.insert(0, (data[room:], errors))
                    data = data[:room]
                mask = (1 << self.uart.bits) - 1
                _, packet = self.chip.received(bytes(byte & mask for byte in data), errors)
            if self.paced and data:
                self._pace(len(data), clock)
            if data and len(data) < room:
                time.sleep(self.uart.latency / 1000)
            wire.complete(endpoint, transfer, packet)
