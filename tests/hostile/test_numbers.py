"""Numbers that cannot be, said by a peer that has the key: they harm its own link and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers import free_port
from tests.hostile import peer as wire
from tests.hostile.siege import KEY, besieged, remote_client, tcp_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.long

LAST = 2**64 - 1


OPENINGS = {
    "the line's position is the last number": wire.positions(LAST),
    "the line's positions are the last number": wire.positions(LAST, LAST),
    "all positions are the last number": wire.positions(*[LAST] * 8),
    "every position is just too large": wire.positions(*[2**62] * 8),
    "up is settled beyond what is reached": wire.positions(0, 0, 0, LAST),
}


async def test_an_open_with_a_position_that_cannot_be_ends_that_link_alone(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege:
            for name, places in OPENINGS.items():
                print(f"\n{name}:")
                async with siege.unharmed(), siege.hostile() as peer:
                    await peer.open(places=places)
                    with trio.move_on_after(0.5):
                        await peer.stay()


FRAMES = {
    "credit for everything": (wire.CREDIT, wire.LINE, LAST, b""),
    "an ACK of everything": (wire.ACK, wire.LINE, LAST, b""),
    "a GAP to the last number": (wire.GAP, wire.TCP, 0, wire.lost_range(LAST, 2)),
    "a GAP beyond the last number": (wire.GAP, wire.TCP, 0, wire.lost_range(LAST, 255)),
    "DATA at the last number": (wire.DATA, wire.TCP, LAST, wire.message(b"x")),
    "a turn of 49 days": (wire.DATA, wire.TCP, 0, wire.message(b"x", options=wire.turn(65535, 2**32 - 1))),
    "a message from the future": (wire.DATA, wire.PTZ, 0, wire.message(b"x", accepted=2**32 - 1)),
    "a PONG that nobody asked for": (wire.PONG, 0, 0, bytes(8)),
}


async def test_a_frame_of_a_client_with_a_number_that_cannot_be_ends_that_link_alone(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with besieged(tmp_path) as siege:
            for name, frame in FRAMES.items():
                print(f"\n{name}:")
                async with siege.unharmed(), siege.hostile() as peer:
                    await peer.open()
                    await peer.send(*frame)
                    with trio.move_on_after(0.5):
                        await peer.stay()


# --- A server that lies -------------------------------------------------------------------------------------------


async def refuse_as_stale(peer: wire.Peer, last: int) -> None:
    await peer.until(wire.OPEN)
    await peer.send(wire.CLOSE, offset=last, payload=bytes([wire.STALE]) + wire.positions())


async def admit_and(peer: wire.Peer, *frames: tuple[int, int, int, bytes]) -> None:
    await peer.admit()
    for frame in frames:
        await peer.send(*frame)
    await peer.stay()


SERVERS: dict[str, Callable[[wire.Peer], Awaitable[None]]] = {
    "STALE with the last number": lambda peer: refuse_as_stale(peer, LAST),
    "STALE with a number just too large": lambda peer: refuse_as_stale(peer, 2**62),
    "a GAP to the last number": lambda peer: admit_and(peer, (wire.GAP, wire.LINE, 0, wire.lost_range(LAST, 3))),
    "a GAP that leaves one number": lambda peer: admit_and(
        peer, (wire.GAP, wire.LINE, 0, wire.lost_range(LAST - 1, 3)), (wire.DATA, wire.LINE, LAST - 1, b"x")
    ),
    "credit for everything": lambda peer: admit_and(peer, (wire.CREDIT, wire.TCP, LAST, b"")),
    "an ACK of everything": lambda peer: admit_and(peer, (wire.ACK, wire.TCP, LAST, b"")),
    "LOST to the last number": lambda peer: admit_and(peer, (wire.LOST, wire.TCP, 0, wire.lost_range(LAST, 2))),
    "a TURN that nobody asked for": lambda peer: admit_and(peer, (wire.TURN, wire.TCP, 2**40, bytes([0, 0]))),
    "a rate of four thousand million": lambda peer: admit_and(
        peer, (wire.PORT, 0, 0, wire.port_state([b"B" * 16], rate=2**32 - 1))
    ),
}


async def test_a_server_that_says_a_number_that_cannot_be_loses_that_link_alone(tmp_path: Path) -> None:
    """The owner has a port more for each hostile server; its own line and the CPU chained to it go on."""
    managers = ""
    parameters: dict[str, object] = {}
    met: set[str] = set()
    async with trio.open_nursery() as nursery:
        for index, (name, behave) in enumerate(SERVERS.items()):
            port: int = await nursery.start(serve, behave, met.add, name)
            tcp = free_port()
            managers += f"[[port_manager]]\nremote_port = {index}\n"
            parameters |= remote_client(port, index=index) | tcp_server(tcp, manager=index + 1)
        with trio.fail_after(60):
            async with besieged(tmp_path, more_ports=managers, more_parameters=parameters) as siege, siege.unharmed():
                while met != SERVERS.keys():  # noqa: ASYNC110 -- the daemon dials when it likes
                    await trio.sleep(0.05)
                await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def serve(
    behave: Callable[[wire.Peer], Awaitable[None]],
    met: Callable[[str], None],
    name: str,
    *,
    task_status: trio.TaskStatus[int],
) -> None:
    """Be a remote port server that has the key, and behaves like that to everybody."""

    async def talk(stream: trio.SocketStream) -> None:
        async with stream:
            peer = wire.Peer(stream)
            with suppress(wire.Ended):
                await peer.prove_as_server(KEY, wire.SERVER)
                met(name)
                await behave(peer)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listener.socket.getsockname()[1])
    await trio.serve_listeners(talk, [listener])


async def test_another_key_holder_cannot_use_up_the_numbers_of_a_cpu_or_throw_it_off(tmp_path: Path) -> None:
    """To claim a node id is not to be that node: its key is needed, too."""
    with trio.fail_after(40):
        async with besieged(tmp_path) as siege, siege.unharmed():
            kept = (siege.far.gateway.config.state_dir / "node_key").read_text().split()[0]
            victim = wire.Node(bytes.fromhex(kept))
            async with siege.hostile(wire.Node(b"l" * 32, claims=victim.id)) as peer:
                answer = await peer.open(number=LAST)
                assert (answer.kind, answer.payload[0]) == (wire.CLOSE, wire.NOT_PROVED)
            await trio.sleep(1)
