"""``daisyport status`` as a user meets it, against a gateway in this process."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import trio

from gateway.cli import main
from gateway.cli.watch import screen
from protocol.parameters.hardware import ManagerHardware
from tests.helpers import running_gateway
from tests.test_chain import chain

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import pytest

    from tests.helpers import Gateway


async def asked(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[bytes]:
    config = gateway.config.state_dir / "daisyport.toml"
    config.write_text(f'state_dir = "{gateway.config.state_dir}"\nruntime_dir = "{gateway.config.runtime_dir}"\n')
    command = [sys.executable, "-m", "gateway", "status", *words, "--config", str(config)]
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False
    )
    return done


async def test_all_ports_are_shown_in_columns_of_a_terminal(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path, ports=2) as gateway:
            gateway.lines[1].unplug()
            await gateway.until(lambda port: port["state"] == "down", port=1)
            shown = (await asked(gateway)).stdout.decode().splitlines()
            reason = (await gateway.status(1))["reason"]
    assert shown[0].startswith("cpu1: Daisyport ")
    assert shown[2].split() == ["PORT", "STATE", "DEVICE", "CLIENTS", "FROM", "LINE", "TO", "LINE"]
    assert shown[3].split()[:2] == ["P0", "up"]
    assert shown[4].split()[:2] == ["P1", "down"]
    assert " ".join("".join(f"{line}\n" for line in shown[5:]).split()) == reason, "whole, with what to do"
    assert max(map(len, shown)) <= 80


async def test_a_long_name_and_a_long_reason_fit_the_terminal_and_the_reason_is_whole(
    short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, managers = "a name of a node " * 8, (ManagerHardware(remote_port=0),)
    shown: list[str] = []
    with trio.fail_after(30):
        async with running_gateway(short_path, ports=0, managers=managers, node_name=name) as gateway:
            await gateway.until(lambda port: "AutoConf dials nobody" in port["reason"])
            reason = (await gateway.status())["reason"]
            status = json.loads(await gateway.curl("/daisyport/status"))
            config = gateway.config.state_dir / "daisyport.toml"
            config.write_text(f'state_dir = "{short_path}/state"\nruntime_dir = "{short_path}/run"\n')
            for words in (["status"], ["status", "P0"], ["ports"], ["chain"]):
                assert await trio.to_thread.run_sync(main.main, [*words, "--config", str(config)]) == 0
                shown.append(capsys.readouterr().out)
    *whole, chain = shown
    for text in whole:
        assert reason in " ".join(text.split())
    assert "; 0 resumed, 0 bytes lost" in " ".join(chain.split())
    assert max(len(line) for text in shown for line in text.splitlines()) <= 80
    watched = [line for table in screen(status, None, 1.0, 0.0) for line in table.lines()]
    assert reason in " ".join(" ".join(watched).split())
    assert max(map(len, watched)) <= 80


async def test_one_port_is_shown_with_its_settings_services_and_clients(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            port = await gateway.open_tcp()
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(b"twelve bytes")
                await gateway.lines[0].hear(12)
                await gateway.until(lambda port: bool(port["clients"]))
                shown = (await asked(gateway, "P0")).stdout.decode()
                whole = json.loads((await asked(gateway, "P0", "--json")).stdout)
    assert shown.startswith("P0: up\n")
    assert "BaudRate=9600" in shown
    assert "GenericTCPServer" in shown
    assert shown.splitlines()[-1].split()[-1] == "12"
    assert whole["clients"][0]["written"] == 12


async def test_what_cannot_be_shown_is_told_in_one_line(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            unknown = await asked(gateway, "P9")
            socket = gateway.config.runtime_dir / "control/http.sock"
        stopped = await asked(gateway)
    assert (unknown.returncode, unknown.stderr) == (1, b"daisyport: there is no port 'P9'; the ports are P0\n")
    assert stopped.returncode == 1
    assert stopped.stderr.decode() == f"daisyport: no gateway answers at {socket}: is it running?\n"


async def test_a_port_of_another_cpu_is_shown_with_its_links_and_who_may_be_dialled(short_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(short_path) as ((owner, far), (cable,)):
            near, here = [(await asked(each, "P0")).stdout.decode() for each in (owner, far)]
            cable.unplug()
            await far.until(lambda port: bool(port.get("remote_port_candidates", [{}])[0].get("last_answer")))
            cut = (await asked(far, "P0")).stdout.decode()
    assert re.search(r"^link from cpu2 R0: up(, round trip \d+ ms)?$", near, re.MULTILINE)
    assert re.search(r"^link to cpu1 P0: up(, round trip \d+ ms)?, 0 lost so far$", here, re.MULTILINE)
    assert "\nrequests  0 superseded, 0 bytes rubbish\n" in here
    assert "candidate" not in here
    assert re.search(r"^link to cpu1 P0: down", cut, re.MULTILINE)
    assert re.search(rf"^candidate 127.0.0.1 port {cable.port}\n      next try in \d+ s; \S+", cut, re.MULTILINE)
    assert max(map(len, (near + here + cut).splitlines())) <= 80
