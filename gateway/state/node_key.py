"""The key pair that identifies this node to other nodes (Ed25519): made at the first start, and kept.

The node id is not the host's name, because two nodes may have the same name, and a path must never confuse two nodes.
Nor is it a number that anybody could claim, as it once was: only the holder of this file is the node.

Computing the public key needs a library of 8 MiB, which a gateway without links needs for nothing else. So a child
process does that, once; it gets the secret key through a pipe, where nobody sees it. If no child can be started, the
library is loaded after all.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final, final

import trio

from gateway.state import atomic_file
from gateway.state.store import StoreError
from protocol.link.identity import NodeKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NodeIdentity", "node_key"]

logger = logging.getLogger(__name__)

_BYTES: Final = 32
_KEYS: Final = 2
_LINES: Final = [_BYTES, _BYTES, 32]
"""The bytes of each line, in hexadecimal digits: the secret key, the public one, and the mark of the machine if any."""
_FILE: Final = "node_key"
_BEFORE: Final = "node_id"
"""The file of 16 random bytes that was the identity before it was a key pair."""
_LIBRARY: Final = "cryptography.hazmat.primitives.asymmetric.ed25519"
_DERIVE: Final = f"""
import sys
from {_LIBRARY} import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
key = Ed25519PrivateKey.from_private_bytes(sys.stdin.buffer.read())
sys.stdout.buffer.write(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
"""
_CHILD: Final = 10.0
"""Seconds for the child, which needs a fifth of one."""
_AGAIN: Final = 60.0


def node_key(directory: Path, name: str, machine: str | None = None) -> NodeKey:
    """Return the key pair kept in ``directory``, made if there is none, with a ``name`` for people.

    ``machine`` is the mark of this machine, if it has one. A key pair with another machine's mark came with a copied
    image: it is left to that machine, and a new one is made. Raises StoreError if it cannot be kept.
    """
    path, before = directory / _FILE, directory / _BEFORE
    try:
        kept = (atomic_file.read(path) or b"").decode()
        lines = kept.splitlines()
        of_other_machine = machine is not None and len(lines) == len(_LINES) and lines[2] != machine
        if of_other_machine:
            logger.warning("this node has a new id: %s was copied from another machine (machine-id differs)", path)
        if of_other_machine or not path.exists():
            seed = os.urandom(_BYTES)
            lines = [seed.hex(), _public(seed).hex()]
            if before.exists():
                logger.warning("this node has a new id: ids are proved by a key now, and %s had none", before)
        if len(lines) == _KEYS and machine is not None:
            lines.append(machine)
        keys = [bytes.fromhex(line) for line in lines]
        whole = [len(key) for key in keys] in (_LINES, _LINES[:_KEYS])
        if whole and (content := "".join(f"{line}\n" for line in lines)) != kept:
            atomic_file.replace(path, content.encode())
        before.unlink(missing_ok=True)
    except OSError as exc:
        raise StoreError(f"{exc.filename or path} cannot be used: {exc.strerror}") from exc
    except ValueError:
        whole = False
    if not whole:
        raise StoreError(
            f"{path} does not hold two keys of {2 * _BYTES} hexadecimal digits; remove it, and this node gets a new id"
        )
    # The public key is kept beside the secret one, so that a start need not load a library to compute it.
    seed, public = keys[:_KEYS]
    return NodeKey(seed, name, public)


@final
class NodeIdentity:
    """The key pair of this node while it runs: the stored one, or one in memory if it cannot be stored.

    A full disk or a broken file must not keep a gateway from its ports. The log and the status report the price:
    without a file the node has another identity after the next start.
    """

    def __init__(self, directory: Path, name: str, machine: str | None = None) -> None:
        self.error = ""
        """Why the key pair is only in memory; empty if it is stored."""
        self._path = directory / _FILE
        self._machine = machine
        try:
            self.key = node_key(directory, name, machine)
        except StoreError as exc:
            seed = os.urandom(_BYTES)
            self.key = NodeKey(seed, name, _public(seed))
            self._seed = seed
            self.error = f"{exc}; its id is not kept"
            logger.error("%s", self.error)  # noqa: TRY400 -- the traceback says no more

    async def keep(self) -> None:
        """Try each minute to store the key pair, until that works. An existing broken file is left for the operator."""
        while self.error:
            await trio.sleep(_AGAIN)
            lines = [self._seed.hex(), self.key.public.hex(), *([self._machine] if self._machine else [])]
            try:
                if not self._path.exists():
                    atomic_file.replace(self._path, "".join(f"{line}\n" for line in lines).encode())
                    self.error = ""
                    logger.info("%s keeps the id of this node now", self._path)
            except OSError as exc:
                logger.debug("%s: %s", self._path, exc.strerror)
        await trio.sleep_forever()


def _public(seed: bytes) -> bytes:
    if _LIBRARY not in sys.modules:
        try:
            child = subprocess.run(
                [sys.executable, "-I", "-c", _DERIVE], input=seed, capture_output=True, timeout=_CHILD, check=True
            )
        except (OSError, subprocess.SubprocessError) as exc:
            logger.info("the node's key is computed in the gateway itself: %s", exc)
        else:
            if len(child.stdout) == _BYTES:
                return child.stdout
    return NodeKey(seed).public
