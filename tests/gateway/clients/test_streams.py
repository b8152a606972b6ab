"""Clients' sockets over real socket pairs and loopback TCP."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.clients.connections import Connections
from gateway.clients.streams import MESSAGE_LIMIT, PacketStream, SocketStream, TooLong, keep_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pair = tuple[socket.socket, socket.socket]


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def packet_pair() -> Pair:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.fixture(params=[socket.socketpair, tcp_pair], ids=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    make: Callable[[], Pair] = request.param
    near, far = make()
    with near, far:
        yield near, far


@pytest.fixture
def packets() -> Iterator[Pair]:
    near, far = packet_pair()
    with near, far:
        yield near, far


def fill(stream: SocketStream | PacketStream) -> int:
    total = 0
    while took := stream.send_nowait(bytes(4096)):
        total += took
    return total


def hang_up_rudely(far: socket.socket) -> None:
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()


async def test_an_offer_takes_what_the_socket_has_room_for_and_no_more(pair: Pair) -> None:
    stream = SocketStream(pair[0])
    taken = fill(stream)
    assert stream.send_nowait(b"one more") == 0
    got = 0
    pair[1].setblocking(False)
    with trio.fail_after(5):
        while got < taken:
            await trio.lowlevel.wait_readable(pair[1])
            got += len(pair[1].recv(1 << 20))
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


async def test_send_waits_until_the_peer_takes_some_and_says_how_much(pair: Pair) -> None:
    stream = SocketStream(pair[0])
    taken = fill(stream)
    counts: list[int] = []

    async def send() -> None:
        counts.append(await stream.send(b"x" * 4096))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert counts == []
            got = 0
            while got < taken:
                got += len(await trio.to_thread.run_sync(pair[1].recv, taken - got))
        assert pair[1].recv(65536) == b"x" * counts[0]


async def test_pieces_come_as_they_are_and_nothing_is_the_end(pair: Pair) -> None:
    stream = SocketStream(pair[0])
    with trio.fail_after(5):
        pair[1].sendall(b"pan left")
        assert await stream.receive() == b"pan left"
        pair[1].shutdown(socket.SHUT_WR)
        assert await stream.receive() == b""


async def test_a_peer_that_has_gone_takes_nothing_and_is_told_of_where_that_can_be_waited_for(pair: Pair) -> None:
    stream = SocketStream(pair[0])
    hang_up_rudely(pair[1])
    assert stream.send_nowait(b"x") == 0
    with trio.fail_after(5), pytest.raises(OSError):
        await stream.send(b"x")


async def test_a_reset_is_an_error_of_who_receives() -> None:
    near, far = tcp_pair()
    with near:
        hang_up_rudely(far)
        with trio.fail_after(5), pytest.raises(ConnectionResetError):
            await SocketStream(near).receive()


@pytest.mark.parametrize(("make", "kind"), [(socket.socketpair, SocketStream), (packet_pair, PacketStream)])
async def test_who_is_woken_for_nothing_waits_on(
    make: Callable[[], Pair], kind: type[SocketStream | PacketStream]
) -> None:
    near, far = make()
    got: list[bytes] = []
    with near, far, near.dup() as also_near:

        async def receive(sock: socket.socket) -> None:
            got.append(await kind(sock).receive())

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, near)
                nursery.start_soon(receive, also_near)
                await trio.testing.wait_all_tasks_blocked()
                far.send(b"first")  # wakes both; one finds nothing left
                await trio.testing.wait_all_tasks_blocked()
                far.send(b"second")
        assert sorted(got) == [b"first", b"second"]


async def test_who_is_woken_for_room_that_another_took_waits_on() -> None:
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent: list[int] = []
    with near, far, near.dup() as also_near:
        streams = SocketStream(near), SocketStream(also_near)
        left = fill(streams[0])

        async def send(stream: SocketStream) -> None:
            sent.append(await stream.send(bytes(1 << 20)))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(send, stream)
                await trio.testing.wait_all_tasks_blocked()
                far.setblocking(False)
                while len(sent) < 2 or left + sum(sent) > 0:
                    await trio.lowlevel.wait_readable(far)
                    left -= len(far.recv(1 << 20))
        assert left + sum(sent) == 0


async def test_closing_a_stream_closes_its_socket(pair: Pair, packets: Pair) -> None:
    for stream, far in ((SocketStream(pair[0]), pair[1]), (PacketStream(packets[0]), packets[1])):
        stream.close()
        assert far.recv(1) == b""


async def test_a_stream_counts_among_the_connections_until_it_is_closed(pair: Pair, packets: Pair) -> None:
    for kind, (near, _) in ((SocketStream, pair), (PacketStream, packets)):
        connections = Connections()
        stream = kind(near, connections.open(near.fileno(), "192.0.2.7"))
        assert connections.count == 1
        stream.close()
        stream.close()
        assert connections.count == 0


def test_only_packets_keep_the_bounds_of_messages(pair: Pair, packets: Pair) -> None:
    assert not SocketStream(pair[0]).exact
    assert PacketStream(packets[0]).exact


# Packets ----------------------------------------------------------------------------------------------------


async def test_each_packet_is_one_message_even_the_longest(packets: Pair) -> None:
    stream = PacketStream(packets[0])
    longest = os.urandom(MESSAGE_LIMIT)
    for message in (b"a", longest, b"b"):
        packets[1].send(message)
    with trio.fail_after(5):
        assert [await stream.receive() for _ in range(3)] == [b"a", longest, b"b"]


async def test_a_packet_that_is_too_long_is_refused_whole_and_the_next_one_comes(packets: Pair) -> None:
    stream = PacketStream(packets[0])
    packets[1].send(bytes(MESSAGE_LIMIT + 1))
    packets[1].send(b"next")
    with trio.fail_after(5):
        with pytest.raises(TooLong):
            await stream.receive()
        assert await stream.receive() == b"next"


@pytest.mark.parametrize("last_words", [b"", b"bye"])
async def test_an_empty_packet_is_not_the_end_but_the_end_is(packets: Pair, last_words: bytes) -> None:
    packets[1].send(b"")  # before anybody looks
    stream = PacketStream(packets[0])
    packets[1].send(b"")
    packets[1].send(b"go")
    packets[1].send(last_words)
    packets[1].shutdown(socket.SHUT_WR)
    with trio.fail_after(5):
        assert await stream.receive() == b"go"
        assert await stream.receive() == last_words
        assert await stream.receive() == b""


async def test_descriptors_that_a_driver_sends_are_not_kept(packets: Pair) -> None:
    stream = PacketStream(packets[0])
    before = len(os.listdir("/proc/self/fd"))
    gift = array.array("i", [packets[1].fileno()] * 4)
    packets[1].sendmsg([b"data"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, gift)])
    with trio.fail_after(5):
        assert await stream.receive() == b"data"
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # trio's own, if it is the first wait


async def test_packets_are_sent_whole_or_not_yet(packets: Pair) -> None:
    stream = PacketStream(packets[0])
    taken = fill(stream)
    sizes: list[int] = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                assert await stream.send(b"y" * 4096) == 4096

            await trio.testing.wait_all_tasks_blocked()
            while sum(sizes) < taken:
                sizes.append(len(packets[1].recv(65536)))
        assert packets[1].recv(65536) == b"y" * 4096
    assert set(sizes) == {4096}


def test_a_dead_peer_is_found_both_idle_and_with_data_on_the_way() -> None:
    near, far = tcp_pair()
    with near, far:
        keep_alive(near, 30.0)

        def option(name: int) -> int:
            return near.getsockopt(socket.IPPROTO_TCP, name)

        assert option(socket.TCP_NODELAY) == 1
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT) <= 30
        assert option(socket.TCP_USER_TIMEOUT) == 30_000
        keep_alive(near, 2.0)
        assert option(socket.TCP_KEEPINTVL) == 1
