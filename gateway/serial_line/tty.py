"""Ask and tell a tty's driver, without ever waiting: bytes, settings, modem lines, counters.

Behind this module are pyserial, termios and ioctls, whose errors come in three families (``termios.error`` is no
``OSError``, and a refused RS-485 mode is a ``ValueError``); in front of it there is ``UartError`` alone. A driver may
also refuse without an error, by keeping what it had. So nothing here believes a call that returned: settings are read
back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import serial

from gateway.port.line import LineError, ModemLines
from gateway.serial_line import settings as line_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol.parameters.settings import SerialPort

__all__ = ["Counters", "DeviceGone", "Tty", "UartError", "usb_adapters"]

# The numbers of asm-generic (x86, ARM, RISC-V); Python's termios does not have these.
_TIOCGRS485: Final = 0x542E
_TIOCSRS485: Final = 0x542F
_RS485: Final = struct.Struct("8I")
_COUNTERS: Final = struct.Struct("20i")
_NUMBER: Final = struct.Struct("i")
_TRANSMITTER_EMPTY: Final = 1
_READ_SIZE: Final = 4096  # n_tty keeps no more for one read

_GONE: Final = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF})
_NOT_OFFERED: Final = frozenset({errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP})
_ADVICE: Final = {
    errno.ENOENT: "there is no such device; is it plugged in?",
    errno.EACCES: "permission denied; the daemon's user must be in the device's group (often dialout)",
    errno.EAGAIN: "another program holds it; stop that program first",
    errno.EBUSY: "another program holds it; stop that program first",
    errno.ENOTTY: "this is not a serial device",
}


class UartError(LineError):
    """The device did not do what was asked; the text says which device, what it was, and what to do."""


@final
class DeviceGone(UartError):
    """The device was unplugged, hung up or closed; it has to be opened again, under its name."""


@final
@dataclass(frozen=True, slots=True)
class Counters:
    """The driver's own counters, since it was loaded (Linux, ``struct serial_icounter_struct``)."""

    received: int
    sent: int
    framing: int
    overrun: int
    parity: int
    breaks: int
    buffer_overrun: int


def usb_adapters(directory: Path = Path("/dev/serial/by-id")) -> tuple[str, ...]:
    """Return the USB serial adapters by the names that stay theirs when they are plugged in again.

    Only these may be opened unasked: opening any other port raises DTR on who knows what.
    """
    try:
        links = sorted(directory.iterdir())
    except OSError:
        return ()
    return tuple(str(link) for link in links if link.name.startswith("usb-") and link.exists())


@final
class Tty:
    """One open tty, for this process alone, raw, and without a pulse on DTR when it is closed.

    All methods raise ``UartError``, or ``DeviceGone``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        with _translated(device):
            # VMIN 1 and VTIME 0: with pyserial's own choice, an idle read looks like the end of the file.
            self._serial = serial.Serial(device, timeout=0, inter_byte_timeout=0, exclusive=True)
        self.fd: int = self._serial.fileno()
        """The non-blocking descriptor; -1 once closed."""
        self.written = False
        """Whether bytes may be in the FIFO: set by each write, and cleared by whoever has waited for it."""
        try:
            with _translated(device):
                self._tame()
                self._board = self._rs485()
        except BaseException:
            self.close()
            raise

    def _tame(self) -> None:
        """Take away what pyserial leaves set: HUPCL resets boards, the others drop, flush or restart bytes."""
        attributes = termios.tcgetattr(self.fd)
        attributes[0] &= ~(termios.BRKINT | termios.IGNPAR | termios.IXANY)
        attributes[2] &= ~termios.HUPCL
        termios.tcsetattr(self.fd, termios.TCSANOW, attributes)

    def close(self) -> None:
        """Close it. Flush first: a close with bytes in the driver's queue waits for the line, for up to 30 s."""
        # Before the close, so that nobody ever uses a number that the kernel has given to another file.
        self.fd = -1
        with contextlib.suppress(OSError):
            self._serial.close()

    # -- bytes

    def write(self, data: bytes | memoryview) -> int:
        """Write what the kernel takes of ``data`` now, and return how many bytes that is: 0 when it is full."""
        self.written = True
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _uart_error(self.device, error) from error

    def read(self) -> bytes | None:
        """Return what is there: None when that is nothing, ``b""`` when the device has hung up."""
        try:
            return os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise _uart_error(self.device, error) from error

    def queued(self) -> int:
        """Return how many bytes wait in the driver to be sent (TIOCOUTQ); a pty never shows any."""
        with _translated(self.device):
            return self._number(termios.TIOCOUTQ)

    def transmitter_empty(self) -> bool:
        """Return whether the driver knows its FIFO to be empty, which TIOCOUTQ leaves out; false if it cannot say."""
        with _translated(self.device), _where_offered():
            return self._number(termios.TIOCSERGETLSR) & _TRANSMITTER_EMPTY != 0
        return False

    def flush_output(self) -> None:
        """Throw away what waits to be sent."""
        with _translated(self.device):
            termios.tcflush(self.fd, termios.TCOFLUSH)

    def flush_input(self) -> None:
        """Throw away what was received and not read."""
        with _translated(self.device):
            termios.tcflush(self.fd, termios.TCIFLUSH)

    # -- settings

    def apply(self, line: SerialPort) -> None:
        """Apply what the driver takes of ``line``, and leave the rest as it was: ``found`` says what that is."""
        pending = line_settings.arguments(line)
        with _translated(self.device):
            # Twice, for a UART with 7E and 8N but no 7N: the way from one to the other leads over what it refuses.
            for _pass in range(2):
                pending = {name: value for name, value in pending.items() if not self._sticks(name, value)}
            control = self._rs485()
            if line_settings.rs485(line, control) != control:
                self._set_rs485(line_settings.rs485(line, self._board))

    def _sticks(self, name: str, value: int | str) -> bool:
        """Set one of pyserial's attributes, and return whether the driver has it then."""
        before = getattr(self._serial, name)
        with contextlib.suppress(termios.error, ValueError):  # reading back tells a refusal, which may be silent too
            setattr(self._serial, name, value)
        if line_settings.arguments(self._found())[name] == value:
            return True
        # pyserial keeps what was refused, and would try it again with every later change.
        setattr(self._serial, name, before)
        return False

    def found(self, *, bias: bool) -> SerialPort:
        """Read back the settings in force; ``bias`` is passed on, for no driver knows it."""
        with _translated(self.device):
            return self._found(bias=bias)

    def _found(self, *, bias: bool = False) -> SerialPort:
        return line_settings.found(termios.tcgetattr(self.fd), self._rs485(), bias=bias)

    def _rs485(self) -> line_settings.Rs485:
        control = bytearray(_RS485.size)
        with _where_offered():
            fcntl.ioctl(self.fd, _TIOCGRS485, control)
        return _RS485.unpack(control)

    def _set_rs485(self, control: line_settings.Rs485) -> None:
        with _where_offered():
            fcntl.ioctl(self.fd, _TIOCSRS485, _RS485.pack(*control))

    # -- what is beside the data

    def counters(self) -> Counters | None:
        """Return what the driver counted (TIOCGICOUNT); None where it does not count, as on a pty."""
        counted = bytearray(_COUNTERS.size)
        with _translated(self.device), _where_offered():
            fcntl.ioctl(self.fd, termios.TIOCGICOUNT, counted)
            return Counters(*_COUNTERS.unpack(counted)[4:11])
        return None

    def modem_lines(self) -> ModemLines:
        """Return the lines as they are now; ``UartError`` where the device has none."""
        with self._modem():
            lines = self._number(termios.TIOCMGET)
        return ModemLines(
            dtr=bool(lines & termios.TIOCM_DTR),
            rts=bool(lines & termios.TIOCM_RTS),
            cts=bool(lines & termios.TIOCM_CTS),
            dsr=bool(lines & termios.TIOCM_DSR),
            ri=bool(lines & termios.TIOCM_RI),
            dcd=bool(lines & termios.TIOCM_CD),
        )

    def set_dtr(self, asserted: bool) -> None:
        """Assert or release DTR."""
        with self._modem():
            self._serial.dtr = asserted

    def set_rts(self, asserted: bool) -> None:
        """Assert or release RTS; with RTS/CTS flow control or RS-485 it is the driver's."""
        with self._modem():
            self._serial.rts = asserted

    def set_break(self, held: bool) -> None:
        """Hold the line in break, or let it go. pyserial's send_break makes 100 ms of whatever it is told."""
        with self._modem():
            self._serial.break_condition = held

    @contextlib.contextmanager
    def _modem(self) -> Iterator[None]:
        with _translated(self.device):
            try:
                yield
            except OSError as error:
                if error.errno in _NOT_OFFERED:
                    raise UartError(f"{self.device}: this device has no modem lines, nor a break") from error
                raise

    def _number(self, request: int) -> int:
        number: int = _NUMBER.unpack(fcntl.ioctl(self.fd, request, bytes(_NUMBER.size)))[0]
        return number


@contextlib.contextmanager
def _where_offered() -> Iterator[None]:
    """Pass over a call that the driver does not have."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


@contextlib.contextmanager
def _translated(device: str) -> Iterator[None]:
    """Raise as UartError what termios, the kernel and pyserial raise."""
    try:
        yield
    except (termios.error, OSError, ValueError) as error:
        raise _uart_error(device, error) from error


def _uart_error(device: str, error: Exception) -> UartError:
    number = _errno(error)
    if number in _GONE:
        return DeviceGone(f"{device}: the device is gone, or there is nothing behind its name")
    return UartError(f"{device}: {_ADVICE.get(number, str(error))}")


def _errno(error: BaseException | None) -> int:
    """Find the kernel's number: pyserial hides that of a termios error in the context of its own."""
    if isinstance(error, termios.error):
        return int(error.args[0])
    if isinstance(error, OSError):
        return error.errno or _errno(error.__context__)
    return 0
