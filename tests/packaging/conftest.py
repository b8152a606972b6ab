"""What the tests of the packages share: the Debian package, and a clean Debian to install it on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

# What a Debian server has, and what the package asks for: a booted machine has no network to fetch it from.
_SYSTEM = "systemd-sysv,python3,init-system-helpers"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, as ``systemd/package/build-deb`` makes it, with no Python but Debian's in sight."""
    command = [str(ROOT / "systemd/package/build-deb"), str(tmp_path_factory.mktemp("package"))]
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.split()[-1])


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory: a file system of a Debian is written there in a tenth of the time, and gone at once."""
    folder = Path(f"/var/tmp/daisyport-packaging-{os.getpid()}")
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        folder.rmdir()


@pytest.fixture(scope="session")
def debian(memory: Path) -> Path:
    """The root of a Debian of the least size, of this host's release. Who changes it takes a copy."""
    suite = re.search(r"VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text())
    assert suite is not None
    targets = ["apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"]
    mirrors = subprocess.run(
        [*targets, "Created-By: Packages", "Origin: Debian"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    root = memory / "debian"
    quick = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
    what = ["--variant=minbase", f"--include={_SYSTEM}", suite[1], str(root), *mirrors]
    subprocess.run(["mmdebstrap", "--quiet", *quick, *what], check=True, stdin=subprocess.DEVNULL)
    return root
