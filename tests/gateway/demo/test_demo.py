"""The demo: what it shows can be pasted, does what it says, loses nothing, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import pty
import re
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
import trio.testing

from gateway.demo import Chain, Screen, cut_demo, demo
from gateway.demo.cable import Cable
from gateway.demo.chain import free_ports
from gateway.demo.cpu import Cpu, Login
from gateway.demo.examples import afar, at_the_owner
from gateway.demo.numbers import LINE, Numbers
from gateway.demo.reach import reach
from gateway.demo.traffic import Traffic
from gateway.tasks.watch import Cell
from tests.helpers import own_the_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from gateway.demo.examples import Example

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

COUNTS = re.compile(r"(\d+) connections cut: ([\d,]+) bytes sent, ([\d,]+) arrived, ([\d,]+) on the way, ([\d,]+) lost")


class Shown(io.StringIO):
    """A screen that is no terminal, and can be waited on."""

    def __init__(self) -> None:
        super().__init__()
        self.text = Cell("")

    def flush(self) -> None:
        self.text.set(self.getvalue())

    @property
    def told(self) -> list[str]:
        """The lines about the camera, in order."""
        return [line for line in self.text.value.splitlines() if line.startswith("camera:")]

    @property
    def counts(self) -> tuple[int, ...]:
        """Cuts, and bytes sent, arrived, on the way and lost, as they were shown last."""
        found = COUNTS.findall(self.text.value)
        return tuple(int(number.replace(",", "")) for number in found[-1]) if found else (0,) * 5


@asynccontextmanager
async def a_demo(shown: Shown, show: Callable[..., Awaitable[None]] = demo) -> AsyncIterator[Chain]:
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(show, Screen(shown), stop)
            stop.set()


async def paste(example: Example) -> str:
    done = await trio.run_process(example.command, shell=True, capture_stdout=True, capture_stderr=True)
    assert done.stderr == b""
    return done.stdout.decode()


async def paste_at_once(examples: list[Example]) -> list[str]:
    answers: list[str] = []

    async def try_out(example: Example) -> None:
        answers.append(await paste(example))

    async with trio.open_nursery() as nursery:
        for example in examples:
            nursery.start_soon(try_out, example)
    return answers


def a_cpu(directory: Path) -> Cpu:
    login = Login("demo", "secret", "key")
    return Cpu(name="owner", directory=directory, login=login, http_port=8080, tcp_ports=(4001,))


def the_pan(answer: str) -> bool:
    """Return True if these bytes in hex contain a Pelco-D answer to a question for the pan."""
    return "ff 01 00 59" in " ".join(answer.split())


@needs_curl
async def test_http_examples_drive_the_camera_and_read_its_answer_and_set_and_list_parameters() -> None:
    shown = Shown()
    async with a_demo(shown) as chain:
        left, ask, rate, parameters = [
            await paste(example) for example in at_the_owner(chain.owner) if "curl" in example.command
        ]
    assert shown.getvalue().startswith(chain.text())
    commands = {f"  {example.command}" for example in (*at_the_owner(chain.owner), *afar(chain.far))}
    first, *others = [line for line in chain.text().splitlines() if line not in commands]
    assert first == f"The line, live in a browser: http://127.0.0.1:{chain.owner.http_port}/"
    assert all(len(line) <= 80 for line in others)
    assert shown.told[0] == "camera: pan left speed 6"
    assert shown.told[1].startswith("camera: asked for its position: pan -")
    assert left == "\n"
    assert ask.startswith("#9050")
    assert ask.endswith("FF#\n")
    assert rate == "OK\n"
    assert f"root.PortManager.P0.GenericTCPServer.Listener.Port={chain.owner.tcp_ports[0]}\n" in parameters


@pytest.mark.parametrize("said", [b"", b"probed"])
async def test_a_connection_that_ends_while_the_chain_comes_up_is_an_error_and_no_endless_loop(said: bytes) -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(said)
    await far.send_eof()
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="closed"):
        await reach(near, near, b"?", b"!", b"!")


async def test_the_tcp_and_ptz_examples_reach_the_camera_and_show_its_answer() -> None:
    shown = Shown()
    async with a_demo(shown) as chain:
        answers = await paste_at_once([one for one in at_the_owner(chain.owner) if "curl" not in one.command])
    assert sorted(shown.told) == [
        "camera: asked for its pan: pan 0.00 tilt 0.00 zoom 0.00",
        "camera: home",
        "camera: stop",
    ]
    assert len(answers) == 2
    assert any(the_pan(answer) for answer in answers)
    assert any("90 41 ff 90 51 ff" in " ".join(answer.split()) for answer in answers)


@needs_curl
async def test_the_far_examples_reach_the_camera_over_two_links() -> None:
    shown = Shown()
    async with a_demo(shown) as chain:
        answers = await paste_at_once(list(afar(chain.far)))
        assert [(len(cpu.devices), len(cpu.servers), len(cpu.served)) for cpu in chain.cpus] == [
            (1, 0, 1),
            (0, 1, 1),
            (0, 1, 0),
        ]
        assert len({(cpu.config.state_dir / "node_key").read_text() for cpu in chain.cpus}) == 3
    assert any(answer.startswith("#9050") for answer in answers)
    assert any(the_pan(answer) for answer in answers)
    assert any("90 41 ff 90 51 ff" in answer for answer in answers)
    asked_pan, asked_position, left = sorted(shown.told)
    assert asked_pan.startswith("camera: asked for its pan: pan ")
    assert asked_position.startswith("camera: asked for its position: pan ")
    assert left == "camera: pan left speed 6"


@needs_curl
async def test_links_that_are_cut_lose_no_byte_and_commands_work_all_the_while() -> None:
    shown = Shown()
    async with a_demo(shown, cut_demo) as chain:
        ask, *_ = afar(chain.far)
        while shown.counts[0] < 2:
            assert (await paste(ask)).startswith("#9050")
    cuts, sent, arrived, on_the_way, lost = shown.counts
    assert cuts >= 2
    assert sent == arrived > 0
    assert on_the_way == lost == 0
    assert "broken" not in shown.getvalue()


def test_numbers_that_arrive_in_any_pieces_are_all_there() -> None:
    numbers = Numbers()
    said = numbers.next(3) + numbers.next(2)
    assert said[:20] == b"000000000\n000000001\n"
    assert numbers.on_the_way == 5 * LINE
    for at in range(0, len(said), 7):
        numbers.receive(said[at : at + 7])
    assert (numbers.sent, numbers.arrived, numbers.on_the_way, numbers.lost, numbers.strange) == (50, 50, 0, 0, 0)


@pytest.mark.parametrize("missing", [slice(10, 30), slice(12, 28), slice(12, 32)])
def test_numbers_that_do_not_arrive_are_lost(missing: slice) -> None:
    numbers = Numbers()
    said = bytearray(numbers.next(9))
    del said[missing]
    numbers.receive(bytes(said))
    assert numbers.lost >= missing.stop - missing.start
    assert numbers.on_the_way == 0


def test_numbers_that_arrive_twice_are_noticed() -> None:
    numbers = Numbers()
    said = numbers.next(2)
    numbers.receive(said + said[LINE:])
    assert (numbers.lost, numbers.strange) == (0, LINE)


async def relay(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, change: Callable[[bytes], bytes]) -> None:
    async for data in source:
        await sink.send_all(change(bytes(data)) if len(data) > LINE else data)


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda data: data[:LINE] + data[2 * LINE :], "lost"), (lambda data: data + data[-LINE:], "broken")],
)
async def test_a_way_that_loses_or_repeats_bytes_is_found_out(
    autojump_clock: trio.testing.MockClock, change: Callable[[bytes], bytes], told: str
) -> None:
    (device, one), (client, other) = trio.testing.memory_stream_pair(), trio.testing.memory_stream_pair()
    shown, stop = Shown(), trio.Event()
    async with trio.open_nursery() as relays:
        relays.start_soon(relay, one, other, change)
        relays.start_soon(relay, other, one, bytes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Traffic(device, client, [Cable(0, 0)]).run, Screen(shown).show, stop)
            await shown.text.wait_for(lambda text: re.search(rf"[1-9][0-9,]* {told}", text) is not None)
            stop.set()
        relays.cancel_scope.cancel()
    assert shown.counts[3] == 0


async def test_a_way_that_ends_before_the_rest_has_come_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    (device, one), (client, other) = trio.testing.memory_stream_pair(), trio.testing.memory_stream_pair()
    shown, stop = Shown(), trio.Event()
    async with trio.open_nursery() as relays:
        relays.start_soon(relay, one, other, lambda _: b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Traffic(device, client, [Cable(0, 0)]).run, Screen(shown).show, stop)
            await shown.text.wait_for(lambda _: shown.counts[1] > 1000)
            stop.set()
        relays.cancel_scope.cancel()
    assert shown.counts[3] > 1000
    assert shown.counts[4] == 0, "what may still come is not lost"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_runs_below_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "8")
    terminal = Terminal()
    screen = Screen(terminal)
    screen.say("first")
    screen.show("1 cut")
    screen.say("camera")
    screen.show("2 cuts, 0 lost")
    screen.leave()
    screen.say("Gone")
    clear = "\r\x1b[K"
    assert terminal.getvalue() == f"first\n{clear}1 cut{clear}camera\n1 cut{clear}2 cuts,{clear}2 cuts,\nGone\n"


def test_elsewhere_the_running_line_is_a_line_like_the_others() -> None:
    shown = Shown()
    screen = Screen(shown)
    screen.show("1 cut")
    screen.show("2 cuts")
    screen.leave()
    screen.say("Gone")
    assert shown.getvalue() == "1 cut\n2 cuts\nGone\n"


async def test_without_a_netcat_that_half_closes_the_tcp_example_is_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nc").write_text("#!/bin/sh\necho usage: nc host port >&2\n")
    (tmp_path / "nc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    async with a_demo(Shown()) as chain:
        example = at_the_owner(chain.owner)[2]
        assert "python3 -c" in example.command
        assert the_pan(await paste(example))


def test_without_any_netcat_or_python_on_the_path_there_is_still_the_one_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert at_the_owner(a_cpu(tmp_path))[2].command.startswith(f"{sys.executable} -c ")


def test_a_path_with_quotes_and_dollars_can_be_pasted(tmp_path: Path) -> None:
    strange = tmp_path / 'it\'s $HOME `x` "y" \\z'
    strange.mkdir()
    cpu = a_cpu(strange)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(cpu.ptz_socket))
        listener.listen()
        with subprocess.Popen(at_the_owner(cpu)[3].command, shell=True, stdout=subprocess.PIPE) as pasted:
            driver, _ = listener.accept()
            with driver:
                assert driver.recv(100) == bytes.fromhex("81010604ff")
                driver.sendall(b"\x90\x41\xff")
            assert pasted.stdout is not None
            assert pasted.stdout.read() == b"90 41 ff\n"


def test_a_port_that_is_taken_is_left_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        taken = owner.getsockname()[1]
        free, another = free_ports([taken, taken])
        assert len({free, another, taken, 0}) == 4
    assert free_ports([free]) == [free]

    def no_server(_address: object) -> None:
        raise OSError("none left")

    monkeypatch.setattr(socket, "create_server", no_server)
    with pytest.raises(OSError, match=r"no free port on 127\.0\.0\.1"):
        free_ports([8080])


async def test_it_leaves_nothing_behind_though_clients_stay(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    async with a_demo(Shown()) as chain:
        for cpu in chain.cpus:
            assert cpu.directory.parent.parent == short_path
            assert (cpu.directory / "state" / "users").stat().st_mode & 0o777 == 0o600
            assert (cpu.directory / "state" / "parameters").stat().st_mode & 0o777 == 0o600
        client = await trio.open_tcp_stream("127.0.0.1", chain.far.tcp_ports[0])
    assert os.listdir(short_path) == []
    await client.aclose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("options", "sign"), [([], b"two links away"), (["--cut"], b" lost\n")])
def test_a_signal_ends_it_cleanly_within_two_seconds(
    number: signal.Signals, options: list[str], sign: bytes, short_path: Path
) -> None:
    environment = os.environ | {"TMPDIR": str(short_path)}
    command = [sys.executable, "-m", "gateway", "demo", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        shown = b""
        while sign not in shown:
            shown += os.read(running.stdout.fileno(), 4096)
        running.send_signal(number)
        rest, errors = running.communicate(timeout=2)
    assert running.returncode == 0
    assert errors == b""
    assert rest.endswith(b"The demo has ended, and removed all its files.\n")
    assert list(short_path.iterdir()) == []


def test_a_terminal_that_is_closed_ends_it_and_it_leaves_nothing_behind(short_path: Path) -> None:
    near, far = pty.openpty()

    running = subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", "--cut"],
        env=os.environ | {"TMPDIR": str(short_path)},
        stdin=far,
        stdout=far,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=own_the_terminal,
    )
    os.close(far)
    shown = b""
    while b" lost" not in shown:
        shown += os.read(near, 4096)
    os.close(near)
    _, errors = running.communicate(timeout=5)
    assert running.returncode == 0
    assert errors == b""
    assert list(short_path.iterdir()) == []


def test_who_stops_reading_the_screen_ends_it_without_a_traceback() -> None:
    command = f"{sys.executable} -m gateway demo --cut | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=True)
    assert "live in a browser" in done.stdout
    assert done.stderr == ""
