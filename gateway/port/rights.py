"""The rights that a handle on a port carries."""

from __future__ import annotations

import enum
from typing import final

__all__ = ["Right"]


@final
class Right(enum.Flag):
    """Something that the holder of a handle may do on the port; combined with ``|``."""

    READ = enum.auto()
    """Hear what the line says."""
    PTZ = enum.auto()
    """Write PTZ commands."""
    TCP = enum.auto()
    """Write what generic TCP clients send."""
    CGI = enum.auto()
    """Write what callers of serial.cgi ask it to."""
    WATCH = enum.auto()
    """Hear what others write, and their names."""
    LINES = enum.auto()
    """Move DTR and RTS, send breaks, purge."""
    CONFIGURE = enum.auto()
    """Hold other settings of the line than those that are stored."""
