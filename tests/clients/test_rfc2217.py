"""Programs that set the line and move its modem lines by RFC 2217, unmodified, and pyserial's own tests of a port.

The line is a pty whose far end sends back what it hears, and whose modem lines are played: DTR comes back as DSR, RTS
as CTS, as a loop plug wires them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.host.config import ChainedConfig, PortConfig, Rfc2217Config
from gateway.port.line import ModemLines
from gateway.serial_line.uart import Uart
from protocol.parameters.hardware import ManagerHardware
from tests.helpers import free_port, laid_cable, needs_curl, running_gateway
from tests.test_chain import chain_to, serve_remotely, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.helpers import Gateway

pytestmark = [needs_curl, pytest.mark.clients]
needs_gensiot = pytest.mark.skipif(shutil.which("gensiot") is None, reason="Debian's gensio-bin is not installed")
needs_serialx = pytest.mark.skipif(
    importlib.util.find_spec("serialx") is None, reason="serialx is not installed: pip install -e '.[clients]'"
)
needs_esptool = pytest.mark.skipif(
    importlib.util.find_spec("esptool") is None, reason="esptool is not installed: pip install -e '.[clients]'"
)


@dataclass
class LoopPlug:
    """Modem lines that a pty has not: ours, and as the far end's."""

    dtr: bool = True
    rts: bool = True
    moves: list[tuple[float, bool, bool]] = field(default_factory=list)
    """When which lines were set, and how they are since: DTR, RTS."""

    breaks: list[bool] = field(default_factory=list)
    """Breaks that began and ended."""

    def lines(self, _uart: Uart) -> ModemLines:
        return ModemLines(self.dtr, self.rts, self.rts, self.dtr, ri=False, dcd=False)

    def move(self, _uart: Uart, dtr: bool | None, rts: bool | None) -> None:
        self.dtr = self.dtr if dtr is None else dtr
        self.rts = self.rts if rts is None else rts
        self.moves.append((trio.current_time(), self.dtr, self.rts))

    async def begin_break(self, _uart: Uart) -> None:
        await trio.lowlevel.checkpoint()
        self.breaks.append(True)

    def wired(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the lines of this process's devices be these."""
        monkeypatch.setattr(Uart, "modem_lines", lambda uart: self.lines(uart))
        monkeypatch.setattr(Uart, "set_modem_lines", lambda uart, dtr, rts: self.move(uart, dtr, rts))
        monkeypatch.setattr(Uart, "begin_break", lambda uart: self.begin_break(uart))
        monkeypatch.setattr(Uart, "end_break", lambda _uart: self.breaks.append(False))


@dataclass
class Looped:
    """A running gateway with such a line, which sends back what it hears."""

    gateway: Gateway
    rfc2217: int
    tcp: int
    plug: LoopPlug

    async def run(self, *command: object, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        return await trio.run_process(
            list(map(str, command)),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder or "")},
        )

    async def rate(self) -> int:
        rate = (await self.gateway.status())["settings_in_force"]["BaudRate"]
        assert isinstance(rate, int)
        return rate


@contextlib.asynccontextmanager
async def looped(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Looped]:
    plug, port = LoopPlug(), free_port()
    plug.wired(monkeypatch)
    sharing = PortConfig(rfc2217=Rfc2217Config((("127.0.0.1", port),), configure=True))
    async with running_gateway(directory, sharing=(sharing,)) as gateway, trio.open_nursery() as nursery:
        tcp = await gateway.open_tcp()
        await gateway.until(lambda status: status["services"].get(f"listen 127.0.0.1:{port} for RFC 2217") == "up")

        async def echo() -> None:
            while True:
                await gateway.lines[0].say(await gateway.lines[0].hear_some())

        nursery.start_soon(echo)
        yield Looped(gateway, port, tcp, plug)
        nursery.cancel_scope.cancel()


# -- pyserial's own tests ----------------------------------------------------------------------------------------------

RELEASE = "pyserial==3.5"
FILES = (
    *("test", "test_readline", "test_threaded", "test_timeout_class", "test_high_load", "test_settings_dict"),
    *("test_context", "test_cancel", "test_advanced", "test_iolib"),
)
CANCEL = {"TestCancelRead.test_cancel_once", "TestCancelWrite.test_cancel_once"}
BEYOND = {
    # Its handler has no write timeout, counts bytes that are on their way, and cancels nothing.
    "rfc2217": CANCEL
    | {
        "Test_MoreTimeouts.test_WriteTimeout",
        "Test4_Nonblocking.test2_Loopback",
        "Test4_Nonblocking.test2_LoopbackTimeout",
    },
    # Nor has this one any modem line, and it says 1 where more is to be read.
    "socket": CANCEL
    | {
        "Test0_DataWires.test1_RTS",
        "Test0_DataWires.test2_DTR",
        "Test2_Forever.test2_Loopback",
        "Test3_Timeout.test2_Loopback",
        "Test4_Nonblocking.test2_Loopback",
        "Test_MoreTimeouts.test_WriteTimeout",
    },
}
"""Tests that no far end can make pass, for reasons within pyserial's handler of the URL."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return pyserial's folder of tests, which only its source has."""
    folder = tmp_path_factory.mktemp("pyserial")
    source = ("--no-deps", "--no-binary", ":all:", "-d", str(folder), RELEASE)
    download = [sys.executable, "-m", "pip", "download", "-q", *source]
    done = subprocess.run(download, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot download the source of {RELEASE}: {done.stderr[-200:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/test"))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("scheme", BEYOND)
async def test_pyserials_own_tests_pass_but_for_what_its_handlers_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: Path, scheme: str, file: str
) -> None:
    with trio.fail_after(90):
        async with looped(tmp_path, monkeypatch) as line:
            url = f"{scheme}://127.0.0.1:{line.rfc2217 if scheme == 'rfc2217' else line.tcp}"
            url += "?poll_modem" if scheme == "rfc2217" else ""
            said = (await line.run(sys.executable, f"{file}.py", url, folder=suite)).stderr.decode()
            assert re.search(r"(?m)^Ran \d+ tests?", said), said
            failed = {f"{case}.{name}" for name, case in re.findall(r"(?m)^(?:ERROR|FAIL): (\w+) \(\w+\.(\w+)", said)}
            assert failed <= BEYOND[scheme], said


# -- other programs ----------------------------------------------------------------------------------------------------


@needs_serialx
async def test_serialx_sets_the_line_and_moves_its_modem_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import serialx, sys
with serialx.serial_for_url(f"rfc2217://127.0.0.1:{sys.argv[1]}", baudrate=19200) as port:
    port.write(bytes(range(256)))
    assert port.readexactly(256) == bytes(range(256))
    port.set_modem_pins(dtr=False, rts=True)
    print(port.get_modem_pins())
"""
    with trio.fail_after(30):
        async with looped(tmp_path, monkeypatch) as line:
            done = await line.run(sys.executable, "-c", program, line.rfc2217)
            assert done.returncode == 0, done.stderr.decode()
            assert (line.plug.dtr, line.plug.rts) == (False, True)


@needs_gensiot
async def test_gensio_carries_bytes_by_its_telnet_with_rfc_2217(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(30):
        async with looped(tmp_path, monkeypatch) as line, trio.open_nursery() as nursery:
            command = ["gensiot", "-i", "stdio(self)", f"telnet(rfc2217),tcp,127.0.0.1,{line.rfc2217}"]
            run = functools.partial(
                trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False
            )
            program: trio.Process = await nursery.start(run)
            assert program.stdin is not None
            assert program.stdout is not None
            await program.stdin.send_all(b"hello\n")
            heard = b""
            while not heard.endswith(b"hello\n"):
                heard += await program.stdout.receive_some()
            nursery.cancel_scope.cancel()


@needs_esptool
@pytest.mark.parametrize("strategy", ["ClassicReset", "USBJTAGSerialReset"])
async def test_esptools_reset_arrives_in_order_and_as_quickly_as_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    program = """
import serial, sys, time
import esptool.reset
port = serial.serial_for_url(f"rfc2217://127.0.0.1:{sys.argv[1]}?ign_set_control", baudrate=115200)
send = port.rfc2217_set_control
def told(value):
    if value[0] in (8, 9, 11, 12):
        print(time.monotonic(), value[0], flush=True)
    send(value)
port.rfc2217_set_control = told
getattr(esptool.reset, sys.argv[2])(port)()
time.sleep(0.2)
port.close()
"""
    with trio.fail_after(40):
        async with looped(tmp_path, monkeypatch) as line:
            line.plug.moves.clear()
            done = await line.run(sys.executable, "-c", program, line.rfc2217, strategy)
            assert done.returncode == 0, done.stderr.decode()
            asked = [(float(when), int(value)) for when, value in map(bytes.split, done.stdout.splitlines())]
            moves = line.plug.moves[-len(asked) :]
            assert len(asked) > 4
            for (_, value), (_, dtr, rts) in zip(asked, moves, strict=True):
                assert (dtr if value in (8, 9) else rts) == (value in (8, 11))
            for a, b in itertools.pairwise(zip(asked, moves, strict=True)):
                assert b[1][0] - a[1][0] == pytest.approx(b[0][0] - a[0][0], abs=0.03)


# -- two links away ----------------------------------------------------------------------------------------------------

FAR = """
import serial, sys, time

def soon(what):
    for _ in range(500):
        if what():
            return
        time.sleep(0.01)
    raise SystemExit("never")

port = serial.serial_for_url(f"rfc2217://127.0.0.1:{sys.argv[1]}", baudrate=19200, stopbits=2, timeout=5)
port.write(b"ask" + bytes([255, 0]))
assert port.read(5) == b"ask" + bytes([255, 0])
assert port.cts and port.dsr
port.rts = False
soon(lambda: not port.cts)
assert port.dsr
port.break_condition = True
port.break_condition = False
port.baudrate = 38400
print("open", flush=True)
sys.stdin.readline()
port.write(b"again")
assert port.read(5) == b"again"
print(port.baudrate, flush=True)
sys.stdin.readline()
port.close()
"""


async def test_pyserial_two_links_away_finds_the_line_as_its_owner_does_while_a_link_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug, port = LoopPlug(), free_port()
    plug.wired(monkeypatch)
    owned = PortConfig(remote=ChainedConfig(lines=True, configure=True))
    listening = PortConfig(rfc2217=Rfc2217Config((("127.0.0.1", port),), configure=True))
    with trio.fail_after(40):
        async with contextlib.AsyncExitStack() as stack:
            gateways: list[Gateway] = []
            for name, sharing in (("owner", owned), ("middle", PortConfig()), ("far", listening)):
                (tmp_path / name).mkdir()
                more: dict[str, Any] = (
                    {} if name == "owner" else {"ports": 0, "managers": (ManagerHardware(remote_port=0),)}
                )
                gateway = await stack.enter_async_context(
                    running_gateway(tmp_path / name, sharing=(sharing,), node_name=name, **more)
                )
                if gateways:
                    cable = await stack.enter_async_context(laid_cable(await serve_remotely(gateways[-1])))
                    await chain_to(gateway, cable.port)
                    await up(gateway)
                gateways.append(gateway)
            owner, line = gateways[0], gateways[0].lines[0]
            listener = f"listen 127.0.0.1:{port} for RFC 2217"
            await gateways[-1].until(lambda status: status["services"].get(listener) == "up")
            program = await trio.lowlevel.open_process(
                [sys.executable, "-c", FAR, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert program.stdin is not None
            assert program.stdout is not None
            await line.say(await line.hear(5))
            assert await program.stdout.receive_some() == b"open\n"
            status = await owner.status()
            assert status["settings_in_force"]["BaudRate"] == 38400
            assert status["settings_held"]["holder"].endswith(" client 1")
            assert (plug.rts, plug.breaks) == (False, [True, False])
            cable.cut()
            await program.stdin.send_all(b"go on\n")
            await line.say(await line.hear(5))
            assert await program.stdout.receive_some() == b"38400\n"
            await program.stdin.send_all(b"leave\n")
            assert await program.wait() == 0
            await owner.until(lambda status: status["settings_in_force"]["BaudRate"] == 9600)
