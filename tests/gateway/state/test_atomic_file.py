from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.state import atomic_file as durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every write beyond ``size`` bytes of a file fail with EFBIG, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_put_is_read_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert durable.read(path) is None
    for content in (b"old", b"", b"new" * 1000):
        durable.replace(path, content)
        assert durable.read(path) == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.replace(path, b"old")
    with files_of_at_most(100), pytest.raises(OSError) as caught:
        durable.replace(path, b"x" * 101)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, pathlib, signal
from gateway.state import atomic_file as durable
instants = iter(range(100))
def deadly(call):
    def wrapped(*args, **kwargs):
        for moment in (lambda: None, lambda: call(*args, **kwargs)):
            moment()
            if next(instants) == {instant}:
                os.kill(os.getpid(), signal.SIGKILL)
    return wrapped
real = {name: getattr(os, name) for name in ("fchown", "fsync", "replace")}
for name, call in real.items():
    setattr(os, name, deadly(call))
durable.replace(pathlib.Path("{path}"), b"new" * 100)
print(next(instants))
"""


def test_killed_at_any_instant_it_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    path, found = tmp_path / "file", []
    for instant in range(100):
        durable.replace(path, b"old")
        script = KILLED.replace("{instant}", str(instant)).replace("{path}", str(path))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        if done.returncode != -signal.SIGKILL:
            break
        found.append(path.read_bytes())
    assert done.stdout == f"{instant}\n", done.stderr
    old, new = found.count(b"old"), found.count(b"new" * 100)
    assert found == [b"old"] * old + [b"new" * 100] * new
    assert (old, new) == (5, 3) if os.geteuid() == 0 else (3, 3)


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / "file.new").write_bytes(b"half a cont")
    durable.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_looser_mode_is_tightened_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"secret")
    path.chmod(0o644)
    assert durable.read(path) == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert caplog.messages == [f"{path} had mode 0644, open to others; it is 0600 now"]


def test_a_mode_that_cannot_be_tightened_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path = tmp_path / "file"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    monkeypatch.setattr(os, "fchmod", refuse)
    assert durable.read(path) == b"secret"
    assert caplog.messages == [
        f"{path} has mode 0640, open to others, and cannot be tightened: Operation not permitted"
    ]


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    fifo, link, folder = tmp_path / "fifo", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(fifo)
    folder.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"somebody else's")
    link.symlink_to(tmp_path / "elsewhere")
    for path, why in ((fifo, "not a regular file"), (folder, "not a regular file"), (link, "symbolic link")):
        with pytest.raises(OSError, match=why):
            durable.read(path)


def test_a_file_of_any_size_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        durable.read(path)


def test_a_link_put_in_the_way_of_the_new_content_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"somebody else's")
    (tmp_path / "file.new").symlink_to(tmp_path / "elsewhere")
    durable.replace(tmp_path / "file", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody else's"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files of another user")
def test_a_file_that_root_makes_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 4242, 4343)
    durable.replace(tmp_path / "file", b"new")
    os.close(durable.claim(tmp_path / "lock"))
    for name in ("file", "lock"):
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_gid) == (4242, 4343)


def test_an_ordinary_user_keeps_what_it_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "fchown", refuse)
    durable.replace(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_claim_is_refused_until_its_process_ends_however_that_ends(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = (
        "import pathlib; from gateway.state.atomic_file import claim; "
        f"claim(pathlib.Path({str(lock)!r})); print('held', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            durable.claim(lock)
        other.kill()
    os.close(durable.claim(lock))


def test_a_turn_waits_for_the_one_before_it(tmp_path: Path) -> None:
    script = (
        f"import pathlib, gateway.state.atomic_file as d; p = pathlib.Path({str(tmp_path)!r})\n"
        "print('asks', flush=True)\n"
        "with d.turn(p): print((p / 'file').read_text())"
    )
    with durable.turn(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert other.stdout is not None
        assert other.stdout.readline() == b"asks\n"
        (tmp_path / "file").write_text("written in our turn")
    out, _ = other.communicate(timeout=5)
    assert out == b"written in our turn\n"


def test_the_whole_content_is_synced_then_named_then_the_directory_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[object] = []
    sync, rename = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        steps.append("directory" if stat.S_ISDIR(found.st_mode) else found.st_size)
        sync(descriptor)

    def noted_rename(old: Path, new: Path) -> None:
        steps.append(f"{old.name} to {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_rename)
    durable.replace(tmp_path / "file", b"seven b")
    assert steps == [7, "file.new to file", "directory"]
