"""The stacks of a process that hangs or dies, in processes of their own: signals and faults are the whole process's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import logging, os, signal, sys
from pathlib import Path
from gateway.host.stacks import Stacks
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
stacks = Stacks(Path(sys.argv[1]))
def hangs_here():
    os.kill(os.getpid(), int(sys.argv[2]))
if int(sys.argv[2]):
    hangs_here()
stacks.log("asked for")
stacks.close()
"""


def run(path: Path, number: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(number)], capture_output=True, text=True, timeout=20, check=False
    )


def test_sigusr1_writes_the_stacks_to_the_log_and_the_process_goes_on(tmp_path: Path) -> None:
    done = run(tmp_path / "stacks.txt", signal.SIGUSR1)
    assert done.returncode == 0
    # A handler behind it would let the signals of a burst interrupt each other, until a stack is overrun.
    assert done.stdout == ""
    assert done.stderr.startswith("asked for:\n")
    assert "in hangs_here" in done.stderr
    assert not (tmp_path / "stacks.txt").exists()


def test_the_stacks_of_a_process_that_died_are_in_the_log_of_the_next(tmp_path: Path) -> None:
    died = run(tmp_path / "stacks.txt", signal.SIGABRT)
    assert died.returncode == -signal.SIGABRT
    assert died.stderr == ""
    assert os.stat(tmp_path / "stacks.txt").st_mode & 0o777 == 0o600
    after = run(tmp_path / "stacks.txt")
    assert after.stderr.startswith(
        "the stacks of the run before, which did not end by itself:\nFatal Python error: Abo"
    )
    assert "in hangs_here" in after.stderr
    assert run(tmp_path / "stacks.txt").stderr == ""


def test_a_name_that_leads_elsewhere_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    elsewhere = tmp_path / "passwd"
    elsewhere.write_text("root")
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(elsewhere)
    os.mkfifo(pipe)
    for path, why in ((link, "Too many levels of symbolic links"), (pipe, "not a regular file")):
        done = run(path, signal.SIGUSR1)
        assert done.returncode == 0
        assert done.stderr.startswith(f"{path}: {why}; the stacks of a fault would be lost\nasked for:\n")
    assert elsewhere.read_text() == "root"


def test_where_no_file_can_be_made_the_stacks_are_in_the_log_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "none" / "stacks.txt"
    done = run(path, signal.SIGUSR1)
    assert done.returncode == 0
    assert done.stderr.startswith(
        f"{path}: No such file or directory; the stacks of a fault would be lost\nasked for:\n"
    )
    assert "in hangs_here" in done.stderr
