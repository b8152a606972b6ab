"""One device, many readers: what the line says goes to each of them, and none can keep it from another.

The bus outlives its device, so that clients stay while a cable is out. It must not know what a client is, nor who
may read or write: that is decided where a handle is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from gateway.turns import PortDown

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.turns import Turns

__all__ = ["Bus"]


@final
class Bus:
    """What one port manager's device and its clients meet on.

    A reader is a callable that takes the bytes at once: it never waits and never raises.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """The port manager, as ``P0``."""
        self.received = 0
        """Bytes that the line said."""
        self.heard_at = trio.current_time()
        """When it last said some, in seconds of trio's clock."""
        self._readers: tuple[Callable[[bytes], None], ...] = ()
        self._turns: Turns | None = None
        self._down = "the port has not been opened yet"

    def attach(self, reader: Callable[[bytes], None]) -> None:
        """Let ``reader`` have every byte from now on."""
        self._readers = (*self._readers, reader)

    def detach(self, reader: Callable[[bytes], None]) -> None:
        """Let it have none any more, from this instant; detaching twice is detaching once."""
        # A bound method is equal to itself, never identical.
        self._readers = tuple(other for other in self._readers if other != reader)

    def deliver(self, data: bytes) -> None:
        """Hand what the line said to every reader: one bytes object for all."""
        self.received += len(data)
        self.heard_at = trio.current_time()
        for reader in self._readers:
            reader(data)

    def connect(self, turns: Turns) -> None:
        """The device is open, and is written to through ``turns``."""
        self._turns = turns

    def disconnect(self, why: str) -> None:
        """The device is gone: whoever waits to write is refused at once, and so is whoever comes."""
        turns, self._turns, self._down = self._turns, None, why
        if turns is not None:
            turns.end(why)

    @property
    def turns(self) -> Turns:
        """The writing half of the device. Raises PortDown while there is none."""
        if self._turns is None:
            raise PortDown(self._down)
        return self._turns

    @property
    def down(self) -> str | None:
        """Why the port cannot be used, or None while it can."""
        return self._down if self._turns is None else None
