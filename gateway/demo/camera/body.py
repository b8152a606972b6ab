"""The camera on its line: find the messages in a stream of bytes, and answer them over a pty.

VISCA and Pelco-D share the line and differ in the first byte of a message. ``Camera`` is sans-IO: bytes and the time
go in, ``Heard`` comes out. ``live`` does the I/O.
"""

from __future__ import annotations

import contextlib
import os
import tty
from typing import TYPE_CHECKING, final

import trio

from gateway.demo.camera import pelco, visca
from gateway.demo.camera.head import Head, Heard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Camera", "live"]


@final
class Camera:
    """Finds the messages in a stream of bytes and obeys them."""

    def __init__(self) -> None:
        self.head = Head()
        self._unread = bytearray()

    def receive(self, data: bytes, now: float) -> list[Heard]:
        """Obey the messages that these bytes complete at the time ``now``, in seconds; return one Heard for each."""
        self._unread += data
        return list(self._heard(now))

    def _heard(self, now: float) -> Iterator[Heard]:
        while length := _length(self._unread):
            message = bytes(self._unread[:length])
            del self._unread[:length]
            yield _obey(self.head, message, now)


def _length(data: bytearray) -> int:
    """Return the number of bytes at the front that belong together, as a message or as noise; 0 if more are needed."""
    if not data:
        return 0
    if visca.begins(data[0]):
        return visca.length(data)
    if data[0] != pelco.SYNC:
        return next((i for i, byte in enumerate(data) if _begins(byte)), len(data))
    # A byte after FF that can begin a message does begin one: then FF ended a message whose start was lost.
    return 1 if len(data) > 1 and _begins(data[1]) else pelco.length(data)


def _begins(byte: int) -> bool:
    return byte == pelco.SYNC or visca.begins(byte)


def _obey(head: Head, message: bytes, now: float) -> Heard:
    if visca.begins(message[0]):
        return visca.obey(head, message, now)
    if message[0] != pelco.SYNC:
        return Heard(f"does not understand {message[:32].hex()}")
    if len(message) == 1:
        return Heard("a message without its start, or Pelco-D with a wrong checksum")
    return pelco.obey(head, message, now)


async def live(
    camera: Camera,
    say: Callable[[str], None],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a camera on a pty until cancelled; ``task_status`` is given the path of the line's other end.

    ``say`` is called with one line for each message received.
    """
    master, slave = os.openpty()
    try:
        # The slave stays open here: while nobody has it open, reading the master fails with EIO.
        tty.setraw(slave)
        os.set_blocking(master, False)
        task_status.started(os.ttyname(slave))
        while True:
            await trio.lowlevel.wait_readable(master)
            for heard in camera.receive(os.read(master, 4096), trio.current_time()):
                say(f"camera: {heard.line}")
                # As on a wire: the camera does not wait for a reader, and what is not read is lost.
                with contextlib.suppress(BlockingIOError):
                    os.write(master, heard.reply)
    finally:
        os.close(master)
        os.close(slave)
