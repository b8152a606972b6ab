"""The commands with which an operator looks around and puts order: devices, ports, kick."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import trio

from gateway.cli import main
from gateway.serial_line import inventory
from gateway.serial_line.adapters import Identity
from gateway.serial_line.inventory import Found
from tests.helpers import running_gateway
from tests.test_chain import chain

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import pytest

    from tests.helpers import Gateway


async def ran(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[bytes]:
    config = gateway.config.state_dir / "daisyport.toml"
    config.write_text(f'state_dir = "{gateway.config.state_dir}"\nruntime_dir = "{gateway.config.runtime_dir}"\n')
    command = [sys.executable, "-m", "gateway", *words, "--config", str(config)]
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
    assert first.startswith("P0  up    RS232 9600 8N1")
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
            done = await ran(owner, "kick", "cpu1")
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
#   the kernel writes its messages there: take console=... off its command line first
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
