"""The device behind a port, as its manager runs it: a tty of this CPU, or the way to a line of another.

Both meet their clients on the port's bus, so a manager need not know which kind it has. ``serial_line.device`` and
``remote_port.client`` implement the protocol; ``gateway.devices`` makes a device by its PortType.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.tasks.reconcile import Unit
    from protocol.parameters.settings import Settings

__all__ = ["PortDevice", "Refusal"]


@final
@frozen
class Refusal:
    """A parameter that could not be brought into force: its full name (``Serial.Ser1.BaudRate``), and why."""

    name: str
    why: str


class PortDevice(Protocol):
    """A device that can be opened, kept open and closed again, any number of times."""

    async def run(self, unit: Unit) -> None:
        """Keep the device open until ``unit.scope`` is cancelled, then close it within a bounded time.

        A device that is away is a state that ``unit`` reports, and is tried again; only a bug raises.
        """

    async def adjust(self, settings: Settings) -> tuple[Refusal, ...]:
        """Bring this device's part of ``settings`` into force in place; return what it refused.

        Equal settings change nothing. A device that is away takes them up when it is back, and refuses nothing now.
        """

    async def insist(self, names: Collection[str]) -> None:
        """Try once more to bring the wanted settings into force; end every hold of clients on these parameters."""

    def not_in_force(self) -> tuple[Refusal, ...]:
        """Ask the device, and return the wanted settings that are not in force; nothing while it is away."""

    def status(self) -> dict[str, object]:
        """Return what ``/daisyport/status`` shows of the device, by the keys of the port."""
