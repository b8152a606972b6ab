"""What a handle lets its holder do on a port.

It must not know how handles are made, nor who holds them.
"""

from __future__ import annotations

import enum
from typing import final

__all__ = ["Right"]


@final
class Right(enum.Flag):
    """What a handle lets its holder do on the port."""

    READ = enum.auto()
    """Hear what the line says."""
    PTZ = enum.auto()
    """Write PTZ commands."""
    TCP = enum.auto()
    """Write what generic TCP clients send."""
    CGI = enum.auto()
    """Write what serial.cgi was asked to."""
