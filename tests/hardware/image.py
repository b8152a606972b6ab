"""The guests' kernel and root filesystem: built once by ``image.sh``, kept in a folder that git ignores."""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.hardware.guest import Machine

__all__ = ["CACHE", "MISSING", "built", "project", "require_tools"]

_HERE: Final = Path(__file__).parent
_PROJECT: Final = _HERE.parent.parent
CACHE: Final = _HERE / ".guest"
_TOOLS: Final = ("qemu-system-x86_64", "qemu-system-aarch64", "mmdebstrap", "cpio", "modprobe", "mke2fs")
_PATH: Final = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
MISSING: Final = tuple(tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None)
"""The programs that this host lacks."""


def require_tools(missing: Sequence[str]) -> None:
    """Skip a test where something is missing. In CI, that is a failure."""
    if missing and os.environ.get("CI"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def built(machine: Machine) -> Path:
    """Return the folder with ``machine``'s image, which is built first where it is missing or of an older recipe."""
    requirements: list[str] = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    recipe = hashlib.sha256(repr(requirements).encode())
    recipe.update((_HERE / "image.sh").read_bytes())
    image = CACHE / f"{machine.arch}-{recipe.hexdigest()[:16]}"
    if not (image / "root.cpio").exists():
        for old in CACHE.glob(f"{machine.arch}-*"):
            shutil.rmtree(old)
        subprocess.run(["bash", str(_HERE / "image.sh"), machine.arch, str(image), *requirements], check=True)
    return image


def project(directory: Path, state: Path) -> Path:
    """Pack what changes between two runs: the daemon, its benchmark, its first state, and the agent.

    Return the archive, which the kernel unpacks over the image.
    """
    root = directory / "root"
    for package in ("gateway", "protocol", "tests/benchmarks"):
        shutil.copytree(_PROJECT / package, root / "opt/site" / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(state, root / "opt/state")
    shutil.copy(_HERE / "agent.py", root / "opt")
    shutil.copy(_HERE / "init.sh", root / "init")
    (root / "init").chmod(0o755)
    compileall.compile_dir(root / "opt/site", quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = directory / "project.cpio"
    with archive.open("wb") as output:
        command = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"]
        subprocess.run(command, input=names.encode(), stdout=output, cwd=root, check=True)
    return archive
