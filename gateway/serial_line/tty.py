"""Use a tty's driver: bytes, settings, modem lines, counters. Only the open and the close may wait.

The errors of termios and ioctls come in two families (``termios.error`` is no ``OSError``); this module turns both into
``UartError``. A driver may also refuse without an error, by keeping its old settings. So settings are always read back.

What drivers do without an error, and what follows from it
    A flush   A USB adapter's driver may ignore it, so the queue is checked after it (``flush_output``).
    A queue   A CDC adapter's driver counts whole transfers, so more would seem queued than was ever written
              (``cdc_acm``). ``unsent`` is the bound: the bytes written since the driver was last seen empty.
    A lock    flock excludes only programs that use it; TIOCEXCL excludes all others, except root. TIOCEXCL belongs to
              the tty, and a pty outlives the last close of its slave, so it would exclude every later program there.
    A close   It waits for the line, 30 s and more (closing_wait). Changing that needs root, and would last for every
              program that opens the device after us. So it stays, and the wait is interrupted (``driver_call``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import termios
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, final

from gateway.port.line import LineError, ModemLines
from gateway.serial_line import cdc_acm
from gateway.serial_line import settings as line_settings
from gateway.serial_line.adapters import group_of
from gateway.serial_line.cdc_acm import Transfers
from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from protocol.parameters.settings import SerialPort

__all__ = ["READ_SIZE", "Counters", "DeviceGone", "Tty", "UartError", "close_descriptor"]

# The numbers of asm-generic (x86, ARM, RISC-V); Python's termios does not have these.
_TIOCGSERIAL: Final = 0x541E
_TIOCSSERIAL: Final = 0x541F
_TIOCGRS485: Final = 0x542E
_TIOCSRS485: Final = 0x542F
_TIOCSBRK: Final = 0x5427
_TIOCCBRK: Final = 0x5428
_TCGETS2: Final = 0x802C542A
_TCSETS2: Final = 0x402C542B
_RS485: Final = struct.Struct("8I")
_COUNTERS: Final = struct.Struct("20i")
_NUMBER: Final = struct.Struct("i")
_SERIAL_STRUCT: Final = 128  # more than struct serial_struct has anywhere
_SERIAL_FLAGS: Final = struct.Struct("16xi")
_LOW_LATENCY: Final = 1 << 13
_TRANSMITTER_EMPTY: Final = 1
_KEPT: Final = 4095
"""The buffer of n_tty in bytes. It takes more from its driver while these are read."""
READ_SIZE: Final = 3 * _KEPT
_PTYS: Final = range(136, 144)  # major numbers of the slaves of ptys (Linux, devices.txt)

_GONE: Final = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF})
_NOT_OFFERED: Final = frozenset({errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP})
_NOT_ALLOWED: Final = frozenset({errno.EPERM, errno.EACCES})
_ADVICE: Final = {
    errno.ENOENT: "there is no such device; is it plugged in?",
    errno.EAGAIN: "another program holds it; stop that program first",
    errno.EBUSY: "another program holds it; stop that program first",
    errno.ENOTTY: "this is not a serial device",
}


class UartError(LineError):
    """The device did not do what was asked; the message names the device, the request, and what to do."""


@final
class DeviceGone(UartError):
    """The device was unplugged, hung up or closed, and has to be opened again by its name."""


@final
@frozen
class Counters:
    """The driver's counters since it was loaded (Linux, ``struct serial_icounter_struct``)."""

    received: int
    sent: int
    framing: int
    overrun: int
    parity: int
    breaks: int
    buffer_overrun: int


@final
class Tty:
    """One open tty, for this process alone, raw, set to ``line``, and without a pulse on DTR at its close.

    Only the constructor and ``close_descriptor`` may wait in the kernel. ``automatic``: the adapter switches RS-485 by
    itself, so the driver is not asked for it. All methods raise ``UartError``, or ``DeviceGone``.
    """

    def __init__(self, device: str, line: SerialPort, *, automatic: bool = False, low_latency: bool = True) -> None:
        self.device = device
        self.fd = -1
        """The non-blocking descriptor; -1 once closed."""
        self.taken = 0
        """Bytes that the kernel took, in all."""
        self.unsent = 0
        """Bytes written since the driver was last seen empty: the most that can be waiting in it."""
        self.transfers: Transfers | None = None
        """The transfers in the driver, if it counts transfers; then use ``write_pieces`` in place of ``write``."""
        self.low_latency: bool | None = None
        """True where the driver hands over bytes at once (ASYNC_LOW_LATENCY); None where it does not offer that."""
        self._automatic = automatic
        with _translated(device):
            self.fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            with _translated(device):
                self._take(line, low_latency=low_latency)
        except BaseException:
            fd, self.fd = self.fd, -1
            close_descriptor(fd)  # nothing was written, so there is nothing to wait for
            raise

    def _take(self, line: SerialPort, *, low_latency: bool) -> None:
        attributes = termios.tcgetattr(self.fd)  # raises if it is no tty
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        major = os.major(os.fstat(self.fd).st_rdev)
        self.is_pty = major in _PTYS
        self.transfers = Transfers() if major == cdc_acm.MAJOR else None
        if not self.is_pty:
            fcntl.ioctl(self.fd, termios.TIOCEXCL)
        try:
            self._board = self._rs485()
            # Marks cost a pty three quarters of its speed, and a driver without counters has no errors to mark.
            self.marks = self._counted() is not None
            if low_latency:
                self._ask_for_low_latency()
            self._apply(line, attributes)
            termios.tcflush(self.fd, termios.TCIFLUSH)  # it was read at the wrong rate
        except BaseException:
            self.release()
            raise

    def _ask_for_low_latency(self) -> None:
        """Let the driver hand over bytes at once; otherwise an FTDI adapter keeps them for up to 16 ms."""
        known = bytearray(_SERIAL_STRUCT)
        with _where_offered(_NOT_OFFERED | _NOT_ALLOWED):
            fcntl.ioctl(self.fd, _TIOCGSERIAL, known)
            (flags,) = _SERIAL_FLAGS.unpack_from(known)
            if not flags & _LOW_LATENCY:
                struct.pack_into("i", known, 16, flags | _LOW_LATENCY)
                fcntl.ioctl(self.fd, _TIOCSSERIAL, bytes(known))
                fcntl.ioctl(self.fd, _TIOCGSERIAL, known)
            self.low_latency = bool(_SERIAL_FLAGS.unpack_from(known)[0] & _LOW_LATENCY)

    def release(self) -> None:
        """Let other programs open the tty: a pty, which outlives its last close, would keep them out for ever."""
        if not self.is_pty:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.fd, termios.TIOCNXCL)

    def detach(self) -> int:
        """Return the descriptor for ``close_descriptor``, and forget its number, because the kernel will reuse that.

        Idempotent: then it returns -1.
        """
        if self.fd >= 0:
            self.release()
        fd, self.fd = self.fd, -1
        return fd

    # -- bytes

    def write(self, data: bytes | memoryview) -> int:
        """Write what the kernel takes of ``data`` now; return the number of bytes, 0 when it is full."""
        try:
            took = os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _uart_error(self.device, error) from error
        self.taken += took
        self.unsent += took
        return took

    def write_pieces(self, transfers: Transfers, data: bytes | memoryview) -> int:
        """Write as ``write`` does, in pieces that are one transfer each."""
        view, took = memoryview(data), 0
        while took < len(view):
            try:
                piece = self.write(view[took : took + transfers.longest])
            except UartError:
                if took:
                    break  # the next write meets the error again; first report what was taken
                raise
            if not piece:
                break
            transfers.wrote(piece)
            took += piece
            if not transfers.is_known:
                with contextlib.suppress(UartError):
                    self.queued()
        return took

    def read(self) -> bytes | None:
        """Return what has come: None if nothing has, ``b""`` when the device has hung up.

        If a read empties n_tty's full buffer, read on up to READ_SIZE bytes: one more read costs less than another
        wait, and another write to each client. With READ_SIZE bytes, there may be more.
        """
        received = piece = self._read()
        with contextlib.suppress(UartError):  # the next read meets it too
            while piece and len(piece) >= _KEPT and received and len(received) < READ_SIZE:
                piece = self._read()
                received += piece or b""
        return received

    def _read(self) -> bytes | None:
        try:
            return os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise _uart_error(self.device, error) from error

    def queued(self) -> int:
        """Return how many bytes wait in the driver to be sent (TIOCOUTQ), never more than were written.

        A pty never shows any.
        """
        with _translated(self.device):
            counted = self._number(termios.TIOCOUTQ)
        if self.transfers is not None:
            counted = self.transfers.waiting(counted)
        return min(counted, self.unsent)

    def transmitter_empty(self) -> bool:
        """Return whether the driver reports an empty FIFO, which TIOCOUTQ leaves out; False if it cannot tell."""
        with _translated(self.device), _where_offered():
            return self._number(termios.TIOCSERGETLSR) & _TRANSMITTER_EMPTY != 0
        return False

    def flush_output(self) -> int:
        """Throw away what waits to be sent, as far as the driver can; return the number of bytes."""
        waiting = self.queued()
        if not waiting:  # the flush of a pty would still take what its reader has not yet read
            return 0
        with _translated(self.device):
            termios.tcflush(self.fd, termios.TCOFLUSH)
        thrown = waiting - self.queued()
        self.unsent -= thrown
        return thrown

    # -- settings

    def apply(self, line: SerialPort) -> None:
        """Apply what the driver accepts of ``line``, and leave the rest as it was; ``found`` tells the result."""
        with _translated(self.device):
            self._apply(line, termios.tcgetattr(self.fd))

    def _apply(self, line: SerialPort, before: list[Any]) -> None:
        was = self._found_in(before, line)
        if not self._set(line, before):
            # Nobody wants what a driver makes of a rate that it does not have. So go back, and try the settings one by
            # one.
            self._set(was, before)
            # Twice, for a UART with 7E and 8N but no 7N: the way from one to the other leads over a setting that it
            # refuses.
            pending: tuple[str, ...] = line_settings.IN_TERMIOS
            for _pass in range(2):
                pending = tuple(name for name in pending if not self._sticks(name, line))
        control = self._rs485()
        if not self._automatic and line_settings.rs485(line, control) != control:
            self._set_rs485(line_settings.rs485(line, self._board))

    def _set(self, line: SerialPort, before: list[Any], names: Sequence[str] = line_settings.IN_TERMIOS) -> bool:
        """Set everything of ``line`` that termios has at once; return whether the driver now has ``names`` of it."""
        wanted = line_settings.attributes(before, line, marks=self.marks)
        with contextlib.suppress(termios.error, OSError):  # reading back shows a refusal, which may be silent anyway
            if line_settings.is_custom(line):
                fcntl.ioctl(self.fd, _TCSETS2, line_settings.termios2(wanted, line.baud_rate))
            elif wanted != termios.tcgetattr(self.fd):
                termios.tcsetattr(self.fd, termios.TCSANOW, wanted)
        found = self._found(line)
        return all(getattr(found, name) == getattr(line, name) for name in names)

    def _sticks(self, name: str, line: SerialPort) -> bool:
        """Set one setting beside those in force; return whether the driver now has it."""
        before = termios.tcgetattr(self.fd)
        was = self._found_in(before, line)
        if self._set(replace(was, **{name: getattr(line, name)}), before, (name,)):
            return True
        self._set(was, before)
        return False

    def found(self, wanted: SerialPort) -> SerialPort:
        """Read back the settings in force. The bias is that of ``wanted``, because no driver knows it.

        So is the mode of an adapter that switches RS-485 by itself.
        """
        with _translated(self.device):
            return self._found(wanted)

    def _found(self, wanted: SerialPort) -> SerialPort:
        return self._found_in(termios.tcgetattr(self.fd), wanted)

    def _found_in(self, attributes: list[Any], wanted: SerialPort) -> SerialPort:
        rate = line_settings.rate_near(self._rate(), wanted.baud_rate)
        found = line_settings.found(attributes, self._rs485(), bias=wanted.bias, custom_rate=rate)
        return replace(found, port_mode=wanted.port_mode, termination=False) if self._automatic else found

    def _rate(self) -> int:
        """Return the rate in force as a number, because termios knows only rates that have a name."""
        known = bytearray(line_settings.TERMIOS2.size)
        with _where_offered():
            fcntl.ioctl(self.fd, _TCGETS2, known)
        rate: int = line_settings.TERMIOS2.unpack(known)[-1]
        return rate

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
        """Return the driver's counters (TIOCGICOUNT); None where it has none, as a pty."""
        with _translated(self.device):
            return self._counted()

    def _counted(self) -> Counters | None:
        counted = bytearray(_COUNTERS.size)
        with _where_offered():
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
        self._set_modem_line(termios.TIOCM_DTR, asserted=asserted)

    def set_rts(self, asserted: bool) -> None:
        """Assert or release RTS; with RTS/CTS flow control or RS-485 it is the driver's."""
        self._set_modem_line(termios.TIOCM_RTS, asserted=asserted)

    def _set_modem_line(self, line: int, *, asserted: bool) -> None:
        with self._modem():
            fcntl.ioctl(self.fd, termios.TIOCMBIS if asserted else termios.TIOCMBIC, struct.pack("I", line))

    def set_break(self, held: bool) -> None:
        """Begin or end a break. Not by tcsendbreak, whose breaks always last a quarter of a second."""
        with self._modem():
            fcntl.ioctl(self.fd, _TIOCSBRK if held else _TIOCCBRK)

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


def close_descriptor(fd: int) -> None:
    """Close what ``Tty.detach`` returned. It waits for the line until a signal comes."""
    with contextlib.suppress(OSError):
        os.close(fd)


@contextlib.contextmanager
def _where_offered(passed: frozenset[int] = _NOT_OFFERED) -> Iterator[None]:
    """Ignore the error of a call that the driver does not have."""
    try:
        yield
    except OSError as error:
        if error.errno not in passed:
            raise


@contextlib.contextmanager
def _translated(device: str) -> Iterator[None]:
    """Turn errors of termios and the kernel into UartError."""
    try:
        yield
    except (termios.error, OSError, ValueError) as error:
        raise _uart_error(device, error) from error


def _uart_error(device: str, error: Exception) -> UartError:
    number = int(error.args[0]) if isinstance(error, termios.error) else getattr(error, "errno", 0)
    if number in _GONE:
        return DeviceGone(f"{device}: the device is gone, or there is nothing behind its name")
    if number == errno.EACCES:
        return UartError(f"{device}: permission denied; {group_of(device)}")
    return UartError(f"{device}: {_ADVICE.get(number, str(error))}")
