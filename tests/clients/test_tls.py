"""The commands of docs/clients.md, section TLS, as they stand there but for names and ports, at a live daemon."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.host.config import PortConfig, TlsConfig
from gateway.state.users import Users
from tests.clients.test_tools import needs
from tests.helpers import PASSWORD, free_port, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helpers import Gateway

pytestmark = [needs_curl, pytest.mark.clients]

PAGE = (Path(__file__).parents[2] / "docs/clients.md").read_text()
SECTION = PAGE.partition("\n## TLS\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"(?m)^ *\$ (.+)$", SECTION)
MADE, REVOKED = (slice(0, 3), slice(-3, None))
"""The commands that make an authority and a certificate, and those that take it back."""
(SCRIPT,) = re.findall(r"(?s)```python\n(.+?)```", SECTION)


@asynccontextmanager
async def serving(directory: Path, *more: str) -> AsyncIterator[tuple[Gateway, int]]:
    """A port that is open to anna, with her files beside the authority's in ``directory``; ``more`` is done there."""
    port = free_port()
    for command in (*COMMANDS[MADE], *more):
        assert "openssl " in command or "ca.cnf" in command
        await trio.run_process(command, shell=True, cwd=directory, capture_stderr=True)
    sharing = PortConfig(tls=TlsConfig((("127.0.0.1", port),), directory / "clients.pem"))
    with trio.fail_after(50):
        async with running_gateway(directory, sharing=(sharing,)) as gateway:
            Users(gateway.config.state_dir).add("anna", "operator", PASSWORD)
            (directory / "tls.pem").symlink_to(gateway.config.state_dir / "tls.pem")
            yield gateway, port


async def answers(gateway: Gateway, command: list[str], stdin: bytes, directory: Path) -> bytes:
    """What a client prints while the line answers it; it is ended then where it does not end by itself."""
    printed = b""
    async with trio.open_nursery() as nursery:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        started = functools.partial(trio.run_process, command, cwd=directory, check=False, **pipes)
        process: trio.Process = await nursery.start(started)
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send_all(stdin)
        if "s_client" not in command:  # with -quiet it reads on for ever
            await process.stdin.aclose()
        assert await gateway.lines[0].hear(3) == b"AT\r"
        await gateway.lines[0].say(b"OK\r\n")
        while b"OK\r\n" not in printed:
            data = await process.stdout.receive_some()
            assert data, printed
            printed += data
        nursery.cancel_scope.cancel()
    return printed


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=needs(program), id=program)
        for program in ("socat", "openssl", "gnutls-cli")
        for each in COMMANDS[4:-3]
        if program in each.partition("127.0.0.1")[0]
    ],
)
async def test_a_command_of_the_page_talks_to_the_line(tmp_path: Path, command: str) -> None:
    async with serving(tmp_path) as (gateway, port):
        words = shlex.split(command.rpartition("| ")[2].replace("4443", str(port)))
        assert (await answers(gateway, words, b"AT\r", tmp_path)).endswith(b"OK\r\n")


async def test_the_script_of_the_page_talks_to_the_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, port):
        script = [sys.executable, "-c", SCRIPT.replace("4443", str(port)) + "\nprint('OK\\r\\n', flush=True)"]
        assert b"b'OK\\r\\n'" in await answers(gateway, script, b"", tmp_path)


@needs("openssl")
async def test_a_client_without_a_certificate_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, port):
        assert b"alert certificate required" in await told(gateway, port)


@needs("openssl")
async def test_a_certificate_that_was_taken_back_as_the_page_says_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, *COMMANDS[REVOKED]) as (gateway, port):
        certificate = ("-cert", f"{tmp_path}/anna.crt", "-key", f"{tmp_path}/anna.key")
        assert b"alert certificate revoked" in await told(gateway, port, *certificate)


async def told(gateway: Gateway, port: int, *more: str) -> bytes:
    """What a client that is refused prints."""
    command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", *more]
    done = await trio.run_process(command, stdin=b"", capture_stdout=True, capture_stderr=True, check=False)
    assert (await gateway.status())["clients_turned_away_by_service"]["TLS"] == 1
    return done.stderr
