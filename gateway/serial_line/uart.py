"""One open serial device in trio: bytes pass through it, and its settings change in place.

trio waits on the raw descriptor, and nothing stands between it and the bytes. Nothing here takes a turn: whoever calls
``reconfigure``, ``drain`` or ``send_break`` has the line already (``serial_line.arbiter``).

Waiting for the line means looking at the driver's queue, again and again. ``tcdrain`` would wait in the kernel, for
ever where flow control holds the line, and the whole gateway with it. The kernel has no event for an empty queue.
"""

from __future__ import annotations

import contextlib
import enum
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.serial_line import settings as line_settings
from gateway.serial_line.bias import Bias
from gateway.serial_line.tty import Counters, DeviceGone, Tty, UartError, usb_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.port.line import ModemLines
    from gateway.port.log import PortLogger
    from protocol.parameters.settings import SerialPort

__all__ = [
    "Counters",
    "DeviceGone",
    "SettingRefusal",
    "SettingsRefused",
    "Uart",
    "UartError",
    "usb_adapters",
]

logger = logging.getLogger(__name__)

_FIFO_CHARACTERS: Final = 70  # the 64 of a 16750, what is in the shift register, and some
_GRACE: Final = 1.0  # seconds beyond the line time that a drain may take
_SHORTEST_LOOK: Final = 0.001
_LONGEST_LOOK: Final = 0.1


@final
@dataclass(frozen=True, slots=True)
class SettingRefusal:
    """A setting that the device did not take: ``name`` as in the contract (``BaudRate``), ``why`` a phrase."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


@final
class SettingsRefused(UartError):
    """New settings did not stick; the device is back at those it had."""

    def __init__(self, device: str, refusals: tuple[SettingRefusal, ...]) -> None:
        super().__init__(f"{device}: " + "; ".join(map(str, refusals)))
        self.refusals = refusals


@final
class Uart:
    """One open serial device, made by ``open``. All methods raise ``UartError``, or ``DeviceGone`` when it is lost."""

    def __init__(self, tty: Tty, line: SerialPort, bias: Bias, log: logging.Logger | PortLogger) -> None:
        self.device = tty.device
        self.line = line
        """The settings that were asked for last."""
        self.in_force = line
        """The settings that the device keeps, read back from it; a rate without a name in termios reads as 0."""
        self.refused: tuple[SettingRefusal, ...] = ()
        """Why the two differ."""
        self.discarded = 0
        """Bytes that the device had taken and that were thrown away, because the line did not carry them in time."""
        self.send_nowait = tty.write
        """Write what the kernel takes of ``data`` now, and return how many bytes that is: 0 when it is full."""
        self._tty = tty
        self._bias = bias
        self._logger = log

    @classmethod
    async def open(
        cls,
        device: str,
        line: SerialPort,
        bias_command: Sequence[str] = (),
        log: logging.Logger | PortLogger = logger,
    ) -> Uart:
        """Open ``device`` for this process alone and apply what it can take of ``line``.

        What it does not take is in ``refused`` and no error: a port with the wrong parity is worth more than none.
        ``bias_command`` is run with ``{state}`` in its words replaced by ``on`` or ``off``.
        """
        uart = cls(Tty(device), line, Bias(bias_command), log)
        try:
            uart._tty.apply(line)
            uart._tty.flush_input()  # it was read at the wrong rate
            await uart._bias.switch(line_settings.wanted(line).bias)
            uart._read_back(line)
        except BaseException:
            uart.close()
            raise
        log.info("%s open%s", device, "".join(f"; {refusal}" for refusal in uart.refused))
        return uart

    def close(self) -> None:
        """Close the device without waiting for its line; who waits in it gets ``trio.ClosedResourceError``."""
        if self._tty.fd < 0:
            return
        trio.lowlevel.notify_closing(self._tty.fd)
        # A close with bytes in the driver's queue stops the whole loop, for up to 30 s.
        with contextlib.suppress(UartError):
            self.discard()
        self._tty.close()
        self._logger.info("%s closed", self.device)

    # -- bytes

    async def writable(self) -> None:
        """Wait until ``send_nowait`` may take something; a device that is lost counts, for it says so then."""
        await trio.lowlevel.wait_writable(self._open_fd())

    async def receive(self) -> bytes:
        """Return what has come in, waiting for the first byte; ``b""`` when the device has hung up."""
        while True:
            await trio.lowlevel.wait_readable(self._open_fd())
            received = self._tty.read()
            if received is not None:
                return received

    def _open_fd(self) -> int:
        """Return the descriptor to wait for. Raises ClosedResourceError after ``close``, as it did to who waited."""
        if self._tty.fd < 0:
            raise trio.ClosedResourceError(f"{self.device} was closed")
        return self._tty.fd

    def queued(self) -> int:
        """Return how many bytes wait in the driver (TIOCOUTQ); a pty never shows any."""
        return self._tty.queued()

    def discard(self) -> int:
        """Throw away what waits in the driver; return, and add to ``discarded``, how many bytes that was."""
        waiting = self._tty.queued()
        if waiting:  # where nothing waits, the flush of a pty would still take what its reader has not yet read
            self._tty.flush_output()
            self.discarded += waiting
            self._logger.warning("%s threw away %d bytes that the line did not take", self.device, waiting)
        return waiting

    async def drain(self, seconds: float) -> int:
        """Wait at most ``seconds`` until all is on the line; throw away the rest and return its size."""
        return 0 if await self.emptied(seconds) else self.discard()

    async def emptied(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all that was written is on the line, and return whether it is.

        By looking, not by ``tcdrain``: with CTS low or after an XOFF that never returns.
        """
        with trio.move_on_after(seconds):
            while waiting := self._tty.queued():  # noqa: ASYNC110 -- the kernel has no event for an empty queue
                await trio.sleep(self._look(waiting))
            await self._shifted_out()
            return True
        return False

    async def _shifted_out(self) -> None:
        """Wait for the FIFO: until the driver says it is empty, or as long as that can take."""
        await trio.lowlevel.checkpoint()
        if not self._tty.written:
            return
        with trio.move_on_after(line_settings.line_time(self.timing, _FIFO_CHARACTERS)):
            while not self._tty.transmitter_empty():  # noqa: ASYNC110 -- nor for an empty FIFO
                await trio.sleep(self._look(1))
        self._tty.written = False

    def _look(self, characters: int) -> float:
        return min(max(line_settings.line_time(self.timing, characters), _SHORTEST_LOOK), _LONGEST_LOOK)

    def _patience(self) -> float:
        return line_settings.line_time(self.timing, self._tty.queued() + _FIFO_CHARACTERS) + _GRACE

    # -- settings

    @property
    def timing(self) -> SerialPort:
        """The settings to compute times with: those in force, at the rate asked for where theirs is unknown."""
        return replace(self.in_force, baud_rate=self.in_force.baud_rate or self.line.baud_rate)

    async def reconfigure(self, line: SerialPort) -> None:
        """Change the settings in place, after what was written is on the line.

        Raises SettingsRefused when a setting that this changes did not stick; then all is as it was. A setting that
        was not in force before, and is asked for again, is tried again and is no reason to refuse the others.
        """
        if line == self.line and not self.refused:
            await trio.lowlevel.checkpoint()
            return
        await self.drain(self._patience())
        before = self.timing
        asked = {line_settings.NAMES[name] for name in line_settings.differing(self.line, line)}
        excused = {refusal.name for refusal in self.refused} - asked
        try:
            self._tty.apply(line)
            await self._bias.switch(line_settings.wanted(line).bias)
            self._read_back(line)
            responsible = tuple(refusal for refusal in self.refused if refusal.name not in excused)
            if responsible:
                raise SettingsRefused(self.device, responsible)
        except SettingsRefused:
            self._roll_back(before)
            await self._bias.switch(before.bias)
            self._read_back(self.line)
            raise
        except BaseException:
            self._roll_back(before)
            raise
        self.line = line

    def _roll_back(self, before: SerialPort) -> None:
        try:
            self._tty.apply(before)
        except UartError as error:
            self._logger.warning("the settings could not be put back: %s", error)

    def _read_back(self, line: SerialPort) -> None:
        """Ask the device what is in force, and note where that is not ``line``."""
        wanted = line_settings.wanted(line)
        # A bias that nobody knows is not the one that is wanted.
        self.in_force = self._tty.found(bias=not wanted.bias if self._bias.state is None else self._bias.state)
        names = line_settings.differing(wanted, self.in_force)
        self.refused = tuple(SettingRefusal(line_settings.NAMES[name], self._why(name, wanted)) for name in names)

    def _why(self, name: str, wanted: SerialPort) -> str:
        if name == "bias":
            return self._bias.trouble
        return f"asked for {_shown(getattr(wanted, name))}, the device keeps {_shown(getattr(self.in_force, name))}"

    # -- what is beside the data

    def counters(self) -> Counters | None:
        """Return what the driver counted (TIOCGICOUNT); None where it does not count, as on a pty."""
        return self._tty.counters()

    def modem_lines(self) -> ModemLines:
        """Return the lines as they are now; ``UartError`` where the device has none."""
        return self._tty.modem_lines()

    def set_modem_lines(self, dtr: bool | None, rts: bool | None) -> None:
        """Assert or release DTR and RTS; None leaves one as it is. With RTS/CTS or RS-485, RTS is the driver's."""
        if dtr is not None:
            self._tty.set_dtr(dtr)
        if rts is not None:
            self._tty.set_rts(rts)

    async def send_break(self, seconds: float) -> None:
        """Hold the line in break for ``seconds``, after what was written; nothing is thrown away for it."""
        self._tty.modem_lines()  # a pty takes a break without a word and does nothing: say so
        if not await self.emptied(self._patience()):
            raise UartError(f"{self.device}: no break was sent, for the line does not take what was written before")
        self._tty.set_break(True)
        try:
            await trio.sleep(seconds)
        finally:
            self._tty.set_break(False)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value.value if isinstance(value, enum.Enum) else value)
