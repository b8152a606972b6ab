"""The rights that a handle on a port carries."""

from __future__ import annotations

import enum
from typing import final

__all__ = ["Right"]


@final
class Right(enum.Flag):
    """A right of a handle's holder on the port; rights are combined with ``|``."""

    READ = enum.auto()
    """Hear what the line says."""
    PTZ = enum.auto()
    """Write PTZ commands."""
    TCP = enum.auto()
    """Write what generic TCP clients send."""
    CGI = enum.auto()
    """Write what callers of serial.cgi send."""
    WATCH = enum.auto()
    """Hear what others write, and their names."""
    LINES = enum.auto()
    """Move DTR and RTS, send breaks, purge."""
    CONFIGURE = enum.auto()
    """Hold line settings that differ from the stored ones."""

    __hash__ = object.__hash__  # Enum's own hashes the name, and each message asks for its class
