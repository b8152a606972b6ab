"""The users who may log in over HTTP, and the hashes of their passwords.

They are kept in one file, STATE_DIR/users, with a line for each user; the daemon reads it again whenever it has
changed. The hashes are as valuable as the passwords: whoever has one can log in by Digest.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from dataclasses import field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from gateway.state import atomic_file
from protocol.frozen import frozen
from protocol.http.credentials import Algorithm, stored_hash
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = ["ROLES", "User", "UserError", "Users"]

logger = logging.getLogger(__name__)

ROLES: Mapping[str, Role] = MappingProxyType({"admin": Role.ADMIN, "operator": Role.OPERATOR, "viewer": Role.VIEWER})
"""The roles that a user can have, by the words of the command line and the file."""

HEADER = (
    "# name:role:realm:MD5:SHA-256[:P0,P1], made by `daisyport user add`; the hashes are as good as the passwords.\n"
)
OLD_HEADERS = ("# name:role:realm:MD5:SHA-256, made by `daisyport user add`; the hashes are as good as the passwords.",)
STORED = (Algorithm.MD5, Algorithm.SHA256)  # in the order of the line's fields
HASH = re.compile(r"([0-9a-f]{32}:[0-9a-f]{64})(?::(P[0-9]{1,3}(?:,P[0-9]{1,3})*))?")
LONGEST_REALM = 255
REALM = re.compile(rf"realm:[ !#-9;-\[\]-~]{{1,{LONGEST_REALM}}}")  # no character that would have to be quoted
LONGEST_NAME = 64
LONGEST_PASSWORD = 1024
MOST_TOLD = 20
"""Lines that cannot be used, of which each gets a line in the log; of the others their number is told."""


@final
class UserError(Exception):
    """A user was not found, added or changed; the message says why in one sentence."""


@final
@frozen
class User:
    """A user; ``hashes`` are RFC 7616's H(A1) in the realm of the file."""

    name: str
    role: Role
    hashes: Mapping[Algorithm, str] = field(repr=False)
    ports: frozenset[int] | None = None
    """The numbers of the ports that the user is bound to; None for all."""


@final
@frozen
class _UserFile:
    """The content of the file; ``kept`` are comments and lines that could not be used, which a rewrite keeps."""

    realm: str
    fixed: bool = False
    users: Mapping[str, User] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    errors: tuple[tuple[int, str], ...] = ()


@final
class Users:
    """The users of one state directory.

    The passwords are hashed together with ``realm``. It is fixed when the file is first made, because the hashes are
    useless in another realm; after that the realm in the file counts. Raises UserError if the file cannot be made.
    """

    def __init__(self, directory: Path, realm: str = "Daisyport") -> None:
        self._path = directory / "users"
        # Characters that would have to be quoted in the file or in a challenge become dashes.
        self._file = _UserFile(re.sub(r'[^ -~]|[:"\\]', "-", realm)[:LONGEST_REALM])
        self._seen: object = None
        self.unreadable: str | None = None
        """Why the file cannot be read now, so that nobody can log in; None while it can be read."""
        with _explained(self._path):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._seen = self._look()
            self._file = self._read()
            if not self._file.fixed:
                self._fix_realm()

    def _fix_realm(self) -> None:
        """Store the realm for the hashes. A failure does no harm yet, because there is no user."""
        try:
            self._change(lambda users: None)
        except UserError as exc:
            logger.error("%s; no user can be added until that is mended", exc)  # noqa: TRY400

    @property
    def realm(self) -> str:
        """The realm that the passwords are hashed with."""
        return self._current().realm

    @property
    def everyone(self) -> tuple[User, ...]:
        """All users, by name."""
        users = self._current().users
        return tuple(users[name] for name in sorted(users))

    def find(self, name: str) -> User | None:
        """Return the user of this name, if there is one; a missing or unreadable file has none."""
        return self._current().users.get(name)

    def add(self, name: str, role: str, password: str, ports: frozenset[int] | None = None) -> None:
        """Add a user, bound to ``ports`` by their numbers; without, to none.

        Raises UserError for an existing name, or for an invalid name, role or password.
        """
        _check_name(name)
        if found := set(name) & set('"\\'):
            # Digest has to quote these, and libraries (aiohttp) and clients do it in different ways, or not at all.
            raise UserError(f"{name!a:.60} cannot be a name: several clients cannot log in with {found.pop()} in it")
        if role not in ROLES:
            raise UserError(f"{role!a:.60} is not one of {', '.join(ROLES)}")

        def change(users: dict[str, User]) -> None:
            if name in users:
                raise UserError(f"{name} is a user already; remove it first, or set its password")
            users[name] = self._user(name, ROLES[role], password, ports)

        self._change(change)

    def remove(self, name: str) -> None:
        """Remove a user. Raises UserError if there is none."""

        def change(users: dict[str, User]) -> None:
            del users[self._known(users, name).name]

        self._change(change)

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password. Raises UserError for an unknown user, or an invalid password."""

        def change(users: dict[str, User]) -> None:
            known = self._known(users, name)
            users[name] = self._user(name, known.role, password, known.ports)

        self._change(change)

    def shared(self) -> str:
        """Return all users, with the hashes of their passwords, for ``adopt`` at another CPU."""
        file = self._current()
        return _written(_UserFile(file.realm), dict(file.users)).decode()

    def adopt(self, text: str) -> tuple[str, ...]:
        """Add the users that another CPU shares, except those whose names exist here; return the new names.

        The passwords are hashed with that CPU's realm, so it becomes the realm here. Raise UserError where this host
        has users of another one, or for what cannot be read.
        """
        given = _parsed(text, "")
        if given.errors or not given.fixed or not _is_realm(f"realm:{given.realm}"):
            raise UserError("the users that the other CPU gave cannot be read")
        with _explained(self._path), atomic_file.turn(self._path.parent):
            own = self._read()
            if own.users and own.realm != given.realm:
                raise UserError(
                    f"this host has users of the realm {own.realm!a:.80}, and those of the other CPU are of "
                    f"{given.realm!a:.80}: remove the ones here first, or add the others one by one"
                )
            new = tuple(sorted(given.users.keys() - own.users.keys()))
            self._file = replace(own, realm=given.realm, users=dict(given.users) | dict(own.users))
            atomic_file.replace(self._path, _written(self._file, dict(self._file.users)))
        return new

    def _user(self, name: str, role: Role, password: str, ports: frozenset[int] | None) -> User:
        if not password or not password.isprintable() or len(password) > LONGEST_PASSWORD:
            raise UserError(f"a password has 1 to {LONGEST_PASSWORD} characters, and no control character among them")
        realm = self._file.realm
        return User(name, role, {each: stored_hash(each, name, realm, password) for each in STORED}, ports)

    def _known(self, users: Mapping[str, User], name: str) -> User:
        if name not in users:
            raise UserError(f"{name!a:.60} is not a user of {self._path}")
        return users[name]

    def _change(self, change: Callable[[dict[str, User]], None]) -> None:
        with _explained(self._path), atomic_file.turn(self._path.parent):
            self._file = self._read()
            users = dict(self._file.users)
            change(users)
            atomic_file.replace(self._path, _written(self._file, users))

    def _current(self) -> _UserFile:
        look = self._look()
        if look != self._seen or self.unreadable:
            # Taken before the file is read: if the file changes meanwhile, the next look differs, and it is read again.
            self._seen = look
            try:
                self._file = self._read()
            except OSError as exc:
                # A user who cannot be looked up must not be let in. The reason may pass without a change of the file
                # (no descriptor was free), so the next caller tries again.
                self._file = _UserFile(self._file.realm)
                if self.unreadable != exc.strerror:
                    logger.error("%s cannot be read, so nobody can log in: %s", self._path, exc.strerror)  # noqa: TRY400
                self.unreadable = exc.strerror or "unknown error"
            else:
                self.unreadable = None
        return self._file

    def _look(self) -> object:
        # Cheap enough for each request. The inode changes with every atomic replacement; size and times show an edit in
        # place, and ctime also a change of the mode, after which the file may not be readable any more.
        try:
            found = self._path.stat()
        except OSError as exc:
            return exc.errno
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _read(self) -> _UserFile:
        content = atomic_file.read(self._path)
        if content is None:
            return _UserFile(self._file.realm)
        file = _parsed(content.decode(errors="surrogateescape"), self._file.realm)
        for line, why in file.errors[:MOST_TOLD]:
            logger.warning("%s line %d: %s; left out", self._path, line, why)
        if (more := len(file.errors) - MOST_TOLD) > 0:
            logger.warning("%s: %d more lines are left out", self._path, more)
        return file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise UserError(f"{path}: {exc.strerror}") from exc


def _check_name(name: str) -> None:
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or ":" in name or name[0] in " #":
        raise UserError(
            f"{name!a:.60} cannot be a name: 1 to {LONGEST_NAME} printable characters, no colon, not # or blank first"
        )


def _written(file: _UserFile, users: Mapping[str, User]) -> bytes:
    words = {role: word for word, role in ROLES.items()}
    lines = [f"realm:{file.realm}\n"]
    lines += [
        ":".join([name, words[user.role], file.realm, *(user.hashes[each] for each in STORED), *_bound(user)]) + "\n"
        for name, user in sorted(users.items())
    ]
    lines += [f"{line}\n" for line in file.kept]
    return (HEADER + "".join(lines)).encode(errors="surrogateescape")


def _bound(user: User) -> tuple[str, ...]:
    """Return the field of the ports; empty for a user who is bound to none, as in older files."""
    return () if user.ports is None else (",".join(f"P{port}" for port in sorted(user.ports)),)


def _parsed(text: str, realm: str) -> _UserFile:
    lines = [(n, line.rstrip("\r")) for n, line in enumerate(text.split("\n"), 1)]
    realms = [line.removeprefix("realm:") for _, line in lines if _is_realm(line)]
    realm = realms[0] if realms else realm
    users: dict[str, User] = {}
    kept, errors = [], []
    for number, line in lines:
        if not line.strip() or line in (HEADER.rstrip(), *OLD_HEADERS) or _is_realm(line):
            continue
        if line.startswith("#"):
            kept.append(line)
            continue
        try:
            user = _user(line, realm)
        except UserError as exc:
            kept.append(line)
            errors.append((number, str(exc)))
            continue
        if user.name in users:
            # Not kept, or the second line would come into force when the first one is removed.
            errors.append((number, f"{user.name} is a duplicate"))
        users.setdefault(user.name, user)
    return _UserFile(realm, bool(realms), users, tuple(kept), tuple(errors))


def _is_realm(line: str) -> bool:
    # In printable ASCII, for it stands in the header of a challenge.
    return REALM.fullmatch(line) is not None


def _user(line: str, realm: str) -> User:
    # Missing fields become empty, and such a line fails the check of its hashes.
    name, role, own_realm, rest = (*line.split(":", 3), "", "", "", "")[:4]
    if (found := HASH.fullmatch(rest)) is None:
        raise UserError("is not name:role:realm:MD5:SHA-256[:P0,P1,...], with hashes in lower-case hex")
    _check_name(name)
    if role not in ROLES:
        raise UserError(f"{role!a:.60} is not one of {', '.join(ROLES)}")
    if own_realm != realm:
        raise UserError(f"is of realm {own_realm!a:.60}, not {realm!a:.60}: the password has to be set anew")
    hashes = dict(zip(STORED, found[1].split(":"), strict=True))
    ports = frozenset(int(port[1:]) for port in found[2].split(",")) if found[2] else None
    return User(name, ROLES[role], hashes, ports)
