"""Tell one machine from another, so that a copied state directory does not make two nodes one.

A blade's CPUs are often installed from one image. If that image was taken after a first start, each copy has the same
key pair, and they would disconnect each other for ever. machine-id(5) differs between such copies, because an installer
or the first boot makes a new one; a mark that is derived from it is kept beside the key pair.

In some places the file is of no use: a container has its host's id or one that does not last, and on a temporary file
system it differs at each boot. There nothing is compared.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import Final

__all__ = ["machine_mark"]

_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_CONTAINER: Final = ("run/systemd/container", "run/.containerenv", ".dockerenv")
"""Files that show a process that it runs in a container of systemd, podman or docker."""
_TEMPORARY: Final = frozenset({"tmpfs", "ramfs", "overlay"})


def machine_mark(state_dir: Path, root: Path = Path("/")) -> str | None:
    """Return a mark of this machine, 64 hexadecimal digits; None where there is none to rely on.

    It is a keyed hash, as machine-id(5) asks for: the machine id itself stays secret.
    """
    machine_id = root / "etc/machine-id"
    try:
        text = machine_id.read_text(encoding="ascii").strip()
        if _MACHINE_ID.fullmatch(text) is None or any((root / name).exists() for name in _CONTAINER):
            return None
        mounts = (root / "proc/self/mountinfo").read_text(errors="replace")
        if any(_file_system(path, mounts) in _TEMPORARY for path in (machine_id, state_dir)):
            return None
    except (OSError, UnicodeDecodeError):
        return None
    return hmac.digest(bytes.fromhex(text), b"daisyport node key", hashlib.sha256).hex()


def _file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system that ``path`` is on, by proc_pid_mountinfo(5); empty where unknown."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split(" ")[2:3] == [number]:
            return file_system.partition(" ")[0]
    return ""
