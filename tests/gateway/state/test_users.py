from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.users import UserError, Users, _parsed, _written
from protocol.http.credentials import Algorithm
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from pathlib import Path


def test_a_user_that_was_added_is_found_with_both_hashes(tmp_path: Path) -> None:
    users = Users(tmp_path, "Daisyport cpu1")
    users.add("alice", "admin", "pass word ü")
    found = users.find("alice")
    assert found is not None
    assert (found.name, found.role) == ("alice", Role.ADMIN)
    secret = "alice:Daisyport cpu1:pass word ü".encode()
    assert found.hashes == {
        Algorithm.MD5: hashlib.md5(secret).hexdigest(),
        Algorithm.SHA256: hashlib.sha256(secret).hexdigest(),
    }
    assert users.find("bob") is None
    assert "hash" not in repr(found)


def test_the_file_is_a_line_for_each_user_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    users = Users(tmp_path, "R")
    users.add("zoe", "viewer", "z")
    users.add("alice", "operator", "a")
    path = tmp_path / "users"
    assert path.stat().st_mode & 0o777 == 0o600
    md5, sha256 = hashlib.md5(b"alice:R:a").hexdigest(), hashlib.sha256(b"alice:R:a").hexdigest()
    header, realm, alice, zoe = path.read_text().splitlines()
    assert header.startswith("# name:role:realm:MD5:SHA-256")
    assert (realm, alice) == ("realm:R", f"alice:operator:R:{md5}:{sha256}")
    assert zoe.startswith("zoe:viewer:R:")
    assert [user.name for user in users.everyone] == ["alice", "zoe"]


def test_a_running_daemon_sees_what_another_process_changed(tmp_path: Path) -> None:
    daemon, command = Users(tmp_path, "R"), Users(tmp_path, "other")
    command.add("alice", "viewer", "old")
    old = daemon.find("alice")
    command.set_password("alice", "new")
    new = daemon.find("alice")
    assert old is not None
    assert new is not None
    assert (old.role, old.hashes) != (new.role, new.hashes)
    assert new.role is Role.VIEWER
    command.remove("alice")
    assert daemon.find("alice") is None


def test_the_realm_is_fixed_at_the_first_start(tmp_path: Path) -> None:
    assert Users(tmp_path, "first").realm == "first"
    second = Users(tmp_path, "second")
    second.add("alice", "viewer", "x")
    assert second.realm == "first"
    assert Users(tmp_path, "third").find("alice") == second.find("alice")


def test_a_file_made_by_hand_without_a_realm_gets_one(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("")
    Users(tmp_path, "first")
    assert Users(tmp_path, "second").realm == "first"


def test_a_realm_is_rid_of_what_would_have_to_be_quoted(tmp_path: Path) -> None:
    assert Users(tmp_path, 'a:b"c\\d\ne\u00fc').realm == "a-b-c-d-e-"


def test_a_realm_that_no_header_can_hold_is_none_and_another_one_is_fixed(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("realm:caf\u00e9\n")
    assert Users(tmp_path, "n" * 300).realm == "n" * 255
    assert Users(tmp_path, "another").realm == "n" * 255


def test_of_many_bad_lines_the_first_are_named_and_the_others_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "users").write_text("realm:R\n" + "nonsense\n" * 5000)
    Users(tmp_path)
    assert len(caplog.messages) < 30
    assert caplog.messages[-1] == f"{tmp_path}/users: 4980 more lines are left out"


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "\x00", "#a", " a", "a" * 65, "\ud800"])
def test_a_name_that_the_file_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    users = Users(tmp_path)
    with pytest.raises(UserError, match="cannot be a name: 1 to 64 printable characters, no colon"):
        users.add(name, "viewer", "x")
    assert users.everyone == ()


def test_a_role_is_one_of_three_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'root' is not one of admin, operator, viewer"):
        Users(tmp_path).add("alice", "root", "x")


@pytest.mark.parametrize("password", ["", "a\n", "\x00", "x" * 1025])
def test_a_password_that_cannot_be_typed_is_refused_and_not_repeated(tmp_path: Path, password: str) -> None:
    with pytest.raises(UserError) as caught:
        Users(tmp_path).add("alice", "viewer", password)
    assert str(caught.value) == "a password has 1 to 1024 characters, and no control character among them"


def test_nobody_is_added_twice_and_nobody_unknown_is_changed(tmp_path: Path) -> None:
    users = Users(tmp_path)
    users.add("alice", "viewer", "x")
    before = users.find("alice")
    with pytest.raises(UserError, match="alice is a user already"):
        users.add("alice", "admin", "y")
    with pytest.raises(UserError, match="'bob' is not a user of"):
        users.remove("bob")
    with pytest.raises(UserError, match="'bob' is not a user of"):
        users.set_password("bob", "y")
    assert users.everyone == (before,)


def test_bad_lines_are_named_left_out_and_kept_for_their_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Users(tmp_path, "R").add("alice", "viewer", "x")
    path = tmp_path / "users"
    good = path.read_text().splitlines()[2]
    hashes = good.removeprefix("alice:viewer:R:")
    form = "is not name:role:realm:MD5:SHA-256[:P0,P1,...], with hashes in lower-case hex"
    bad = {
        "alice": form,
        f"bob:viewer:R:{hashes.upper()}": form,
        f"bob:root:R:{hashes}": "'root' is not one of admin, operator, viewer",
        f"bob:viewer:S:{hashes}": "is of realm 'S', not 'R': the password has to be set anew",
        f":viewer:R:{hashes}": "'' cannot be a name",
        f"b\udcff:viewer:R:{hashes}": "'b\\udcff' cannot be a name",
    }
    text = path.read_text() + "# mine\r\n\n" + "\n".join(bad)
    path.write_bytes(text.encode(errors="surrogateescape"))
    users = Users(tmp_path, "R")
    assert [user.name for user in users.everyone] == ["alice"]
    told = zip(caplog.messages, enumerate(bad.values(), 6), strict=True)
    assert all(message.startswith(f"{path} line {line}: {why}") for message, (line, why) in told)
    assert hashes not in caplog.text
    users.remove("alice")
    users.add("alice", "admin", "y")
    kept = path.read_bytes().decode(errors="surrogateescape").splitlines()[3:]
    assert kept == ["# mine", *bad]


def test_a_removed_user_does_not_come_back_from_a_second_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Users(tmp_path, "R").add("alice", "viewer", "x")
    path = tmp_path / "users"
    path.write_text(path.read_text() + path.read_text().splitlines()[2])
    users = Users(tmp_path, "R")
    assert caplog.messages == [f"{path} line 4: alice is a duplicate; left out"]
    users.remove("alice")
    assert users.everyone == ()


def test_who_cannot_be_looked_up_does_not_come_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = Users(tmp_path, "R")
    users.add("alice", "viewer", "x")
    path = tmp_path / "users"
    content = path.read_bytes()
    path.unlink()
    assert users.find("alice") is None
    path.mkdir()
    assert users.find("alice") is None
    assert users.find("alice") is None
    assert caplog.messages == [f"{path} cannot be read, so nobody can log in: not a regular file"]
    path.rmdir()
    path.write_bytes(content)
    assert users.find("alice") is not None
    assert users.realm == "R"


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/users: (Not a directory|File exists)"):
        Users(tmp_path / "file")
    (tmp_path / "users").mkdir()
    with pytest.raises(UserError, match="users: not a regular file"):
        Users(tmp_path)


def test_the_state_directory_is_made_for_the_first_user(tmp_path: Path) -> None:
    Users(tmp_path / "a/b").add("alice", "viewer", "x")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files of another user")
def test_the_daemon_can_read_a_user_that_root_added(tmp_path: Path) -> None:
    os.chown(tmp_path, 4242, 4343)
    Users(tmp_path).add("alice", "viewer", "x")
    found = (tmp_path / "users").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (4242, 4343, 0o600)


def test_users_added_at_once_by_several_processes_are_all_there(tmp_path: Path) -> None:
    script = f"import pathlib, sys; from gateway.state.users import Users; u = Users(pathlib.Path({str(tmp_path)!r}))\n"
    script += "for n in range(10): u.add(f'{sys.argv[1]}{n}', 'viewer', 'x')"
    adding = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "abc"]
    assert [process.wait(timeout=30) for process in adding] == [0, 0, 0]
    assert len(Users(tmp_path).everyone) == 30


@given(st.text(st.sampled_from("ab:#\n\r \udcff0"), max_size=60))
def test_any_file_is_read_and_what_is_written_of_it_reads_the_same(text: str) -> None:
    book = _parsed(text, "R")
    again = _parsed(_written(book, book.users).decode(errors="surrogateescape"), "other")
    assert (again.realm, again.users, again.kept) == (book.realm, book.users, book.kept)
    assert len(again.errors) == len([line for line in book.kept if not line.startswith("#")])


@pytest.mark.parametrize("name", ["CORP\\anna", 'an"na', "an:na"])
def test_a_name_that_clients_cannot_send_is_refused_and_says_so(tmp_path: Path, name: str) -> None:
    users = Users(tmp_path)
    with pytest.raises(UserError, match="cannot be a name"):
        users.add(name, "viewer", "secret")
    assert not users.everyone


def test_a_user_of_such_a_name_who_is_there_already_stays(tmp_path: Path) -> None:
    users = Users(tmp_path)
    users.add("CORP-anna", "viewer", "secret")
    path = tmp_path / "users"
    path.write_text(path.read_text().replace("CORP-anna", "CORP\\anna"))
    assert users.find("CORP\\anna") is not None


def test_a_user_may_be_bound_to_ports_which_a_new_password_keeps(tmp_path: Path) -> None:
    users = Users(tmp_path, "R")
    users.add("anna", "operator", "a", frozenset({2, 0}))
    users.add("bob", "viewer", "b")
    users.set_password("anna", "other")
    again = Users(tmp_path, "R")
    anna, bob = again.find("anna"), again.find("bob")
    assert anna is not None
    assert bob is not None
    assert (anna.ports, bob.ports) == (frozenset({0, 2}), None)
    assert [line.count(":") for line in (tmp_path / "users").read_text().splitlines()[2:]] == [5, 4]
    assert "anna:operator:R:" in (tmp_path / "users").read_text()


def test_a_file_from_before_ports_is_read_and_its_heading_replaced(tmp_path: Path) -> None:
    hashes = f"{'0' * 32}:{'1' * 64}"
    heading = "# name:role:realm:MD5:SHA-256, made by `daisyport user add`; the hashes are as good as the passwords."
    (tmp_path / "users").write_text(f"{heading}\nrealm:R\nold:admin:R:{hashes}\n")
    users = Users(tmp_path, "R")
    users.add("anna", "viewer", "a", frozenset({1}))
    text = (tmp_path / "users").read_text()
    assert f"old:admin:R:{hashes}\n" in text
    assert text.splitlines()[0] == "# name:role:realm:MD5:SHA-256[:P0,P1], made by " + heading.partition(" made by ")[2]


@pytest.mark.parametrize("ports", ["", "P", "0", "P0;P1", "P0,", "P0,Q1", "p0", "P0:P1", "P1000"])
def test_ports_that_cannot_be_read_leave_the_user_out(tmp_path: Path, ports: str) -> None:
    (tmp_path / "users").write_text(f"realm:R\nanna:admin:R:{'0' * 32}:{'1' * 64}:{ports}\n")
    assert Users(tmp_path, "R").everyone == ()  # not let in everywhere


def test_users_of_another_cpu_log_in_here_by_the_same_passwords(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    there, here = Users(tmp_path, "cpu1"), Users(tmp_path / "here", "cpu2")
    there.add("alice", "admin", "a")
    there.add("bob", "viewer", "b", frozenset({1}))
    assert here.adopt(there.shared()) == ("alice", "bob")
    assert (here.realm, here.everyone) == ("cpu1", there.everyone)
    assert Users(tmp_path / "here", "cpu2").everyone == there.everyone
    there.set_password("alice", "another")
    assert here.adopt(there.shared()) == (), "nobody's password is changed by another CPU"
    assert here.find("alice") != there.find("alice")


def test_users_of_another_realm_are_not_mixed_with_those_that_are_here(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    there, here = Users(tmp_path, "cpu1"), Users(tmp_path / "here", "cpu2")
    there.add("alice", "admin", "a")
    here.add("bob", "viewer", "b")
    with pytest.raises(UserError, match="users of the realm 'cpu2', and those of the other CPU are of 'cpu1'"):
        here.adopt(there.shared())
    assert [user.name for user in here.everyone] == ["bob"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no line of users",
        "realm:cpu1\nalice:admin",
        "alice:admin:cpu1:x",
        "realm:a\\b\n",
        "realm:\x07\n",
        "realm:caf\u00e9\n",
        "realm:" + "r" * 300,
    ],
)
def test_what_is_no_users_file_is_not_taken_over(tmp_path: Path, text: str) -> None:
    users = Users(tmp_path, "cpu2")
    with pytest.raises(UserError, match="cannot be read"):
        users.adopt(text)
    assert (users.realm, users.everyone) == ("cpu2", ())
