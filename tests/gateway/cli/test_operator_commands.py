"""The commands with which an operator looks around and puts order: devices, ports, kick."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from gateway.cli import main
from gateway.cli.pcapng import preamble
from gateway.host.config import LogConfig, PortConfig
from gateway.serial_line import inventory
from gateway.serial_line.adapters import Identity
from gateway.serial_line.inventory import Found
from tests.helpers import running_gateway
from tests.test_chain import chain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from tests.helpers import Gateway


def config_of(gateway: Gateway) -> Path:
    config = gateway.config.state_dir / "daisyport.toml"
    config.write_text(f'state_dir = "{gateway.config.state_dir}"\nruntime_dir = "{gateway.config.runtime_dir}"\n')
    return config


async def ran(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gateway", *words, "--config", str(config_of(gateway))]
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False
    )
    return done


async def test_ports_shows_the_line_and_the_ways_into_each_port(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path, ports=2) as gateway:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes", PTZServer_Enabled="yes")
            gateway.lines[1].unplug()
            await gateway.until(lambda status: status["state"] == "down", port=1)
            shown = (await ran(gateway, "ports")).stdout.decode()
    first, second = shown.split("P1  down")
    assert first.startswith("P0  up     RS232 9600 8N1")
    assert f"    listen 127.0.0.1:{port} " in first
    assert "    PTZ stream socket " in first
    assert "    /axis-cgi/com/serial.cgi?port=1\n    /daisyport/ports/P0 (WebSocket)\n" in first
    assert "serial.cgi" not in second
    assert max(map(len, shown.splitlines())) <= 80


async def test_a_kicked_client_is_gone_and_the_others_stay(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            port = await gateway.open_tcp()
            async with (
                await trio.open_tcp_stream("127.0.0.1", port) as one,
                await trio.open_tcp_stream("127.0.0.1", port) as other,
            ):
                await gateway.until(lambda status: len(status["clients"]) == 2)
                holder = f"127.0.0.1:{one.socket.getsockname()[1]}"
                done = await ran(gateway, "kick", holder)
                assert (done.returncode, done.stdout.decode()) == (0, f"ended: {holder}\n")
                assert await one.receive_some() == b""
                await gateway.lines[0].say(b"still here")
                assert await other.receive_some() == b"still here"
                again = await ran(gateway, "kick", holder)
    assert again.returncode == 1
    assert b"no client and no link has that name" in again.stderr


async def test_a_kicked_link_comes_back_by_itself_with_another_session(short_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(short_path) as ((owner, far), _):
            done = await ran(owner, "kick", "cpu2")
            assert done.stdout.startswith(b"ended: 127.0.0.1:")
            await far.until(lambda status: status["state"] == "up" and status["gaps"] == 1)
            assert len((await owner.status())["remote_port_server"]["links"]) == 1


def test_devices_prints_what_to_paste_for_each_that_is_not_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Identity("0403", "6001", "A502", "00", "0")
    used = Found("/dev/ttyS1", "serial", None, "", "", ("getty (812)",), True, "root:dialout 660")
    free = Found("/dev/ttyUSB0", "ftdi_sio", adapter, "/dev/serial/by-id/usb-A502", "", (), False, "root:dialout 660")
    monkeypatch.setattr(inventory, "serial_devices", lambda: (used, free))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    file = tmp_path / "daisyport.toml"
    file.write_text('[[serial]]\ndevice = "/dev/ttyS1"\n')
    assert main.main(["devices", "--config", str(file)]) == 0
    assert (
        capsys.readouterr().out
        == """\
# /dev/ttyS1: Ser1; driver serial; root:dialout 660
#   the kernel writes its messages there: take console=... off its command line
#   open in getty (812)

# /dev/ttyUSB0: not in the configuration; driver ftdi_sio; root:dialout 660
#   USB 0403:6001, serial number A502, interface 00
#   /dev/serial/by-id/usb-A502
[[serial]]
device = "/dev/serial/by-id/usb-A502"
modes = ["RS232"]

# Only root sees who has a device open.
"""
    )
    monkeypatch.setattr(inventory, "serial_devices", lambda: ())
    file.write_text("not TOML")
    assert main.main(["devices", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "No serial device with a driver was found.\n"


async def test_health_is_a_word_and_an_exit_status(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            assert (await ran(gateway, "health")).stdout == b"ok\n"
            assert (await ran(gateway, "health", "P0")).stdout == b"ok\n"
            gateway.lines[0].unplug()
            await gateway.until(lambda status: status["state"] == "down")
            assert (await ran(gateway, "health")).stdout == b"degraded\n"
            down, unknown, odd = [await ran(gateway, "health", port) for port in ("P0", "P7", "P0?x=1")]
    assert (down.returncode, down.stderr) == (1, b"daisyport: down\n")
    assert (unknown.returncode, unknown.stderr) == (1, b"daisyport: 404 Not Found: no such port\n")
    assert (odd.returncode, odd.stderr) == (1, b"daisyport: there is no port 'P0?x=1'\n")


@contextlib.asynccontextmanager
async def tracing(gateway: Gateway, *words: str) -> AsyncIterator[trio.Process]:
    """Run ``daisyport trace`` until the block ends, then interrupt it; it writes to a pipe."""
    file = config_of(gateway)
    command = [sys.executable, "-m", "gateway", "trace", *words, "--config", str(file)]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            functools.partial(trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        )
        await gateway.until(lambda status: any(client["service"] == "Trace" for client in status["clients"]))
        yield process
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_a_trace_shows_live_who_writes_what_and_what_the_line_says(short_path: Path) -> None:
    with trio.fail_after(30):
        async with (
            running_gateway(short_path) as gateway,
            await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as client,
            tracing(gateway, "P0") as process,
        ):
            shown = b""
            await client.send_all(b"\x81\x01\x04\x07\x02\xff zoom in, please")
            await gateway.lines[0].hear(22)
            await gateway.lines[0].say(b"\x90A\xff")
            assert process.stdout is not None
            while b".A." not in shown:
                shown += await process.stdout.receive_some()
            holder = f"127.0.0.1:{client.socket.getsockname()[1]}"
    lines = re.sub(r"(?m)^\d\d:\d\d:\d\d\.\d{6} ", "TIME ", shown.decode()).splitlines()
    assert lines == [
        "TIME - the port is up",
        "TIME - the line is set to RS232 9600 8N1",
        f"TIME > 22 bytes from {holder}",
        "    81 01 04 07 02 ff 20 7a 6f 6f 6d 20 69 6e 2c 20  ...... zoom in, ",
        "    70 6c 65 61 73 65                                please",
        "TIME < 3 bytes",
        "    90 41 ff                                         .A.",
    ]


def test_a_trace_whose_reader_has_seen_enough_ends_without_an_error() -> None:
    program = (
        "import itertools, json, gateway.cli.main, gateway.cli.trace as trace\n"
        "piece = json.dumps({'time': 0, 'way': 'note', 'text': 'x' * 60, 'data': ''}).encode()\n"
        "trace.asked_for_lines = lambda *_: itertools.repeat(piece)\n"
        "raise SystemExit(gateway.cli.main.main(['trace', 'P0']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"x" * 60 in process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


async def test_a_trace_that_is_written_shows_nothing_and_ends_with_the_gateway(short_path: Path) -> None:
    file = short_path / "trace.pcapng"
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway, trio.open_nursery() as nursery:
            async with tracing(gateway, "P0", "--pcapng", str(file)) as process:
                await gateway.lines[0].say(b"what the line says")
                while b"what the line says" not in file.read_bytes():
                    await trio.lowlevel.checkpoint()
                assert process.stdout is not None
            assert await process.stdout.receive_some() == b""
            await gateway.until(lambda status: not status["clients"])
            piped: list[subprocess.CompletedProcess[bytes]] = []

            async def run() -> None:
                piped.append(await ran(gateway, "trace", "P0", "--pcapng", "-"))

            nursery.start_soon(run)
            await gateway.until(lambda status: any(client["service"] == "Trace" for client in status["clients"]))
            kicked = await ran(gateway, "kick", "trace of user 0")
            assert (kicked.stdout, kicked.stderr) == (b"ended: trace of user 0\n", b"")
    assert piped[0].stdout.startswith(preamble("P0"))
    assert b"ended by user 0 at 127.0.0.1:0" in piped[0].stdout
    assert (piped[0].returncode, piped[0].stderr) == (1, b"daisyport: the gateway ended the trace\n")


async def test_a_trace_of_no_port_and_a_senseless_rotation_are_refused(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            assert b"no such port; ports: P0" in (await ran(gateway, "trace", "P1")).stderr
            assert b"--rotate must be 1 or more" in (await ran(gateway, "trace", "P0", "--rotate", "0")).stderr
            full = await ran(gateway, "trace", "P0", "--pcapng", "/dev/full")
            assert (full.returncode, full.stderr) == (1, b"daisyport: /dev/full: No space left on device\n")


async def test_a_log_of_the_line_holds_what_it_said_until_the_gateway_stops(short_path: Path) -> None:
    file = short_path / "P0.log"
    with trio.fail_after(30):
        async with (
            running_gateway(short_path, sharing=(PortConfig(log=LogConfig(file)),)) as gateway,
            await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as client,
        ):
            await client.send_all(b"a password")
            await gateway.lines[0].hear(10)
            await gateway.lines[0].say(b"login: ")
            assert await client.receive_some() == b"login: "
    assert re.search(r"-- the port is up\n.*\n\S+ \S+ login: \n\S+ \S+ -- the port is down", file.read_text())
    assert "password" not in file.read_text()


async def test_a_trace_that_nobody_reads_slows_nobody_and_says_what_it_left_out(short_path: Path) -> None:
    block, count = os.urandom(65_536), 48
    with trio.fail_after(60):
        async with (
            running_gateway(short_path) as gateway,
            await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as client,
            tracing(gateway, "P0") as process,
            trio.open_nursery() as nursery,
        ):

            async def say() -> None:
                for _ in range(count):
                    await gateway.lines[0].say(block)

            nursery.start_soon(say)
            received = bytearray()
            while len(received) < count * len(block):
                received += await client.receive_some(65_536)
            assert received == block * count
            status = await gateway.status()
            (queue,) = [each["queue"] for each in status["clients"] if each["service"] == "Trace"]
            assert 0 < queue <= 1 << 18
            assert process.stdout is not None
            shown = b""
            while b"bytes not shown" not in shown:
                shown = shown[-200:] + await process.stdout.receive_some()


async def test_the_chain_is_shown_from_the_owner_down_at_any_of_its_cpus(short_path: Path) -> None:
    with trio.fail_after(60):
        async with chain(short_path, 2) as (gateways, _):
            for each in (gateways[0], gateways[2]):
                done = await ran(each, "chain", "P0")
                shown = done.stdout.decode()
                assert done.returncode == 0, done.stderr
                assert shown.startswith("the chain of P0 here, from the owner of the line down:\n")
                assert shown.count("(here) up") == 1
                assert shown.count("link up") == 2
                assert max(map(len, shown.splitlines())) <= 80
            whole = json.loads((await ran(gateways[1], "chain", "--json")).stdout)
            assert whole[0]["chain"]["below"][0]["here"]
            assert whole[0]["chain"]["below"][0]["below"][0]["answer"] == "told"
            nowhere = await ran(gateways[0], "chain", "P9")
            assert (nowhere.returncode, b"no port of a chain" in nowhere.stderr) == (1, True)


async def test_a_host_without_other_cpus_has_no_chain(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            assert (await ran(gateway, "chain")).stdout == b"no port is shared with other CPUs here\n"
