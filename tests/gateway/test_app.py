"""The composition root: what starts, what is told, and what happens when a port manager has a bug."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from gateway import manager
from gateway.app import hold_runtime_dir, run
from gateway.host.config import HttpConfig, PtzConfig, SerialConfig
from gateway.host.sdnotify import Notifier
from tests.helpers import configuration, free_port, lines, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from gateway.host.config import Config


async def stopped_at_once(config: Config, notifier: Notifier | None = None) -> None:
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(run, config, stop, notifier or Notifier(None))
            stop.set()


def test_a_runtime_directory_that_cannot_be_locked_is_no_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runtime.lock").mkdir()
    with os.fdopen(hold_runtime_dir(tmp_path)):
        assert f"runtime_dir {tmp_path} cannot be locked: Is a directory" in caplog.text


async def test_the_service_manager_is_told_ready_once_and_stopping_at_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, lines(tmp_path, 1) as ends:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(0)
        with contextlib.closing(Notifier(str(tmp_path / "notify"))) as notifier:
            await stopped_at_once(configuration(tmp_path, ends, free_port()), notifier)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(listener.recv(1000).decode())
        assert told.count("READY=1") == 1
        assert told[-1] == "STOPPING=1"


async def test_the_start_is_over_when_the_http_server_has_tried_to_bind_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign, lines(tmp_path, 1) as ends:
        await stopped_at_once(configuration(tmp_path, ends, foreign.getsockname()[1]))
    assert "Address already in use" in caplog.text


async def test_the_log_warns_of_names_that_do_not_stay_and_of_two_for_one_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = tmp_path / "usb-FTDI"
    link.symlink_to("/dev/ttyUSB9")
    serial = (SerialConfig(str(link)), SerialConfig("/dev/ttyUSB9"))
    with lines(tmp_path, 2) as ends:
        await stopped_at_once(configuration(tmp_path, ends, free_port(), serial=serial))
    warned = [record.getMessage() for record in caplog.records if record.name == "gateway.composition"]
    assert warned == [
        (
            "Ser2: /dev/ttyUSB9 is whichever adapter was plugged in first; "
            "name it by its link in /dev/serial/by-id, or in /dev/serial/by-path"
        ),
        f"Ser1 and Ser2 are one device: {link} and /dev/ttyUSB9",
    ]


async def test_without_an_http_server_the_ports_run_all_the_same(tmp_path: Path) -> None:
    with lines(tmp_path, 1) as ends:
        await stopped_at_once(configuration(tmp_path, ends, 0, http=HttpConfig(listen=())))


def test_a_start_loads_nothing_that_only_some_configurations_use() -> None:
    costly = (
        "h11",
        "trio_websocket",
        "zeroconf",
        "cryptography",
        "email",
        "gateway.web.http",
        "gateway.demo",
    )
    code = f"import sys, gateway.cli.main, gateway.app; print(*(set({costly}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True, text=True)
    assert found.stdout == "\n"


async def test_an_http_port_that_is_taken_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign, lines(tmp_path, 1) as ends, trio.fail_after(10):
        caplog.set_level("INFO")
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(run, configuration(tmp_path, ends, foreign.getsockname()[1]), stop, Notifier(None))
            http_server = f"HTTP server 127.0.0.1:{foreign.getsockname()[1]}: "
            while f"{http_server}Address already in use" not in caplog.text:
                await trio.lowlevel.checkpoint()
            foreign.close()
            while f"{http_server}up" not in caplog.text:
                await trio.lowlevel.checkpoint()
            stop.set()
    assert caplog.text.count("Address already in use") == 1


async def test_names_of_ptz_drivers_that_this_host_does_not_know_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with lines(tmp_path, 1) as ends:
        ptz = PtzConfig(users=("root", "nobody-of-that-name"), groups=("root", "no-such-group"))
        await stopped_at_once(configuration(tmp_path, ends, free_port(), ptz=ptz))
    assert "no user named 'nobody-of-that-name'" in caplog.text
    assert "no group named 'no-such-group'" in caplog.text


async def test_one_bug_leaves_the_other_port_alone_and_its_own_port_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs = [KeyError("a bug")]
    plan = manager.plan  # type: ignore[attr-defined]  # replaced where it is used

    def once(settings: object, port: int, *rest: object) -> object:
        if port == 0 and bugs:
            raise bugs.pop()
        return plan(settings, port, *rest)  # type: ignore[arg-type]  # whatever plan takes

    monkeypatch.setattr(manager, "plan", once)
    with lines(tmp_path, 2) as ends:
        await stopped_at_once(configuration(tmp_path, ends, free_port()))
    assert caplog.text.count("P0 a bug ended the port manager") == 1
    assert "P1 a bug" not in caplog.text


async def test_a_port_that_always_fails_leaves_the_clients_of_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = manager.plan  # type: ignore[attr-defined]  # replaced where it is used

    def fails_on_p0(settings: object, port: int, *rest: object) -> object:
        if port == 0:
            raise KeyError("a bug")
        return plan(settings, port, *rest)  # type: ignore[arg-type]  # whatever plan takes

    monkeypatch.setattr(manager, "plan", fails_on_p0)
    monkeypatch.setattr(manager, "_PAUSES", (0.0,) * 5)  # every restart there is, as fast as it goes
    with trio.fail_after(10):
        async with running_gateway(tmp_path, ports=2) as gateway:
            port = free_port()
            server = "PortManager.P1.GenericTCPServer."
            wanted = {f"{server}Enabled": "yes", f"{server}Listener.Enabled": "yes", f"{server}Listener.Port": port}
            assert await gateway.set(wanted) == "OK"
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(b"unharmed")
                assert await gateway.lines[1].hear(8) == b"unharmed"
            failed, other = await gateway.status(0), await gateway.status(1)
            assert (failed["state"], other["state"]) == ("down", "up")
            assert failed["reason"] == (
                "the port manager is parked after a bug (KeyError, see the log); next try within 60 s"
            )
            refused = await gateway.update(GenericTCPServer_Enabled="yes")
            assert refused.startswith("# Error: ")
            assert "PortManager.P0.GenericTCPServer.Enabled" in refused
