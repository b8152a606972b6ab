"""The shortest way up: a step reads from a client's socket and has the bytes in the tty, under both drivers."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.clients.relay import relay
from gateway.clients.service import Service
from gateway.clients.streams import PacketStream, SocketStream
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.tasks.watch import Cell
from protocol.sharing.message_rule import MessageRule
from tests.gateway.line import ALL, NarrowTty, narrow_port, serial_line
from tests.gateway.serial_line.test_arbiter import CancelAtStep
from tests.gateway.tasks.test_ready import DRIVERS, by_the_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.port.bus import Bus
    from gateway.port.router import Handle, Session

    Drive = Callable[[Callable[[], Awaitable[None]]], None]

FOREVER = Cell(0)


@dataclass
class Connected:
    """A client: its end of the socket, and what the gateway has for it."""

    far: socket.socket
    handle: Handle
    session: Session

    def say(self, data: bytes) -> None:
        self.far.send(data)


@contextlib.asynccontextmanager
async def connected(bus: Bus, *, packets: bool = False) -> AsyncIterator[Connected]:
    """Relay a real socket to the line of ``bus``."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM)
    handle = Router({"P0": bus}).grant("P0", ALL, "service").attenuate(ALL, "somebody")
    session = handle.open(Right.PTZ if packets else Right.TCP)
    with far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, (PacketStream if packets else SocketStream)(near), session, FOREVER)
            await served()
            if not packets:  # the first read is the task's, which looks for the port's rules
                far.send(b"*")
                with trio.fail_after(5):
                    while not session.counters.received:
                        await served(0.001)
                await served()
            yield Connected(far, handle, session)
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def narrow_line(room: int) -> AsyncIterator[tuple[NarrowTty, Bus]]:
    """A line whose tty has so much room, and the bus of its port."""
    tty = NarrowTty(room)
    bus, turns = narrow_port(tty)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        yield tty, bus
        nursery.cancel_scope.cancel()


async def served(seconds: float = 0.02) -> None:
    """Let the steps and the tasks that are due run."""
    await trio.sleep(seconds)


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks but the one that made it."""

    def __init__(self) -> None:
        self.observer = trio.lowlevel.current_task()
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is not self.observer


@pytest.mark.parametrize("packets", [False, True], ids=["stream", "packets"])
def test_a_message_wakes_no_task_on_its_way_to_the_tty(packets: bool) -> None:
    async def main() -> None:
        async with serial_line() as line, connected(line.bus, packets=packets) as client:
            if not packets:
                await line.hear(1)
            steps = Steps()
            trio.lowlevel.add_instrument(steps)
            for _ in range(10):
                client.say(b"question")
                assert await line.hear(8) == b"question"
            trio.lowlevel.remove_instrument(steps)
            assert steps.count == 0
            assert client.session.counters.written == client.session.counters.received >= 80

    by_the_clock(main)


@DRIVERS
@pytest.mark.parametrize("packets", [False, True], ids=["stream", "packets"])
def test_a_message_is_whole_however_little_the_tty_takes_at_once(drive: Drive, packets: bool) -> None:
    async def main() -> None:
        for room in range(1, 10):
            async with (
                narrow_line(2 if not packets else 0) as (tty, bus),
                connected(bus, packets=packets) as one,
                connected(bus, packets=packets) as other,
            ):
                tty.taken = b""
                for _ in range(3):
                    one.say(b"pan left")
                    other.say(b"TILT UP!")
                    await served(0.005)
                with trio.fail_after(5):
                    while len(tty.taken) < 48:
                        if not tty.room:
                            tty.make_room(room)
                        await served(0.001)
                messages = {tty.taken[start : start + 8] for start in range(0, 48, 8)}
                joined = tty.taken.replace(b"pan left", b"").replace(b"TILT UP!", b"")
                assert messages <= {b"pan left", b"TILT UP!"}
                assert joined == b""
                for client in (one, other):
                    assert client.session.counters.pending == client.session.counters.dropped == 0

    drive(main)


@DRIVERS
def test_what_the_tty_took_in_part_keeps_the_line_until_its_task_runs(drive: Drive) -> None:
    async def main() -> None:
        async with narrow_line(2) as (tty, bus):
            async with connected(bus) as one, connected(bus) as other:
                tty.taken, tty.room = b"", 3
                assert one.session.write_nowait(b"pan left", whole=True) == 3
                assert other.session.write_nowait(b"evil", whole=True) == 0
                tty.make_room(2)
                assert other.session.write_nowait(b"evil", whole=True) == 0
                assert (one.session.counters.received - 1, one.session.counters.pending) == (8, 5)
                assert not one.session.is_ready
                tty.make_room(100)
                await one.session.write(b"pan left", done=3)
                assert other.session.write_nowait(b"next", whole=True) == 4
            assert tty.taken == b"pan leftnext"

    drive(main)


@DRIVERS
def test_no_byte_passes_once_a_client_is_revoked(drive: Drive) -> None:
    """Wherever its step, or its task, is at that instant: it is tried at every pass of the scheduler."""

    async def main() -> None:
        for passes in range(8):
            for room in (0, 3, 100):
                async with narrow_line(100) as (tty, bus), connected(bus) as client:
                    tty.taken, tty.room = b"", room
                    client.say(b"evil")
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    client.handle.revoke("gone")
                    before = tty.taken
                    tty.make_room(100)
                    with trio.fail_after(5):
                        while client.session.counters.pending:
                            await served(0.001)
                    await served(0.005)
                    # A message that had begun is finished, for a part of it would be another message.
                    assert tty.taken in ((b"", b"evil") if not before else (b"evil",))
                    assert before or not tty.taken
                    assert client.session.counters.pending == 0

    drive(main)


def test_a_step_that_revokes_another_client_keeps_its_bytes_out_of_the_same_round() -> None:
    async def main() -> None:
        for _ in range(10):
            tty = NarrowTty(1000)
            bus, _ = narrow_port(tty)
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(connected(bus)) for _ in range(4)]
                tty.taken = b""

                def revoke_the_others(
                    data: memoryview, tty: NarrowTty = tty, clients: list[Connected] = clients
                ) -> int:
                    tty.taken += data
                    for index, client in enumerate(clients):
                        if client.session.counters.written == 1 and bytes(data) != b"%d" % index:
                            client.handle.revoke("gone")
                    return len(data)

                tty.send_nowait = revoke_the_others  # type: ignore[method-assign]  # it does more within the step
                for index, client in enumerate(clients):
                    client.say(b"%d" % index)
                await served()
                assert len(tty.taken) == 1

    by_the_clock(main)


@DRIVERS
def test_a_message_taken_in_part_is_whole_though_its_client_is_revoked_in_that_step(drive: Drive) -> None:
    async def main() -> None:
        async with narrow_line(1) as (tty, bus), connected(bus) as client, connected(bus) as other:
            tty.make_room(1)
            await served()
            tty.taken, tty.room = b"", 3
            sent = tty.send_nowait

            def send_and_revoke(data: memoryview) -> int:
                took = sent(data)
                client.handle.revoke("gone")
                return took

            tty.send_nowait = send_and_revoke  # type: ignore[method-assign]  # it does more within the step
            client.say(b"pan left")
            await served()
            assert tty.taken == b"pan"
            tty.make_room(5)
            await served()
            assert (tty.taken, client.session.counters.pending) == (b"pan left", 0)
            tty.make_room(100)
            other.say(b"|next")
            await served()
            assert tty.taken == b"pan left|next"

    drive(main)


@DRIVERS
def test_cancelled_at_any_step_a_clients_message_is_whole_or_absent_and_the_line_is_free(drive: Drive) -> None:
    data = b"<" + bytes(574) + b">"

    async def cancelled(step: int) -> bool:
        tty = NarrowTty(1, 57600)
        bus, turns = narrow_port(tty)
        instrument = CancelAtStep(step)
        handle = Router({"P0": bus}).grant("P0", ALL, "service").attenuate(ALL, "somebody")
        session = handle.open(Right.TCP)
        instrument.scope = session.scope
        near, far = socket.socketpair()
        trio.lowlevel.add_instrument(instrument)

        async def client() -> None:
            instrument.task = trio.lowlevel.current_task()
            await relay(SocketStream(near), session, FOREVER)

        with far:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turns.run)
                nursery.start_soon(client)
                far.send(b"*")
                while tty.taken != b"*" and not session.ended and not session.scope.cancel_called:
                    await served(0.001)  # or it would be a part of the first message, and that a transfer
                for _ in range(2):
                    with contextlib.suppress(OSError):
                        far.send(data)
                    for _ in range(7):
                        await served(0.002)
                        tty.make_room(100)
                tty.make_room(2000)
                await served(0.01)
                other = Router({"P0": bus}).grant("P0", ALL, "other").open(Right.TCP)
                assert other.write_nowait(b"!", whole=True) == 1
                nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(instrument)
        assert tty.taken.replace(data, b"").replace(b"*", b"") == b"!"
        assert session.counters.pending == 0
        assert (turns.written, turns.unfinished) == (len(tty.taken), 0)
        return not instrument.scope.cancel_called

    async def main() -> None:
        for step in range(1, 60):
            if await cancelled(step):
                assert step > 3
                return
        pytest.fail("the pump takes more steps than that?")

    drive(main)


@DRIVERS
def test_a_rule_that_comes_between_the_step_and_its_task_cuts_no_message_that_has_begun(drive: Drive) -> None:
    async def main() -> None:
        async with narrow_line(1) as (tty, bus), connected(bus) as client:
            tty.taken, tty.room = b"", 3
            sent = tty.send_nowait

            def send(data: memoryview) -> int:
                bus.share(None, MessageRule(end=b"\r"))
                return sent(data)

            tty.send_nowait = send  # type: ignore[method-assign]  # it does more within the step
            client.say(b"pan left")
            await served()
            tty.make_room(100)
            await served()
            assert tty.taken == b"pan left"
            client.say(b"one\rtwo\r")
            await served()
            assert tty.taken == b"pan leftone\rtwo\r"

    drive(main)


@DRIVERS
def test_a_client_at_full_speed_starves_neither_other_clients_nor_other_tasks(drive: Drive) -> None:
    flood, stop = b"x" * 65536, trio.Event()

    async def main() -> None:
        async with serial_line() as line, contextlib.AsyncExitStack() as stack:
            greedy, *others = [await stack.enter_async_context(connected(line.bus)) for _ in range(8)]
            heard = bytearray()

            async def drain() -> None:
                while True:
                    heard.extend(await line.hear(1))

            async def send() -> None:
                peer = trio.socket.from_stdlib_socket(greedy.far)
                while not stop.is_set():
                    await peer.send(flood)

            async def front_door() -> float:
                """Return the longest that an answer over a socket of trio's takes, in processor time of this process.

                What others do with the machine meanwhile starves nobody here.
                """
                ours, theirs = trio.socket.socketpair()
                longest = 0.0
                with ours, theirs:
                    for _ in range(50):
                        began = time.process_time()
                        await theirs.send(b"?")
                        assert await ours.recv(1) == b"?"
                        longest = max(longest, time.process_time() - began)
                return longest

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                nursery.start_soon(send)
                await served(0.05)
                with trio.fail_after(10):
                    for number in range(20):
                        for index, other in enumerate(others):
                            other.say(b"<%d:%d>" % (index, number))
                        for index in range(len(others)):
                            while b"<%d:%d>" % (index, number) not in heard:
                                await served(0.001)
                        heard.clear()
                    assert await front_door() < 0.5
                stop.set()
                nursery.cancel_scope.cancel()

    drive(main)


@DRIVERS
def test_a_client_that_hangs_up_while_the_line_is_stuck_costs_no_processor_time(drive: Drive) -> None:
    async def main() -> None:
        async with narrow_line(1) as (_, bus), connected(bus) as client:
            client.say(b"stuck")
            await served()
            client.say(b"behind")
            client.far.shutdown(socket.SHUT_RDWR)
            used = time.process_time()
            await trio.sleep(0.3)
            assert time.process_time() - used < 0.1

    drive(main)


@DRIVERS
def test_a_step_with_a_bug_ends_its_own_client_and_no_other(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serial_line() as line, trio.open_nursery() as nursery:
            service = Service("P0", line.handle, Right.TCP, nursery)
            pairs = [socket.socketpair() for _ in range(2)]
            one, other = (
                service.serve(SocketStream(near), f"client {number}") for number, (near, _) in enumerate(pairs)
            )
            await served()
            for _, far in pairs:
                far.send(b"*")
                await line.hear(1)
            assert one is not None
            assert other is not None
            assert one.session is not None

            def fail(*_: object, **__: object) -> int:
                raise RuntimeError("a bug in one step")

            one.session.write_nowait = fail  # type: ignore[method-assign]  # a bug that only one client meets
            pairs[0][1].send(b"lost")
            pairs[1][1].send(b"kept")
            assert await line.hear(4) == b"kept"
            await served()
            assert service.handle.children == (other,)
            nursery.cancel_scope.cancel()
            for _, far in pairs:
                far.close()

    caplog.set_level(logging.INFO)
    drive(main)
    assert "client 0 gone: a bug ended it" in caplog.text


@DRIVERS
def test_a_device_that_goes_in_a_step_is_told_to_the_client_that_stays(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        tty = NarrowTty(100)
        bus, _ = narrow_port(tty)
        async with connected(bus) as client:
            tty.close()
            client.say(b"lost")
            await served()
            assert client.session.ended is None
            assert (client.session.counters.dropped, client.session.counters.pending) == (4, 0)

    drive(main)
    assert "what it sends is dropped: the cable is out" in caplog.text


@DRIVERS
def test_a_long_stream_of_pieces_of_any_size_arrives_whole_and_in_order(drive: Drive) -> None:
    chance = random.Random(5)
    data = chance.randbytes(300_000)

    async def main() -> None:
        async with serial_line() as line, connected(line.bus) as client:
            await line.hear(1)
            client.far.setblocking(False)

            async def speak() -> None:
                start = 0
                while start < len(data):
                    end = start + chance.choice([1, 7, 100, 600, 5000, 70_000])
                    try:
                        start += client.far.send(data[start:end])
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(client.far)
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak)
                with trio.fail_after(10):
                    assert await line.hear(len(data)) == data
            os.set_blocking(client.far.fileno(), True)

    drive(main)
