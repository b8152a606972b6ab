"""Logins as clients really make them, against real users in a real file."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.state import atomic_file
from gateway.state.store import Published
from gateway.state.users import Users
from gateway.tasks.audit import AUDIT
from gateway.tasks.watch import Cell
from gateway.web.auth import AccessControl, Caller, DeniedError
from gateway.web.message import Request, Response
from protocol.endpoint import Endpoint
from protocol.http.credentials import Algorithm
from protocol.parameters.roles import Role
from protocol.parameters.settings import HTTP, Network, Settings
from protocol.parameters.settings import AuthenticationPolicy as Policy

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

PEER = Endpoint("192.0.2.7", 40000)
TARGET = b"/axis-cgi/param.cgi?action=list"


def under(policy: Policy) -> Cell[Published]:
    """Settings with this policy, as the store publishes them."""
    return Cell(Published(0, Settings(network=Network(http=HTTP(authentication_policy=policy)))))


@dataclass
class Gate:
    """An access control with three users, whose policy can be changed."""

    access: AccessControl
    published: Cell[Published]

    @classmethod
    def of(cls, users: Users, policy: Policy = Policy.RECOMMENDED, *hashes: Algorithm) -> Gate:
        published = under(policy)
        return cls(AccessControl(users, published, hashes or (Algorithm.MD5,)), published)

    def use(self, policy: Policy) -> None:
        self.published.set(under(policy).value)

    def ask(
        self, authorization: bytes | None = None, role: Role = Role.VIEWER, peer: Endpoint = PEER
    ) -> Caller | Response:
        """Ask to be authorized: the caller, or the answer that refuses it."""
        headers = ((b"authorization", authorization),) if authorization is not None else ()
        try:
            return self.access.authorize(Request("GET", TARGET, headers, b"", peer), role)
        except DeniedError as denied:
            return denied.response

    def refused(self, authorization: bytes | None = None, role: Role = Role.VIEWER, peer: Endpoint = PEER) -> Response:
        answer = self.ask(authorization, role, peer)
        assert isinstance(answer, Response)
        return answer

    def log_in(self, name: str, password: str = "secret", role: Role = Role.VIEWER) -> Caller | Response:
        return self.ask(digest(self.refused(), name, password), role)


def challenges(response: Response) -> list[str]:
    return [value for name, value in response.headers if name == "WWW-Authenticate"]


def digest(challenged: Response, name: str, password: str, uri: str = TARGET.decode(), count: int = 1) -> bytes:
    """RFC 7616's answer to a challenge, written without the code under test."""
    said = dict(re.findall(r'(\w+)="([^"]*)"', challenges(challenged)[0]))

    def h(*parts: str) -> str:
        return hashlib.md5(":".join(parts).encode()).hexdigest()

    proof = h(h(name, said["realm"], password), said["nonce"], f"{count:08x}", "c0ffee", "auth", h("GET", uri))
    return (
        f'Digest username="{name}", realm="{said["realm"]}", nonce="{said["nonce"]}", uri="{uri}", '
        f'qop=auth, nc={count:08x}, cnonce="c0ffee", response="{proof}", algorithm=MD5'
    ).encode()


def basic(name: str, password: str = "secret") -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


@pytest.fixture
def users(tmp_path: Path) -> Users:
    users = Users(tmp_path)
    for name in ("admin", "operator", "viewer"):
        users.add(name, name, "secret")
    return users


@pytest.fixture
def gate(users: Users) -> Gate:
    return Gate.of(users)


# --- logins ---


async def test_a_digest_login_is_accepted_with_its_role(gate: Gate) -> None:
    assert gate.log_in("operator") == Caller("operator", Role.OPERATOR)


async def test_a_caller_without_a_login_is_asked_for_one_and_told_how(gate: Gate) -> None:
    refused = gate.refused()
    assert refused.status == 401
    assert [challenge.split()[0] for challenge in challenges(refused)] == ["Digest"]
    assert b"curl --digest" in refused.body
    assert b"Network.HTTP.AuthenticationPolicy" in refused.body


@pytest.mark.parametrize("header", [b"", b"Bearer x", b"Digest", b"Basic !!!", b'Digest username="admin"', b"\xff\x00"])
async def test_a_header_that_is_no_login_is_asked_for_one(gate: Gate, header: bytes) -> None:
    assert gate.refused(header).status == 401


@pytest.mark.parametrize(("name", "password"), [("admin", "guess"), ("nobody", "secret"), ("", "")])
async def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(gate: Gate, name: str, password: str) -> None:
    refused = gate.log_in(name, password)
    assert isinstance(refused, Response)
    assert refused.status == 401
    assert b"the name or the password is wrong" in refused.body


async def test_a_used_up_login_is_stale_not_wrong(gate: Gate) -> None:
    login = digest(gate.refused(), "admin", "secret")
    assert isinstance(gate.ask(login), Caller)
    again = gate.refused(login)
    assert again.status == 401
    assert "stale=true" in challenges(again)[0]


@pytest.mark.parametrize(
    ("policy", "schemes", "basic_admits"),
    [
        (Policy.BASIC, ["Basic"], True),
        (Policy.DIGEST, ["Digest"], False),
        (Policy.BASIC_DIGEST, ["Digest", "Basic"], True),
        (Policy.RECOMMENDED, ["Digest"], False),
    ],
)
async def test_the_policy_holds_at_once(gate: Gate, policy: Policy, schemes: list[str], basic_admits: bool) -> None:
    gate.use(policy)
    assert [challenge.split()[0] for challenge in challenges(gate.refused())] == schemes
    assert isinstance(gate.ask(basic("admin")), Caller) is basic_admits


async def test_recommended_is_basic_where_the_connection_is_secure(users: Users) -> None:
    access = AccessControl(users, under(Policy.RECOMMENDED))
    request = Request("GET", TARGET, ((b"authorization", basic("admin")),), b"", PEER, secure=True)
    assert access.authorize(request, Role.ADMIN) == Caller("admin", Role.ADMIN)


async def test_the_hashes_are_offered_in_the_order_that_the_host_wants(users: Users) -> None:
    gate = Gate.of(users, Policy.DIGEST, Algorithm.SHA256, Algorithm.MD5)
    offered = [re.search("algorithm=([^,]+)", challenge) for challenge in challenges(gate.refused())]
    assert [found and found[1] for found in offered] == ["SHA-256", "MD5"]


async def test_a_user_made_later_may_come_in_at_once(tmp_path: Path) -> None:
    users = Users(tmp_path)
    gate = Gate.of(users, Policy.BASIC)
    refused = gate.refused(basic("late"))
    assert refused.status == 403
    assert b"daisyport user add NAME --role admin" in refused.body
    Users(tmp_path).add("late", "viewer", "secret")
    assert gate.ask(basic("late")) == Caller("late", Role.VIEWER)


# --- roles ---


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.ADMIN])
@pytest.mark.parametrize("name", ["viewer", "operator", "admin"])
async def test_a_role_may_do_what_requires_it_or_a_lower_one(gate: Gate, name: str, role: Role) -> None:
    gate.use(Policy.BASIC)
    answer = gate.ask(basic(name), role)
    if Role[name.upper()] >= role:
        assert isinstance(answer, Caller)
    else:
        assert isinstance(answer, Response)
        assert answer.status == 401
        assert challenges(answer)
        assert name.encode() in answer.body
        assert role.name.lower().encode() in answer.body


@pytest.mark.parametrize(
    ("name", "role", "told"),
    [
        ("viewer", Role.OPERATOR, b"viewer is a viewer, and this requires an operator."),
        ("operator", Role.ADMIN, b"operator is an operator, and this requires an admin."),
    ],
)
async def test_who_has_too_low_a_role_is_told_which_one_is_required(
    gate: Gate, name: str, role: Role, told: bytes
) -> None:
    gate.use(Policy.BASIC)
    answer = gate.ask(basic(name), role)
    assert isinstance(answer, Response)
    assert told in answer.body


async def test_what_is_open_requires_no_login_and_no_user(tmp_path: Path) -> None:
    access = AccessControl(Users(tmp_path), under(Policy.DIGEST))
    assert access.authorize(Request("POST", TARGET, (), b"", PEER), Role.OPEN) == Caller("", Role.OPEN)


# --- guessing ---


async def test_guessing_is_slowed_down_for_its_network_and_for_no_other(gate: Gate, autojump_clock: MockClock) -> None:
    gate.use(Policy.BASIC)
    for guess in range(10):
        assert gate.refused(basic("admin", f"guess{guess}")).status == 401
    limited = gate.refused(basic("admin"))
    assert limited.status == 429
    assert ("Retry-After", "6") in limited.headers
    assert b"try again in 6 s" in limited.body
    assert isinstance(gate.ask(basic("admin"), peer=Endpoint("192.0.2.8", 1)), Caller)
    await trio.sleep(6)
    assert isinstance(gate.ask(basic("admin")), Caller)


async def test_a_host_cannot_guess_on_from_its_other_ipv6_addresses(gate: Gate) -> None:
    gate.use(Policy.BASIC)
    for guess in range(10):
        gate.ask(basic("admin", "guess"), peer=Endpoint(f"2001:db8::{guess:x}", 1))
    assert gate.refused(basic("admin"), peer=Endpoint("2001:db8::ffff", 1)).status == 429


async def test_stale_and_missing_logins_are_no_guesses(gate: Gate) -> None:
    login = digest(gate.refused(), "admin", "secret")
    gate.ask(login)
    for _ in range(20):
        assert gate.refused(login).status == 401
        assert gate.refused().status == 401
        assert gate.refused(basic("admin", "not offered")).status == 401
    assert isinstance(gate.log_in("admin"), Caller)


async def test_a_client_on_a_nonce_that_proved_its_name_is_judged_whatever_its_neighbours_guess(
    gate: Gate, autojump_clock: MockClock
) -> None:
    challenge = gate.refused()
    assert isinstance(gate.ask(digest(challenge, "admin", "secret")), Caller)
    for guess in range(5000):
        gate.ask(digest(gate.refused(), "admin" if guess % 2 else f"name{guess}", "guess"))
    assert gate.refused(digest(gate.refused(), "admin", "guess")).status == 429
    assert gate.ask(digest(challenge, "admin", "secret", count=2)) == Caller("admin", Role.ADMIN)
    # A nonce vouches for the name that it proved, and for no other.
    assert gate.refused(digest(challenge, "operator", "secret", count=3)).status == 429


async def test_eight_wrong_proofs_on_a_nonce_make_it_an_ordinary_one(gate: Gate, autojump_clock: MockClock) -> None:
    challenge = gate.refused()
    assert isinstance(gate.ask(digest(challenge, "admin", "secret")), Caller)
    wrong = [gate.refused(digest(challenge, "admin", "guess", count=count)).status for count in range(2, 100)]
    assert wrong == [401] * (8 + 10 + 3) + [429] * (98 - 21)  # then the pair's account, then that of its login
    assert gate.refused(digest(challenge, "admin", "secret", count=100)).status == 429


async def test_guesses_on_fresh_nonces_end_at_the_burst(gate: Gate, autojump_clock: MockClock) -> None:
    statuses = [gate.refused(digest(gate.refused(), "admin", f"guess{guess}")).status for guess in range(5000)]
    assert statuses == [401] * 10 + [429] * 4990


async def test_a_neighbour_s_guesses_leave_a_basic_client_its_way_in(gate: Gate, autojump_clock: MockClock) -> None:
    gate.use(Policy.BASIC)
    assert isinstance(gate.ask(basic("admin")), Caller)
    for guess in range(100):
        gate.ask(basic(f"name{guess}", "guess"))
    assert gate.refused(basic("operator")).status == 429
    for _ in range(100):
        assert isinstance(gate.ask(basic("admin")), Caller)


async def test_a_login_that_was_not_offered_is_told_so_whatever_the_accounts_say(gate: Gate) -> None:
    for _ in range(20):
        gate.ask(digest(gate.refused(), "admin", "guess"))
    assert gate.refused(basic("admin")).status == 401


async def test_a_users_file_that_cannot_be_read_once_shuts_nobody_out_for_longer(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate.use(Policy.BASIC)
    caller = gate.ask(basic("admin"))
    assert isinstance(caller, Caller)

    def no_descriptor(_: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(atomic_file, "read", no_descriptor)
        os.utime(tmp_path / "users", (1, 1))
        for _ in range(3):
            refused = gate.refused(basic("admin"))
            assert refused.status == 503
            assert b"the file of the users cannot be read: Too many open files" in refused.body
        assert gate.access.revoked(caller) is None
    assert gate.ask(basic("admin")) == caller
    assert caplog.text.count("cannot be read") == 1


async def test_a_login_is_revoked_by_a_removal_and_by_another_role_or_password(users: Users, gate: Gate) -> None:
    gate.use(Policy.BASIC)
    caller = gate.ask(basic("operator"))
    assert isinstance(caller, Caller)
    assert gate.access.revoked(caller) is None
    users.add("late", "viewer", "x")
    assert gate.access.revoked(caller) is None
    users.set_password("operator", "other")
    assert gate.access.revoked(caller) == "the role, the password or the ports of operator were changed"
    users.remove("operator")
    assert gate.access.revoked(caller) == "the user operator was removed"
    users.add("operator", "operator", "secret", frozenset({0}))
    assert gate.access.revoked(caller) == "the role, the password or the ports of operator were changed"
    bound = gate.ask(basic("operator"))
    assert isinstance(bound, Caller)
    assert (caller.ports, bound.ports) == (None, frozenset({0}))
    assert [each.may_use(port) for each in (caller, bound) for port in (0, 1)] == [True, True, True, False]
    users.remove("operator")
    assert gate.refused(basic("operator", "other")).status == 401


async def test_a_right_password_for_another_target_is_told_so_and_is_no_guess(gate: Gate) -> None:
    for _ in range(30):
        login = digest(gate.refused(), "admin", "secret", "/axis-cgi/param.cgi")
        refused = gate.refused(login)
        assert refused.status == 401
        assert b"the password is right, but the signed uri is another one" in refused.body
        assert "stale" not in challenges(refused)[0]
    assert isinstance(gate.log_in("admin"), Caller)


async def test_a_caller_that_is_written_into_a_log_shows_no_hash_of_its_password(gate: Gate) -> None:
    caller = gate.log_in("operator")
    assert isinstance(caller, Caller)
    assert caller.user is not None
    assert "hashes" not in repr(caller)
    assert repr(caller.user) not in repr(caller)


async def test_no_secret_is_logged_or_told(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gate.use(Policy.BASIC)
    header = basic("admin\n" + "x" * 500, "hunter2")
    refused = gate.refused(header)
    assert b"hunter2" not in refused.body
    assert "hunter2" not in caplog.text
    (line,) = [record.message for record in caplog.records if record.name == AUDIT]
    assert len(line) < 150
    assert line.isprintable()
