"""The node's key pair: made once, kept, and never guessed from what a file might have meant."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.state import atomic_file
from gateway.state import node_key as module
from gateway.state.node_key import NodeIdentity, node_key
from gateway.state.store import StoreError
from protocol.link.identity import NodeKey, is_signed, node_id

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


def test_it_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    made = node_key(tmp_path, "cpu3")
    assert (len(made.id), made.name) == (16, "cpu3")
    assert node_key(tmp_path, "renamed").id == made.id
    assert (tmp_path / "node_key").stat().st_mode & 0o077 == 0


def test_the_id_is_proved_by_what_it_signs(tmp_path: Path) -> None:
    made = node_key(tmp_path, "")
    assert node_id(made.public) == made.id
    assert is_signed(made.public, made.sign(b"that"), b"that")
    assert not is_signed(made.public, made.sign(b"that"), b"this")


def test_no_two_nodes_have_the_same(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert node_key(tmp_path, "").id != node_key(tmp_path / "other", "").id


def test_an_id_without_a_key_makes_way_for_a_new_one_and_that_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "node_id").write_text("00" * 16 + "\n")
    made = node_key(tmp_path, "")
    assert made.id != bytes(16)
    assert not (tmp_path / "node_id").exists()
    assert node_key(tmp_path, "").id == made.id
    assert ["a new id" in record.getMessage() for record in caplog.records] == [True]


def test_the_first_start_of_all_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node_key(tmp_path, "")
    assert not caplog.records


@pytest.mark.parametrize(
    "content", [b"", b"00", b"zz" * 32, b"\xff\xfe", b"00" * 33, b"00" * 32, b"00" * 32 + b"\n" + b"00" * 31]
)
def test_a_damaged_file_is_told_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node_key").write_bytes(content)
    with pytest.raises(StoreError, match="two keys of 64 hexadecimal digits; remove it"):
        node_key(tmp_path, "")
    assert (tmp_path / "node_key").read_bytes() == content


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        node_key(tmp_path / "missing", "")


ONE, OTHER = "1" * 64, "2" * 64


def test_a_copy_on_another_machine_gets_a_new_id_and_that_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = node_key(tmp_path, "", ONE)
    copied = node_key(tmp_path, "", OTHER)
    assert copied.id != made.id
    assert node_key(tmp_path, "", OTHER).id == copied.id
    assert ["was copied from another machine" in record.getMessage() for record in caplog.records] == [True]


def test_the_same_machine_keeps_its_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert node_key(tmp_path, "", ONE).id == node_key(tmp_path, "", ONE).id
    assert not caplog.records


def test_a_key_that_was_kept_without_a_mark_is_marked_at_the_next_start(tmp_path: Path) -> None:
    made = node_key(tmp_path, "")
    assert node_key(tmp_path, "", ONE).id == made.id
    assert node_key(tmp_path, "", OTHER).id != made.id


def test_a_start_that_cannot_tell_the_machine_keeps_id_and_mark(tmp_path: Path) -> None:
    made = node_key(tmp_path, "", ONE)
    assert node_key(tmp_path, "").id == made.id
    assert node_key(tmp_path, "", ONE).id == made.id
    assert node_key(tmp_path, "", OTHER).id != made.id


FIRST_START = """
import pathlib, sys
from gateway.state import node_key as module
key = module.node_key(pathlib.Path(sys.argv[1]), "")
print(key.id.hex(), "cryptography" in sys.modules)
"""


def test_the_first_start_does_not_load_the_library_that_computes_the_key(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FIRST_START, tmp_path], capture_output=True, text=True, check=True)
    made, loaded = ran.stdout.split()
    assert loaded == "False"
    secret, public = (bytes.fromhex(line) for line in (tmp_path / "node_key").read_text().splitlines()[:2])
    assert NodeKey(secret).public == public
    assert NodeKey(secret).id.hex() == made


CHILDREN = {
    "there is no such program": "/nowhere/python",
    "it fails": "/bin/false",
    "it says nothing": "/bin/true",
    "nothing is known of it": "",
    "it says something else": "/bin/echo",
    "it hangs": "hangs",
}


@pytest.mark.parametrize("child", CHILDREN)
def test_where_the_child_does_not_help_the_key_is_computed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str
) -> None:
    (tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "hangs").chmod(0o700)
    monkeypatch.setattr(module, "_LIBRARY", "not loaded")
    monkeypatch.setattr(module, "_CHILD", 0.05 if child == "it hangs" else 10.0)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "hangs") if child == "it hangs" else CHILDREN[child])
    made = node_key(tmp_path, "")
    assert is_signed(made.public, made.sign(b"that"), b"that")


def test_the_secret_is_neither_in_a_process_list_nor_in_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spy").write_text('#!/bin/sh\nexec >"$0.seen"\nenv\nprintf "%s\\n" "$@"\n')
    (tmp_path / "spy").chmod(0o700)
    monkeypatch.setattr(module, "_LIBRARY", "not loaded")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "spy"))
    node_key(tmp_path, "")
    secret = (tmp_path / "node_key").read_text().split()[0]
    seen = (tmp_path / "spy.seen").read_text()
    assert "PATH=" in seen
    assert secret not in seen


async def test_a_full_disk_at_the_first_start_is_an_id_in_memory_that_is_kept_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "node_key"))

    with monkeypatch.context() as patched:
        patched.setattr(atomic_file, "replace", full)
        identity = NodeIdentity(tmp_path, "cpu1")
        assert identity.error == f"{tmp_path}/node_key cannot be used: No space left on device; its id is not kept"
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        with trio.move_on_after(150):
            await identity.keep()
        assert identity.error
    with trio.move_on_after(150):
        await identity.keep()
    assert identity.error == ""
    assert node_key(tmp_path, "cpu1").id == identity.key.id


async def test_a_broken_file_is_left_to_whoever_mends_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    (tmp_path / "node_key").write_text("zz\n")
    (tmp_path / "node_key").chmod(0o600)
    identity = NodeIdentity(tmp_path, "cpu1")
    assert "does not hold two keys" in identity.error
    assert len(identity.key.id) == 16
    with trio.move_on_after(150):
        await identity.keep()
    assert (tmp_path / "node_key").read_text() == "zz\n"
    (tmp_path / "node_key").unlink()
    with trio.move_on_after(150):
        await identity.keep()
    assert node_key(tmp_path, "cpu1").id == identity.key.id


async def test_an_id_that_is_kept_is_left_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    made = node_key(tmp_path, "cpu1")
    identity = NodeIdentity(tmp_path, "cpu1")
    with trio.move_on_after(150):
        await identity.keep()
    assert (identity.error, identity.key.id) == ("", made.id)
