"""An upgrade under a running daemon: it never mixes two versions, and what the other version stored survives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from gateway import __version__
from gateway.state.store import Store
from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, ManagerHardware, SerialHardware
from protocol.parameters.roles import Role
from tests.helpers import FarEnd, free_port, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

ROOT = Path(__file__).parents[1]
ONE_PORT = Catalogue(Hardware(serial=(SerialHardware(),), managers=(ManagerHardware(serial=1),)))


class Installed:
    """A daemon that runs from an installation of its own."""

    def __init__(self, directory: Path, line: FarEnd, process: trio.Process) -> None:
        self.line = line
        self._directory = directory
        self._process = process

    def upgrade(self) -> None:
        """Install a version that knows nothing of what the running one needs."""
        package = self._directory / "lib/gateway"
        (package / "__init__.py").write_text('__version__ = "99.0"\n')
        (package / "remote_port/server.py").write_text("from gateway.nowhere import nothing\n")

    async def get(self, target: str) -> str:
        command = ["curl", "-sS", "-g", "-i", "--unix-socket", str(self._directory / "run/control/http.sock")]
        done = await trio.run_process([*command, f"http://localhost{target}"], capture_stdout=True)
        return done.stdout.decode()

    async def port(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.get("/daisyport/status")).partition("\r\n\r\n")[2])
        return found

    async def said(self, text: str) -> None:
        while text not in (self._directory / "log").read_text():  # noqa: ASYNC110 -- there is no other event
            await trio.sleep(0.02)


@asynccontextmanager
async def installed(directory: Path) -> AsyncIterator[Installed]:
    for package in ("gateway", "protocol"):
        shutil.copytree(ROOT / package, directory / "lib" / package, ignore=shutil.ignore_patterns("__pycache__"))
    config = directory / "daisyport.toml"
    with lines(directory, 1) as (line,), (directory / "log").open("wb") as log:
        config.write_text(
            f'state_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\n[http]\nlisten = []\n'
            f'[tcp]\nbind = ["127.0.0.1"]\n[[serial]]\ndevice = "{line.path}"\n'
        )
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "gateway", "run", "--config", str(config)],
            stderr=log,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(directory / "lib")},
        )
        daemon = Installed(directory, line, process)
        try:
            await daemon.said("P0 Ser1: up")
            await daemon.said("control socket: up")
            yield daemon
        finally:
            process.terminate()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await process.wait()


async def test_a_service_that_would_load_the_other_version_is_refused_and_all_else_goes_on(short_path: Path) -> None:
    with trio.fail_after(40):
        async with installed(short_path) as daemon:
            port = free_port()
            tcp = "PortManager.P0.GenericTCPServer."
            query = f"{tcp}Enabled=yes&{tcp}Listener.Enabled=yes&{tcp}Listener.Port={port}"
            assert (await daemon.get(f"/axis-cgi/param.cgi?action=update&{query}")).endswith("\r\n\r\nOK")
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                daemon.upgrade()
                refused = await daemon.get(
                    "/axis-cgi/param.cgi?action=update&PortManager.P0.RemotePortServer.Enabled=yes"
                )
                why = f"an upgrade waits for a restart: {__version__} runs, 99.0 is installed"
                assert why in refused
                await client.send_all(b"unharmed")
                assert await daemon.line.hear(8) == b"unharmed"
            status = await daemon.port()
            assert (status["version"], status["installed_version"]) == (__version__, "99.0")
            assert status["ports"][0]["state"] == "up"
            assert "service RemotePortServer" not in status["ports"][0]["services"]  # it was put back
            await daemon.said(f"P0 service RemotePortServer: {why}")


def test_the_guard_lets_pass_what_is_of_the_same_version_and_what_is_not_ours() -> None:
    code = "from gateway.host.upgrade import guard_imports; guard_imports(); import gateway.app, wave; print('passed')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "passed\n"


async def test_what_a_newer_version_stored_is_kept_and_so_is_the_file_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = (
        "root.PortManager.P0.Telnet.Enabled=yes\nroot.PortManager.P3.PTZServer.Enabled=yes\n"
        "root.Serial.Ser1.BaudRate=19200\nnonsense\nroot.Serial.Ser1.StopBits=many\n"
    )
    (tmp_path / "parameters").write_text(newer)
    (tmp_path / "parameters").chmod(0o600)
    store = Store(tmp_path, ONE_PORT)
    assert not (tmp_path / "parameters.old").exists()
    for rate in ("4800", "2400"):
        await store.update([("Serial.Ser1.BaudRate", rate)], Role.ADMIN)
    store.close()
    assert (tmp_path / "parameters").read_text() == (
        "root.Serial.Ser1.BaudRate=2400\nroot.PortManager.P0.Telnet.Enabled=yes\n"
        "root.PortManager.P3.PTZServer.Enabled=yes\n"
    )
    assert (tmp_path / "parameters.old").read_text() == newer
    assert (tmp_path / "parameters.old").stat().st_mode & 0o777 == 0o600
    unknown = "no such parameter on this product"
    assert f"{tmp_path}/parameters line 1: PortManager.P0.Telnet.Enabled: {unknown}; kept" in caplog.messages
    assert caplog.text.count("; left out") == 2


async def test_an_unknown_line_counts_for_nothing_and_comes_back_with_the_version_that_knows_it(tmp_path: Path) -> None:
    (tmp_path / "parameters").write_text("root.PortManager.P1.PTZServer.Enabled=yes\n")
    store = Store(tmp_path, ONE_PORT)
    update = await store.update([("PortManager.P1.PTZServer.Enabled", "no")], Role.ADMIN)
    assert len(update.refused) == 1
    await store.update([("Serial.Ser1.BaudRate", "4800")], Role.ADMIN)
    store.close()
    two = Catalogue(Hardware(serial=(SerialHardware(),) * 2, managers=(ManagerHardware(1), ManagerHardware(2))))
    again = Store(tmp_path, two)
    assert again.published.value.settings.port_managers[1].ptz_server.enabled
    again.close()
