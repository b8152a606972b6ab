"""Chained CPUs over real links: clients on another CPU use the line, and a cut link costs no byte."""

from __future__ import annotations

import functools
import os
import socket
import termios
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.host.config import ChainedConfig, PortConfig, RemoteConfig, TtyConfig
from gateway.port.rights import Right
from gateway.remote_port.link import Link, LinkCutError
from protocol.link.connection import Connection
from protocol.link.handshake import Initiator, WrongKeyError, key_point
from protocol.link.header import CutError
from protocol.link.identity import NodeKey
from protocol.parameters.hardware import ManagerHardware
from tests.gateway.remote_port.linked import chained, holds, node
from tests.helpers import free_port, laid_cable, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.demo.cable import Cable
    from tests.gateway.remote_port.linked import Node
    from tests.helpers import Gateway

pytestmark = needs_curl

KEY = "a-key"


async def client(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = await stream.receive_some(count - len(received))
        assert piece, f"the connection ended after {len(received)} of {count} bytes"
        received += piece
    return bytes(received)


async def serve_remotely(gateway: Gateway, key: str = KEY, **more: str) -> int:
    port = free_port()
    answer = await gateway.update(
        RemotePortServer_Enabled="yes",
        RemotePortServer_AuthenticationKey=key,
        RemotePortServer_Listener_Enabled="yes",
        RemotePortServer_Listener_Port=port,
        **more,
    )
    assert answer == "OK"
    return port


async def chain_to(gateway: Gateway, port: int, key: str = KEY) -> None:
    remote = {"AutoConf": "no", "Host": "127.0.0.1", "Port": port, "AuthenticationKey": key}
    assert await gateway.set({f"RemotePort.R0.{name}": value for name, value in remote.items()}) == "OK"


async def up(gateway: Gateway) -> None:
    await gateway.until(lambda status: status["state"] == "up")


@asynccontextmanager
async def chain(
    directory: Path,
    hops: int = 1,
    remote_port: RemoteConfig | None = None,
    owned: ChainedConfig | None = None,
    **more: str,
) -> AsyncIterator[tuple[list[Gateway], list[Cable]]]:
    """An owner and ``hops`` CPUs, each chained to the one before it by a cable.

    They are called cpu1, which is the owner, cpu2 and so on. Each has a tty for programs, which may set the line;
    ``owned`` is what the owner's host lets chained clients do.
    """
    async with AsyncExitStack() as stack:
        sharing = PortConfig(
            tty=TtyConfig((str(tty_of(directory, -1)),), configure=True), remote=owned or ChainedConfig()
        )
        owner = await stack.enter_async_context(running_gateway(_made(directory / "owner"), sharing=(sharing,)))
        gateways, cables = [owner], []
        for hop in range(hops):
            cable = await stack.enter_async_context(
                laid_cable(await serve_remotely(gateways[-1], PTZServer_Enabled="yes", **more))
            )
            more_of_it: dict[str, Any] = {
                "managers": (ManagerHardware(remote_port=0),),
                "node_name": f"cpu{hop + 2}",
                "remote_port": remote_port or RemoteConfig(),
                "sharing": (PortConfig(tty=TtyConfig((str(tty_of(directory, hop)),), configure=True)),),
            }
            gateway = await stack.enter_async_context(
                running_gateway(_made(directory / f"cpu{hop}"), ports=0, **more_of_it)
            )
            await chain_to(gateway, cable.port)
            await up(gateway)
            gateways.append(gateway)
            cables.append(cable)
        yield gateways, cables


def tty_of(directory: Path, hop: int) -> Path:
    """The tty for programs at the CPU so many hops, counted from 0, away from the owner; -1 is the owner itself."""
    return directory / (f"cpu{hop}" if hop >= 0 else "owner") / "tty-P0"


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("hops", [1, 2, 3])
async def test_every_kind_of_client_reaches_the_line_of_another_cpu(tmp_path: Path, hops: int) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path, hops) as (gateways, _):
            owner, far = gateways[0], gateways[-1]
            line = owner.lines[0]
            port = await far.open_tcp(SerialCGI_Enabled="yes", PTZServer_Enabled="yes")
            async with await client(port) as tcp, far.ptz() as driver:
                await tcp.send_all(b"tcp\x00\xff")
                assert await line.hear(5) == b"tcp\x00\xff"
                await driver.send_all(b"ptz")
                assert await line.hear(3) == b"ptz"
                await line.say(b"to all")
                assert await receive_exactly(tcp, 6) == b"to all"
                assert await receive_exactly(driver, 6) == b"to all"

                answers: list[str] = []

                async def ask() -> None:
                    answers.append(await far.curl("/axis-cgi/com/serial.cgi?write=5152&read=3&timeout=5000"))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    assert await line.hear(2) == b"QR"
                    await line.say(b"abcd")
                assert answers == ["#616263#"]
                assert len((await far.status())["path"]) == hops + 1


async def test_a_transfer_as_fast_as_the_links_carry_it_arrives_whole(tmp_path: Path) -> None:
    block = os.urandom(65_536)
    with trio.fail_after(60):
        async with (
            chain(tmp_path, 2) as (gateways, _),
            await client(await gateways[-1].open_tcp()) as tcp,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(tcp.send_all, block * 48)
            for _ in range(48):
                assert await gateways[0].lines[0].hear(len(block)) == block


async def test_a_program_on_a_tty_two_links_away_goes_on_while_a_link_is_cut(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path, 2) as (gateways, cables):
            line, far = gateways[0].lines[0], gateways[-1]
            program = os.open(tty_of(tmp_path, 1), os.O_RDWR | os.O_NOCTTY)
            try:
                await far.until(lambda status: len(status["clients"]) == 1)
                os.write(program, b"over two links")
                assert await line.hear(14) == b"over two links"
                for cable in cables:
                    cable.cut()
                    os.write(program, b"kept")  # the link drops, and its session goes on: nothing is lost
                    await line.say(b"answer")
                    assert await line.hear(4) == b"kept"
                    assert await trio.to_thread.run_sync(os.read, program, 6) == b"answer"
                    await up(far)
                (client,) = (await far.status())["clients"]
                assert (client["service"], client["dropped"], client["missed"]) == ("Tty", 0, 0)
            finally:
                os.close(program)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_program_two_links_away_sets_the_line_where_its_owners_host_lets_it(
    tmp_path: Path, *, allowed: bool
) -> None:
    with trio.fail_after(30):
        async with chain(tmp_path, 2, owned=ChainedConfig(configure=allowed)) as (gateways, cables):
            owner, far = gateways[0], gateways[-1]
            with open(tty_of(tmp_path, 1), "r+b", buffering=0, opener=_no_control) as program:  # noqa: ASYNC230
                await far.until(lambda status: len(status["clients"]) == 1)
                attributes = termios.tcgetattr(program)
                assert attributes[5] == termios.B9600, "it shows what is in force at the owner's"
                attributes[4] = attributes[5] = termios.B19200
                termios.tcsetattr(program, termios.TCSANOW, attributes)
                program.write(b"x")
                assert await owner.lines[0].hear(1) == b"x"
                assert (await owner.status())["settings_in_force"]["BaudRate"] == (19200 if allowed else 9600)
                wanted = termios.B19200 if allowed else termios.B9600
                while termios.tcgetattr(program)[5] != wanted:
                    await trio.lowlevel.checkpoint()
                cables[0].cut()
                program.write(b"y")
                assert await owner.lines[0].hear(1) == b"y"
                assert (await owner.status())["settings_in_force"]["BaudRate"] == (19200 if allowed else 9600)
            await owner.until(lambda status: status["settings_in_force"]["BaudRate"] == 9600)


def _no_control(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOCTTY)


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_link_that_is_cut_again_and_again_costs_no_byte(tmp_path: Path, hops: int) -> None:
    up_bytes, down_bytes = os.urandom(60_000), os.urandom(60_000)
    with trio.fail_after(60):
        async with chain(tmp_path, hops) as (gateways, cables):
            owner, far = gateways[0], gateways[-1]
            port = await far.open_tcp()
            async with await client(port) as tcp:
                done = trio.Event()
                heard: dict[str, bytes] = {}

                async def talk() -> None:
                    for start in range(0, len(up_bytes), 1000):
                        await tcp.send_all(up_bytes[start : start + 1000])
                        await owner.lines[0].say(down_bytes[start : start + 1000])

                async def hear_up() -> None:
                    heard["up"] = await owner.lines[0].hear(len(up_bytes))

                async def hear_down() -> None:
                    heard["down"] = await receive_exactly(tcp, len(down_bytes))

                async def disturb() -> None:
                    while not done.is_set():
                        for cable in cables:
                            cuts = cable.cuts
                            cable.cut_after(3000 + cuts * 777)
                            while cable.cuts == cuts and not done.is_set():
                                await trio.lowlevel.checkpoint()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(disturb)
                    async with trio.open_nursery() as traffic:
                        for task in (talk, hear_up, hear_down):
                            traffic.start_soon(task)
                    done.set()
                assert heard["up"] == up_bytes
                assert heard["down"] == down_bytes
                assert all(cable.cuts > 3 for cable in cables)


_PORTION = 512
_UNDER_WAY = 96
"""Bytes that the line takes while a command is under way on links."""


async def _waits(owner: Node, typist: Node, driver: Node) -> list[int]:
    """Count the bytes of a transfer of 64 KiB that are written between a PTZ command's sending and its arrival."""
    found = []
    client, pressed = typist.connect(Right.TCP), driver.connect(Right.PTZ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_take_slowly, owner)
        nursery.start_soon(client.transfer, bytes(65536))
        await holds(lambda: len(owner.tty.taken) > 4500)  # the line's buffer has been filled, and the line is slow now
        for number in range(4):
            command = b"<PTZ %d>" % number
            before = len(owner.tty.taken)
            await pressed.write(command)
            await holds(lambda: command in owner.tty.taken)  # noqa: B023
            found.append(owner.tty.taken.index(command) - before)
        nursery.cancel_scope.cancel()
    return found


async def _take_slowly(owner: Node) -> None:
    """Take 960 bytes a second, after what the line's buffer holds."""
    owner.tty.make_room(4096)
    while True:
        await trio.sleep(0.05)
        owner.tty.make_room(48)


async def test_a_transfer_over_a_slow_line_makes_no_ptz_command_wait_longer_than_at_the_owner_itself() -> None:
    results: dict[str, list[int]] = {}

    async def measure(name: str, hops: int, typist: int, driver: int) -> None:
        async with chained(hops, room=0) as (nodes, cables):
            if driver == len(nodes):
                nodes.append(node(nodes[0].nursery, "another"))
                nodes[-1].dial(cables[0])
                await nodes[-1].up()
            results[name] = await _waits(nodes[0], nodes[typist], nodes[driver])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure, "owner", 0, 0, 0)
            nursery.start_soon(measure, "same CPU", 1, 1, 1)
            nursery.start_soon(measure, "another CPU", 1, 1, 2)
            nursery.start_soon(measure, "two hops", 2, 2, 2)
            nursery.start_soon(measure, "two hops and one", 2, 2, 1)
    print(results)
    assert max(results.pop("owner")) <= _PORTION
    assert all(max(found) <= _PORTION + _UNDER_WAY for found in results.values()), results


async def _guess(port: int, point: bytes, hang_up: bool) -> bool:
    """Try a key from another address, or hang up when the guess could be tested; tell whether it was answered."""
    sock = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.66", 0))
    link = Link(sock, Connection(Initiator(point, NodeKey(os.urandom(32)), 0, os.urandom(32), os.urandom(16))))
    try:
        if hang_up:
            link._push(link._connection.data_to_send())
            await link._next_event()
        else:
            await link.handshake(_unasked)
    except WrongKeyError:
        return True
    except (LinkCutError, CutError):
        return False
    finally:
        link.close()
    return False


def _unasked(_: object) -> None:
    raise AssertionError


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_thousands_of_wrong_keys_from_one_address_disturb_nobody() -> None:
    strangers, at_once, point = 5000, 40, key_point("a guess")
    guesses = memory = 0
    delays: list[float] = []
    with trio.fail_after(60):
        async with chained(1) as ((owner, far), (cable,)):
            client, ear = far.connect(Right.TCP), far.listen()

            async def echo() -> None:
                while True:
                    piece, began = b"%08d" % len(delays), trio.current_time()
                    await client.write(piece)
                    await holds(lambda: owner.tty.taken.endswith(piece))  # noqa: B023
                    owner.bus.deliver(piece)
                    await holds(lambda: ear.heard.endswith(piece))  # noqa: B023
                    delays.append(trio.current_time() - began)

            async def guess(hang_up: bool) -> None:
                nonlocal guesses
                answered = await _guess(owner.port, point, hang_up)
                guesses += answered

            began = trio.current_time()
            async with trio.open_nursery() as good:
                good.start_soon(echo)
                for batch in range(strangers // at_once):
                    async with trio.open_nursery() as bad:
                        for number in range(at_once):
                            bad.start_soon(guess, number % 2 == 0)
                    memory = memory if batch > 10 else _resident()
                good.cancel_scope.cancel()
            seconds = trio.current_time() - began
            grown = _resident() - memory
            print(f"{strangers} in {seconds:.1f} s, {guesses} answered, {len(delays)} echoes,", end=" ")
            print(f"the slowest {max(delays) * 1000:.0f} ms, {grown // 1024} KiB more")
            assert 10 <= guesses <= 10 + seconds
            assert owner.service.refused > strangers * 0.9
            assert max(delays) < 1
            assert grown < 4 << 20
            assert far.device.links_lost == 0
            late = node(owner.nursery, "late, and from another address")
            late.dial(cable)
            await late.up()


async def _live(directory: Path, seconds: list[float], task_status: trio.TaskStatus[Gateway], **more: Any) -> None:
    """Run a gateway until it is told to stop, and note how long that took."""
    async with running_gateway(_made(directory), **more) as gateway:
        task_status.started(gateway)
        await gateway.stop.wait()
        began = trio.current_time()
    seconds.append(trio.current_time() - began)


@pytest.mark.parametrize("first", ["owner", "far"])
@pytest.mark.parametrize("state", ["up", "down", "stuck"])
async def test_gateways_stop_in_time_whatever_their_links_do(tmp_path: Path, state: str, first: str) -> None:
    seconds: list[float] = []
    managers = (ManagerHardware(remote_port=0),)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            owner: Gateway = await nursery.start(_live, tmp_path / "owner", seconds)
            async with laid_cable(await serve_remotely(owner)) as cable:
                start = functools.partial(_live, ports=0, managers=managers)
                far: Gateway = await nursery.start(start, tmp_path / "far", seconds)
                await chain_to(far, cable.port)
                await up(far)
                async with await client(await far.open_tcp()) as tcp:
                    await tcp.send_all(b"some")
                    assert await owner.lines[0].hear(4) == b"some"
                    if state == "stuck":
                        with trio.move_on_after(1):
                            await tcp.send_all(bytes(1 << 23))
                    if state == "down":
                        cable.unplug()
                        await tcp.send_all(b"kept")
                    for gateway in (owner, far) if first == "owner" else (far, owner):
                        stopped = len(seconds)
                        gateway.stop.set()
                        await holds(lambda: len(seconds) > stopped)  # noqa: B023
    print([round(each, 2) for each in seconds])
    assert max(seconds) < 4
