"""A key is changed on every CPU of a chain while bytes flow, and none of them is lost."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

import trio

from tests.helpers import needs_curl
from tests.test_chain import KEY, chain, client, receive_exactly

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.helpers import Gateway

pytestmark = needs_curl

NEW = "a-newer-key"


async def rekey(gateway: Gateway, key: str = NEW, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Give P0 another key, as an operator does."""
    config = gateway.config.state_dir / "daisyport.toml"
    config.write_text(f'state_dir = "{gateway.config.state_dir}"\nruntime_dir = "{gateway.config.runtime_dir}"\n')
    command = [sys.executable, "-m", "gateway", "rekey", "P0", *words, "--config", str(config)]
    return await trio.run_process(
        command, stdin=f"{key}\n".encode(), capture_stdout=True, capture_stderr=True, check=False
    )


async def links(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.status())["remote_port_server"]["links"]
    return found


async def test_a_key_is_changed_along_a_chain_under_traffic_without_a_byte_lost(tmp_path: Path) -> None:
    up, down = random.Random(1).randbytes(60_000), random.Random(2).randbytes(60_000)
    with trio.fail_after(60):
        async with chain(tmp_path, 2) as (gateways, _):
            owner, middle, far = gateways
            line = owner.lines[0]
            async with await client(await far.open_tcp()) as tcp, trio.open_nursery() as nursery:
                changed = trio.Event()
                heard: list[bytes] = []

                async def send(write: Any, data: bytes) -> None:
                    """Send until the keys are changed, and then the rest."""
                    for start in range(0, len(data), 300):
                        await write(data[start : start + 300])
                        if start == len(data) // 2:
                            await changed.wait()

                async def hear() -> None:
                    heard.append(await line.hear(len(up)))

                nursery.start_soon(send, tcp.send_all, up)
                nursery.start_soon(send, line.say, down)
                nursery.start_soon(hear)
                assert await receive_exactly(tcp, len(down) // 4) == down[: len(down) // 4]
                for server, below in ((owner, middle), (middle, far)):
                    done = await rekey(server)
                    assert (done.returncode, done.stderr) == (0, b"")
                    assert NEW.encode() not in done.stdout
                    assert [link["linked"] for link in await links(server)] == [True]
                    assert await below.set({"RemotePort.R0.AuthenticationKey": NEW}) == "OK"
                for server in (owner, middle):
                    while [(link["linked"], link["old_key"]) for link in await links(server)] != [(True, False)]:
                        await trio.lowlevel.checkpoint()
                changed.set()
                assert await receive_exactly(tcp, len(down) - len(down) // 4) == down[len(down) // 4 :]
            assert heard == [up]
            for gateway in gateways:
                status = await gateway.status()
                assert (status["bytes_dropped"], status["gaps"]) == (0, 0)
            assert (await owner.status())["remote_port_server"]["wrong_keys"] == 0


async def test_a_key_that_cannot_be_is_refused_and_the_present_one_stays(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path) as (gateways, _):
            owner = gateways[0]
            for key, why in ((KEY, b"must be another key"), ("", b"not empty"), ("x" * 129, b"at most 128")):
                refused = await rekey(owner, key)
                assert refused.returncode == 1
                assert why in refused.stderr
                assert not key or key.encode() not in refused.stderr
            assert b"--hours must be from 1 to 720" in (await rekey(owner, NEW, "--hours", "0")).stderr
            assert [link["linked"] for link in await links(owner)] == [True]
            assert f"AuthenticationKey={KEY}" in await owner.curl(
                "/axis-cgi/param.cgi?action=list&group=PortManager.P0"
            )
            assert await owner.update(RemotePortServer_AuthenticationKey="") == "OK"
            assert b"is empty" in (await rekey(owner)).stderr
            assert (owner.config.state_dir / "old_keys").read_text() == "[]"
