"""docs/api.md is true: every command on the page is run by a shell against a live daemon, and answers what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import trio

from gateway.host.config import SerialConfig
from gateway.web.pages import PAGES
from gateway.web.routes import ROUTES
from protocol.parameters.hardware import ManagerHardware, PortMode, SerialHardware
from tests.helpers import PASSWORD, needs_curl, running_gateway

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
EXAMPLES = re.findall(r"^\$ (curl .*)\n((?:[^$].*\n)*)", "".join(BLOCKS), re.MULTILINE)
ADDRESS = "127.0.0.1:8080"
COMMAND, ANSWER = b"!SCRSP\x0c\x0d", b":K\\"

pytestmark = needs_curl


def shape(value: Any) -> Any:
    """What of a JSON answer is the same on every machine: names and kinds, but not values."""
    match value:
        case dict():
            return {key: shape(each) for key, each in value.items()}
        case list():
            return [shape(each) for each in value[:1]]
        case bool() | None:
            return value
        case int() | float():
            return 0
    return ""


async def test_every_example_answers_what_the_page_shows(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "serial": (SerialConfig(str(tmp_path / "tty1"), SerialHardware((PortMode.RS232, PortMode.RS485))),),
        "managers": (ManagerHardware(serial=1, remote_port=0),),
    }
    with trio.fail_after(60):
        async with running_gateway(tmp_path, **more) as gateway, trio.open_nursery() as nursery:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes")
            here = {
                ADDRESS: f"127.0.0.1:{gateway.http_port}",
                "NAME:PASSWORD": f"'admin:{PASSWORD}'",
                "STATE_DIR": str(gateway.config.state_dir),
            }
            there = {f"127.0.0.1:{gateway.http_port}": ADDRESS, f":{port}": ":3000"}

            async def device() -> None:
                while await gateway.lines[0].hear(len(COMMAND)) == COMMAND:
                    await gateway.lines[0].say(ANSWER)

            nursery.start_soon(device)
            async with await trio.open_tcp_stream("127.0.0.1", port):
                await gateway.until(lambda status: len(status["clients"]) == 2)
                for command, shown in EXAMPLES:
                    shell = ["bash", "-c", replaced(command, here)]
                    done = await trio.run_process(shell, capture_stdout=True, stderr=DEVNULL)
                    answer = replaced(done.stdout.decode(), there)
                    if shown.startswith("{\n"):
                        assert shape(json.loads(answer)) == shape(json.loads(shown)), command
                    else:
                        # A page cannot show that the last line has no end.
                        assert answer.removesuffix("\n") == shown.removesuffix("\n"), command
            nursery.cancel_scope.cancel()


def replaced(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def test_every_path_has_an_example() -> None:
    shown = {found[1] for command, _ in EXAMPLES if (found := re.search(r"://127.0.0.1:8080(/[^?']*)", command))}
    assert shown == {path for path in ROUTES if path not in PAGES and "P#" not in path} | {"/"}


def test_every_command_on_the_page_is_an_example() -> None:
    assert len(EXAMPLES) == PAGE.count("\n$ ")
