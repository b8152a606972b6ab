"""A pty whose master is ours, raw and in packet mode: its bytes, the settings that a program makes, who has it open.

What this file has to cope with (Linux)
    Nobody there  While nobody has the slave open its master polls HUP, at once and for ever: do not wait for it then.
    Leftovers     What a program left unread stays in the slave for the next program. So it is flushed there.
    Settings      They belong to the slave and stay too. It is raw from the start, or the line's own words would be
                  echoed into it. EXTPROC leaves line editing and echo to the master, which does neither, and makes
                  packet mode (TIOCPKT) report each change of settings, our own too; without it, none is reported. It
                  is set again where a program clears it.
    Packets       A read of the master returns one byte that says what the program did, alone or with data. A report
                  comes before the data, even if the program wrote first: the order is lost (``clients.tty_stream``).
    Draining      tcdrain and TCSADRAIN return at once on a slave: the program believes that all is on the line.
    TIOCEXCL      It outlives the last close of a slave, and shuts out every later program. Such a pty is replaced.
    Never         A pty has no modem lines and sends no break, and it is always 8 bits without parity. The kernel drops
                  such settings without an error, and takes those that were made with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CARRIED", "NEVER", "Happened", "Pty", "PtySettings"]

NEVER: Final = ("modem lines", "breaks", "5 to 7 data bits", "parity")
"""What a program can never do through a pty, in the words of the status."""

_READ_SIZE: Final = 65536
_MOST_STALE: Final = 1 << 20
_EXTPROC: Final = 0o200000  # Linux; Python's termios leaves it out
_TIOCPKT_IOCTL: Final = 0x40
_TIOCGPTN: Final = 0x80045430  # the numbers of asm-generic (x86, ARM, RISC-V), as those of serial_line.tty
_TCGETS2: Final = 0x802C542A
_TCSETS2: Final = 0x402C542B
_TERMIOS2: Final = struct.Struct("4IB19s2I")
"""Linux' ``struct termios2``: flags, discipline, characters, rates in and out."""
_CBAUD: Final = 0o010017
_BOTHER: Final = 0o010000
_SPEEDS: Final = {
    int(name[1:]): getattr(termios, name) for name in dir(termios) if name[:1] == "B" and name[1:].isdigit()
}
_XON_XOFF: Final = termios.IXON | termios.IXOFF


@final
class PtySettings(NamedTuple):
    """The line settings that a pty can show, by their names in the contract."""

    BaudRate: int
    StopBits: int
    FlowControlXONXOFF: bool
    FlowControlRTSCTS: bool

    @classmethod
    def of(cls, known: Mapping[str, object]) -> PtySettings | None:
        """Return the settings of a line of which these are ``known``; None where they are unknown."""
        if not known:
            return None
        xon_xoff, rts_cts = bool(known["FlowControlXONXOFF"]), bool(known["FlowControlRTSCTS"])
        return cls(int(str(known["BaudRate"])), int(str(known["StopBits"])), xon_xoff, rts_cts)

    def texts(self) -> dict[str, str]:
        """Return them as param.cgi takes them, by their names."""
        flow = [("no", "yes")[on] for on in (self.FlowControlXONXOFF, self.FlowControlRTSCTS)]
        return dict(zip(self._fields, (str(self.BaudRate), str(self.StopBits), *flow), strict=True))

    def since(self, before: PtySettings) -> dict[str, str]:
        """Return, as texts, the settings that differ from ``before``. A rate of 0 is left out: it means to hang up."""
        was = before.texts()
        changed = {name: value for name, value in self.texts().items() if value != was[name]}
        return {name: value for name, value in changed.items() if self.BaudRate or name != "BaudRate"}


CARRIED: Final = PtySettings._fields
"""The settings that a program can change, where the host allows it."""


@final
class Happened(NamedTuple):
    """What one read of the master brought: data, or what the program at the slave did."""

    data: bytes = b""
    set: bool = False
    """It set the tty, perhaps to the same settings as before."""
    threw_away_input: bool = False
    threw_away_output: bool = False


@final
class Pty:
    """The master of a pty: newly ``made``, or ``taken`` from the previous server. Its methods raise OSError."""

    def __init__(self, master: int) -> None:
        self.master = master
        (number,) = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        self.slave = f"/dev/pts/{number}"
        """The name under which a program opens it."""
        self.deeds = select.epoll()
        """Readable after the program did something beside writing, until it is polled."""
        os.set_blocking(master, False)
        fcntl.ioctl(master, termios.TIOCPKT, struct.pack("i", 1))
        self.deeds.register(master, select.EPOLLPRI | select.EPOLLET)
        self.seen = self.settings()
        """The last settings that the program made, or was shown."""
        self.undecided = False
        """The line has neither taken nor refused what the program set; until then the tty shows that."""
        self.was_set = False
        """A program made the settings before this pty was taken, and still has it open."""
        self.stale = 0
        """Bytes that a program wrote while nobody read them, and that were thrown away."""

    @classmethod
    def made(cls) -> Pty:
        """Make a raw one, whose slave nobody has open."""
        master, slave = os.openpty()
        try:
            iflag, oflag, cflag, lflag, *speeds, characters = termios.tcgetattr(slave)
            lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            iflag = 0
            termios.tcsetattr(
                slave, termios.TCSANOW, [iflag, oflag & ~termios.OPOST, cflag, lflag | _EXTPROC, *speeds, characters]
            )
            return cls._of(master)
        finally:
            os.close(slave)

    @classmethod
    def _of(cls, master: int) -> Pty:
        """Return the pty of ``master``, or close the master where that fails."""
        try:
            return cls(master)
        except BaseException:
            os.close(master)
            raise

    @classmethod
    def taken(cls, master: int) -> Pty:
        """Take over a pty that was ``made`` before, and that a program may have open. Raises OSError where it is no
        pty.

        What the program wrote meanwhile is thrown away, because its age is unknown.
        """
        pty = cls._of(master)
        pty.was_set = pty.undecided = pty.is_open()
        with contextlib.suppress(OSError):  # there is no more
            while pty.stale < _MOST_STALE:  # the session reads a program that never stops writing
                pty.stale += len(pty.read().data)
        return pty

    def detach(self) -> int:
        """Return the master, to be ``taken`` again or closed. This object must not be used after that."""
        self.deeds.close()
        return self.master

    def did_something(self) -> bool:
        """Return whether the program did something beside writing since the last call."""
        return any(events & select.EPOLLPRI for _, events in self.deeds.poll(0))

    def read(self) -> Happened:
        """Read once. Raises BlockingIOError where nothing has come, OSError once nobody has the slave open."""
        packet = os.read(self.master, _READ_SIZE)
        told = packet[0]
        if told & _TIOCPKT_IOCTL:
            self._leave_it_raw()
        return Happened(
            packet[1:],
            bool(told & _TIOCPKT_IOCTL),
            bool(told & termios.TIOCPKT_FLUSHREAD),
            bool(told & termios.TIOCPKT_FLUSHWRITE),
        )

    def _leave_it_raw(self) -> None:
        """Set EXTPROC again where a program has cleared it; everything else is the program's own business."""
        iflag, oflag, cflag, lflag, *rest = self._termios2()
        if not lflag & _EXTPROC:
            settings = _TERMIOS2.pack(iflag, oflag, cflag, lflag | _EXTPROC, *rest)
            fcntl.ioctl(self.master, _TCSETS2, settings)

    # -- settings

    def settings(self) -> PtySettings:
        """Return the settings as they are now."""
        iflag, _, cflag, *_, rate = self._termios2()
        stop_bits = 2 if cflag & termios.CSTOPB else 1
        return PtySettings(rate, stop_bits, iflag & _XON_XOFF == _XON_XOFF, bool(cflag & termios.CRTSCTS))

    def show(self, wanted: PtySettings | None) -> None:
        """Show these settings to the program, unless it has just made others that are undecided."""
        if wanted is None or wanted == self.seen or self.undecided or self.settings() != self.seen:
            return
        iflag, oflag, cflag, lflag, discipline, characters, *_ = self._termios2()
        iflag = iflag & ~_XON_XOFF | (_XON_XOFF if wanted.FlowControlXONXOFF else 0)
        cflag &= ~(_CBAUD | _CBAUD << 16 | termios.CSTOPB | termios.CRTSCTS)
        cflag |= _SPEEDS.get(wanted.BaudRate, _BOTHER)
        cflag |= termios.CSTOPB if wanted.StopBits == 2 else 0
        cflag |= termios.CRTSCTS if wanted.FlowControlRTSCTS else 0
        rates = wanted.BaudRate, wanted.BaudRate
        fcntl.ioctl(self.master, _TCSETS2, _TERMIOS2.pack(iflag, oflag, cflag, lflag, discipline, characters, *rates))
        self.seen = self.settings()

    def forget(self, wanted: PtySettings | None) -> None:
        """Show these settings to the next program, whatever the last one made; it may have opened the tty already."""
        self.undecided = self.was_set = False
        if not self.is_open():
            self.seen = self.settings()
        self.show(wanted)

    def _termios2(self) -> tuple[int, int, int, int, int, bytes, int, int]:
        return _TERMIOS2.unpack(fcntl.ioctl(self.master, _TCGETS2, bytes(_TERMIOS2.size)))

    # -- who is there

    def is_open(self) -> bool:
        """Return whether anybody has the slave open now."""
        poll = select.poll()
        poll.register(self.master, 0)
        return not poll.poll(0)

    def unread(self) -> int:
        """Return how many bytes wait that were written to the slave.

        Poll alone cannot tell, since it also reports packets without data, such as that of our own flush. But poll
        makes the kernel move what was written to where it is counted.
        """
        self.is_open()
        count: int = struct.unpack("i", fcntl.ioctl(self.master, termios.FIONREAD, bytes(4)))[0]
        return count

    def drop_unread(self) -> None:
        """Throw away what was written to the slave and has not been read."""
        fcntl.ioctl(self.master, termios.TCFLSH, termios.TCIFLUSH)

    def drop_unheard(self) -> bool:
        """Throw away what the last program left unread, and undo what would keep the next one from its bytes.

        Return False where the slave can never be opened again.
        """
        try:
            fd = os.open(self.slave, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        with contextlib.closing(os.fdopen(fd, "rb", buffering=0)):
            # Of a real device the kernel forgets the line discipline and a stopped output with its last close. By ioctl
            # all of it: termios raises an error that is no OSError.
            fcntl.ioctl(fd, termios.TIOCSETD, struct.pack("i", termios.N_TTY))
            fcntl.ioctl(fd, termios.TCXONC, termios.TCOON)
            fcntl.ioctl(fd, termios.TCFLSH, termios.TCIFLUSH)
        return True
