"""One open serial device in trio: bytes pass through it, and its settings change in place.

What must hold
    The event loop never waits for a driver. The two calls that may wait, the open and the close, run in a thread of
    their own (``driver_call``). All other calls return at once, and what takes time is polled (``driver_queue``).

    A Uart has either a descriptor with trio's watch on it, or a thread. The watch ends before the thread starts, or it
    would watch a number that the kernel gives to the next file.

    Every byte that the kernel took is on the line, or waits, or is counted in ``discarded``: exactly one of these.

The states
        OPENING   a thread opens the device (this is ``open``, before there is a Uart)
        OPEN      bytes pass
        PURGING   a driver that does not flush is closed and opened again: readers wait, writers are refused
        CLOSING   a thread has the descriptor
        CLOSED    the driver has let go
        GIVEN_UP  it has not within the caller's time; the thread goes on, and ``let_go`` tells when it is done

        OPENING --> OPEN          the thread has opened it, and it is set
        OPENING --> (nothing)     cancelled: the thread closes what it gets
        OPEN    --purge--> PURGING --> OPEN
                           PURGING --> CLOSED     it could not be opened again; whoever waits is told why
        OPEN    --close--> CLOSING --> CLOSED, GIVEN_UP
        PURGING --close--> CLOSING                once the purge has ended, which is bounded
                           PURGING --> GIVEN_UP

Nothing here takes a turn: the caller of ``reconfigure`` or ``send_break`` has the line already
(``serial_line.arbiter``), or could not get it because it is stuck.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.serial_line.adapters import identity
from gateway.serial_line.bias import Bias
from gateway.serial_line.driver_call import DriverCall
from gateway.serial_line.driver_queue import DriverQueue
from gateway.serial_line.marks import Unmarker
from gateway.serial_line.settings import bytes_per_second
from gateway.serial_line.settings_in_force import SettingsInForce
from gateway.serial_line.tty import READ_SIZE, Counters, DeviceGone, Tty, UartError, close_descriptor
from gateway.tasks.ready import closing, when_readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.host.config import SerialConfig
    from gateway.port.line import ModemLines
    from gateway.port.log import PortLogger
    from gateway.serial_line.adapters import Identity
    from protocol.parameters.settings import SerialPort

__all__ = [
    "Counters",
    "DeviceGone",
    "LineBusy",
    "Uart",
    "UartError",
]

logger = logging.getLogger(__name__)

# Seconds. An update is answered within two: see ``reconfigure``.
_LONGEST_DRAIN: Final = 1.4  # what is then left of the two is for a purge
_CHANGE: Final = 1.8  # from the beginning of a change to its end, the bias command with it
_CLOSE: Final = 0.4  # an interrupted close takes a few milliseconds
_REOPEN: Final = 0.5
_SLOW_OPEN: Final = 0.5  # after which an open is said to wait

# Characters that may pass before a driver shows any progress: USB takes them in blocks, a UART by its FIFO.
_USB_BLOCK: Final = 320
_FIFO_BLOCK: Final = 140


@final
class LineBusy(UartError):
    """New settings were not tried, because the slow line has not carried what was written; ``why`` is a phrase."""

    def __init__(self, device: str, queued: int) -> None:
        self.why = f"line busy: {queued} bytes"
        super().__init__(f"{device}: {self.why}")


@final
class _State(enum.Enum):
    """See the top of the file; OPENING has no Uart yet."""

    OPEN = enum.auto()
    PURGING = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()
    GIVEN_UP = enum.auto()


@final
class Uart:
    """One open serial device, made by ``open``. All methods raise ``UartError``; ``DeviceGone`` when it is lost."""

    def __init__(
        self,
        tty: Tty,
        adapter: Identity | None,
        config: SerialConfig,
        line: SerialPort,
        log: logging.Logger | PortLogger,
    ) -> None:
        self.device = tty.device
        self.adapter = adapter
        """The USB adapter; None where it is none."""
        self.settings = SettingsInForce(tty, line, Bias(config.bias), log)
        """The wanted settings, and those that the device keeps."""
        self.discarded = 0
        """Bytes that the device had taken, and that were thrown away because the line did not carry them in time."""
        self.heard_breaks: Callable[[int], None] = lambda _count: None
        """Called with the number of breaks from the line, if the driver can tell them from bytes."""
        self.lines_rose = 0
        """How often a released DTR or RTS rose for a moment, because a purge had to open the device again."""
        self._config = config
        self._logger = log
        self._state = _State.OPEN
        self._purged = trio.Event()
        self.epoch = 0
        """Grows whenever what the device had taken is thrown away: a message begun before that must not go on."""
        self._lost: UartError | None = None
        """Why it is CLOSED, where nobody closed it."""
        self._closing: DriverCall[None] | None = None
        self._have(tty)

    def _have(self, tty: Tty) -> None:
        """Take this tty as the open one."""
        self._tty = self.settings.tty = tty
        self.send_nowait = tty.write if tty.transfers is None else functools.partial(tty.write_pieces, tty.transfers)
        """Write what the kernel takes of ``data`` now; return the number of bytes, 0 when it is full."""
        self._unmarker = Unmarker() if tty.marks else None
        self.is_paced = not tty.is_pty and self._config.paced
        """True for a UART, which sends at a rate and takes bytes faster than it sends them."""
        self.queue = DriverQueue(tty, lambda: self.settings.timing)
        """What waits in the driver."""

    @classmethod
    async def open(
        cls,
        config: SerialConfig,
        line: SerialPort,
        log: logging.Logger | PortLogger = logger,
        *,
        known: Identity | None = None,
        waiting: Callable[[str], None] = lambda _why: None,
    ) -> Uart:
        """Open the device of ``config`` for this process alone, and apply what it accepts of ``line``.

        What it refuses is in ``settings.refused`` and is no error: a port with the wrong parity is better than none.
        ``known`` is the adapter that the port had before. Another adapter raises UartError before a byte or the level
        of a line can reach it. ``waiting`` is called when the open takes long; it goes on until cancelled.
        """
        call = DriverCall(functools.partial(_opened, config, line, known))
        try:
            with trio.move_on_after(_SLOW_OPEN):
                await call.result()
            if not call.ended:
                waiting(f"{config.device}: the driver has not opened it yet; another program may be closing it")
            tty, adapter = await call.result()
        except trio.Cancelled:
            call.abandon(_undo_open)
            raise
        uart = cls(tty, adapter, config, line, log)
        try:
            await uart.settings.begin()
        except BaseException:
            await uart.close()
            raise
        log.info("%s open%s", uart.device, "".join(f"; {refusal}" for refusal in uart.settings.refused))
        return uart

    @property
    def low_latency(self) -> bool | None:
        """True where the driver hands over bytes at once; None where it does not offer that, or must not be asked."""
        return self._tty.low_latency

    # -- the end

    async def close(self) -> None:
        """Close the device; a waiting task gets ``trio.ClosedResourceError``. Idempotent, also when it was cancelled.

        What still waits for the line is thrown away and counted: a close that sends it could take half a minute.
        """
        if self._state is _State.PURGING:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * (_CLOSE + _REOPEN)):
                await self._purged.wait()  # a purge is bounded
        if self._state is not _State.OPEN:
            return
        self._state = _State.CLOSING
        self.epoch += 1
        try:
            lost = self._tty.flush_output() + self._tty.queued()
        except UartError:
            lost = self.queue.left_behind()
        self._discard(lost)
        await self._let_go()
        if self._closing_ended():
            self._state = _State.CLOSED
            self._logger.info("%s closed", self.device)
        else:
            self._state = _State.GIVEN_UP
            self._logger.warning("%s: the driver does not close it; it is opened again when it has", self.device)

    async def _let_go(self) -> None:
        """Close the descriptor in a thread, and wait as long as a caller can; no byte of its queue is sent any more."""
        closing(self._tty.fd)
        self._closing = DriverCall(functools.partial(close_descriptor, self._tty.detach()))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE):
            await self._closing.interrupted()

    def _closing_ended(self) -> bool:
        return self._closing is None or self._closing.ended

    def let_go(self) -> bool:
        """Return whether the driver has let go of the closed device; if it has not, interrupt it again."""
        if self._closing is not None:
            self._closing.interrupt()
        return self._closing_ended()

    # -- bytes

    async def writable(self) -> None:
        """Wait until ``send_nowait`` may take something, or would raise because the device is lost.

        Raises ClosedResourceError if the device was closed or purged meanwhile: what was written did not reach the
        line.
        """
        await trio.lowlevel.wait_writable(self._open_fd())

    async def hear(self, deliver: Callable[[bytes], None]) -> None:
        """Pass what comes in to ``deliver`` at once, until the device hangs up. ``deliver`` must not wait."""

        def read() -> bool | None:
            received = self._tty.read()
            if self._unmarker is not None and received:
                received = self._unmarked(received, self._unmarker)
            if received:
                deliver(received)
            return received == b"" or None

        while True:
            try:
                await when_readable(self._open_fd(), read)
            except trio.ClosedResourceError:
                if self._state is _State.PURGING:
                    await self._purged.wait()
                if self._lost is not None:
                    raise self._lost from None
                if self._state is not _State.OPEN:
                    raise
            else:
                return

    def _unmarked(self, received: bytes, unmarker: Unmarker) -> bytes | None:
        said, breaks = unmarker.feed(received)
        if len(received) < READ_SIZE:  # the kernel had no more; and a mark comes whole, so nothing must be held back
            said += unmarker.flush()
        if breaks:
            self.heard_breaks(breaks)
        return said or None

    def _open_fd(self) -> int:
        """Return the descriptor to wait for. Raises ClosedResourceError after ``close``, as for tasks that waited."""
        if self._tty.fd < 0:
            raise trio.ClosedResourceError(f"{self.device} was closed")
        return self._tty.fd

    # -- throwing away

    def _discard(self, count: int) -> None:
        self.discarded += count
        if count:
            self._logger.warning("%s threw away %d bytes that the line did not take", self.device, count)

    async def purge(self) -> int:
        """Throw away what waits in the driver; return the number of bytes, and add it to ``discarded``.

        If the driver does not flush, the device is closed and opened again. A message that is being written ends here,
        and its writer is told, because its beginning is gone. Raises UartError if the device cannot be opened again.
        """
        self._state, self._purged = _State.PURGING, trio.Event()
        self.epoch += 1
        try:
            closing(self._tty.fd)
            thrown = self._tty.flush_output()
            self._discard(thrown)
            kept = self._tty.queued()
            if kept:
                await self._reopen(kept)
            else:
                self.queue.look()  # restarts the time for which the queue has stood still
        except BaseException as error:
            if self._tty.fd < 0:
                self._state = _State.CLOSED if self._closing_ended() else _State.GIVEN_UP
                self._lost = error if isinstance(error, UartError) else UartError(f"{self.device} was closed")
            else:
                self._state = _State.OPEN
            raise
        else:
            self._state = _State.OPEN
        finally:
            self._purged.set()
        return thrown + kept

    async def _reopen(self, kept: int) -> None:
        """Close and open the device. That drops what the driver did not flush, and makes DTR and RTS rise."""
        lines = None
        with contextlib.suppress(UartError):
            lines = self._tty.modem_lines()
        await self._let_go()
        self._discard(kept)
        if not self._closing_ended():
            raise UartError(f"{self.device}: the driver does not close it; it is opened again when it has")
        call = DriverCall(functools.partial(_opened, self._config, self.settings.in_force, self.adapter))
        try:
            with trio.fail_after(_REOPEN):
                tty, _ = await call.result()
        except (trio.Cancelled, trio.TooSlowError) as slow:
            call.abandon(_undo_open)
            if isinstance(slow, trio.Cancelled):
                raise
            raise UartError(f"{self.device}: it could not be opened again within {_REOPEN:g} s") from None
        self._have(tty)
        rose = []
        with contextlib.suppress(UartError):
            if lines is not None and not lines.dtr:
                rose.append("DTR")
                tty.set_dtr(False)
            if lines is not None and not lines.rts and not self.settings.in_force.flow_control_rtscts:
                rose.append("RTS")
                tty.set_rts(False)
        self.lines_rose += bool(rose)
        said = f"; {' and '.join(rose)} rose for a moment" if rose else ""
        self._logger.warning("%s was closed and opened again, because its driver does not flush%s", self.device, said)

    # -- settings

    async def reconfigure(self, line: SerialPort, began: float | None = None) -> None:
        """Change the settings in place, after what was written is on the line: within two seconds from ``began``.

        Raises SettingsRefused as ``SettingsInForce.change`` does. Raises LineBusy if the slow line has not carried what
        was written. What flow control holds is thrown away.
        """
        began = trio.current_time() if began is None else began
        await self._quiet(began)
        await self.settings.change(line, began + _CHANGE)

    async def _quiet(self, began: float) -> None:
        """Wait until nothing is left to send, or throw it away; see ``reconfigure``."""
        self.queue.look()
        patience = min(self.queue.patience(), began + _LONGEST_DRAIN - trio.current_time())
        if await self.queue.emptied(max(patience, 0)):
            return
        left = self._tty.queued()
        if not left:
            return  # only the FIFO may still hold a few characters
        if not self.is_held():
            raise LineBusy(self.device, left)
        await self.purge()

    def is_held(self) -> bool:
        """Return whether flow control holds what waits in the driver.

        CTS can be read. An XOFF, and the flow control of a CDC adapter itself, show only by a queue that does not move.
        If the line is too slow to tell, it counts as slow, so that nothing is thrown away that may still be sent.
        """
        self.queue.look()
        if not self._tty.queued():
            return False
        if self.settings.in_force.flow_control_rtscts:
            with contextlib.suppress(UartError):
                if not self.modem_lines().cts:
                    return True
        if not (self.settings.in_force.flow_control_xonxoff or self.adapter):
            return False
        block = _USB_BLOCK if self.adapter else _FIFO_BLOCK
        if self._tty.transfers is not None:
            block = max(block, self._tty.transfers.longest * 5 // 4)
        still = trio.current_time() - self.queue.still_since
        return still * bytes_per_second(self.settings.timing) >= block

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
        """Hold the line in break for ``seconds``, after what was written. Nothing is thrown away for it."""
        await self.begin_break()
        try:
            await trio.sleep(seconds)
        finally:
            self.end_break()

    async def begin_break(self) -> None:
        """Hold the line in break from now on, after what was written."""
        self._tty.modem_lines()  # raises for a pty, which would accept a break without an error and do nothing
        if not await self.queue.emptied(self.queue.patience()):
            raise UartError(f"{self.device}: no break was sent, because the line does not take what was written before")
        self._tty.set_break(True)

    def end_break(self) -> None:
        """End the break, if there is one."""
        self._tty.set_break(False)


def _opened(config: SerialConfig, line: SerialPort, known: Identity | None) -> tuple[Tty, Identity | None]:
    """Open the device, in a thread. Raises UartError, also if another adapter than ``known`` is behind its name."""
    adapter = identity(config.device)
    if known is not None and adapter is not None and adapter != known and not config.any_device:
        raise UartError(
            f"{config.device}: another adapter is there ({adapter}) than the one that this port had ({known}); "
            "plug that one in; or disable and enable the port to take this one, or set [[serial]] any_device = true"
        )
    tty = Tty(config.device, line, automatic=config.rs485_automatic, low_latency=config.low_latency)
    return tty, adapter


def _undo_open(opened: tuple[Tty, Identity | None]) -> None:
    """Close a device that nobody waits for any more; it has nothing to send."""
    close_descriptor(opened[0].detach())
