"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import functools
import os
import signal
import stat
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import free_port, lines

if TYPE_CHECKING:
    from pathlib import Path

DAISYPORT = [sys.executable, "-m", "gateway"]


def daisyport(*words: str | Path, stdin: str = "", home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = os.environ | ({"HOME": str(home), "XDG_STATE_HOME": str(home), "XDG_RUNTIME_DIR": ""} if home else {})
    return subprocess.run(
        [*DAISYPORT, *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        env=environ,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "daisyport.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n'
        f'[http]\nlisten = ["127.0.0.1:{free_port()}"]\n[tcp]\nbind = ["127.0.0.1"]\n'
        f'[[serial]]\ndevice = "{tmp_path}/tty1"\n'
    )
    return path


def test_version() -> None:
    assert daisyport("--version").stdout == f"daisyport {version('daisyport')}\n"


def test_a_command_is_required_and_named_in_the_help() -> None:
    refused = daisyport()
    assert refused.returncode == 2
    assert "run" in daisyport("--help").stdout


def test_check_tells_what_the_configuration_means(config: Path) -> None:
    checked = daisyport("check", "--config", config)
    assert checked.returncode == 0
    assert checked.stdout.splitlines() == [f"Ser1: {config.parent}/tty1 (RS232)", "PortManager.P0: Ser1"]


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_bad_configuration_is_told_key_by_key_without_a_traceback(config: Path, command: str) -> None:
    with config.open("a") as file:
        file.write('modes = ["RS232", "RS484"]\nbaud = 9600\n')
    refused = daisyport(command, "--config", config)
    assert refused.returncode != 0
    assert "serial[0].modes[1]: RS484 is not one of RS232, RS485, RS485_4, RS422" in refused.stderr
    assert "serial[0].baud" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_state_directory_that_cannot_be_used_is_told_in_one_line(config: Path) -> None:
    (config.parent / "state").write_text("a file")
    refused = daisyport("run", "--config", config)
    assert refused.returncode == 1
    assert f"{config.parent}/state" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_user_is_added_with_a_password_from_a_pipe(config: Path) -> None:
    added = daisyport("user", "add", "anna", "--role", "operator", "--config", config, stdin="secret\n")
    assert added.returncode == 0
    users = config.parent / "state" / "users"
    assert "anna:operator:" in users.read_text()
    assert "secret" not in users.read_text()
    assert stat.S_IMODE(users.stat().st_mode) == 0o600


def test_what_is_no_user_is_told_without_a_traceback(config: Path) -> None:
    refused = daisyport("user", "add", "an:na", "--role", "admin", "--config", config, stdin="secret\n")
    assert refused.returncode == 1
    assert "colon" in refused.stderr
    assert daisyport("user", "add", "x", "--role", "king", "--config", config, stdin="x\n").returncode == 2


def test_without_a_configuration_it_says_what_it_takes_and_keeps_its_state_at_home(tmp_path: Path) -> None:
    checked = daisyport("check", home=tmp_path)
    assert checked.returncode == 0
    added = daisyport("user", "add", "anna", "--role", "admin", home=tmp_path, stdin="secret\n")
    assert added.returncode == 0
    assert (tmp_path / "daisyport" / "users").exists()


async def run_daemon(nursery: trio.Nursery, config: Path) -> trio.Process:
    run = functools.partial(trio.run_process, stderr=subprocess.PIPE, check=False)
    process: trio.Process = await nursery.start(run, [*DAISYPORT, "run", "--config", str(config)])
    return process


async def started(process: trio.Process, text: bytes) -> None:
    assert process.stderr is not None
    said = b""
    while text not in said:
        piece = await process.stderr.receive_some()
        assert piece, said
        said += piece


async def test_it_runs_until_sigterm_and_a_hang_up_does_not_end_it(config: Path) -> None:
    with lines(config.parent, 1), trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            process = await run_daemon(nursery, config)
            await started(process, b"P0 Ser1: up")
            process.send_signal(signal.SIGHUP)
            await started(process, b"SIGHUP")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


async def test_a_second_daemon_on_the_same_state_is_refused(config: Path) -> None:
    with lines(config.parent, 1), trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            process = await run_daemon(nursery, config)
            await started(process, b"P0 Ser1: up")
            second = await trio.to_thread.run_sync(lambda: daisyport("run", "--config", config))
            assert second.returncode == 1
            assert "in use by another daisyport" in second.stderr
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
