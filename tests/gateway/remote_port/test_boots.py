"""A blade that boots again and again, with a key per hop, AutoConf and no chassis."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING, cast

import pytest
import trio

from gateway.port.bus import Bus
from gateway.remote_port.candidates import Candidates
from gateway.state.atomic_file import AtomicFile
from gateway.tasks.watch import Cell
from protocol.link.advert import Advert, Candidate
from protocol.link.identity import NodeKey
from protocol.parameters.settings import RemotePort
from tests.gateway.remote_port.linked import Node, holds
from tests.helpers import lines
from tests.netns import needs_network, network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from gateway.discovery.bonjour import Bonjour
    from tests.netns import Host


class Neighbourhood:
    """All servers of the blade, as Bonjour sees them."""

    def __init__(self, *servers: tuple[bytes, int, int]) -> None:
        adverts = [
            Candidate(Advert(node, 0, "", hops, keyed=True, versions=(1,)), ("127.0.0.1",), port)
            for node, hops, port in servers
        ]
        self.seen: Cell[tuple[Candidate, ...]] = Cell(tuple(adverts))

    @contextlib.contextmanager
    def browse(self) -> Iterator[Cell[tuple[Candidate, ...]]]:
        yield self.seen

    def look_again(self) -> None:
        """See the same again."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; a boot needs the same ones as the boot before."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


async def test_ten_boots_bring_the_first_byte_in_time_and_no_wrong_key_to_the_owner_after_the_first(
    tmp_path: Path,
) -> None:
    ports = free_ports(2)
    keys = [NodeKey(bytes([number]) * 32, name) for number, name in enumerate(("owner", "middle", "far"), 1)]
    nodes = [key.id for key in keys]
    around = cast("Bonjour", Neighbourhood((nodes[0], 0, ports[0]), (nodes[1], 1, ports[1])))
    wrong_keys = []
    for _ in range(10):
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                began = trio.current_time()
                owner, middle, far = (Node(key.name, nursery, Bus("P0"), key) for key in keys)
                for cpu, key in ((far, "key two"), (middle, "key one")):
                    memory = AtomicFile(tmp_path / cpu.name)
                    candidates = Candidates(around, 0, "", without_key=False, memory=memory)
                    cpu.dial_with(candidates, RemotePort(auto_conf=True, authentication_key=key))
                await middle.serve("key two", port=ports[1])
                owner.own()
                await owner.serve("key one", port=ports[0])
                await far.up()
                owner.bus.deliver(b"x")
                await holds(lambda: far.bus.received)  # noqa: B023
                assert trio.current_time() - began < 3
                wrong_keys.append(owner.service.wrong_keys)
                nursery.cancel_scope.cancel()
    assert wrong_keys[1:] == [0] * 9
    assert wrong_keys[0] <= 1


async def test_behind_sixteen_servers_with_another_key_the_real_one_is_dialled_without_a_pause() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            owner, far, *forgers = (
                Node(str(number), nursery, Bus("P0"), NodeKey(bytes([number]) * 32)) for number in range(1, 5)
            )
            real = Neighbourhood((owner.node, 7, 0))
            owner.own()
            await owner.serve("the key")
            seen = [Candidate(real.seen.value[0].advert, ("127.0.0.1",), owner.port)]
            for number, forger in enumerate(forgers):  # each is guessed at less often than its own limit allows
                forger.own()
                await forger.serve("another key")
                for host in range(2, 10):
                    address = f"127.0.{number + 1}.{host}"
                    nursery.start_soon(relay_to, address, forger)
                    advert = Advert(bytes([number, host]) * 8, 0, "", 0, keyed=True, versions=(1,))
                    seen.append(Candidate(advert, (address,), forger.port))
            real.seen.set(tuple(seen))
            began = trio.current_time()
            candidates = Candidates(cast("Bonjour", real), 0, "", without_key=False)
            far.dial_with(candidates, RemotePort(auto_conf=True, authentication_key="the key"))
            await far.up()
            assert sum(forger.service.wrong_keys for forger in forgers) == 16
            assert trio.current_time() - began < 5
            nursery.cancel_scope.cancel()


async def relay_to(address: str, server: Node) -> None:
    """Have a server listen on another address of the loopback too, on the same port."""
    with socket.create_server((address, server.port)) as listener:
        listener.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listener)
            server.service.welcome(*listener.accept())


@contextlib.asynccontextmanager
async def cpu(host: Host, directory: Path, config: str, parameters: dict[str, object]) -> AsyncIterator[Path]:
    """Boot the daemon on ``host`` with the state that the boot before left; its log is the file that this gives."""
    if not directory.exists():  # noqa: ASYNC240  # as all of this test does
        (directory / "state").mkdir(parents=True)
        (directory / "state" / "parameters").write_text("".join(f"root.{n}={v}\n" for n, v in parameters.items()))
    (directory / "daisyport.toml").write_text(
        f'state_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\n'
        f'[http]\nlisten = []\n[tcp]\nbind = ["0.0.0.0"]\n{config}\n'
    )
    command = host.command(sys.executable, "-m", "gateway", "run", "--config", str(directory / "daisyport.toml"))
    with (directory / "log").open("wb") as output:
        process = await trio.lowlevel.open_process(command, stderr=output, stdin=None)
        try:
            yield directory / "log"
        finally:
            process.kill()  # as a blade that loses its power
            with trio.CancelScope(shield=True):
                await process.wait()


async def until_logged(log: Path, text: str) -> None:
    while text not in log.read_text():  # noqa: ASYNC110, ASYNC240  # a process tells by its log, and no other way
        await trio.sleep(0.01)


def server(key: str) -> dict[str, object]:
    return {
        "PortManager.P0.RemotePortServer.Enabled": "yes",
        "PortManager.P0.RemotePortServer.AuthenticationKey": key,
        "PortManager.P0.RemotePortServer.Listener.Enabled": "yes",
        "PortManager.P0.RemotePortServer.Listener.Port": 2500,
    }


CLIENT = {
    "PortManager.P0.GenericTCPServer.Enabled": "yes",
    "PortManager.P0.GenericTCPServer.Listener.Enabled": "yes",
    "PortManager.P0.GenericTCPServer.Listener.Port": 3000,
}


@needs_network
@pytest.mark.long
async def test_ten_boots_of_real_daemons_that_find_each_other_by_bonjour(tmp_path: Path) -> None:
    chained = "[[port_manager]]"
    with network(3) as (owner, middle, far), lines(tmp_path, 1) as (end,), trio.fail_after(240):
        for boot in range(10):
            async with (
                cpu(owner, tmp_path / "owner", f'[[serial]]\ndevice = "{end.path}"', server("key one")) as log,
                cpu(
                    middle,
                    tmp_path / "middle",
                    chained,
                    {**server("key two"), "RemotePort.R0.AuthenticationKey": "key one"},
                ) as between,
                cpu(far, tmp_path / "far", chained, {**CLIENT, "RemotePort.R0.AuthenticationKey": "key two"}) as there,
            ):
                # What the start of three interpreters takes on this machine is not what is measured here.
                for each in (log, between, there):
                    await until_logged(each, "P0 service WebSocket: up")
                began = trio.current_time()
                await until_logged(there, "P0 R0: up")
                assert trio.current_time() - began < 3
                wrong = log.read_text().count("wrong key from")
                assert wrong == 0 if boot else wrong <= 1
