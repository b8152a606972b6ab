"""Real masters ask the units of a line by Modbus TCP."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.helpers import free_port, needs_curl
from tests.sharing.masters import MODBUS, shared
from tests.sharing.wire import ModbusUnits, register

HERE = Path(__file__).parent
pytestmark = [needs_curl, pytest.mark.clients]
needs_pymodbus = pytest.mark.skipif(
    importlib.util.find_spec("pymodbus") is None, reason="pymodbus is not installed: pip install -e '.[clients]'"
)
needs_mbpoll = pytest.mark.skipif(shutil.which("mbpoll") is None, reason="Debian's mbpoll is not installed")


def served(port: int, units: str = "") -> str:
    """Return the owner's tables of turns and of Modbus TCP."""
    return f'{MODBUS}\n[port_manager.modbus_tcp]\nlisten = ["127.0.0.1:{port}"]\n{units}'


def registers(unit: int) -> list[int]:
    return [register(unit, address) for address in (100, 101, 102)]


async def run(*command: object) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        list(map(str, command)), capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
    )


async def mbpoll(port: int, unit: int) -> tuple[list[int], str]:
    """Poll a unit once; return the registers, and what was said of errors."""
    done = await run(
        *("mbpoll", "-m", "tcp", "-0", "-1", "-o", 3, "-a", unit, "-t", 4, "-r", 100, "-c", 3, "-p", port, "127.0.0.1")
    )
    values = re.findall(rb"(?m)^\[1\d\d\]:\s+(\d+)", done.stdout)
    return list(map(int, values)), done.stderr.decode()


@needs_mbpoll
async def test_mbpoll_reads_each_unit_and_is_told_which_do_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with trio.fail_after(40):
        async with shared(tmp_path, monkeypatch, ModbusUnits(), 9600, served(port, "units = [1, 2, 9]\n")):
            assert await mbpoll(port, 1) == (registers(1), "")
            assert await mbpoll(port, 2) == (registers(2), "")
            values, error = await mbpoll(port, 9)
            assert values == []
            assert "Target device failed to respond" in error
            values, error = await mbpoll(port, 3)
            assert values == []
            assert "Gateway path unavailable" in error


@needs_pymodbus
@pytest.mark.parametrize("chained", [False, True], ids=["direct", "chained"])
async def test_pymodbus_reads_each_unit_and_is_told_which_do_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chained: bool
) -> None:
    port = free_port()
    with trio.fail_after(40):
        async with shared(tmp_path, monkeypatch, ModbusUnits(), 19200, served(port), chained):
            done = await run(sys.executable, HERE / "modbus_client.py", port, 1, 2, 9, 3)
            assert json.loads(done.stdout) == [registers(1), registers(2), 0x0B, registers(3)]


@needs_pymodbus
async def test_a_master_by_modbus_tcp_and_one_by_rtu_share_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, units = free_port(), (1, 2, 3) * 20
    with trio.fail_after(60):
        async with shared(tmp_path, monkeypatch, ModbusUnits(), 9600, served(port)) as line:
            tallies = []

            async def poll() -> None:
                tallies.extend(await line.masters(4.0, line.ports[0]))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await trio.sleep(2)
                done = await run(sys.executable, HERE / "modbus_client.py", port, *units)
            assert json.loads(done.stdout) == [registers(unit) for unit in units]
            assert (tallies[0].wrong, tallies[0].timeouts, tallies[0].exceptions) == (0, 0, 0)
            assert tallies[0].right > 20
