"""Four ports and a chained CPU, thousands of clients, unplugged devices, cut links, changes and strangers, for minutes.

Whoever means well notices nothing of it, every byte is on the line or counted, and when it is over the two daemons hold
what they held before: memory, descriptors, threads, tasks. The rates are the same however long it lasts.
"""

from __future__ import annotations

import math
import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import free_port, laid_cable, lines, needs_curl
from tests.hostile.siege import daemon, remote_client, remote_server, tcp_server
from tests.soak.load import Crowd, Device, Strangers, Updates, figures, install_probe, paced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.demo.cable import Cable
    from tests.hostile.siege import Daemon
    from tests.soak.load import Figures

pytestmark = [pytest.mark.soak, needs_curl]

SECONDS = float(os.environ.get("SOAK_SECONDS", "160"))
"""How long the load lasts: an hour or a night for who has the time."""
PORTS = 4
CLIENTS = round(10_000 * SECONDS / 160)
UPDATES = round(300 * SECONDS / 160)
UNPLUGS = round(100 * SECONDS / 160)
CUTS = round(100 * SECONDS / 160)
STRANGERS = round(500 * SECONDS / 160)

_WARM_UP = 0.1
"""The share of it all that comes first: what is imported, made or learnt once is not counted as growth."""
_GROWTH = 3 << 20
"""Bytes of memory that a daemon may have more of: what its allocator keeps in pieces."""
_OBJECTS = 1000
"""Objects that it may have more of, which is less than one for each of any of the events."""
_STARTED = 3.0
"""Seconds after which all has begun that begins by itself, such as Bonjour."""
_FORGOTTEN = 70.0
"""Seconds after which nothing is kept of who has left: a session of a link waits a minute for its next connection."""


@dataclass
class Scene:
    """The owner of four lines, a CPU that is chained to the first of them, and those who load them."""

    owner: Daemon
    far: Daemon
    devices: tuple[Device, ...]
    crowds: tuple[Crowd, ...]
    """Of each of the owner's ports, and of the chained CPU's."""
    cable: Cable
    updates: Updates
    strangers: Strangers

    async def load(self, share: float) -> None:
        """Load it, with so much of the whole."""
        seconds = SECONDS * share

        def part(count: int) -> int:
            return math.ceil(count * share)

        unplugged = self.crowds[1:PORTS]

        async def use(crowd: Crowd) -> None:
            rounds = math.ceil(part(UNPLUGS) / len(unplugged))
            clients = math.ceil(part(CLIENTS) / len(self.crowds) / rounds)

            async def one_round(_: int) -> None:
                await crowd.come(clients)
                if crowd in unplugged:
                    await crowd.see_an_unplug()

            await paced(rounds, seconds, one_round)

        async def cut(_: int) -> None:
            self.cable.cut()

        async with trio.open_nursery() as nursery:
            for crowd in self.crowds:
                nursery.start_soon(use, crowd)
            nursery.start_soon(paced, part(UPDATES), seconds, self.updates.change)
            nursery.start_soon(paced, part(CUTS), seconds, cut)
            nursery.start_soon(paced, part(STRANGERS), seconds, self.strangers.come)

    async def check_bytes(self) -> None:
        """Every byte that a client sent is on the line, or was counted as one that never will be."""
        ports = [await self.owner.gateway.status(port) for port in range(PORTS)]
        (far,) = [await self.far.gateway.status(0)]
        for device, port in zip(self.devices, ports, strict=True):
            sent = sum(crowd.sent for crowd in self.crowds if crowd.device is device)
            lost = port["bytes_dropped"] + (far["bytes_dropped"] if device is self.devices[0] else 0)
            print(f"{port['name']}: {sent} bytes sent, {device.heard} heard, {lost} dropped")
            assert port["state"] == "up"
            assert port["bytes_to_line"] == device.heard
            assert device.heard + lost == sent
            assert port["bytes_discarded"] == 0
        assert ports[0]["bytes_dropped"] == far["bytes_dropped"] == far["bytes_missed"] == far["gaps"] == 0

    def check_counts(self) -> None:
        """As much was done as was meant to be."""
        clients = sum(crowd.clients for crowd in self.crowds)
        unplugs = sum(device.unplugs for device in self.devices)
        updates, cuts, strangers = self.updates.done, self.cable.cuts, self.strangers.came
        print(f"{clients} clients, {updates} updates, {unplugs} unplugs, {cuts} links cut, {strangers} strangers")
        assert clients >= CLIENTS
        assert min(updates - UPDATES, unplugs - UNPLUGS, strangers - STRANGERS) >= 0
        assert cuts > CUTS / 2  # a link that is down cannot be cut


@asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    """Two daemons with everything around them, until the block ends."""
    *tcp, far_tcp, remote = (free_port() for _ in range(PORTS + 2))
    own = remote_server(remote)
    for index, port in enumerate(tcp):
        own |= tcp_server(port, index)
    hardware = "".join(f"[[port_manager]]\nserial = {index + 1}\n" for index in range(PORTS))
    with lines(directory, PORTS) as ends:
        async with AsyncExitStack() as stack:
            start = stack.enter_async_context
            owner = await start(daemon(directory / "owner", hardware, own, *ends))
            cable = await start(laid_cable(remote))
            chained = "[[port_manager]]\nremote_port = 0\n"
            far = await start(daemon(directory / "far", chained, tcp_server(far_tcp) | remote_client(cable.port)))
            await far.says("P0 R0: up")
            devices = tuple(Device(end) for end in ends)
            nursery = await start(trio.open_nursery())
            for device in devices:
                nursery.start_soon(device.run)
            crowds = [Crowd("ABCD"[index], devices[index], port) for index, port in enumerate(tcp)]
            yield Scene(
                owner,
                far,
                devices,
                (*crowds, Crowd("F", devices[0], far_tcp)),
                cable,
                Updates(owner.gateway, PORTS),
                Strangers(remote, owner.gateway.http_port, tcp[1]),
            )
            nursery.cancel_scope.cancel()


async def settled(daemon: Daemon, before: Figures) -> Figures:
    """Return what it holds once it has forgotten who left, or should have."""
    now = await figures(daemon)
    with trio.move_on_after(_FORGOTTEN):
        while now.more_than(before):
            await trio.sleep(1)
            now = await figures(daemon)
    return now


async def test_two_daemons_hold_afterwards_what_they_held_before_and_no_byte_is_uncounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_probe(tmp_path / "probe", monkeypatch)
    with trio.fail_after(SECONDS * 1.2 + 2 * _FORGOTTEN):
        async with scene(tmp_path) as everything:
            daemons = (everything.owner, everything.far)
            await everything.updates.put_back()
            await trio.sleep(_STARTED)
            fresh = [await figures(each) for each in daemons]
            await everything.load(_WARM_UP)
            warm = [await figures(each) for each in daemons]
            await everything.load(1)
            await everything.updates.put_back()
            after = [await settled(each, was) for each, was in zip(daemons, fresh, strict=True)]
            for each, *held in zip(daemons, fresh, warm, after, strict=True):
                print(each.gateway.config.state_dir.parent.name, *held, sep="\n  ")
            await everything.check_bytes()
            everything.check_counts()
            for each, first, early, now in zip(daemons, fresh, warm, after, strict=True):
                assert not now.more_than(first)
                assert now.objects < early.objects + _OBJECTS
                assert now.memory < early.memory + _GROWTH
                assert "Traceback" not in each.said
                assert "bug" not in each.said
