"""A key is changed on every CPU of a chain while bytes flow, and none of them is lost."""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.host.config import RemoteConfig
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


async def carried(gateway: Gateway, key: str = NEW) -> tuple[int, str]:
    """Have a key carried down the chain; return the exit status and the words, as if they stood on one line."""
    done = await rekey(gateway, key, "--chain", "--yes")
    assert done.stderr == b""
    assert key not in done.stdout.decode()
    return done.returncode, " ".join(done.stdout.decode().split())


async def links(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.status())["remote_port_server"]["links"]
    return found


async def change_one_by_one(*gateways: Gateway) -> None:
    """Go from CPU to CPU, as an operator does."""
    for server, below in itertools.pairwise(gateways):
        done = await rekey(server)
        assert (done.returncode, done.stderr) == (0, b"")
        assert NEW.encode() not in done.stdout
        assert [link["linked"] for link in await links(server)] == [True]
        assert await below.set({"RemotePort.R0.AuthenticationKey": NEW}) == "OK"


def key_of(gateway: Gateway, name: str = "RemotePort.R0") -> str:
    """The key that is on its disk."""
    found = re.search(f"root.{name}.AuthenticationKey=(.*)", (gateway.config.state_dir / "parameters").read_text())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("by_one_command", [True, False])
async def test_a_key_is_changed_along_a_chain_under_traffic_without_a_byte_lost(
    tmp_path: Path, by_one_command: bool
) -> None:
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
                if by_one_command:
                    status, said = await carried(owner)
                    assert (status, said.count("has the new key")) == (0, 3), "the owner, and both CPUs behind it"
                else:
                    await change_one_by_one(owner, middle, far)
                for server in (owner, middle):
                    while [(link["linked"], link["old_key"]) for link in await links(server)] != [(True, False)]:
                        await trio.lowlevel.checkpoint()
                changed.set()
                assert await receive_exactly(tcp, len(down) - len(down) // 4) == down[len(down) // 4 :]
            assert heard == [up]
            for gateway in gateways:
                shown = await gateway.status()
                assert (shown["bytes_dropped"], shown["gaps"]) == (0, 0)
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
            assert b"control characters" in (await rekey(owner, "a\tb", "--chain", "--yes")).stderr
            assert [link["linked"] for link in await links(owner)] == [True]
            assert f"AuthenticationKey={KEY}" in await owner.curl(
                "/axis-cgi/param.cgi?action=list&group=PortManager.P0"
            )
            assert await owner.update(RemotePortServer_AuthenticationKey="") == "OK"
            assert b"is empty" in (await rekey(owner)).stderr
            assert (owner.config.state_dir / "old_keys").read_text() == "[]"


async def test_a_hop_that_is_down_is_named_and_has_the_key_when_the_command_runs_again(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with chain(tmp_path, 2) as (gateways, cables):
            owner, middle, far = gateways
            cables[1].unplug()
            while (await links(middle))[0]["linked"]:
                await trio.lowlevel.checkpoint()
            status, said = await carried(owner)
            assert status == 1
            assert "cpu2: has the new key" in said
            assert "cpu3: its link is down, and it has the old key: run this again when it is back" in said
            assert (key_of(middle), key_of(far)) == (NEW, KEY)
            assert key_of(middle, "PortManager.P0.RemotePortServer") == NEW
            cables[1].plug()
            while not (await links(middle))[0]["linked"]:  # by the old key, which is taken for a day
                await trio.lowlevel.checkpoint()
            status, said = await carried(owner)
            assert (status, "cpu2: had the new key already cpu3: has the new key" in said) == (0, True)
            assert key_of(far) == NEW


async def test_a_cpu_that_takes_no_key_from_its_server_is_named_with_what_to_do(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path, 1, RemoteConfig(accept_rekey=False)) as (gateways, _):
            owner, leaf = gateways
            status, said = await carried(owner)
            assert (status, "set RemotePort.R#.AuthenticationKey there" in said) == (1, True)
            assert key_of(leaf) == KEY
            assert [(link["linked"], link["old_key"]) for link in await links(owner)] == [(True, True)]


async def test_a_server_with_a_key_of_its_own_keeps_it(tmp_path: Path) -> None:
    own = "of-the-last-hop-alone"
    with trio.fail_after(30):
        async with chain(tmp_path, 2) as (gateways, _):
            owner, middle, far = gateways
            assert (await rekey(middle, own)).returncode == 0
            assert await far.set({"RemotePort.R0.AuthenticationKey": own}) == "OK"
            while [(link["linked"], link["old_key"]) for link in await links(middle)] != [(True, False)]:
                await trio.lowlevel.checkpoint()
            status, said = await carried(owner)
            assert (status, "cpu3: the CPU above it has another key for those below" in said) == (1, True)
            assert (key_of(middle), key_of(far)) == (NEW, own)


async def test_a_second_key_within_seconds_is_not_taken_from_a_server(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path) as (gateways, _):
            owner, leaf = gateways
            assert (await carried(owner))[0] == 0
            status, said = await carried(owner, "one more key")
            assert (status, "was given another one seconds ago" in said) == (1, True)
            assert key_of(leaf) == NEW, "the key from before, which the server takes for a day"


async def test_a_full_disk_of_a_cpu_in_the_middle_leaves_it_and_those_below_the_old_key(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path, 2) as (gateways, _):
            owner, middle, far = gateways
            (middle.config.state_dir / "old_keys").mkdir()
            status, said = await carried(owner)
            assert (status, "cpu2: could not store it" in said, "cpu3: was not reached" in said) == (1, True, True)
            assert (key_of(middle), key_of(far)) == (KEY, KEY)
            assert key_of(middle, "PortManager.P0.RemotePortServer") == KEY
            assert [link["linked"] for link in await links(owner)] == [True]


async def test_a_chain_that_is_cut_the_moment_a_cpu_has_the_key_connects_again(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with chain(tmp_path, 2) as (gateways, cables):
            owner, middle, far = gateways
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rekey, owner, NEW, "--chain", "--yes")
                while key_of(middle) == KEY:
                    await trio.lowlevel.checkpoint()
                for cable in cables:
                    cable.unplug()
                assert key_of(middle, "PortManager.P0.RemotePortServer") == NEW, "both in one step"
                kept = json.loads((middle.config.state_dir / "old_keys").read_text())
                assert [(each["key"], each["beside"]) for each in kept] == [(KEY, NEW)], "and before it"
                nursery.cancel_scope.cancel()
            for cable in cables:
                cable.plug()
            for server in (owner, middle):
                while not (await links(server))[0]["linked"]:
                    await trio.lowlevel.checkpoint()
            assert (await carried(owner))[0] == 0
            assert key_of(far) == NEW


async def test_where_no_cpu_is_chained_nothing_is_changed(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path) as (gateways, _):
            refused = await rekey(gateways[1], NEW, "--chain", "--yes")
            assert (refused.returncode, b"no CPU is chained to P0 here" in refused.stderr) == (1, True)
