"""PTZ commands overtake a bulk writer behind ftdi_sio, which takes 4608 bytes, five seconds of line, at once."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from tests.hardware.ftdi import Ftdi
from tests.hardware.guest import Clock

if TYPE_CHECKING:
    from tests.hardware.adapter import Adapter
    from tests.hardware.rig import Client, Rig

pytestmark = pytest.mark.hardware

COUNT = 15
EVERY = 0.5
"""Seconds from one command to the next, by the guest's clock."""
AGE = 2.0
BOUND, MORE_THAN_ALONE = 0.3, 0.2

_SENDER = """
import socket, threading, time
_ptz = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
_ptz.connect("/run/daisyport/ptz-P0.seq")
_sent = []
def _send():
    for number in range({first}, {first} + {count}):
        _sent.append(time.monotonic())
        _ptz.send(bytes((0x81, 1, 6, 2, 24, 20, number, 3, 0xFF)))
        time.sleep({every})
_sender = threading.Thread(target=_send)
_sender.start()
"""


def delays(rig: Rig, adapter: Adapter, first: int, count: int) -> list[float | None]:
    """Send so many commands from within the guest; return how long each took to the wire, None where it never came."""
    rig.guest.call("python", _SENDER.format(first=first, count=count, every=EVERY))
    heard: dict[int, float] = {}
    with Clock(rig.guest) as clock:
        until = clock() + count * EVERY + AGE
        while len(heard) < count and (now := clock()) < until:
            line = adapter.heard
            for number in range(first, first + count):
                if number not in heard and bytes((24, 20, number, 3, 0xFF)) in line:
                    heard[number] = now
    sent: list[float] = rig.guest.call("python", "_sender.join(); _ptz.close(); result = _sent")
    return [heard[number] - sent[number - first] if number in heard else None for number in range(first, first + count)]


def fill(client: Client, stop: threading.Event) -> None:
    """Send without an end, as fast as the port reads it."""
    while not stop.is_set():
        with contextlib.suppress(TimeoutError, OSError):
            client.say(b"\x00" * 16_384)


def test_fifteen_commands_beside_a_bulk_writer_at_9600_are_on_the_wire_in_time(rig: Rig) -> None:
    chip = Ftdi("P1")
    adapter = rig.plug(chip, paced=True, guests_time=True)
    rig.start(f'device = "{chip.by_id}"', Serial_Ser1_BaudRate=9600, PortManager_P0_PTZServer_Enabled="yes")
    client, stop = rig.client(), threading.Event()
    bulk = threading.Thread(target=fill, args=(client, stop), daemon=True)
    with Clock(rig.guest) as clock:
        alone = delays(rig, adapter, 0, 3)
        assert None not in alone
        bulk.start()
        try:
            rig.until(lambda: len(adapter.heard) > 1000, 60)
            before, began = len(adapter.heard), clock()
            beside = delays(rig, adapter, 10, COUNT)
            rate = (len(adapter.heard) - before) / (clock() - began)
        finally:
            stop.set()
            client.close()
            bulk.join()
    print(f"alone {alone}, beside a bulk writer {beside}, {rate:.0f} bytes a second")
    bound = max(BOUND, max(filter(None, alone)) + MORE_THAN_ALONE)
    assert all(delay is not None and delay < bound for delay in beside), (alone, beside)
    assert rate > 960 * 0.8, "the bulk writer has the line all the while"
