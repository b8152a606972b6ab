"""The demo: what it shows can be pasted, does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from gateway import demo as room
from gateway.demo import Demo, demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@asynccontextmanager
async def a_demo(said: list[str]) -> AsyncIterator[Demo]:
    stop = trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(demo, said.append, stop)
            stop.set()


async def paste(command: str) -> str:
    done = await trio.run_process(command, shell=True, capture_stdout=True, capture_stderr=True)
    assert done.stderr == b""
    return done.stdout.decode()


def the_pan(answer: str) -> bool:
    """Whether there is a Pelco-D answer to a question for the pan among these bytes in hex."""
    return "ff 01 00 59" in " ".join(answer.split())


@needs_curl
async def test_http_examples_drive_the_camera_and_read_its_answer() -> None:
    said: list[str] = []
    async with a_demo(said) as here:
        left, ask, *_ = [await paste(example.command) for example in here.examples() if "curl" in example.command]
    assert said[0] == here.screen()
    assert said[1] == "camera: pan left speed 6"
    assert said[2].startswith("camera: asked for its position: pan -")
    assert left == "\n"
    assert ask.startswith("#9050")
    assert ask.endswith("FF#\n")


@needs_curl
async def test_parameter_examples_set_and_list() -> None:
    async with a_demo([]) as here:
        *_, rate, parameters = [
            await paste(example.command) for example in here.examples() if "curl" in example.command
        ]
    assert rate == "OK\n"
    assert f"root.PortManager.P0.GenericTCPServer.Listener.Port={here.tcp_port}\n" in parameters


async def test_the_tcp_and_ptz_examples_reach_the_camera_and_show_its_answer() -> None:
    said: list[str] = []
    answers: list[str] = []

    async def try_out(command: str) -> None:
        answers.append(await paste(command))

    async with a_demo(said) as here, trio.open_nursery() as nursery:
        for example in here.examples():
            if "curl" not in example.command:
                nursery.start_soon(try_out, example.command)
    assert sorted(said[1:]) == [
        "camera: asked for its pan: pan 0.00 tilt 0.00 zoom 0.00",
        "camera: home",
        "camera: stop",
    ]
    assert len(answers) == 2
    assert any(the_pan(answer) for answer in answers)
    assert any("90 41 ff 90 51 ff" in " ".join(answer.split()) for answer in answers)


async def test_without_a_netcat_that_half_closes_the_tcp_example_is_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nc").write_text("#!/bin/sh\necho usage: nc host port >&2\n")
    (tmp_path / "nc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    async with a_demo([]) as here:
        command = here.examples()[2].command
        assert "python3 -c" in command
        assert the_pan(await paste(command))


async def test_without_any_netcat_or_python_on_the_path_there_is_still_the_one_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Demo(tmp_path, "/dev/null", 8080, 4001, "demo", "secret")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert here.examples()[2].command.startswith(f"{sys.executable} -c ")


def test_a_path_with_quotes_and_dollars_can_be_pasted(tmp_path: Path) -> None:
    strange = tmp_path / 'it\'s $HOME `x` "y" \\z'
    (strange / "run").mkdir(parents=True)
    here = Demo(strange, "/dev/null", 8080, 4001, "demo", "secret")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(here.ptz_socket))
        listener.listen()
        with subprocess.Popen(here.examples()[3].command, shell=True, stdout=subprocess.PIPE) as pasted:
            driver, _ = listener.accept()
            with driver:
                assert driver.recv(100) == bytes.fromhex("81010604ff")
                driver.sendall(b"\x90\x41\xff")
            assert pasted.stdout is not None
            assert pasted.stdout.read() == b"90 41 ff\n"


async def test_a_port_that_is_taken_is_left_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        taken = owner.getsockname()[1]
        free = room._free_port(taken)
        assert free not in {0, taken}
    assert room._free_port(free) == free

    def no_server(_address: object) -> None:
        raise OSError("none left")

    monkeypatch.setattr(socket, "create_server", no_server)
    with pytest.raises(OSError, match=r"no free port on 127\.0\.0\.1"):
        room._free_port(8080)


async def test_it_leaves_nothing_behind_though_clients_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with a_demo([]) as here:
        assert here.directory.parent == tmp_path
        assert (here.directory / "state" / "users").stat().st_mode & 0o777 == 0o600
        assert (here.directory / "state" / "parameters").stat().st_mode & 0o777 == 0o600
        client = await trio.open_tcp_stream("127.0.0.1", here.tcp_port)
    assert os.listdir(tmp_path) == []
    await client.aclose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_within_two_seconds(number: signal.Signals, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "gateway", "demo"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        shown = b""
        while b"param.cgi?action=list" not in shown:
            shown += os.read(running.stdout.fileno(), 4096)
        running.send_signal(number)
        rest, errors = running.communicate(timeout=2)
    assert running.returncode == 0
    assert errors == b""
    assert rest.endswith(b"Gone, with all it made.\n")
    assert list(tmp_path.iterdir()) == []
