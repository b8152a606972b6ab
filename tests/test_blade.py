"""A blade: an owner and two chained CPUs, three hosts on one bridge, that find each other by Bonjour.

The link of a chained CPU goes down and up again and again, so that TCP does not notice at once; no byte is lost.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers import FarEnd, lines
from tests.netns import needs_network, network
from tests.test_chain import receive_exactly
from tests.test_pair import running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.netns import Host

pytestmark = [needs_network, pytest.mark.long]

RECORD = 16
PACE = 0.005
"""Seconds between two records: a real line's traffic, and each record a message of its own."""


def record(letter: str, number: int) -> bytes:
    return f"{letter}{number:014d}\n".encode()


@contextlib.asynccontextmanager
async def cpu(
    host: Host, directory: Path, config: str, parameters: dict[str, object], top: str = ""
) -> AsyncIterator[Path]:
    """Run the daemon on ``host`` until the block ends; its log is the file that this gives."""
    lay_out(directory, config, parameters, top)
    command = host.command(sys.executable, "-m", "gateway", "run", "--config", str(directory / "daisyport.toml"))
    log = directory / "log"
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(command, stderr=output, stdin=None)
        try:
            yield log
            process.terminate()
            with trio.move_on_after(5):
                assert await process.wait() == 0
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def lay_out(directory: Path, config: str, parameters: dict[str, object], top: str = "") -> None:
    """Write the files with which a daemon starts."""
    (directory / "state").mkdir(parents=True, exist_ok=True)
    (directory / "daisyport.toml").write_text(
        f'state_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\nchassis = "blade-7"\n{top}\n'
        f'[http]\nlisten = []\n[tcp]\nbind = ["0.0.0.0"]\n{config}\n'
    )
    (directory / "state" / "parameters").write_text("".join(f"root.{n}={v}\n" for n, v in parameters.items()))


async def connected(host: Host, port: int) -> trio.SocketStream:
    """A TCP client on ``host`` itself, once the daemon there listens."""
    while True:
        with host.inside():
            sock = socket.socket()
        sock.setblocking(False)
        stream = trio.socket.from_stdlib_socket(sock)
        try:
            await stream.connect(("127.0.0.1", port))
        except (ConnectionRefusedError, ConnectionResetError):
            stream.close()
            await trio.lowlevel.checkpoint()
        else:
            return trio.SocketStream(stream)


async def until_logged(log: Path, text: str) -> None:
    while text not in log.read_text():  # noqa: ASYNC110, ASYNC240 -- a process tells by its log, and no other way
        await trio.sleep(0.01)


SERVER = {
    "PortManager.P0.RemotePortServer.Enabled": "yes",
    "PortManager.P0.RemotePortServer.AuthenticationKey": "blade key",
    "PortManager.P0.RemotePortServer.Listener.Enabled": "yes",
    "PortManager.P0.RemotePortServer.Listener.Port": 2500,
    "PortManager.P0.PTZServer.Enabled": "yes",
}
CLIENT = {
    "RemotePort.R0.AuthenticationKey": "blade key",
    "PortManager.P0.GenericTCPServer.Enabled": "yes",
    "PortManager.P0.GenericTCPServer.Listener.Enabled": "yes",
    "PortManager.P0.GenericTCPServer.Listener.Port": 3000,
}


class Traffic:
    """Numbered records both ways until ``stop`` is set, and what arrived of them."""

    def __init__(self, end: FarEnd, clients: dict[str, trio.SocketStream]) -> None:
        self.end = end
        self.clients = clients
        self.stop = trio.Event()
        self.sent = dict.fromkeys([*clients, "L"], 0)
        self.on_the_line = bytearray()
        self.heard = {letter: bytearray() for letter in clients}

    async def run(self) -> None:
        async with trio.open_nursery() as listening:
            listening.start_soon(self._hear_line)
            for letter, stream in self.clients.items():
                listening.start_soon(self._hear, letter, stream)
            async with trio.open_nursery() as talking:
                talking.start_soon(self._say)
                for letter, stream in self.clients.items():
                    talking.start_soon(self._talk, letter, stream)
            await self._all_arrived()
            listening.cancel_scope.cancel()

    async def _talk(self, letter: str, stream: trio.SocketStream) -> None:
        while not self.stop.is_set():
            await stream.send_all(record(letter, self.sent[letter]))
            self.sent[letter] += 1
            await trio.sleep(PACE)

    async def _say(self) -> None:
        while not self.stop.is_set():
            await self.end.say(record("L", self.sent["L"]))
            self.sent["L"] += 1
            await trio.sleep(PACE)

    async def _hear_line(self) -> None:
        while True:
            self.on_the_line += await self.end.hear_some()

    async def _hear(self, letter: str, stream: trio.SocketStream) -> None:
        while data := await stream.receive_some():
            self.heard[letter] += data

    async def _all_arrived(self) -> None:
        up = sum(self.sent[letter] for letter in self.clients) * RECORD
        down = self.sent["L"] * RECORD
        with trio.move_on_after(25):
            while len(self.on_the_line) < up or any(  # noqa: ASYNC110 -- what comes last may be on either side
                len(heard) < down for heard in self.heard.values()
            ):
                await trio.sleep(PACE)

    def check(self) -> None:
        """Every byte arrived once, in order."""
        records = [bytes(self.on_the_line[at : at + RECORD]) for at in range(0, len(self.on_the_line), RECORD)]
        for letter in self.clients:
            own = [each for each in records if each[:1] == letter.encode()]
            assert own == [record(letter, number) for number in range(self.sent[letter])]
        said = b"".join(record("L", number) for number in range(self.sent["L"]))
        for heard in self.heard.values():
            assert bytes(heard) == said


async def test_links_that_go_down_and_up_cost_no_byte(tmp_path: Path) -> None:
    seconds, cuts = 60, 10
    with network(3) as (owner, one, two), lines(tmp_path, 1) as (end,), trio.fail_after(seconds + 90):
        async with (
            cpu(owner, tmp_path / "owner", f'[[serial]]\ndevice = "{end.path}"', SERVER),
            cpu(one, tmp_path / "one", "[[port_manager]]", CLIENT) as log_one,
            cpu(two, tmp_path / "two", "[[port_manager]]", CLIENT) as log_two,
        ):
            clients = {"A": await connected(one, 3000), "B": await connected(two, 3000)}
            for log in (log_one, log_two):
                await until_logged(log, "P0 R0: up")
            traffic = Traffic(end, clients)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(traffic.run)
                for cut in range(cuts):
                    host = (one, two)[cut % 2]
                    await trio.sleep(seconds / cuts / 2)
                    host.unplug()
                    await trio.sleep(min(3.0, seconds / cuts / 2))
                    host.plug()
                traffic.stop.set()
            traffic.check()
            assert all(sent > 100 for sent in traffic.sent.values())
            for stream in clients.values():
                await stream.aclose()


async def test_one_command_changes_the_key_of_a_blade_under_traffic_without_a_byte_lost(tmp_path: Path) -> None:
    with network(3) as (owner, one, two), lines(tmp_path, 1) as (end,), trio.fail_after(90):
        async with (
            cpu(owner, tmp_path / "owner", f'[[serial]]\ndevice = "{end.path}"', SERVER),
            cpu(one, tmp_path / "one", "[[port_manager]]", CLIENT, 'node_name = "one"') as log_one,
            cpu(two, tmp_path / "two", "[[port_manager]]", CLIENT, 'node_name = "two"') as log_two,
        ):
            clients = {"A": await connected(one, 3000), "B": await connected(two, 3000)}
            for log in (log_one, log_two):
                await until_logged(log, "P0 R0: up")
            traffic = Traffic(end, clients)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(traffic.run)
                await trio.sleep(1)
                command = [sys.executable, "-m", "gateway", "rekey", "P0", "--chain", "--yes", "--config"]
                command = owner.command(*command, str(tmp_path / "owner" / "daisyport.toml"))
                done = await trio.run_process(command, stdin=b"the next key\n", capture_stdout=True)
                await trio.sleep(1)
                traffic.stop.set()
            traffic.check()
            assert sorted(done.stdout.decode().splitlines()[-2:]) == [
                f"  {name}: has the new key" for name in ("one", "two")
            ]
            for name in ("one", "two"):
                assert "R0.AuthenticationKey=the next key" in (tmp_path / name / "state" / "parameters").read_text()
            for stream in clients.values():
                await stream.aclose()


async def test_a_blade_is_paired_from_one_cpu_and_shares_its_line(tmp_path: Path) -> None:
    def command(host: Host, name: str, *words: str) -> list[str]:
        config = str(tmp_path / name / "daisyport.toml")
        return host.command(sys.executable, "-u", "-m", "gateway", "pair", *words, "--config", config)

    client = {name: value for name, value in CLIENT.items() if "RemotePort" not in name}
    with network(3) as (owner, *others), lines(tmp_path, 1) as (end,), trio.fail_after(90):
        async with (
            cpu(owner, tmp_path / "owner", f'[[serial]]\ndevice = "{end.path}"', {}, 'node_name = "owner"'),
            cpu(others[0], tmp_path / "one", "[[port_manager]]", client, 'node_name = "one"') as log_one,
            cpu(others[1], tmp_path / "two", "[[port_manager]]", client, 'node_name = "two"') as log_two,
        ):
            logs = {"one": log_one, "two": log_two}
            for name in ("owner", "one", "two"):
                while not (tmp_path / name / "run" / "control" / "http.sock").exists():  # noqa: ASYNC110
                    await trio.sleep(0.01)
            async with running(command(owner, "owner")) as at_owner:
                await at_owner.until("Ctrl-C ends this")
                for host, (name, log) in zip(others, logs.items(), strict=True):
                    async with running(command(host, name, "--join")) as at_other:
                        # Nobody types an address: it is found.
                        await at_other.until(f"1  owner, at {owner.address}, P0, blade-7\n")
                        digits = await at_other.digits()
                        await at_owner.until(f"{name}, at {host.address}: both sides show six digits")
                        await at_owner.until(digits)
                        await at_other.say("y")
                        await at_owner.say("y")
                        assert (await at_other.ended())[0] == 0
                    await at_owner.until(f"{name} has joined")
                    await until_logged(log, "P0 R0: up")
                clients = {"A": await connected(others[0], 3000), "B": await connected(others[1], 3000)}
                for letter, stream in clients.items():
                    await stream.send_all(record(letter, 1))
                    assert await end.hear(RECORD) == record(letter, 1)
                await end.say(record("L", 1))
                for stream in clients.values():
                    assert await receive_exactly(stream, RECORD) == record("L", 1)
                    await stream.aclose()


async def test_of_several_cpus_that_wait_one_is_picked_by_its_name_and_address(tmp_path: Path) -> None:
    def command(host: Host, name: str, *words: str) -> list[str]:
        config = str(tmp_path / name / "daisyport.toml")
        return host.command(sys.executable, "-u", "-m", "gateway", "pair", *words, "--config", config)

    names = ["owner", "other", "far"]
    with network(3) as hosts, trio.fail_after(90):
        async with contextlib.AsyncExitStack() as stack:
            for name, host in zip(names, hosts, strict=True):
                top = f'node_name = "{name}"' + ("\nbonjour.name = false" if name == "other" else "")
                await stack.enter_async_context(cpu(host, tmp_path / name, "[[port_manager]]", {}, top))
                while not (tmp_path / name / "run" / "control" / "http.sock").exists():  # noqa: ASYNC110
                    await trio.sleep(0.01)
            # Another port than the usual one, and nobody tells the one that joins.
            words = {"owner": (), "other": ("--tcp-port", "5555")}
            waiting = {}
            for name, host in zip(names[:2], hosts[:2], strict=True):
                waiting[name] = await stack.enter_async_context(running(command(host, name, *words[name])))
                await waiting[name].until("Ctrl-C ends this")
            joins = await stack.enter_async_context(running(command(hosts[2], "far", "--join")))
            await joins.until(f"[12]  owner, at {hosts[0].address}, P0, blade-7\n")
            number = await joins.until(f"([12])  a CPU without a name, at {hosts[1].address}, P0, blade-7\n")
            for nonsense in ("3", "other", "0"):
                await joins.until(r"Which one is to be joined\? \[1-2\] ")
                joins.shown = ""
                await joins.say(nonsense)
            await joins.say(number)
            assert await joins.digits() == await waiting["other"].digits()
            assert "six digits" not in waiting["owner"].shown
            nobody = await stack.enter_async_context(running(command(hosts[2], "far", "--join")))
            await nobody.until("Which one")
            await nobody.say("")
            assert await nobody.ended() == (1, " ".join(nobody.shown.split()))
            assert "none was chosen, and nothing was changed" in nobody.shown


async def test_where_no_cpu_waits_the_command_says_what_to_do(tmp_path: Path) -> None:
    with network(1) as (host,), trio.fail_after(60):
        async with cpu(host, tmp_path / "far", "[[port_manager]]", {}):
            while not (tmp_path / "far" / "run" / "control" / "http.sock").exists():  # noqa: ASYNC110
                await trio.sleep(0.01)
            config = str(tmp_path / "far" / "daisyport.toml")
            host.unplug()
            async with running(
                host.command(sys.executable, "-m", "gateway", "pair", "--join", "--config", config)
            ) as command:
                status, said = await command.ended()
            assert (status, "none was found (Bonjour: no network link is up that does multicast)" in said) == (1, True)
            assert "start daisyport pair at the CPU with the line" in said


async def chain_at(host: Host, directory: Path) -> dict[str, Any]:
    """What ``daisyport chain`` shows of P0 on ``host``, by its JSON."""
    command = host.command(
        sys.executable, "-m", "gateway", "chain", "--json", "P0", "--config", str(directory / "daisyport.toml")
    )
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(command, capture_stdout=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found[0]["chain"]  # type: ignore[no-any-return]


def words(cpu: dict[str, Any]) -> list[str]:
    """Each CPU of a chain, from the owner down, and whether it answered."""
    return [f"{cpu['name']} {cpu['answer']}", *(line for below in cpu["below"] for line in words(below))]


def warnings(cpu: dict[str, Any]) -> list[str]:
    return [*cpu["warnings"], *(line for below in cpu["below"] for line in warnings(below))]


async def test_each_cpu_names_the_hop_that_is_down_within_five_seconds(tmp_path: Path) -> None:
    names = ["owner", "one", "two"]
    paths = {name: tmp_path / name for name in names}
    with network(3) as hosts, lines(tmp_path, 1) as (end,), trio.fail_after(90):
        owner, one, two = hosts
        devices = [f'[[serial]]\ndevice = "{end.path}"', "[[port_manager]]", "[[port_manager]]"]
        async with (
            cpu(owner, paths["owner"], devices[0], SERVER, 'node_name = "owner"'),
            cpu(one, paths["one"], devices[1], CLIENT, 'node_name = "one"') as log_one,
            cpu(two, paths["two"], devices[2], CLIENT, 'node_name = "two"') as log_two,
        ):
            for log in (log_one, log_two):
                await until_logged(log, "P0 R0: up")
            for name, host in zip(names, hosts, strict=True):
                assert sorted(words(await chain_at(host, paths[name]))) == ["one told", "owner told", "two told"]
            two.unplug()
            near = [{"owner told", "one told", "two silent"}, {"owner told", "one told", "two gone"}]
            far = [{"owner silent", "two told"}, {"owner gone", "two told"}]

            async def until_named(host: Host, directory: Path, wanted: list[set[str]]) -> None:
                # The first answers may be as they were a moment ago.
                while set(words(await chain_at(host, directory))) not in wanted:
                    pass

            with trio.fail_after(5):
                async with trio.open_nursery() as asking:
                    for name, host in zip(names, hosts, strict=True):
                        asking.start_soon(until_named, host, paths[name], far if name == "two" else near)


async def test_a_wrong_key_and_a_cloned_node_are_named_with_what_to_do(tmp_path: Path) -> None:
    with network(3) as (owner, one, two), lines(tmp_path, 1) as (end,), trio.fail_after(90):
        serial = f'[[serial]]\ndevice = "{end.path}"'
        async with cpu(owner, tmp_path / "owner", serial, SERVER, 'node_name = "owner"') as log_owner:
            other_key = CLIENT | {"RemotePort.R0.AuthenticationKey": "another key"}
            async with cpu(one, tmp_path / "one", "[[port_manager]]", other_key):
                await until_logged(log_owner, "wrong key from 10.77.0.2")
                assert any(
                    "wrong AuthenticationKey" in each for each in warnings(await chain_at(one, tmp_path / "one"))
                )
            (told,) = warnings(await chain_at(owner, tmp_path / "owner"))
            assert told.startswith("wrong AuthenticationKey between this CPU and 10.77.0.2.")
            assert "Set RemotePort.R#.AuthenticationKey" in told
            key = await trio.Path(tmp_path / "owner" / "state" / "node_key").read_bytes()
            await trio.Path(tmp_path / "two" / "state").mkdir(parents=True)
            await trio.Path(tmp_path / "two" / "state" / "node_key").write_bytes(key)
            dialled = CLIENT | {
                "RemotePort.R0.AutoConf": "no",
                "RemotePort.R0.Host": owner.address,
                "RemotePort.R0.Port": 2500,
            }
            async with cpu(two, tmp_path / "two", "[[port_manager]]", dialled) as log_two:
                await until_logged(log_two, "cloned image")
                (cloned,) = warnings(await chain_at(two, tmp_path / "two"))
                assert cloned.startswith("two CPUs use one node id")
                assert "remove the file node_key" in cloned
