"""Take the descriptors that the service manager passed to this process: sd_listen_fds(3).

They are sockets that it bound (socket activation), and descriptors that it kept for the process before this one.

A daemon without capabilities cannot bind a port below 1024; its socket unit can.
"""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["HTTP", "Inherited", "inherited"]

HTTP: Final = "http"
"""The name of the HTTP server's sockets (``FileDescriptorName=http``)."""
_FIRST: Final = 3


@final
class Inherited(NamedTuple):
    """What the service manager passed, by name."""

    sockets: dict[str, list[socket.socket]]
    """The listening sockets."""
    kept: dict[str, int]
    """The descriptors that are no sockets: see ``host.descriptor_store``."""


def inherited(environ: MutableMapping[str, str]) -> Inherited:
    """Take all descriptors, and remove the variables, so that no child process believes them."""
    process, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    found = Inherited({}, {})
    if process != str(os.getpid()) or not count.isdecimal():
        return found
    for fd, name in zip(range(_FIRST, _FIRST + int(count)), names.split(":"), strict=False):
        os.set_inheritable(fd, False)
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            if (other := found.kept.pop(name, None)) is not None:
                os.close(other)  # keep the newer of two: a process that was killed between two requests leaves both
            found.kept[name] = fd
            continue
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        found.sockets.setdefault(name, []).append(listener)
    return found
