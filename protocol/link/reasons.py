"""The reasons why something ended or will not come, as the numbers that a remote-port link carries."""

from __future__ import annotations

import enum
from typing import final

__all__ = ["CloseReason", "Reason"]


@final
class Reason(enum.IntEnum):
    """The reason why bytes of a stream will not come (GAP) or will not be written (LOST).

    Where one range had several reasons, the greatest stands.
    """

    WITHDRAWN = 1
    """The asker has gone, or was answered already."""
    TOO_OLD = 2
    """Past the age limit of its class."""
    OVERFLOW = 3
    """The ring was full."""
    PORT_DOWN = 4
    FORBIDDEN = 5
    """The right for this class was withdrawn."""
    INCOMPLETE = 6
    """The rest of a message of which a part is already written, or can never come."""
    CLOSED = 7
    """The session ended first, cleanly."""
    RESTARTED = 8
    """A node on the path lost its memory; a GAP with count 0 says that the size is unknown."""
    UNCERTAIN = 9
    """Sent towards the line, and nobody can tell how far it came."""


@final
class CloseReason(enum.IntEnum):
    """The reason why a peer says CLOSE. It ends the session, but for STALE and for any that is said instead of OPENED.

    In clear it is a hint, and ends the connection alone.
    """

    STOPPING = 1
    WRONG_KEY = 2
    OWN_NODE = 3
    """The peer has our own node id: a loop of one, or a cloned image."""
    VERSION = 4
    """No wire version in common."""
    BUSY = 5
    """Too many links, also said to one that makes room. Too many handshakes or guesses are closed without a word."""
    STALE = 6
    """The connection number is not greater than the last, which this CLOSE names; the session stays."""
    REPLACED = 7
    """A new session of the same node and remote port took the place of this one."""
    REVOKED = 8
    KEY_CHANGED = 9
    LOOP = 10
    """The path to the line leads through the node that would use it."""
    NO_PATH = 11
    PROTOCOL = 12
    """The peer broke the rules behind a good tag."""
    DUPLICATE = 13
    """Two CPUs use one node id, and the older link is kept: one of them is a cloned image."""
    DETACHED = 14
    """The resume window is over, or more sessions waited than may."""
    IDENTITY = 15
    """The peer has the key, and did not prove the node id that it claims."""
