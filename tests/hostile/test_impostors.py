"""Peers that claim to be somebody else: a CPU with the identity of another, and a neighbour that forges adverts."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import lines
from tests.hostile import peer as wire
from tests.hostile.siege import besieged
from tests.netns import needs_network, network
from tests.test_blade import CLIENT, SERVER, cpu, until_logged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hostile.siege import Siege
    from tests.netns import Host

pytestmark = pytest.mark.long  # it measures time, so nothing else may run beside it

CLONED = wire.Node(b"a cloned image.." * 2)


class Clone:
    """A CPU that dials again as soon as its link is cut, as honest ones do."""

    def __init__(self, siege: Siege, address: str) -> None:
        self.address = address
        self._siege = siege
        self._number = 1
        self.links = 0
        """How often it was let in."""
        self.linked = False

    async def run(self) -> None:
        while True:
            async with self._siege.hostile(CLONED, self.address) as peer:
                answer = await peer.open(number=self._number)
                if answer.kind == wire.OPENED:
                    self.links += 1
                    self.linked = True
                    await peer.stay()
                self._number = max(self._number, answer.offset) + 1
            self.linked = False
            await trio.sleep(0.2)


async def test_of_two_cpus_with_one_identity_the_older_link_stays_and_the_log_says_what_to_do(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege, siege.unharmed(), trio.open_nursery() as nursery:
            clones = [Clone(siege, "127.0.0.2"), Clone(siege, "127.0.0.3")]
            for clone in clones:
                nursery.start_soon(clone.run)
            await siege.owner.says(" ERROR ")
            (told,) = [line for line in siege.owner.said.splitlines() if " ERROR " in line]
            assert all(clone.address in told for clone in clones), told
            assert "node_key" in told
            before = [clone.links for clone in clones]
            await trio.sleep(2)
            assert [clone.linked for clone in clones].count(True) == 1
            assert [clone.links for clone in clones] == before
            status = await siege.owner.gateway.status()
            shown = str(status["remote_port_server"])
            assert all(clone.address in shown for clone in clones), shown
            nursery.cancel_scope.cancel()


FORGED = 16


class WrongServer:
    """A remote port server that does not have the key, and counts who comes."""

    def __init__(self, host: Host) -> None:
        with host.inside():
            self._socket = socket.create_server(("0.0.0.0", 0))
        self.port: int = self._socket.getsockname()[1]
        self.met = 0

    async def run(self) -> None:
        self._socket.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        await trio.serve_listeners(self._refuse, [listener])

    async def _refuse(self, stream: trio.SocketStream) -> None:
        self.met += 1
        async with stream:
            with suppress(wire.Ended):
                await wire.Peer(stream).prove_as_server("another key", wire.Node(bytes(32)))


@needs_network
async def test_sixteen_forged_adverts_hide_a_server_neither_at_the_first_boot_nor_later(tmp_path: Path) -> None:
    with network(3) as (owner, one, neighbour), lines(tmp_path, 1) as (end,), trio.fail_after(120):
        wrong = WrongServer(neighbour)
        forge = (sys.executable, "-m", "tests.hostile.forger", str(FORGED), str(wrong.port))
        serial = f'[[serial]]\ndevice = "{end.path}"'
        async with (
            trio.open_nursery() as nursery,
            neighbour.running(*forge) as forger,
            cpu(owner, tmp_path / "owner", serial, SERVER) as owners_log,
        ):
            nursery.start_soon(wrong.run)
            await until_logged(owners_log, "by Bonjour: up")
            assert forger.stdout is not None
            assert await forger.stdout.receive_some()  # all are announced
            for boot in range(10):
                # Which adverts come first is the network's affair, so there are several first boots.
                first = boot < 5
                before = wrong.met
                async with cpu(one, tmp_path / f"one-{min(boot, 4)}", "[[port_manager]]", CLIENT) as log:
                    await until_logged(log, "P0 R0: up")
                    took = seconds_between(log.read_text(), "P0 service GenericTCPServer: up", "P0 R0: up")
                print(f"boot {boot}: {took:.1f} s, {wrong.met - before} dials of the forger; ", end="")
                assert took < 3
                assert wrong.met - before <= (FORGED if first else 0)
            nursery.cancel_scope.cancel()


def seconds_between(log: str, first: str, second: str) -> float:
    """Return how long after the line with ``first`` the one with ``second`` was written."""
    moments = [
        datetime.strptime(next(line for line in log.splitlines() if text in line)[:23], "%Y-%m-%d %H:%M:%S.%f")
        for text in (first, second)
    ]
    return (moments[1] - moments[0]).total_seconds()
