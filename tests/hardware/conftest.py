"""The guests that the tests share: one at a time, even where several workers run tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from gateway.state.users import Users
from tests.hardware import image
from tests.hardware.agent import USB_PORT
from tests.hardware.guest import AMD64, Guest
from tests.hardware.rig import HTTP, PASSWORD, RFC2217, TCP, USER, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Stay in this process, where the command names this folder: a second worker would only wait for the first."""
    return 0


@pytest.fixture(scope="session")
def tools() -> None:
    """Require what builds and runs a guest. In CI it has to be there."""
    image.require_tools(image.MISSING)


@pytest.fixture(scope="session")
def project(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive with the daemon, and a state that knows the admin."""
    directory = tmp_path_factory.mktemp("project")
    state = directory / "state"
    state.mkdir()
    Users(state, "guest").add(USER, "admin", PASSWORD)
    return image.project(directory, state)


@pytest.fixture(scope="session")
def one_at_a_time(tools: None) -> Iterator[int]:
    """Return the file whose lock a guest holds while it runs: two would share the cores, and time what is not so."""
    image.CACHE.mkdir(exist_ok=True)
    lock = os.open(image.CACHE / "lock", os.O_CREAT | os.O_RDWR)
    yield lock
    os.close(lock)


@pytest.fixture(scope="session")
def guest(project: Path, one_at_a_time: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Run an amd64 guest for all tests of a worker. It has an empty disk."""
    disk = tmp_path_factory.mktemp("guest") / "disk"
    disk.write_bytes(b"")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk), "64M"], check=True)
    fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
    try:
        with Guest(AMD64, image.built(AMD64), project, (HTTP, RFC2217, USB_PORT, *TCP), disk) as running:
            yield running
    finally:
        fcntl.flock(one_at_a_time, fcntl.LOCK_UN)


@pytest.fixture
def rig(guest: Guest) -> Iterator[Rig]:
    """Return a rig in the guest; its daemon is not yet started."""
    with Rig(guest) as made:
        yield made
