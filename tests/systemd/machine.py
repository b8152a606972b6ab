"""A machine with a systemd of its own: systemd-nspawn on an overlay of this host's root, or on a tree.

It has loopback alone. What is written on the overlay is in memory, and gone with it. A command runs in its namespaces,
by nsenter(1) with the process id of its systemd: the host needs no machined and no bus for that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Machine", "booted", "booted_tree", "wheels"]

ROOT = Path(__file__).parents[2]
_BOOT = 60.0
"""Seconds that systemd may take to be up; it takes less than one where nobody else wants the processor."""


class Machine:
    """A booted machine; ``root`` is its file system as the host sees it."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root = root
        self._leader = leader

    def run(self, command: str, *, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root, in the checkout."""
        # Not --root: the process would see the host's proc, and no controlling terminal is wanted.
        words = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", "/bin/bash", "-c"]
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "/wheels",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "SYSTEMD_PAGER": "",
        }
        done = subprocess.run(
            [*words, f"cd /src && {command}"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout[-4000:]}"
        return done

    def says(self, command: str) -> str:
        """Return what a command prints, whatever its status."""
        return self.run(command, check=False).stdout.strip()

    def until(self, command: str, holds: Callable[[str], bool], seconds: float = 30) -> str:
        """Run a command until ``holds`` is true of what it prints; return that."""
        end = time.monotonic() + seconds
        while not holds(said := self.says(command)):
            assert time.monotonic() < end, f"{command}: still {said[-2000:]}\n{self.log()}"
            time.sleep(0.1)
        return said

    def log(self, *options: str) -> str:
        """Return the end of the service's log."""
        return self.says(f"journalctl --no-pager -o cat -n 200 -u 'daisyport*' {' '.join(options)}")

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        self.run(f"mkdir -p $(dirname {path}) && cat > {path} <<'THE END'\n{text}\nTHE END")


def wheels(directory: Path) -> Path:
    """Collect the packages that an installation of the checkout needs, for a machine without a network."""
    command = ["pip", "download", "-qq", "--no-cache-dir", "-d", str(directory), str(ROOT), "setuptools>=77", "wheel"]
    subprocess.run(["python3", "-m", *command], check=True, timeout=300)
    return directory


@contextlib.contextmanager
def booted(packages: Path) -> Iterator[Machine]:
    """Boot a machine with the checkout in /src and ``packages`` in /wheels, until the block ends."""
    with contextlib.ExitStack() as undo:
        base = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="daisyport-machine-", dir="/var/tmp")))
        _mount(undo, base, "-t", "tmpfs", "-o", "mode=755", "tmpfs")
        for folder in ("upper", "work", "root"):
            (base / folder).mkdir()
        root = base / "root"
        layers = f"lowerdir=/,upperdir={base}/upper,workdir={base}/work"
        _mount(undo, root, "-t", "overlay", "-o", layers, "overlay")
        _furnish(root, packages)
        yield undo.enter_context(booted_tree(root))


@contextlib.contextmanager
def booted_tree(root: Path) -> Iterator[Machine]:
    """Boot the file system below ``root``, which has a folder /src, until the block ends."""
    name = f"daisyport-{os.getpid()}"
    process = subprocess.Popen(
        [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"),
            *("--link-journal=no", "--console=pipe", f"--machine={name}", "--directory", str(root)),
            "systemd.unit=multi-user.target",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        machine = Machine(root, _leader(process))
        machine.until("systemctl is-system-running", lambda state: state in ("running", "degraded"), _BOOT)
        yield machine
    finally:
        _stop(process)


def _mount(undo: contextlib.ExitStack, where: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(where)], check=True)
    undo.callback(subprocess.run, ["umount", "--lazy", str(where)], check=False)


def _furnish(root: Path, packages: Path) -> None:
    """Put the checkout in, and take out what this host installed of it or would start besides."""
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True).stdout
    for file in files.splitlines():
        if (ROOT / file).exists():
            (root / "src" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, root / "src" / file)
    shutil.copytree(packages, root / "wheels")
    shutil.rmtree(root / "opt/daisyport", ignore_errors=True)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    for unit in wants.iterdir() if wants.exists() else ():
        unit.unlink()
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")


def _leader(process: subprocess.Popen[bytes]) -> int:
    """Return the process id of the machine's systemd."""
    end = time.monotonic() + _BOOT
    while time.monotonic() < end:
        assert process.poll() is None, "systemd-nspawn ended"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        time.sleep(0.05)
    raise TimeoutError("systemd-nspawn did not start a systemd")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # it has its systemd shut down
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()
