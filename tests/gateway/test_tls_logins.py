"""Who may come to a port over TLS, by the file of the users alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.certificates import own_certificate
from gateway.clients.tls import NotAdmitted
from gateway.port.rights import Right
from gateway.state.users import Users
from gateway.tls_logins import TlsLogins
from tests.helpers import PASSWORD, configuration

if TYPE_CHECKING:
    from pathlib import Path

WRITES = Right.READ | Right.TCP


@pytest.fixture
def users(tmp_path: Path) -> Users:
    made = Users(tmp_path / "state", "cpu1")
    for role in ("admin", "operator", "viewer"):
        made.add(role, role, PASSWORD)
    made.add("bound", "operator", PASSWORD, frozenset({1}))
    return made


@pytest.fixture
def logins(tmp_path: Path, users: Users) -> TlsLogins:
    return TlsLogins(0, own_certificate(configuration(tmp_path, (), 1), "P0"), users)


def why(logins: TlsLogins, user: str) -> str:
    with pytest.raises(NotAdmitted) as caught:
        logins.rights(user, "192.0.2.7")
    return str(caught.value)


def test_a_role_is_what_its_user_may_do_at_the_port(logins: TlsLogins) -> None:
    found = {user: logins.rights(user, "192.0.2.7") for user in ("admin", "operator", "viewer")}
    assert found == {"admin": WRITES, "operator": WRITES, "viewer": Right.READ}
    assert why(logins, "bound") == "bound may not use P0"
    assert why(logins, "Admin") == "its certificate names 'Admin', who is no user"
    assert why(logins, "\x1b[31m") == "its certificate names '\\x1b[31m', who is no user"


def test_a_file_of_the_users_that_cannot_be_read_lets_nobody_in_and_ends_nobody(
    tmp_path: Path, logins: TlsLogins
) -> None:
    assert logins.rights("operator", "192.0.2.7") == WRITES
    file = tmp_path / "state" / "users"
    content = file.read_bytes()
    file.unlink()
    file.mkdir()
    assert why(logins, "operator") == "the file of the users cannot be read: not a regular file"
    assert logins.revoked("operator", WRITES) is None
    file.rmdir()
    file.write_bytes(content)
    assert logins.revoked("operator", WRITES) is None
    assert logins.revoked("viewer", WRITES) == "the role or the ports of viewer were changed"
    assert logins.revoked("nobody", WRITES) == "the user nobody was removed"


def test_without_a_certificate_that_can_be_used_there_is_no_context(logins: TlsLogins) -> None:
    assert logins.context is None
