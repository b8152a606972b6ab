"""Backups: what is in one, what may go where, and archives that somebody else has made."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.backup import About, BackupError, pack, unpack

if TYPE_CHECKING:
    from pathlib import Path

HERE = About("0.1.0", "cpu1", "blade 7", "ab" * 32)
KEYS = b"root.Serial.Ser1.BaudRate=300\nroot.RemotePort.R0.AuthenticationKey=k\nPortManager.P0.X.AuthenticationKey=k2"


def filled(directory: Path) -> Path:
    files = {"parameters": KEYS, "users": b"u", "node_key": b"n", "tls.pem": b"t", "remote_port_R0_server": b"r"}
    for name, content in (files | {"lock": b"", "parameters.old": b"o", "users.new": b"half"}).items():
        (directory / name).write_bytes(content)
    (directory / "remote_port_R1_server").symlink_to("/etc/passwd")
    return directory


def archive(*members: tuple[str, bytes] | tarfile.TarInfo, about: object = None) -> bytes:
    made = io.BytesIO()
    told = {"version": "1", "node": "n", "chassis": "", "machine": "", "format": 1} if about is None else about
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for each in [("about.json", json.dumps(told).encode()), *members]:
            if isinstance(each, tarfile.TarInfo):
                tar.addfile(each, io.BytesIO(bytes(each.size)))
            else:
                member = tarfile.TarInfo(each[0])
                member.size = len(each[1])
                tar.addfile(member, io.BytesIO(each[1]))
    return made.getvalue()


def test_what_is_packed_is_what_is_unpacked_and_nothing_passing_is_in_it(tmp_path: Path) -> None:
    backup = unpack(pack(filled(tmp_path), b"chassis", HERE))
    assert backup.about == HERE
    kept = {"daisyport.toml", "parameters", "users", "node_key", "tls.pem", "remote_port_R0_server"}
    assert set(backup.files) == kept
    assert backup.files["parameters"] == KEYS
    assert "daisyport.toml" not in unpack(pack(tmp_path, None, HERE)).files


def test_on_the_same_machine_everything_is_restored(tmp_path: Path) -> None:
    files, left = unpack(pack(filled(tmp_path), b"", HERE)).for_machine(HERE, identity=False, keys=False)
    assert left == []
    assert (files["node_key"], files["parameters"]) == (b"n", KEYS)
    assert "daisyport.toml" not in files  # which is not judged here


@pytest.mark.parametrize("machine", ["cd" * 32, ""])
def test_another_machine_of_the_chassis_gets_the_keys_and_no_identity(tmp_path: Path, machine: str) -> None:
    backup = unpack(pack(filled(tmp_path), b"", HERE))
    here = About("0.2.0", "cpu2", "blade 7", machine)
    files, left = backup.for_machine(here, identity=False, keys=False)
    assert set(files) == {"parameters", "users", "remote_port_R0_server"}
    assert files["parameters"] == KEYS
    why = "it is the identity of cpu1, another machine; --identity restores it"
    assert left == [f"node_key: {why}", f"tls.pem: {why}"]
    files, left = backup.for_machine(here, identity=True, keys=False)
    assert files["node_key"] == b"n"
    assert left == []


@pytest.mark.parametrize(("chassis", "there"), [("blade 7", "blade 8"), ("", ""), ("blade 7", "")])
def test_another_chassis_gets_no_key_unless_it_asks(tmp_path: Path, chassis: str, there: str) -> None:
    backup = unpack(pack(filled(tmp_path), b"", About("0.1.0", "cpu1", chassis, "")))
    here = About("0.1.0", "cpu2", there, "")
    files, left = backup.for_machine(here, identity=True, keys=False)
    assert files["parameters"] == b"root.Serial.Ser1.BaudRate=300\n"
    assert left == ["2 AuthenticationKeys: they are of another chassis; --keys restores them"]
    files, left = backup.for_machine(here, identity=True, keys=True)
    assert (files["parameters"], left) == (KEYS, [])


def test_a_backup_without_keys_leaves_none_out() -> None:
    files, left = unpack(archive(("parameters", b"root.A=1\n"))).for_machine(HERE, identity=False, keys=False)
    assert (files, left) == ({"parameters": b"root.A=1\n"}, [])


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/shadow"
    return member


def large(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = (1 << 20) + 1
    return member


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is no backup of Daisyport"),
        (b"PK", "it is no backup of Daisyport: "),
        (gzip.compress(b"no tar"), "it is no backup of Daisyport: "),
        (archive()[:-20], "it is no backup of Daisyport: "),
        (archive(("../parameters", b"")), "it has the member '../parameters', which does not belong in a backup"),
        (archive(("/etc/passwd", b"")), "it has the member '/etc/passwd'"),
        (archive(("lock", b"")), "it has the member 'lock'"),
        (archive(("remote_port_R0_server/../../x", b"")), "it has the member"),
        (archive(("users", b""), ("users", b"")), "it has the member users twice"),
        (archive(link("users", tarfile.SYMTYPE)), "its member users is not a plain file"),
        (archive(link("users", tarfile.LNKTYPE)), "its member users is not a plain file"),
        (archive(link("users", tarfile.FIFOTYPE)), "its member users is not a plain file"),
        (archive(large("users")), "its member users is not a plain file of at most 1 MiB"),
        (archive(about={"format": 2}), "it was made by a newer version: its format is not known here"),
        (archive(about=[]), "its about.json cannot be read"),
        (
            archive(about={"format": 1, "version": 1, "node": 2, "chassis": 3, "machine": 4}),
            "about.json cannot be read",
        ),
        (
            archive(about={"format": 1, "version": "1", "node": "\x1b[2J", "chassis": "", "machine": ""}),
            "its about.json cannot be read",
        ),
        (gzip.compress(bytes(20 << 20)), "it is too large for a backup of Daisyport"),
        (gzip.compress(link("x", b"L").tobuf(tarfile.GNU_FORMAT) * 3000), "its headers are nested too deep"),
        (gzip.compress(link("x", tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT) * 3000), "its headers are nested too deep"),
    ],
    # An archive holds the time at which it was made, and a test is to have one name.
    ids=lambda value: "archive" if isinstance(value, bytes) else value,
)
def test_an_archive_that_is_no_backup_is_refused_as_a_whole(data: bytes, why: str) -> None:
    with pytest.raises(BackupError) as caught:
        unpack(data)
    assert why in str(caught.value)


def test_an_archive_with_too_many_members_is_refused() -> None:
    members = [(f"remote_port_R{number}_server", b"") for number in range(400)]
    with pytest.raises(BackupError, match="it has more than 300 members"):
        unpack(archive(*members))


@given(st.binary(max_size=400), st.integers(0, 400))
def test_any_bytes_are_a_backup_or_an_error(noise: bytes, at: int) -> None:
    whole = archive(("users", b"u"))
    for data in (noise, gzip.compress(noise), whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(BackupError):
            unpack(data)
