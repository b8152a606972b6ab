"""Keep the line settings that one session holds in place of those of Serial.Ser#, which param.cgi still lists.

What must hold
    Only one session at a time holds settings; another one's request changes nothing. When an admin sets a parameter,
    even to the value that it has, the hold on that parameter ends.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gateway.port.line import Claim
    from protocol.parameters.hardware import SerialHardware
    from protocol.parameters.settings import SerialPort

__all__ = ["HeldSettings"]


@final
class HeldSettings:
    """The values that one session holds of a line with this hardware."""

    def __init__(self, hardware: SerialHardware) -> None:
        self._hardware = hardware
        self._catalogue: Catalogue | None = None
        self.holder: Claim | None = None
        self.values: dict[str, str] = {}
        """Texts by the contract's names: ``{"BaudRate": "19200"}``."""

    def over(self, stored: SerialPort) -> SerialPort:
        """Return the wanted line: ``stored``, with the held values."""
        return self._applied(stored, self.values)[0] if self.values else stored

    def take(self, claim: Claim, values: Mapping[str, str], stored: SerialPort) -> bool:
        """Hold those ``values`` that the rules allow; return whether the held values have changed."""
        if self.holder not in (None, claim):
            return False
        refused = self._applied(stored, {**self.values, **values})[1]
        taken = {name: value for name, value in values.items() if name not in refused}
        before, self.values = self.values, self.values | taken
        self.holder = claim if self.values else None
        return self.values != before

    def restore(self, names: Collection[str], before: Mapping[str, str]) -> None:
        """Hold these values as ``before``, because the driver refused the new ones."""
        held = {name: before.get(name) if name in names else value for name, value in self.values.items()}
        self.values = {name: value for name, value in held.items() if value is not None}
        self.holder = self.holder if self.values else None

    def forget(self, names: Collection[str]) -> bool:
        """Stop holding these values; return whether any of them was held."""
        held = self.values.keys() & names
        self.values = {name: value for name, value in self.values.items() if name not in held}
        if not self.values:
            self.holder = None
        return bool(held)

    def _applied(self, stored: SerialPort, values: Mapping[str, str]) -> tuple[SerialPort, frozenset[str]]:
        """Return the line with these values as param.cgi would set them, and the names that it would refuse."""
        if self._catalogue is None:
            self._catalogue = Catalogue(Hardware((self._hardware,), ()))
        settings = self._catalogue.restored("").settings
        settings = replace(settings, serial=replace(settings.serial, ports=(stored,)))
        update = self._catalogue.updated(
            settings, [(f"Serial.Ser1.{name}", value) for name, value in values.items()], Role.ADMIN
        )
        refused = frozenset(error.name.removeprefix("root.").removeprefix("Serial.Ser1.") for error in update.refused)
        return update.settings.serial.ports[0], refused

    def status(self) -> dict[str, object]:
        """Return what is held, and its holder, for the status."""
        return {"holder": None if self.holder is None else self.holder.holder, "values": dict(self.values)}
