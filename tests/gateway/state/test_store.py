from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.state import atomic_file as durable
from gateway.state.store import Published, Store, StoreError
from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, ManagerHardware, SerialHardware
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOGUE = Catalogue(Hardware(serial=(SerialHardware(),), managers=(ManagerHardware(1, 0),)))
BAUD, KEY = "root.Serial.Ser1.BaudRate", "root.PortManager.P0.RemotePortServer.AuthenticationKey"


@contextmanager
def store_in(directory: Path) -> Iterator[Store]:
    store = Store(directory, CATALOGUE)
    try:
        yield store
    finally:
        store.close()


def baud(store: Store) -> int:
    return store.published.value.settings.serial.ports[0].baud_rate


async def test_what_was_updated_is_published_and_comes_back_after_a_restart(tmp_path: Path) -> None:
    with trio.fail_after(5), store_in(tmp_path) as store:
        assert store.published.value == Published(0, CATALOGUE.restored("").settings)
        update = await store.update([(BAUD, "19200"), ("root.Serial.Ser1.DataBits", "7")], Role.ADMIN)
        assert update.refused == ()
        assert store.published.value == Published(1, update.settings)
    path = tmp_path / "parameters"
    assert path.read_text() == f"{BAUD}=19200\nroot.Serial.Ser1.DataBits=7\n"
    assert path.stat().st_mode & 0o777 == 0o600
    with store_in(tmp_path) as store:
        assert store.published.value == Published(0, update.settings)


async def test_a_refused_value_leaves_the_others_applied(tmp_path: Path) -> None:
    with trio.fail_after(5), store_in(tmp_path) as store:
        update = await store.update([("root.Serial.Ser1.DataBits", "9"), (BAUD, "19200")], Role.ADMIN)
        assert [error.name for error in update.refused] == ["Serial.Ser1.DataBits"]
        assert baud(store) == 19200


async def test_what_changes_nothing_is_not_written_nor_published(tmp_path: Path) -> None:
    with trio.fail_after(5), store_in(tmp_path) as store:
        await store.update([(BAUD, "9600"), ("No.Such", "1")], Role.ADMIN)
        assert store.published.value.version == 0
        assert not (tmp_path / "parameters").exists()


async def test_updates_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for assignment in ((BAUD, "19200"), ("Serial.Ser1.DataBits", "7"), (KEY, "s3cret")):
                    nursery.start_soon(store.update, [assignment], Role.ADMIN)
        assert store.published.value.version == 3
        content = (tmp_path / "parameters").read_text()
    assert content == CATALOGUE.stored(CATALOGUE.restored(content).settings)
    assert len(content.splitlines()) == 3


async def test_a_cancelled_update_is_done_or_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = trio.CancelScope()
    replace = durable.replace

    def cancel_and_replace(path: Path, content: bytes) -> None:
        trio.from_thread.run_sync(scope.cancel)
        replace(path, content)

    monkeypatch.setattr(durable, "replace", cancel_and_replace)
    with trio.fail_after(5), store_in(tmp_path) as store:
        with scope:
            await store.update([(BAUD, "19200")], Role.ADMIN)
        assert baud(store) == 19200
        assert (tmp_path / "parameters").read_text() == f"{BAUD}=19200\n"
        with trio.CancelScope() as early:
            early.cancel()
            await store.update([(BAUD, "4800")], Role.ADMIN)
        assert baud(store) == 19200


async def test_a_full_disk_is_named_and_changes_nothing(tmp_path: Path) -> None:
    with store_in(tmp_path) as store, trio.fail_after(5):
        await store.update([(BAUD, "19200")], Role.ADMIN)
        before = store.published.value
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
        try:
            with pytest.raises(StoreError, match="parameters cannot be written, nothing was changed: File too"):
                await store.update([(BAUD, "4800")], Role.ADMIN)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store.published.value is before
        assert sorted(os.listdir(tmp_path)) == ["lock", "parameters"]
        await store.update([(BAUD, "4800")], Role.ADMIN)
    with store_in(tmp_path) as store:
        assert baud(store) == 4800


FULL = """
import pathlib, trio
from gateway.state.store import Store, StoreError
from protocol.parameters.roles import Role
from tests.gateway.state.test_store import BAUD, CATALOGUE, baud

async def main(directory):
    store = Store(directory, CATALOGUE)
    await store.update([(BAUD, "19200")], Role.ADMIN)
    with open(directory / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(512))
        except OSError:
            pass
    try:
        await store.update([(BAUD, "4800")], Role.ADMIN)
    except StoreError as exc:
        print(exc)
    print(baud(store), (directory / "parameters").read_text(), sorted(p.name for p in directory.iterdir()))
    (directory / "ballast").unlink()
    await store.update([(BAUD, "4800")], Role.ADMIN)
    print(baud(store), (directory / "parameters").read_text())

trio.run(main, pathlib.Path("{directory}"))
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root to mount a tmpfs")
def test_a_file_system_without_a_block_left_keeps_the_old_state(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec {sys.executable} -"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount],
        input=FULL.replace("{directory}", str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.splitlines() == [
        f"{tmp_path}/parameters cannot be written, nothing was changed: No space left on device",
        f"19200 {BAUD}=19200",
        " ['ballast', 'lock', 'parameters']",
        f"4800 {BAUD}=4800",
        "",
    ], done.stderr


COMMITS = """
import itertools, pathlib, trio
from gateway.state.store import Store
from protocol.parameters.roles import Role
from tests.gateway.state.test_store import BAUD, CATALOGUE, KEY

async def main(directory):
    store = Store(directory, CATALOGUE)
    for rate in itertools.cycle(("300", "115200")):
        await store.update([(BAUD, rate), (KEY, rate * 10)], Role.ADMIN)
        print(rate, flush=True)

trio.run(main, pathlib.Path("{directory}"))
"""


def test_kill_9_in_the_middle_of_commits_leaves_one_whole_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = COMMITS.replace("{directory}", str(tmp_path))
    whole = {f"{KEY}={rate * 10}\n{BAUD}={rate}\n" for rate in ("300", "115200")}
    for commits in range(1, 11):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(commits)]
            process.send_signal(signal.SIGKILL)
        assert told[-1] in ("300\n", "115200\n")
        assert (tmp_path / "parameters").read_text() in whole
        with store_in(tmp_path) as store:
            assert baud(store) in (300, 115200)
            assert set(os.listdir(tmp_path)) - {"parameters.old"} == {"lock", "parameters"}
    assert not caplog.records


def test_only_one_daemon_works_on_a_state_directory(tmp_path: Path) -> None:
    with store_in(tmp_path), pytest.raises(StoreError) as caught:
        Store(tmp_path, CATALOGUE)
    assert str(caught.value) == (
        f"{tmp_path} is in use by another daisyport: stop that one, or give this one a state_dir of its own"
    )
    with store_in(tmp_path) as store:
        store.close()


def test_a_file_edited_by_hand_is_read_and_its_bad_lines_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "parameters"
    path.write_bytes(
        b"# by hand\n\nroot.Serial.Ser1.BaudRate=4800\njunk\nroot.Serial.Ser1.DataBits=9\n"
        b"root.PortManager.P0.RemotePortServer.AuthenticationKey=caf\xe9\nroot.No.Such=1"
    )
    path.chmod(0o664)
    with store_in(tmp_path) as store:
        assert baud(store) == 4800
        assert store.published.value.settings.serial.ports[0].data_bits == 8
    assert path.stat().st_mode & 0o777 == 0o600
    assert caplog.messages[0] == f"{path} had mode 0664, open to others; it is 0600 now"
    assert [message.removeprefix(f"{path} ").partition(":")[0] for message in caplog.messages[1:]] == [
        "line 4",
        "line 5",
        "line 6",
        "line 7",
    ]
    assert all(message.endswith("; left out") for message in caplog.messages[1:-1])
    assert caplog.messages[-1].endswith("; kept")  # another version may know it
    assert "caf" not in caplog.text


def test_of_many_bad_lines_the_first_are_named_and_the_others_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "parameters").write_text("nonsense\n" * 5000)
    with store_in(tmp_path):
        assert len(caplog.messages) < 30
        assert caplog.messages[-1] == f"{tmp_path}/parameters: 4980 more lines cannot be used"


def test_what_a_killed_daemon_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "parameters.new").write_text("root.Serial.Ser1.Bau")
    with store_in(tmp_path) as store:
        assert store.published.value.settings == CATALOGUE.restored("").settings
    assert os.listdir(tmp_path) == ["lock"]


def test_a_parameter_file_that_cannot_be_read_is_no_reason_to_take_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "parameters").mkdir()
    for _ in range(2):
        with pytest.raises(StoreError, match="parameters cannot be read: not a regular file"):
            Store(tmp_path, CATALOGUE)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/state"):
        with pytest.raises(StoreError, match=f"{path} cannot be used to keep the state: Not a directory"):
            Store(tmp_path / path, CATALOGUE)


async def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with store_in(tmp_path / "state") as store, trio.fail_after(5):
        shutil.rmtree(tmp_path / "state")
        with pytest.raises(StoreError, match="cannot be written, nothing was changed: No such file or directory"):
            await store.update([(BAUD, "4800")], Role.ADMIN)
        assert baud(store) == 9600


UNWRITABLE = """
import os, pathlib, sys
sys.path[:0] = {path}
from gateway.state.store import Store, StoreError
from tests.gateway.state.test_store import CATALOGUE
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    Store(pathlib.Path("{directory}"), CATALOGUE)
except StoreError as exc:
    print(exc)
"""


def test_a_state_directory_of_somebody_else_is_named() -> None:
    # Not in tmp_path: that is closed to the user that the script becomes.
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        state.chmod(0o555)
        script = UNWRITABLE.replace("{directory}", folder).replace("{path}", repr(sys.path))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == f"{state} cannot be used to keep the state: Permission denied\n", done.stderr
