"""The key pair that this node is to other nodes (Ed25519): made at the first start, and kept.

Its node id is not the host's name: two nodes may have the same one, and a path that names nodes must never take one
for another. Nor is it a number that anybody could claim, as it was once: whoever has the file is the node.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from gateway.state import atomic_file
from gateway.state.store import StoreError
from protocol.link.identity import NodeKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["node_key"]

logger = logging.getLogger(__name__)

_BYTES: Final = 32
_FILE: Final = "node_key"
_BEFORE: Final = "node_id"
"""The file of 16 random bytes that was the identity before it was a key pair."""


def node_key(directory: Path, name: str) -> NodeKey:
    """Return the key pair kept in ``directory``, made if there is none, under a ``name`` for people.

    Raises StoreError where it cannot be kept.
    """
    path, before = directory / _FILE, directory / _BEFORE
    try:
        kept = atomic_file.read(path)
        if kept is None:
            seed = os.urandom(_BYTES)
            kept = f"{seed.hex()}\n{NodeKey(seed).public.hex()}\n".encode()
            atomic_file.replace(path, kept)
            if before.exists():
                logger.warning("this node has a new id: ids are proved by a key now, and %s had none", before)
        before.unlink(missing_ok=True)
        keys = [bytes.fromhex(line) for line in kept.decode().splitlines()]
    except OSError as exc:
        raise StoreError(f"{exc.filename or path} cannot be used: {exc.strerror}") from exc
    except ValueError:
        keys = []
    if [len(key) for key in keys] != [_BYTES, _BYTES]:
        raise StoreError(
            f"{path} does not hold two keys of {2 * _BYTES} hexadecimal digits; remove it, and this node gets a new id"
        )
    # The public one is kept beside its secret so that a start need not compute it, which costs a library.
    seed, public = keys
    return NodeKey(seed, name, public)
