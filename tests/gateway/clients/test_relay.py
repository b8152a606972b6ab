"""One client's bytes both ways, over a real socket and a pty, whatever the client does."""

from __future__ import annotations

import errno
import logging
import random
import socket
import tracemalloc
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.clients.relay import QUEUE_LIMIT, Manner, Outbox, relay
from gateway.clients.streams import MESSAGE_LIMIT, PacketStream, SocketStream
from gateway.port.bus import Bus
from gateway.port.history import History
from gateway.port.rights import Right
from gateway.port.router import Forbidden, Router
from gateway.tasks.watch import Cell
from tests.gateway.line import ALL, NarrowTty, narrow_port, serial_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.clients.connections import ClientConnection
    from gateway.port.router import Handle, Session
    from tests.gateway.line import Line

FOREVER = Cell(0)


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


@dataclass
class Narrow:
    """A client that takes what ``room`` says, and says what ``words`` hold."""

    room: int = 0
    exact: bool = False
    connection: ClientConnection | None = None
    got: bytes = b""
    closed: bool = False
    broken: bool = False
    words: list[bytes] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Where bytes are missing, by what came before, and how many."""
    lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    async def skip(self, count: int) -> None:
        await trio.lowlevel.checkpoint()
        self.gaps.append((len(self.got), count))

    def send_nowait(self, data: bytes) -> int:
        took = min(self.room, len(data))
        self.room -= took
        self.got += data[:took]
        return took

    async def send(self, data: bytes) -> int:
        await trio.lowlevel.checkpoint()
        while not self.room:
            if self.broken:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            await self.lot.park()
        return self.send_nowait(data)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.words:
            await self.lot.park()
        return self.words.pop(0)

    def close(self) -> None:
        self.closed = True

    def make_room(self, count: int) -> None:
        self.room += count
        self.lot.unpark_all()

    def say(self, *words: bytes) -> None:
        self.words += words
        self.lot.unpark_all()


@asynccontextmanager
async def client(line: Line, packets: bool = False) -> AsyncIterator[tuple[trio.socket.SocketType, Session]]:
    """Relay a real socket on a real line."""
    kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    session = line.handle.open(Right.TCP)
    peer = trio.socket.from_stdlib_socket(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, (PacketStream if packets else SocketStream)(near), session, FOREVER)
        await blocked()
        yield peer, session
        nursery.cancel_scope.cancel()
    peer.close()
    assert near.fileno() == -1


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks but the one that made it."""

    def __init__(self) -> None:
        self.observer = trio.lowlevel.current_task()
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is not self.observer


# Both ways --------------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways_and_are_counted() -> None:
    async with serial_line() as line:
        with trio.fail_after(5):
            async with client(line) as (peer, session):
                await peer.send(b"question")
                assert await line.hear(8) == b"question"
                line.say(b"answer")
                assert await peer.recv(100) == b"answer"
                assert session.reader is not None
                assert (session.counters.received, session.counters.written, session.reader.sent) == (8, 8, 6)
                assert session.reader.size == session.counters.dropped == 0


async def test_a_message_costs_at_most_one_step_of_one_task_either_way_however_many_hear_it() -> None:
    async with serial_line() as line:
        with trio.fail_after(5):
            async with AsyncExitStack() as connected:
                peers = [(await connected.enter_async_context(client(line)))[0] for _ in range(8)]
                steps = Steps()
                trio.lowlevel.add_instrument(steps)
                for _ in range(10):
                    await peers[0].send(b"question")
                    assert await line.hear(8) == b"question"
                assert steps.count <= 10
                for _ in range(10):
                    line.say(b"answer")
                    assert [await peer.recv(100) for peer in peers] == [b"answer"] * 8
                assert steps.count <= 20
                trio.lowlevel.remove_instrument(steps)


async def test_a_long_stream_arrives_whole_each_way_at_the_same_time() -> None:
    up, down = random.Random(1).randbytes(400_000), random.Random(2).randbytes(400_000)
    async with serial_line() as line:
        with trio.fail_after(5):
            async with client(line) as (peer, session), trio.open_nursery() as nursery:
                got = bytearray()

                async def speak() -> None:
                    await trio.lowlevel.wait_writable(line.far)
                    for start in range(0, len(down), 1000):
                        await trio.lowlevel.wait_writable(line.far)
                        line.say(down[start : start + 1000])

                async def send() -> None:
                    rest = memoryview(up)
                    while rest:
                        rest = rest[await peer.send(rest) :]

                async def listen() -> None:
                    while len(got) < len(down):
                        got.extend(await peer.recv(65536))

                for task in (speak, send, listen):
                    nursery.start_soon(task)
                assert await line.hear(len(up)) == up
            assert got == down
            assert (session.counters.received, session.counters.written) == (len(up), len(up))


async def test_a_packet_is_one_message_and_one_that_is_too_long_is_dropped_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serial_line() as line:
        with trio.fail_after(5):
            async with client(line, packets=True) as (peer, _):
                await peer.send(bytes(MESSAGE_LIMIT + 1))
                await peer.send(b"pan")
                assert await line.hear(3) == b"pan"
    assert "a packet over 4096 bytes is dropped" in caplog.text


async def test_exact_messages_are_not_split_where_others_wait() -> None:
    tty = NarrowTty()
    bus, _ = narrow_port(tty)
    service = Router({"P0": bus}).grant("P0", ALL, "service")
    clients = [Narrow(exact=True, words=[bytes([65 + number]) * 2000]) for number in range(3)]
    async with trio.open_nursery() as nursery:
        for peer in clients:
            nursery.start_soon(relay, peer, service.attenuate(ALL, "driver").open(Right.PTZ), FOREVER)
        await blocked()
        tty.make_room(6000)
        await blocked()
        nursery.cancel_scope.cancel()
    assert sorted(tty.taken[start : start + 2000] for start in (0, 2000, 4000)) == [
        b * 2000 for b in (b"A", b"B", b"C")
    ]


# The outbox -------------------------------------------------------------------------------------------------


async def test_what_a_client_does_not_take_waits_in_order_and_nothing_overtakes_it() -> None:
    peer = Narrow(room=3)
    outbox = Outbox(peer, lambda: pytest.fail("there is room"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.drain)
        outbox.deliver(b"abcdef")
        peer.room = 100  # the socket has room again before the drain ran
        outbox.deliver(b"ghi")
        outbox.deliver(b"jkl")
        assert (outbox.size, outbox.sent) == (9, 3)
        await outbox.empty()
        await outbox.empty()
        outbox.deliver(b"mno")
        nursery.cancel_scope.cancel()
    assert peer.got == b"abcdefghijklmno"
    assert (outbox.size, outbox.sent) == (0, 15)


async def test_a_client_that_has_room_again_gets_all_that_waits_in_one_step() -> None:
    peer = Narrow()
    outbox = Outbox(peer, lambda: pytest.fail("there is room"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.drain)
        for _ in range(50):
            outbox.deliver(bytes(3000))
        await blocked()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        peer.make_room(50 * 3000)
        await blocked()
        trio.lowlevel.remove_instrument(steps)
        assert (outbox.size, outbox.sent, steps.count) == (0, 50 * 3000, 1)
        nursery.cancel_scope.cancel()


async def test_a_queue_is_counted_exactly_while_the_client_takes_it_in_pieces() -> None:
    peer = Narrow()
    outbox = Outbox(peer, lambda: pytest.fail("there is room"))
    said = b"".join(bytes([65 + number]) * 1500 for number in range(8))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.drain)
        for start in range(0, len(said), 1500):
            outbox.deliver(said[start : start + 1500])
        for step in range(1, 13):
            peer.make_room(1000)
            await blocked()
            assert (outbox.size, outbox.sent) == (len(said) - 1000 * step, 1000 * step)
        nursery.cancel_scope.cancel()
    assert peer.got == said


async def test_small_pieces_that_wait_are_joined_behind_the_one_that_may_be_on_its_way() -> None:
    @dataclass
    class Noting(Narrow):
        tried: list[bytes] = field(default_factory=list)

        def send_nowait(self, data: bytes) -> int:
            self.tried.append(data)
            return super().send_nowait(data)

    peer = Noting()
    outbox = Outbox(peer, lambda: pytest.fail("there is room"))
    async with trio.open_nursery() as nursery:
        for piece in (b"first", b"second", b"third", b"fourth", bytes(4090)):
            outbox.deliver(piece)
        assert peer.tried == [b"first"]  # nothing is offered past what waits
        peer.make_room(8192)
        nursery.start_soon(outbox.drain)
        await blocked()
        nursery.cancel_scope.cancel()
    assert peer.tried[1:] == [b"first", b"secondthirdfourth", bytes(4090)]


async def test_pieces_are_joined_up_to_4096_bytes() -> None:
    sizes: list[int] = []

    class Counting(Narrow):
        def send_nowait(self, data: bytes) -> int:
            sizes.append(len(data))
            return super().send_nowait(data)

    peer = Counting()
    outbox = Outbox(peer, lambda: pytest.fail("there is room"))
    for size in (1, 4000, 96, 1):
        outbox.deliver(bytes(size))
    peer.make_room(9999)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.drain)
        await blocked()
        nursery.cancel_scope.cancel()
    assert sizes[1:] == [1, 4096, 1]


async def test_who_waits_until_nothing_waits_sleeps_until_then_every_time() -> None:
    peer = Narrow()
    outbox = Outbox(peer, lambda: pytest.fail("there is room"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.drain)
            for _ in range(2):
                outbox.deliver(b"x")
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(outbox.empty)
                    await blocked()
                    assert waiting.child_tasks
                    peer.make_room(1)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("exact", [True, False])
async def test_a_message_keeps_the_line_and_a_long_piece_of_a_byte_stream_lets_others_in(exact: bool) -> None:
    tty = NarrowTty(600)
    bus, turns = narrow_port(tty)
    peer, (_, session), (_, other) = Narrow(exact=exact, words=[bytes(2000)]), opened(bus), opened(bus)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, peer, session)
            await blocked()
            nursery.start_soon(other.write, b"|")
            await blocked()
            tty.make_room(9999)
            await turns.idle()
            await blocked()
            nursery.cancel_scope.cancel()
    assert tty.taken.index(b"|") == (2000 if exact else 7 * 96)


async def test_a_queue_of_tiny_pieces_costs_little_more_than_its_bytes() -> None:
    outbox = Outbox(Narrow(), lambda: pytest.fail("there is room"))
    tracemalloc.start()
    for _ in range(QUEUE_LIMIT // 64):
        outbox.deliver(bytes(16))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outbox.size == QUEUE_LIMIT // 4
    assert held < 1.3 * outbox.size


async def test_a_client_that_never_reads_is_cut_at_the_limit_and_delays_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serial_line() as line:
        with trio.fail_after(5):
            async with client(line) as (_, lazy), client(line) as (peer, session):
                said = 0
                while lazy.ended is None:
                    line.bus.deliver(bytes(4096))
                    said += 4096
                    got = 0
                    while got < 4096:
                        got += len(await peer.recv(65536))
                assert lazy.ended == f"it left {QUEUE_LIMIT} bytes unread"
                assert QUEUE_LIMIT < said < QUEUE_LIMIT + 4_000_000
                assert lazy.reader is not None
                assert QUEUE_LIMIT < lazy.reader.size <= QUEUE_LIMIT + 4096
                unread = lazy.reader.size
                line.bus.deliver(b"more")
                assert lazy.reader.size == unread
                assert await peer.recv(10) == b"more"
                assert session.ended is None


@pytest.mark.parametrize("room", [0, 100])
async def test_a_client_that_reads_too_slowly_misses_the_oldest_bytes_where_its_port_wants_that(room: int) -> None:
    bus = Bus("P0")
    peer, (_, session) = Narrow(room=room), opened(bus)
    piece, last = bytes(4096), b"the newest"
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, peer, session, FOREVER, Manner(drop_oldest=True))
            await blocked()
            for _ in range(QUEUE_LIMIT // 4096):
                bus.deliver(piece)
            assert session.missed == 0
            bus.deliver(piece)
            assert session.reader is not None
            assert QUEUE_LIMIT // 2 - 4096 < session.reader.size <= QUEUE_LIMIT // 2
            bus.deliver(last)
            peer.make_room(QUEUE_LIMIT)
            await blocked()
            assert session.reader.size == 0
            nursery.cancel_scope.cancel()
    heard = len(peer.got)
    assert heard + session.missed == QUEUE_LIMIT + 4096 + len(last)
    assert peer.got.endswith(last)
    assert peer.gaps == [(4096, session.missed)]
    assert session.ended is None


async def test_each_gap_stands_between_the_bytes_before_it_and_those_behind_it() -> None:
    peer, dropped = Narrow(), [0, 0]

    def overflow() -> None:
        dropped[1 if peer.got else 0] += outbox.drop_oldest()

    outbox = Outbox(peer, overflow)
    pieces = [number.to_bytes(4, "big") * 1024 for number in range(800)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.drain)
        for piece in pieces[:400]:
            outbox.deliver(piece)
        await blocked()
        peer.make_room(5000)  # the head, and a part of what is behind the gap
        await blocked()
        for piece in pieces[400:]:
            outbox.deliver(piece)
        peer.make_room(1 << 22)
        await blocked()
        nursery.cancel_scope.cancel()
    first, second = dropped
    assert peer.gaps == [(4096, first), (8192, second)]
    said = b"".join(pieces)
    assert peer.got == said[:4096] + said[4096 + first :][:4096] + said[8192 + first + second :]


# Comings and goings -----------------------------------------------------------------------------------------


async def run(peer: Narrow, session: Session, idle: Cell[int] = FOREVER, manner: Manner | None = None) -> None:
    await relay(peer, session, idle, manner or Manner())
    assert peer.closed


def opened(bus: Bus) -> tuple[Handle, Session]:
    handle = Router({"P0": bus}).grant("P0", ALL, "service").attenuate(ALL, "client")
    return handle, handle.open(Right.TCP)


@pytest.mark.parametrize(("manner", "silence"), [(Manner(), 2), (Manner(linger=5), 5), (Manner(linger=0.5), 0.5)])
async def test_a_client_that_ended_its_sending_hears_the_line_until_that_was_silent(
    autojump_clock: trio.testing.MockClock, manner: Manner, silence: float
) -> None:
    bus, _ = narrow_port(NarrowTty(100))
    peer, (_, session) = Narrow(room=100, words=[b"ask", b""]), opened(bus)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session, FOREVER, manner)
        for piece in (b"ans", b"wer"):
            await trio.sleep(0.9 * silence)
            bus.deliver(piece)
        await trio.sleep(0.9 * silence)
        assert not peer.closed
        await trio.sleep(0.2 * silence)
        assert peer.closed
        bus.deliver(b"too late")
    assert peer.got == b"answer"


async def test_a_client_that_ended_its_sending_hears_a_line_that_never_falls_silent_for_eight_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus = Bus("P0")
    peer, (_, session) = Narrow(room=10_000, words=[b""]), opened(bus)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session)
        while not peer.closed:
            bus.deliver(b"x")
            await trio.sleep(0.1)
    assert trio.current_time() - start == pytest.approx(8.1)


async def test_what_a_client_sends_that_may_not_write_is_dropped_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tty = NarrowTty(100)
    bus, _ = narrow_port(tty)
    peer = Narrow(room=100, words=[b"?WATCH", b"=1;"])
    session = Router({"P0": bus}).grant("P0", ALL, "service").attenuate(Right.READ, "gpsd").open(Right(0))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, peer, session)
            await blocked()
            bus.deliver(b"$GPGGA")
            assert (session.counters.received, session.counters.dropped, bus.dropped) == (9, 9, 9)
            nursery.cancel_scope.cancel()
    assert (tty.taken, peer.got) == (b"", b"$GPGGA")
    assert caplog.messages == ["P0 gpsd: what it sends is dropped: gpsd may only read"]


async def test_a_client_that_may_not_write_waits_for_no_turn_to_learn_that() -> None:
    tty = NarrowTty()
    bus, _ = narrow_port(tty)
    _, session = opened(bus)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened(bus)[1].write, b"has the turn")
            await blocked()
            session.silent = "somebody else may write"
            with pytest.raises(Forbidden, match="somebody else may write"):
                await session.write(b"x")
            nursery.cancel_scope.cancel()


async def test_a_client_that_connects_hears_the_history_first_and_nothing_twice() -> None:
    bus, history = Bus("P0"), History(6)
    bus.attach(history.deliver)
    bus.deliver(b"old prompt> ")
    peer, (_, session) = Narrow(room=100), opened(bus)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, peer, session, FOREVER, Manner(history=history))
            await blocked()
            bus.deliver(b"new")
            nursery.cancel_scope.cancel()
    assert peer.got == b"ompt> new"


async def test_an_answer_still_queued_when_the_linger_is_over_has_time_to_be_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus = Bus("P0")
    peer, (_, session) = Narrow(words=[b""]), opened(bus)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session)
        await trio.sleep(1.9)
        bus.deliver(b"answer")
        await trio.sleep(3)
        assert not peer.closed
        peer.make_room(100)
        await blocked()
        assert peer.closed
    assert peer.got == b"answer"


async def test_a_client_that_takes_nothing_at_the_end_is_left_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus = Bus("P0")
    peer, (_, session) = Narrow(words=[b""]), opened(bus)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session)
        await trio.sleep(1)
        bus.deliver(b"answer")
    assert trio.current_time() - start == pytest.approx(4.5)
    assert session.reader is not None
    assert session.reader.size == 6


async def test_a_real_half_close_gets_its_answer_and_then_the_end() -> None:
    async with serial_line() as line:
        with trio.fail_after(5):
            async with client(line) as (peer, _):
                await peer.send(b"ask")
                peer.shutdown(socket.SHUT_WR)
                assert await line.hear(3) == b"ask"
                line.say(b"answer")
                assert await peer.recv(100) == b"answer"


async def test_a_peer_found_gone_while_it_is_written_to_ends_the_session() -> None:
    bus = Bus("P0")
    peer, (handle, session) = Narrow(broken=True), opened(bus)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, peer, session)
            await blocked()
            bus.deliver(b"x")
    assert session.ended == "Broken pipe"
    assert handle.revoked is not None


async def test_a_peer_that_resets_its_connection_ends_the_session_with_the_kernels_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    async with serial_line() as line:
        session = line.handle.open(Right.TCP)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay, SocketStream(near), session, FOREVER)
                await blocked()
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                far.close()
    assert session.ended == "Connection reset by peer"


async def test_revoking_ends_a_relay_wherever_it_waits() -> None:
    tty = NarrowTty()
    bus, turns = narrow_port(tty)
    children = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            for words in ([], [b"has the turn"], [b"waits for it"], [b""]):
                handle, session = opened(bus)
                children.append(handle)
                nursery.start_soon(run, Narrow(words=list(words)), session)
                await blocked()
            bus.deliver(b"nobody takes it")
            await blocked()
            for handle in children:
                handle.revoke("the service is closed")
            tty.make_room(100)
            await turns.idle()
            turns.end("over")
    assert tty.taken == b""


async def test_a_pump_that_is_revoked_after_its_turn_came_leaves_without_a_word() -> None:
    tty = NarrowTty()
    bus, _ = narrow_port(tty)
    (handle, session), peer = opened(bus), Narrow(words=[b"evil"])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, peer, session)
            await blocked()
            tty.make_room(100)
            handle.revoke("gone")
    assert tty.taken == b""
    assert session.counters.dropped == 4


async def test_while_the_device_is_away_clients_stay_and_what_they_send_is_dropped_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tty = NarrowTty(100)
    bus, turns = narrow_port(tty)
    (_, session), peer = opened(bus), Narrow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session)
        for _ in range(2):
            bus.disconnect("the cable is out")
            peer.say(b"lost", b"lost", b"lost")
            await blocked()
            bus.connect(turns := type(turns)(tty.as_uart, bus))
            peer.say(b"kept")
            await blocked()
        nursery.cancel_scope.cancel()
    assert tty.taken == b"keptkept"
    assert session.counters.dropped == 24
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "P0 client: what it sends is dropped: the cable is out" in caplog.text


async def test_when_the_gateway_stops_nothing_more_is_read_and_what_waits_is_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus, _ = narrow_port(NarrowTty(100))
    (_, session), peer = opened(bus), Narrow()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session)
        await blocked()
        bus.deliver(b"last words")
        session.pumping.cancel()
        peer.say(b"unread")
        await trio.sleep(1)
        assert not peer.closed
        peer.make_room(100)
    assert peer.got == b"last words"
    assert session.counters.received == 0
    assert trio.current_time() - start == pytest.approx(1)


# Idle -------------------------------------------------------------------------------------------------------


async def test_a_client_is_idle_only_after_nothing_went_either_way_for_the_whole_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus, _ = narrow_port(NarrowTty(100))
    (_, session), peer = opened(bus), Narrow(room=100)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session, Cell(10))
        await trio.sleep(9)
        peer.say(b"up")
        await trio.sleep(9)
        bus.deliver(b"down")
    assert session.ended == "idle for 10 s"
    assert trio.current_time() - start == pytest.approx(28)


async def test_a_new_limit_counts_at_once_and_none_is_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    (_, session), limit = opened(Bus("P0")), Cell(0)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, Narrow(), session, limit)
        await trio.sleep(5000)
        limit.set(6000)
        await trio.sleep(500)
        limit.set(0)
        await trio.sleep(5000)
        limit.set(7)
    assert session.ended == "idle for 7 s"
    assert trio.current_time() - start == pytest.approx(10_500)


async def test_a_client_whose_bytes_a_slow_line_still_takes_is_not_idle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tty = NarrowTty()
    bus, _ = narrow_port(tty)
    (_, session), peer = opened(bus), Narrow(words=[bytes(600)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer, session, Cell(10))
        for _ in range(60):
            await trio.sleep(5)
            tty.make_room(10)
        assert session.ended is None
        nursery.cancel_scope.cancel()
    assert len(tty.taken) == 600
