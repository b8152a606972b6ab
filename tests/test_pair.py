"""`daisyport pair` at two CPUs: digits on both sides, a key for both, and nothing where anybody says no."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.cli.main import main
from protocol.link.pairing import Pairing, Side
from protocol.parameters.hardware import ManagerHardware
from tests.helpers import needs_curl, running_gateway
from tests.test_chain import client, receive_exactly, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.helpers import Gateway

pytestmark = needs_curl


class Command:
    """One ``daisyport pair``, as a person has it on a terminal."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.shown = ""

    async def until(self, pattern: str) -> str:
        """Read what it prints until the pattern is there; return the pattern's first group."""
        assert self.process.stdout is not None
        while (found := re.search(pattern, self.shown)) is None:
            data = await self.process.stdout.receive_some()
            assert data, self.shown
            self.shown += data.decode()
        return found[1] if found.groups() else found[0]

    async def digits(self) -> str:
        return await self.until(r"    (\d{3} \d{3})\n")

    async def say(self, word: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{word}\n".encode())

    async def ended(self) -> tuple[int, str]:
        """Wait for its end; return its exit status and all that it printed."""
        assert self.process.stdout is not None
        while data := await self.process.stdout.receive_some():
            self.shown += data.decode()
        return await self.process.wait(), " ".join(self.shown.split())


@contextlib.asynccontextmanager
async def pair(gateway: Gateway, *words: str) -> AsyncIterator[Command]:
    config = gateway.config.state_dir / "daisyport.toml"
    lines = [
        f'state_dir = "{gateway.config.state_dir}"',
        f'runtime_dir = "{gateway.config.runtime_dir}"',
        f'node_name = "{gateway.config.node_name}"',
        '[tcp]\nbind = ["127.0.0.1"]',
        "[[port_manager]]",
    ]
    config.write_text("\n".join(lines) + "\n")
    async with running([sys.executable, "-u", "-m", "gateway", "pair", *words, "--config", str(config)]) as command:
        yield command


@contextlib.asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[Command]:
    """Run a command as a person does, until the block ends."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield Command(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            await stream.aclose()


@contextlib.asynccontextmanager
async def two(directory: Path) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """A CPU with a line, and one without."""
    for name in ("owner", "far"):
        (directory / name).mkdir()
    async with (
        running_gateway(directory / "owner", node_name="owner") as owner,
        running_gateway(directory / "far", ports=0, managers=(ManagerHardware(remote_port=0),), node_name="far") as far,
    ):
        yield owner, far


def stored(gateway: Gateway) -> str:
    """The parameters on its disk."""
    file = gateway.config.state_dir / "parameters"
    return file.read_text() if file.exists() else ""


async def waits(command: Command) -> str:
    """The port at which it waits."""
    return await command.until(r"--tcp-port (\d+)")


async def test_two_cpus_that_were_paired_share_the_line_and_the_users(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with two(tmp_path) as (owner, far), pair(owner, "--tcp-port", "0", "--users") as at_owner:
            (far.config.state_dir / "users").unlink()
            where = ("--join", "127.0.0.1", "--tcp-port", await waits(at_owner), "--users")
            async with pair(far, *where) as at_far:
                assert await at_owner.digits() == await at_far.digits()
                await at_far.say("y")
                await at_owner.say("yes")
                status, said = await at_far.ended()
                assert (status, "P0 here uses the line of owner now." in said) == (0, True), said
                assert "New users who may log in here: admin, operator, viewer." in said
                assert "owner, at 127.0.0.1: both sides show six digits." in said
            await at_owner.until("far has joined: it uses P0 of owner")
            at_owner.process.send_signal(2)
            status, said = await at_owner.ended()
            assert (status, said.endswith("1 joined.")) == (0, True)
            await up(far)
            async with await client(await far.open_tcp()) as tcp:  # by the users that were taken over
                await tcp.send_all(b"hello")
                assert await owner.lines[0].hear(5) == b"hello"
                await owner.lines[0].say(b"world")
                assert await receive_exactly(tcp, 5) == b"world"
            key = re.search("R0.AuthenticationKey=(.*)", stored(far))
            assert key is not None
            assert len(key[1]) == 35
            assert key[1] not in at_owner.shown + at_far.shown


@pytest.mark.parametrize("refuses", ["owner", "far"])
async def test_where_anybody_says_no_nothing_is_set_and_both_commands_end(tmp_path: Path, refuses: str) -> None:
    with trio.fail_after(60):
        async with two(tmp_path) as (owner, far), pair(owner, "--tcp-port", "0") as at_owner:
            before = [stored(each) for each in (owner, far)]
            async with pair(far, "--join", "127.0.0.1", "--tcp-port", await waits(at_owner)) as at_far:
                for name, command in (("owner", at_owner), ("far", at_far)):
                    await command.digits()
                    await command.say("n" if refuses == name else "y")
                for name, command in (("owner", at_owner), ("far", at_far)):
                    status, said = await command.ended()
                    assert status == 1
                    assert ("check the network" if refuses == name else "the digits are not the same") in said
            assert [stored(each) for each in (owner, far)] == before


async def test_whoever_is_no_cpu_to_be_paired_is_named_and_costs_the_others_nothing(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with two(tmp_path) as (owner, far), pair(owner, "--tcp-port", "0") as at_owner:
            port = await waits(at_owner)
            async with await client(int(port)) as stranger:
                await stranger.send_all(b"GET / HTTP/1.1\r\n\r\n")
                await at_owner.until("127.0.0.1: a message of 18245 bytes, which is no pairing")
            async with await client(int(port)):
                pass
            await at_owner.until("127.0.0.1: the connection ended")
            async with pair(far, "--join", "127.0.0.1", "--tcp-port", port) as at_far:
                assert await at_far.digits() == await at_owner.digits()


async def test_what_a_cpu_gives_is_judged_before_it_is_set(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with two(tmp_path) as (_, far):
            before = stored(far)
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = str(listener.socket.getsockname()[1])
            keys = (b'{"key": "", "port": 1}', b'{"key": "\\ud800", "port": 1}', b'{"key": "k", "port": "1"}')
            for gift in (b"{", b"[" * 9000, *keys):
                async with pair(far, "--join", "127.0.0.1", "--tcp-port", port) as at_far:
                    stream = await listener.accept()
                    liar = Pairing(Side.GIVES, "liar", os.urandom(32), os.urandom(32))
                    agreed = False
                    await at_far.say("y")
                    while not agreed:
                        await stream.send_all(liar.data_to_send())
                        liar.receive_data(await stream.receive_some())
                        while (event := liar.next_event()) is not None:
                            agreed = agreed or type(event).__name__ == "Agreed" or liar.agree() is not None
                    await stream.send_all(liar.data_to_send())
                    liar.give(gift)
                    await stream.send_all(liar.data_to_send())
                    status, said = await at_far.ended()
                    assert (status, "the other CPU" in said, "Traceback" in said) == (1, True, False), said
                    await stream.aclose()
            await listener.aclose()
            assert stored(far) == before


@pytest.mark.parametrize("words", [(), ("--join", "127.0.0.1")])
def test_whoever_is_no_admin_is_told_before_anybody_waits(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "daisyport.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n[[port_manager]]\n')
    monkeypatch.setattr("gateway.cli.pair.parameters", lambda *_: {})  # what a viewer is told of a group with a key
    assert main(["pair", *words, "--minutes", "1", "--config", str(config)]) == 1
    assert "for root, or for whom [control] admins names" in capfd.readouterr().err


async def test_what_cannot_be_paired_says_so_before_anybody_waits(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with two(tmp_path) as (_, far):
            for words, why in (
                (("P7",), "no such port; ports: P0"),
                (("--join", "P0"), "--join takes a host; for the port: daisyport pair P0 --join"),
                (("--join", "a..b"), "a..b port 5554: no such name"),
                (("--join", "127.0.0.1", "--tcp-port", "1"), "127.0.0.1 port 1: Connection refused"),
            ):
                async with pair(far, *words) as command:
                    status, said = await command.ended()
                    assert (status != 0, why in said) == (True, True), said
    async with pair(far) as command:
        status, said = await command.ended()
        assert (status, "is it running?" in said) == (1, True), said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--minutes", "0"), "--minutes must be from 1 to 60"),
        (("--tcp-port", "65536"), "--tcp-port must be from 1 to 65535"),
        (("--tcp-port", "-1"), "--tcp-port must be from 1 to 65535"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    with pytest.raises(SystemExit):
        main(["pair", *words])
    assert why in capsys.readouterr().err
