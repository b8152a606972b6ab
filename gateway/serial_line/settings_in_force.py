"""The settings of one open line: the wanted ones, those that its driver keeps, and why the two differ.

What must hold
    ``in_force`` is what was last read back from the driver, and never what was set: a driver may refuse without an
    error, and another program may change the line. It is read back at every change, and for every status.

    A change sticks as a whole, or all is as before. The only exception is a setting that was not in force before
    either: it may fail again without refusing the rest.

    A refusal of the device is reported once. If another setting differs later, another program has changed it.

No driver knows the bias of a bus. A command of the host switches it, and its exit status is believed (``bias``).

Nothing here waits for the line to be quiet, nor takes a turn: ``uart`` does the first, and its caller the second.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio

from gateway.serial_line import settings as line_settings
from gateway.serial_line.tty import UartError

if TYPE_CHECKING:
    import logging

    from gateway.port.log import PortLogger
    from gateway.serial_line.bias import Bias
    from gateway.serial_line.tty import Tty
    from protocol.parameters.settings import SerialPort

__all__ = ["SettingRefusal", "SettingsInForce", "SettingsRefused"]

_SHORTEST_BIAS: Final = 0.1  # seconds: what is left to switch the bias back


@final
class SettingRefusal(NamedTuple):
    """A setting that the device did not take, by its ``name`` in the contract (``BaudRate``); ``why`` is a phrase."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


@final
class SettingsRefused(UartError):
    """New settings did not stick; the device has its old ones again."""

    def __init__(self, device: str, refusals: tuple[SettingRefusal, ...]) -> None:
        super().__init__(f"{device}: " + "; ".join(map(str, refusals)))
        self.refusals = refusals


@final
class SettingsInForce:
    """The settings of ``tty``, which was opened with ``wanted``, and the ``bias`` beside them.

    All methods raise ``UartError``, or ``DeviceGone`` when the device is lost.
    """

    def __init__(self, tty: Tty, wanted: SerialPort, bias: Bias, log: logging.Logger | PortLogger) -> None:
        self.tty = tty
        """The open tty; a purge may open a new one."""
        self.wanted = wanted
        """The settings that were last asked for."""
        self.in_force = wanted
        """The settings that were read back from the device; a rate that it cannot tell is 0."""
        self.refused: tuple[SettingRefusal, ...] = ()
        """Why the two differ."""
        self._bias = bias
        self._logger = log
        self._told: frozenset[str] = frozenset()
        """The settings whose refusal has been reported."""

    async def begin(self) -> None:
        """Switch the bias, and note which settings the driver took at the open."""
        await self._bias.switch(line_settings.wanted(self.wanted).bias)
        self.read_back(self.wanted)
        self._told = frozenset(refusal.name for refusal in self.refused)

    @property
    def timing(self) -> SerialPort:
        """The settings to compute times with: those in force, with the wanted rate if theirs is unknown."""
        return replace(self.in_force, baud_rate=self.in_force.baud_rate or self.wanted.baud_rate)

    def wants(self, line: SerialPort, *, again: bool = False) -> bool:
        """Read back what is in force, and return whether ``change`` would change anything for ``line``.

        Changes by another program count. Settings that the device is known to refuse count only if they are asked for
        ``again``.
        """
        self.read_back(self.wanted)
        changed = {refusal.name for refusal in self.refused} - self._told
        if changed:
            self._logger.warning(
                "%s: another program changed the line: %s", self.tty.device, "; ".join(map(str, self.refused))
            )
        return line != self.wanted or bool(changed) or (again and bool(self.refused))

    async def change(self, line: SerialPort, deadline: float) -> None:
        """Bring ``line`` into force, with its bias by about ``deadline``; the line must be quiet.

        Raises SettingsRefused if a setting that this changes did not stick; then all is as before. A setting that was
        not in force before either is tried again, and is no reason to refuse the others.
        """
        before = self.timing
        asked = {line_settings.NAMES[name] for name in line_settings.differing(self.wanted, line)}
        excused = {refusal.name for refusal in self.refused} - asked
        try:
            self.tty.apply(line)
            await self._switch_bias(line_settings.wanted(line).bias, deadline)
            self.read_back(line)
            responsible = tuple(refusal for refusal in self.refused if refusal.name not in excused)
            if responsible:
                raise SettingsRefused(self.tty.device, responsible)
        except SettingsRefused:
            self._roll_back(before)
            await self._switch_bias(before.bias, deadline)
            self.read_back(self.wanted)
            raise
        except BaseException:
            self._roll_back(before)
            raise
        self.wanted = line
        self._told = frozenset(refusal.name for refusal in self.refused)

    async def _switch_bias(self, on: bool, deadline: float) -> None:
        await self._bias.switch(on, max(deadline - trio.current_time(), _SHORTEST_BIAS))

    def _roll_back(self, before: SerialPort) -> None:
        try:
            self.tty.apply(before)
        except UartError as error:
            self._logger.warning("the settings could not be put back: %s", error)

    def read_back(self, line: SerialPort) -> None:
        """Read back the settings in force, and note where they differ from ``line``."""
        wanted = line_settings.wanted(line)
        found = self.tty.found(wanted)
        self.in_force = replace(found, bias=bool(self._bias.state))
        refused = [
            SettingRefusal(
                line_settings.NAMES[name],
                f"asked for {_shown(getattr(wanted, name))}, the device keeps {_shown(getattr(found, name))}",
            )
            for name in line_settings.differing(wanted, found)
        ]
        # The tty does not know the bias, but the bias command does.
        if self._bias.trouble or wanted.bias is not bool(self._bias.state):
            refused.append(SettingRefusal("Bias", self._bias.trouble or f"it is {_shown(self._bias.state)}"))
        self.refused = tuple(refused)

    @property
    def by_name(self) -> dict[str, object]:
        """The settings in force by the contract's names; an unknown bias is None."""
        known = line_settings.by_name(self.in_force)
        return known | {"Bias": self._bias.state} if self.in_force.port_mode.balanced else known


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value.value if isinstance(value, enum.Enum) else value)
