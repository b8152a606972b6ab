"""Take the sockets that the service manager bound for this process: socket activation, sd_listen_fds(3).

A daemon without capabilities cannot bind a port below 1024; its socket unit can.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["HTTP", "inherited"]

HTTP: Final = "http"
"""The name of the HTTP server's sockets (``FileDescriptorName=http``)."""
_FIRST: Final = 3


def inherited(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """Return the listening sockets by their names, and remove the variables, which are not for child processes."""
    process, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    found: dict[str, list[socket.socket]] = {}
    if process != str(os.getpid()) or not count.isdecimal():
        return found
    for fd, name in zip(range(_FIRST, _FIRST + int(count)), names.split(":"), strict=False):
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        found.setdefault(name, []).append(listener)
    return found
