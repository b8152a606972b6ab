"""Who this node is to other nodes: 16 random bytes, made at the first start and kept.

Not the host's name: two nodes may have the same one, and a path that names nodes must never take one for another.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gateway.state import atomic_file
from gateway.state.store import StoreError
from protocol.link.port_state import NODE_ID

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["node_id"]


def node_id(directory: Path) -> bytes:
    """Return the node id kept in ``directory``, made if there is none. Raises StoreError where it cannot be kept."""
    path = directory / "node_id"
    try:
        kept = atomic_file.read(path)
        if kept is None:
            kept = os.urandom(NODE_ID).hex().encode() + b"\n"
            atomic_file.replace(path, kept)
        node = bytes.fromhex(kept.decode())
    except OSError as exc:
        raise StoreError(f"{path} cannot be used: {exc.strerror}") from exc
    except ValueError:
        node = b""
    if len(node) != NODE_ID:
        raise StoreError(f"{path} does not hold {2 * NODE_ID} hexadecimal digits; remove it, and a new one is made")
    return node
