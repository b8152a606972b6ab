"""Report to the service manager by sd_notify(3): ready, stopping, a status, still alive; and let it keep
descriptors for the next process."""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Notifier"]

logger = logging.getLogger(__name__)

STATUS_LENGTH = 256  # `systemctl status` shows no more


@final
class Notifier:
    """Sends datagrams to the service manager's socket. Never waits and never raises: the lines work without one.

    Its socket is made at the start and kept: if clients have taken every descriptor, a daemon that had to make one to
    feed the watchdog would be killed although it works.

    ``address`` is a path, or ``@name`` for a socket in the abstract namespace; without one nothing is sent.
    ``watchdog_seconds`` is the time of silence after which the manager kills the daemon; None where it never does.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = address
        self._socket: socket.socket | None = None
        self._open()
        self._untold: dict[str, str] = {}
        self._failed = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, unless they are meant for another process."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls(None)
        return cls(address, _watchdog_seconds(environ))

    def ready(self) -> None:
        """Tell that the start is over: every listener is bound, and every device open or known to be retrying."""
        self._tell("READY", "1")

    def stopping(self) -> None:
        """Tell that the daemon has begun to stop."""
        self._tell("STOPPING", "1")

    def watchdog(self) -> None:
        """Tell that the daemon is alive."""
        self._tell("WATCHDOG", "1")

    def status(self, text: str) -> None:
        """Show one line in ``systemctl status``; characters that would break the line become question marks."""
        self._tell("STATUS", "".join(c if c.isprintable() else "?" for c in text[:STATUS_LENGTH]))

    def keep(self, name: str, fd: int) -> None:
        """Let the manager keep a copy of ``fd`` for the next process, under ``name``.

        It is kept even while it polls HUP (FDPOLL=0), as the master of a pty does whenever nobody has the slave open.
        """
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fd)

    def forget(self, name: str) -> None:
        """Let the manager close what it keeps under ``name``."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _tell(self, key: str, value: str) -> None:
        if self._address is None:
            return
        # A message that a full socket did not take is sent with the next one: without READY the start would be killed.
        self._untold[key] = value
        if self._send("\n".join(f"{key}={value}" for key, value in self._untold.items())):
            self._untold.clear()

    def _send(self, message: str, *fds: int) -> bool:
        """Send a message with copies of descriptors; return whether it went, or log once that it did not."""
        if self._address is None:
            return False
        self._open()
        copies = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            if self._socket is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._socket.sendmsg([message.encode()], copies, 0, _name(self._address))
        except OSError as exc:
            if not self._failed:
                logger.warning("the service manager's socket %.120r takes nothing: %s", self._address, exc.strerror)
            self._failed = True
        else:
            self._failed = False
        return not self._failed

    def close(self) -> None:
        """Close the socket. Idempotent; telling more opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> None:
        """Make the socket, unless it is there; it is not connected, as the manager's own may be made anew."""
        if self._socket is None and self._address is not None:
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    microseconds = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return microseconds / 1_000_000 or None


def _name(address: str) -> bytes:
    return b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
