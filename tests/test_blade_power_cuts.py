"""A CPU of a blade dies, by kill -9, at any step of a new key's way, under traffic, and is started again.

Afterwards the chain works, with one of the two keys everywhere; the command completes when it is run again; and no byte
is lost that is not counted where it was taken or awaited.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.dying import STEPS
from tests.helpers import FarEnd, lines
from tests.netns import needs_network, network
from tests.test_blade import CLIENT, PACE, RECORD, SERVER, connected, lay_out

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

    from tests.netns import Host

pytestmark = [needs_network, pytest.mark.long]


class Cpu:
    """A CPU of a chain, whose daemon may die at a step of a new key's way and is then started again."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.process: trio.Process | None = None

    def command(self, *words: str, module: str = "gateway") -> list[str]:
        config = str(self.directory / "daisyport.toml")
        return self.host.command(sys.executable, "-m", module, *words, "--config", config)

    async def start(self) -> None:
        with (self.directory / "log").open("ab") as output:
            command = self.command("run", module="tests.dying")
            self.process = await trio.lowlevel.open_process(command, stderr=output, stdin=None)

    async def died(self) -> None:
        assert self.process is not None
        assert await self.process.wait() == -signal.SIGKILL

    async def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            with trio.CancelScope(shield=True):
                await self.process.wait()

    async def status(self) -> dict[str, Any]:
        """The status of its port; an empty one while nobody answers."""
        answer = b""
        with contextlib.suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_unix_socket(str(self.directory / "run" / "control" / "http.sock")) as stream:
                await stream.send_all(b"GET /daisyport/status HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                async for piece in stream:
                    answer += piece
        ports: list[dict[str, Any]] = json.loads(answer.partition(b"\r\n\r\n")[2] or '{"ports": [{}]}')["ports"]
        return ports[0]

    async def linked(self, links: int) -> None:
        """Wait until its port is up, and so many links are: to the CPU above it, and to those below."""
        while True:
            status = await self.status()
            below = status.get("remote_port_server", {}).get("links", [])
            ends = [*below, status.get("remote_port_client", {"linked": False})]
            if status.get("state") == "up" and sum(end["linked"] for end in ends) == links:
                return
            await trio.sleep(0.05)

    async def keys(self) -> set[str]:
        """All keys on its disk that are in force."""
        text = await trio.Path(self.directory / "state" / "parameters").read_text()
        return set(re.findall(r"AuthenticationKey=(.+)", text))


class Speaker:
    """Says numbered records in ten letters of its own, so that each byte on the line tells whose it is."""

    def __init__(self, letters: bytes, end: bytes) -> None:
        self.letters, self.end = letters, end
        self.said = 0

    def record(self, number: int) -> bytes:
        return f"{number:0{RECORD - 1}}".encode().translate(bytes.maketrans(b"0123456789", self.letters)) + self.end

    def next(self) -> bytes:
        self.said += 1
        return self.record(self.said)

    def own(self, heard: bytes | bytearray) -> bytes:
        """The bytes of this speaker alone."""
        return bytes(each for each in heard if each in self.letters + self.end)

    def numbers(self, heard: bytes) -> list[int]:
        """The records that are whole: they are in order, and none is there twice."""
        whole = re.findall(rb"[%b]{%d}%b" % (self.letters, RECORD - 1, self.end), heard)
        found = [int(each[:-1].translate(bytes.maketrans(self.letters, b"0123456789"))) for each in whole]
        assert found == sorted(set(found))
        return found


class Client:
    """Says records at a CPU, and hears those of the line, over as many connections as that takes."""

    def __init__(self, cpu: Cpu, speaker: Speaker) -> None:
        self.cpu = cpu
        self.speaker = speaker
        self.heard = bytearray()
        self.arrived = bytearray()
        """The bytes of it that are on the line."""
        self.before: dict[str, Any] = {}

    async def run(self) -> None:
        while True:
            stream = await connected(self.cpu.host, 3000)
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, stream, nursery.cancel_scope)
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(self.speaker.next())
                        await trio.sleep(PACE)

    async def _hear(self, stream: trio.SocketStream, connection: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while data := await stream.receive_some():
                self.heard += data
        connection.cancel()

    async def _next_arrives(self) -> list[int]:
        """Wait until something that it says from now on is on the line; return all that is."""
        now = self.speaker.said
        while True:
            if (found := self.speaker.numbers(bytes(self.arrived))) and found[-1] > now:
                return found
            await trio.sleep(0.05)

    async def open(self) -> None:
        """Begin an account, with what it says from now on."""
        self.before = await self.cpu.status()
        await self._next_arrives()
        del self.arrived[:], self.heard[:]

    async def close(self, line: Speaker, *, died: bool) -> None:
        """What did not come since then, here or on the line, is counted at this CPU, unless that died."""
        found = await self._next_arrives()
        heard = line.numbers(bytes(self.heard))
        if died:
            return
        status = await self.cpu.status()
        counted = {name: status[name] - self.before[name] for name in ("bytes_dropped", "gaps")}
        lost = (found[-1] - found[0] + 1) * RECORD - len(self.arrived)
        missed = (heard[-1] - heard[0] + 1) * RECORD - len(self.heard)
        assert lost <= counted["bytes_dropped"]
        # A piece of a record may stand at each end of what is counted.
        assert missed <= 0 or counted["gaps"]


class Blade:
    """An owner, a middle CPU and a leaf in a chain, with traffic at the two that have no line of their own."""

    def __init__(self, hosts: Sequence[Host], directory: Path, end: FarEnd) -> None:
        self.cpus = {name: Cpu(host, directory / name) for name, host in zip(STEPS, hosts, strict=True)}
        self.end = end
        self.line = Speaker(b"0123456789", b"\n")
        self.clients = [
            Client(self.cpus["middle"], Speaker(b"abcdefghij", b"z")),
            Client(self.cpus["leaf"], Speaker(b"ABCDEFGHIJ", b"Z")),
        ]
        server = {name: value for name, value in SERVER.items() if "PTZ" not in name}
        owner = self.cpus["owner"]
        lay_out(owner.directory, f'[[serial]]\ndevice = "{end.path}"', server, 'node_name = "owner"')
        for name, above, more in (("middle", "owner", server), ("leaf", "middle", {})):
            to = {"AutoConf": "no", "Host": self.cpus[above].host.address, "Port": 2500}
            parameters = CLIENT | {f"RemotePort.R0.{each}": value for each, value in to.items()} | more
            lay_out(self.cpus[name].directory, "[[port_manager]]", parameters, f'node_name = "{name}"')

    async def traffic(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._say)
            for client in self.clients:
                nursery.start_soon(client.run)
            while True:
                heard = await self.end.hear_some()
                for client in self.clients:
                    client.arrived += client.speaker.own(heard)

    async def _say(self) -> None:
        while True:
            await self.end.say(self.line.next())
            await trio.sleep(PACE)

    async def whole(self) -> None:
        """Wait until all links of the chain are up."""
        for name, links in (("owner", 1), ("middle", 2), ("leaf", 1)):
            await self.cpus[name].linked(links)

    async def rekeyed(self, key: str) -> subprocess.CompletedProcess[bytes]:
        command = self.cpus["owner"].command("rekey", "P0", "--chain", "--yes")
        return await trio.run_process(
            command, stdin=f"{key}\n".encode(), capture_stdout=True, capture_stderr=True, check=False
        )

    async def survives(self, victim: Cpu, step: str, old: str, key: str) -> None:
        for client in self.clients:
            await client.open()
        await trio.Path(victim.directory / "die").write_text(step)
        async with trio.open_nursery() as asking:
            asking.start_soon(self.rekeyed, key)
            await victim.died()
            for cpu in self.cpus.values():
                assert await cpu.keys() <= {old, key}
            await victim.start()
        await self.whole()
        done = await self.rekeyed(key)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert [await cpu.keys() for cpu in self.cpus.values()] == [{key}] * len(self.cpus)
        await self.whole()
        for client in self.clients:
            await client.close(self.line, died=client.cpu is victim)


@pytest.mark.parametrize("name", STEPS)
async def test_a_cpu_that_dies_at_any_step_of_a_new_key_leaves_a_chain_that_works_and_can_go_on(
    tmp_path: Path, name: str
) -> None:
    with network(3) as hosts, lines(tmp_path, 1) as (end,), trio.fail_after(400):
        blade = Blade(hosts, tmp_path, end)
        try:
            for cpu in blade.cpus.values():
                await cpu.start()
            await blade.whole()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(blade.traffic)
                key = SERVER["PortManager.P0.RemotePortServer.AuthenticationKey"]
                for step in STEPS[name]:
                    old, key = key, f"a key for {step}"
                    await blade.survives(blade.cpus[name], step, str(old), key)
                nursery.cancel_scope.cancel()
        finally:
            for cpu in blade.cpus.values():
                await cpu.stop()
