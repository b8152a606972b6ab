"""Real clients of Axis products, unmodified, use a live daemon."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.host.config import HttpConfig
from protocol.http.credentials import Algorithm
from tests.helpers import PASSWORD, free_port, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.helpers import Gateway

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
APIS = ["api-discovery", "param-cgi", "serial-port"]
SHUTTER = bytes.fromhex("8101060100ff")
SERIAL = "/axis-cgi/com/serial.cgi"
HASHES = [(Algorithm.MD5,), (Algorithm.SHA256, Algorithm.MD5), (Algorithm.SHA256,)]


def needs_package(name: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(name)
    return pytest.mark.skipif(found is None, reason=f"{name} is not installed: pip install -e '.[clients]'")


async def run(gateway: Gateway, command: Sequence[object], written: bytes) -> dict[str, Any]:
    """Run a client while the device takes ``written`` and then answers a question; return what the client found."""
    found: list[subprocess.CompletedProcess[bytes]] = []

    async def client() -> None:
        found.append(await trio.run_process(list(map(str, command)), capture_stdout=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        assert await gateway.lines[0].hear(len(written)) == written
        await gateway.lines[0].say(b"ok")
    answer: dict[str, Any] = json.loads(found[0].stdout)
    return answer


@contextlib.asynccontextmanager
async def offering(directory: Path, hashes: tuple[Algorithm, ...]) -> AsyncIterator[Gateway]:
    """A gateway whose front door offers these hashes of Digest."""
    port = free_port()
    async with running_gateway(directory, http=HttpConfig((("127.0.0.1", port),), digest=hashes)) as gateway:
        gateway.http_port = port
        yield gateway


async def stop_bits(gateway: Gateway) -> str:
    return await gateway.curl("/axis-cgi/param.cgi?action=list&group=Serial.Ser1.StopBits")


@needs_package("axis")
@needs_curl
@pytest.mark.parametrize("proto", ["http", "https"])
async def test_axis_60_as_home_assistant_calls_it_initializes_lists_updates_and_uses_the_line(
    tmp_path: Path, proto: str
) -> None:
    with trio.fail_after(40):
        async with running_gateway(tmp_path) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            if proto == "https":  # it knows no other scheme than Digest, and recommended is Basic there
                assert await gateway.set({"Network.HTTP.AuthenticationPolicy": "digest"}) == "OK"
            command = [sys.executable, HERE / "axis_client.py", str(gateway.http_port), PASSWORD, proto]
            found = await run(gateway, command, SHUTTER + b"Q")
            assert found == {
                "version": "60",
                "apis": APIS,
                "versions": ["1.0"],
                "product": "Daisyport",
                "type": found["type"],
                "profiles": [],
                "ports": 0,
                "applications": False,
                "firmware": found["firmware"],
                "serial_number": found["serial_number"],
                "baud_rate": 9600,
                "ptz": 1,
                "update": "OK",
                "write": "",
                "read": "#6F6B#",
            }
            assert await stop_bits(gateway) == "Serial.Ser1.StopBits=2\n"


@needs_curl
@pytest.mark.parametrize("library", [pytest.param(name, marks=needs_package(name)) for name in ("requests", "httpx")])
@pytest.mark.parametrize("hashes", HASHES)
async def test_a_python_library_with_digest_lists_updates_and_uses_the_line(
    tmp_path: Path, library: str, hashes: tuple[Algorithm, ...]
) -> None:
    with trio.fail_after(40):
        async with offering(tmp_path, hashes) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            script = HERE / "http_clients.py"
            command = [sys.executable, script, library, str(gateway.http_port), PASSWORD]
            assert await run(gateway, command, SHUTTER + b"Q") == {
                "apis": APIS,
                "list": "Serial.Ser1.BaudRate=9600\n",
                "update": "OK",
                "write": 204,
                "read": "#6F6B#",
                "again": [200] * 20,
            }
            assert await stop_bits(gateway) == "Serial.Ser1.StopBits=2\n"


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with camstreamerlib in its node_modules; skip where npm is absent, which CI counts as failed."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "camstreamerlib@1.2.3"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install camstreamerlib: {done.stderr[-200:]}")
    return folder


@needs_curl
@pytest.mark.parametrize("hashes", HASHES[:2])  # it knows no other than MD5, and finds that beside SHA-256
async def test_camstreamerlib_1_2_3_lists_updates_and_uses_the_line(
    tmp_path: Path, node_modules: Path, hashes: tuple[Algorithm, ...]
) -> None:
    with trio.fail_after(40):
        async with offering(tmp_path, hashes) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            command = ["node", HERE / "camstreamer.mjs", node_modules, str(gateway.http_port), PASSWORD]
            assert await run(gateway, command, b"Q") == {
                "apis": APIS,
                "cameras": {"root.PTZ.CamPorts.Cam1Port": "1"},
                "baudRate": {"Serial.Ser1.BaudRate": "9600"},
                "update": "OK",
                "exchange": "#6F6B#",
                "refused": "# Error: Error setting 'root.Serial.Ser1.BaudRate' to '12345'!",
            }
            assert await stop_bits(gateway) == "Serial.Ser1.StopBits=2\n"


@needs_curl
@pytest.mark.parametrize("policy", ["recommended", "digest", "basic", "basic_digest"])
async def test_curl_finds_its_way_in_by_anyauth_under_every_policy(tmp_path: Path, policy: str) -> None:
    with trio.fail_after(40):
        async with running_gateway(tmp_path) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            assert await gateway.set({"Network.HTTP.AuthenticationPolicy": policy}) == "OK"
            update = "/axis-cgi/param.cgi?action=update&Serial.Ser1.StopBits=2"
            assert await gateway.curl(update, "--anyauth") == "OK"
            listed = await gateway.curl(
                "/axis-cgi/param.cgi", "--anyauth", "-d", "action=list&group=Serial.Ser1.StopBits"
            )
            assert listed == "Serial.Ser1.StopBits=2\n"
            assert await gateway.curl(f"{SERIAL}?write={SHUTTER.hex()}", "--anyauth", "-w", "%{http_code}") == "204"
            assert await gateway.lines[0].hear(len(SHUTTER)) == SHUTTER
            await gateway.lines[0].say(b":K\\")
            assert await gateway.curl(f"{SERIAL}?read=3&wait=9", "--anyauth") == "#3A4B5C#"


@needs_curl
@pytest.mark.parametrize("hashes", HASHES)
async def test_curl_logs_in_by_whatever_hash_is_offered(tmp_path: Path, hashes: tuple[Algorithm, ...]) -> None:
    with trio.fail_after(40):
        async with offering(tmp_path, hashes) as gateway:
            assert await stop_bits(gateway) == "Serial.Ser1.StopBits=1\n"


@needs_curl
async def test_curl_discovers_the_apis(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_gateway(tmp_path) as gateway:
            listed = json.loads(await gateway.curl("/axis-cgi/apidiscovery.cgi", "-d", '{"method": "getApiList"}'))
            assert [api["id"] for api in listed["data"]["apiList"]] == APIS
