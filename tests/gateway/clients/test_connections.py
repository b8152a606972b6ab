"""Who may have which descriptor, how connections are counted, and that one that breaks is noticed."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.clients.connections import Connections

if TYPE_CHECKING:
    from pathlib import Path


def test_no_client_of_a_port_gets_a_number_of_the_reserve() -> None:
    connections = Connections(5, 128)
    assert (connections.limit, connections.reserve, connections.most) == (128, 50, 78)
    assert connections.refusal(77, "a") is None
    assert connections.refusal(78, "a") == "the gateway has no descriptors left for clients"
    assert connections.refused == 1


def test_links_have_a_few_numbers_of_the_reserve_and_requests_a_place_each() -> None:
    connections = Connections(5, 128)
    assert connections.has_room_for_link(82)
    assert not connections.has_room_for_link(83)
    assert connections.requests == 8
    assert Connections(5, 8192).requests == 64


@pytest.mark.parametrize(("ours", "share"), [(38, 30), (74, 3), (77, 1)])
def test_a_quarter_of_what_clients_may_have_is_not_for_a_network_that_has_the_rest(ours: int, share: int) -> None:
    connections = Connections(5, 128)
    for number in range(ours, ours + share):
        assert connections.refusal(number, "greedy") is None
        connections.open(number, "greedy")
    assert connections.refusal(ours + share, "greedy") is not None
    assert (connections.refusal(ours + share, "another") is None) == (ours + share < connections.most)


def test_a_connection_counts_until_it_is_closed_and_once() -> None:
    connections = Connections(1, 1024)
    first, second = connections.open(10, "a"), connections.open(11, "b")
    assert connections.count == 2
    first.close()
    first.close()
    assert connections.count == 1
    second.rename("a")
    assert second.network == "a"
    first.rename("c")
    assert first.network == "a"
    second.close()
    assert connections.count == 0


def test_a_number_that_was_given_out_again_belongs_to_its_new_connection() -> None:
    connections = Connections(1, 1024)
    old = connections.open(10, "a")
    new = connections.open(10, "b")
    old.close()
    assert connections.count == 1
    new.close()
    assert connections.count == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(3, 200), st.sampled_from("abc"))))
def test_shares_are_never_counted_below_zero_or_above_what_is_open(steps: list[tuple[bool, int, str]]) -> None:
    connections = Connections(3, 200)
    held = {}
    for opens, number, network in steps:
        if opens and connections.refusal(number, network) is None:
            held[number] = connections.open(number, network)
        elif number in held:
            held.pop(number).close()
        assert connections.count == len(held)
        assert all(each < connections.most for each in held)
        assert sum(connections._held.values()) == len(held)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("before", [False, True])
async def test_a_reset_is_noticed_though_nobody_reads_and_bytes_wait(before: bool) -> None:
    connections = Connections(1)
    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(5):
        client = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
        with sock:
            async with trio.open_nursery() as nursery:
                if before:
                    connection = connections.open(sock.fileno(), "a")
                nursery.start_soon(connections.run)
                await trio.testing.wait_all_tasks_blocked()
                if not before:
                    connection = connections.open(sock.fileno(), "a")
                client.sendall(b"hello")
                await trio.testing.wait_all_tasks_blocked()
                assert not connection.broken.is_set()
                reset(client)
                await connection.broken.wait()
                assert connection.was_reset
                connection.close()
                nursery.cancel_scope.cancel()


async def test_a_tcp_client_that_only_ends_its_sending_is_not_broken() -> None:
    connections = Connections(1)
    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(5):
        client = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
        with client, sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connections.run)
                connection = connections.open(sock.fileno(), "a")
                client.shutdown(socket.SHUT_WR)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert not connection.broken.is_set()
                nursery.cancel_scope.cancel()


async def test_a_unix_socket_that_was_closed_is_broken_and_was_not_reset(short_path: Path) -> None:
    connections = Connections(1)
    near, far = socket.socketpair()
    with near, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connections.run)
            connection = connections.open(near.fileno(), "user 0")
            far.send(b"hello")
            far.close()
            await connection.broken.wait()
            assert not connection.was_reset
            nursery.cancel_scope.cancel()
