"""The mark of a machine, in a root directory of the test's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gateway.state.machine import machine_mark

if TYPE_CHECKING:
    from pathlib import Path

ID = "0123456789abcdef" * 2


class Root:
    """A root directory with a machine id, whose mounts say that it lies on ``file_system``."""

    def __init__(self, path: Path, content: str = f"{ID}\n", file_system: str = "ext4") -> None:
        self.path = path
        self.state = path / "var/lib/daisyport"
        for folder in ("etc", "run/systemd", "proc/self", "var/lib/daisyport"):
            (path / folder).mkdir(parents=True)
        (path / "etc/machine-id").write_text(content)
        device = path.stat().st_dev
        (path / "proc/self/mountinfo").write_text(
            "21 1 0:19 / /sys rw - sysfs sysfs rw\n"
            f"22 1 {os.major(device)}:{os.minor(device)} / / rw,relatime shared:1 - {file_system} /dev/vda1 rw\n"
        )

    @property
    def mark(self) -> str | None:
        return machine_mark(self.state, self.path)


def test_a_machine_has_one_mark_and_another_machine_another(tmp_path: Path) -> None:
    one, other = Root(tmp_path / "one"), Root(tmp_path / "other", f"{ID[::-1]}\n")
    assert one.mark is not None
    assert one.mark == Root(tmp_path / "again").mark
    assert one.mark != other.mark


def test_the_mark_does_not_give_the_machine_id_away(tmp_path: Path) -> None:
    mark = Root(tmp_path).mark
    assert mark is not None
    assert len(mark) == 64
    assert ID not in mark


@pytest.mark.parametrize("content", ["", "uninitialized\n", ID[1:], ID + "0", ID.upper(), "\u00e9" * 32])
def test_what_is_no_machine_id_gives_no_mark(tmp_path: Path, content: str) -> None:
    assert Root(tmp_path, content).mark is None


@pytest.mark.parametrize("file_system", ["tmpfs", "ramfs", "overlay"])
def test_a_file_system_that_does_not_last_gives_no_mark(tmp_path: Path, file_system: str) -> None:
    assert Root(tmp_path, file_system=file_system).mark is None


@pytest.mark.parametrize("name", ["run/systemd/container", "run/.containerenv", ".dockerenv"])
def test_a_container_gives_no_mark(tmp_path: Path, name: str) -> None:
    root = Root(tmp_path)
    (tmp_path / name).touch()
    assert root.mark is None


@pytest.mark.parametrize("name", ["etc/machine-id", "proc/self/mountinfo"])
def test_a_host_without_that_file_gives_no_mark(tmp_path: Path, name: str) -> None:
    root = Root(tmp_path)
    (tmp_path / name).unlink()
    assert root.mark is None


def test_a_device_that_no_mount_names_is_taken_for_one_that_lasts(tmp_path: Path) -> None:
    root = Root(tmp_path)
    (tmp_path / "proc/self/mountinfo").write_text("21 1 0:19 / /sys rw - sysfs sysfs rw\nshort\n")
    assert root.mark is not None
