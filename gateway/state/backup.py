"""A backup: one archive of what outlives the process, and the rules for what of it goes onto which machine.

The archive is a gzipped tar. It comes back from a disk that was carried around, so nothing in it is trusted: its
members must be plain small files with names from a short list, each once, and one wrong member makes the whole archive
invalid. What belongs to one machine or one chassis is restored elsewhere only on request:

- the node's key and the self-signed certificate are a CPU's identity: two CPUs with the same would disconnect each
  other;
- the AuthenticationKeys admit their holder to a chain.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from typing import TYPE_CHECKING, Final, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["CONFIGURATION", "IDENTITY", "PARAMETERS", "USERS", "About", "Backup", "BackupError", "pack", "unpack"]

CONFIGURATION: Final = "daisyport.toml"
PARAMETERS: Final = "parameters"
USERS: Final = "users"
IDENTITY: Final = ("node_key", "tls.pem")
"""The members that are a CPU's identity."""
_ABOUT: Final = "about.json"
_MEMORY: Final = re.compile(r"remote_port_R[0-9]{1,3}_server")
_LARGEST: Final = 1 << 20
"""The most bytes of a member; the daemon reads no larger file either."""
_MOST: Final = 300
"""The most members: each remote port has one, and there are at most 256."""
_KEY: Final = re.compile(r"(?m)^[^=\n]*AuthenticationKey=.*\n?")


@final
class BackupError(Exception):
    """The archive cannot be used; the message says why in one sentence."""


@final
@frozen
class About:
    """Where a backup was made: ``machine`` is the mark of the machine, empty where it has none."""

    version: str
    node: str
    chassis: str
    machine: str

    def is_same_machine(self, here: About) -> bool:
        """Return whether a backup was made on this machine; False without a mark."""
        return self.machine != "" and self.machine == here.machine

    def is_same_chassis(self, here: About) -> bool:
        """Return whether a backup was made in this chassis."""
        return self.is_same_machine(here) or (self.chassis != "" and self.chassis == here.chassis)


@final
@frozen
class Backup:
    """A backup that was read: where it was made, and its files by their names."""

    about: About
    files: Mapping[str, bytes]

    def for_machine(self, here: About, *, identity: bool, keys: bool) -> tuple[dict[str, bytes], list[str]]:
        """Return the files to restore on the machine ``here``, and a sentence for everything that is left out.

        ``identity`` and ``keys`` restore those of another machine or chassis too. The configuration is not judged here.
        """
        files = {name: content for name, content in self.files.items() if name != CONFIGURATION}
        left: list[str] = []
        if not identity and not self.about.is_same_machine(here):
            for name in [name for name in IDENTITY if name in files]:
                del files[name]
                left.append(f"{name}: it is the identity of {self.about.node}, another machine; --identity restores it")
        if not keys and not self.about.is_same_chassis(here) and PARAMETERS in files:
            text, count = _KEY.subn("", files[PARAMETERS].decode(errors="replace"))
            if count:
                files[PARAMETERS] = text.encode()
                left.append(f"{count} AuthenticationKeys: they are of another chassis; --keys restores them")
        return files, left


def pack(directory: Path, configuration: bytes | None, about: About) -> bytes:
    """Return an archive of the files of a state directory, and of the host's configuration. Raises OSError.

    Each file is whole, since a running gateway replaces them as a whole.
    """
    members = {_ABOUT: json.dumps({**_written(about), "format": 1}, indent=2).encode()}
    if configuration is not None:
        members[CONFIGURATION] = configuration
    for path in sorted(directory.iterdir()):
        if _is_known(path.name) and path.is_file() and not path.is_symlink():
            members[path.name] = path.read_bytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def unpack(data: bytes) -> Backup:
    """Read an archive. Raises BackupError for anything that ``pack`` does not write."""
    members: dict[str, bytes] = {}
    try:
        # Limit what is unpacked, because a few bytes of gzip may expand to any number.
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(_MOST * 2048 + 16 * _LARGEST)
            if file.read(1):
                raise BackupError("it is too large for a backup of Daisyport")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                if len(members) >= _MOST:
                    raise BackupError(f"it has more than {_MOST} members")
                name = _judged(member, members)  # before any of its content is read
                members[name] = _content(archive, member)
    except RecursionError:  # a header may stand for the next one, and that for the next
        raise BackupError("it is no backup of Daisyport: its headers are nested too deep") from None
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as exc:
        raise BackupError(f"it is no backup of Daisyport: {exc}") from None
    return Backup(_about(members.pop(_ABOUT, b"")), members)


def _judged(member: tarfile.TarInfo, before: Mapping[str, bytes]) -> str:
    name = member.name
    if not _is_known(name) and name not in (_ABOUT, CONFIGURATION):
        raise BackupError(f"it has the member {name!a:.60}, which does not belong in a backup")
    if not member.isreg() or member.size > _LARGEST:
        raise BackupError(f"its member {name} is not a plain file of at most 1 MiB")
    if name in before:
        raise BackupError(f"it has the member {name} twice")
    return name


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise BackupError(f"its member {member.name} is cut off")
    return content


def _is_known(name: str) -> bool:
    return name in (PARAMETERS, USERS, *IDENTITY) or _MEMORY.fullmatch(name) is not None


def _written(about: About) -> dict[str, str]:
    return {"version": about.version, "node": about.node, "chassis": about.chassis, "machine": about.machine}


def _about(content: bytes) -> About:
    try:
        found = json.loads(content)
        if found["format"] != 1:
            raise BackupError("it was made by a newer version: its format is not known here")
        about = About(found["version"], found["node"], found["chassis"], found["machine"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BackupError(f"it is no backup of Daisyport: its {_ABOUT} cannot be read") from None
    if not all(isinstance(word, str) and word.isprintable() for word in _written(about).values()):
        raise BackupError(f"it is no backup of Daisyport: its {_ABOUT} cannot be read")
    return about
