"""ConnectTo over loopback: connected, connected again, and never to itself."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.clients import service as services
from gateway.clients.dial import dial
from gateway.clients.listeners import listen_tcp
from gateway.clients.service import Service
from gateway.port.plan import Dial
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.tasks.reconcile import Unit
from tests.gateway.line import ALL, NarrowTty, narrow_port, serial_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.port.bus import Bus


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def state(unit: Unit, wanted: str) -> None:
    while wanted not in unit.state:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_service(bus: Bus, patience: float = 5) -> AsyncIterator[Service]:
    handle = Router({"P0": bus}).grant("P0", ALL, "service")
    with trio.fail_after(patience):
        async with trio.open_nursery() as clients:
            yield Service("P0", handle, Right.TCP, clients)
            clients.cancel_scope.cancel()


@asynccontextmanager
async def dialling(
    host: str, port: int, bus: Bus | None = None, patience: float = 5
) -> AsyncIterator[tuple[Unit, Service, trio.CancelScope]]:
    begun = trio.Event()
    unit = Unit("P0 connect", begun.set)
    async with (
        open_service(bus or narrow_port(NarrowTty(1000))[0], patience) as service,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(dial, Dial(host, port), service, unit, lambda: False)
        await begun.wait()
        yield unit, service, nursery.cancel_scope
        nursery.cancel_scope.cancel()


def server(port: int = 0) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(socket.create_server(("127.0.0.1", port))))


def port_of(listener: trio.SocketListener) -> int:
    return int(listener.socket.getsockname()[1])


async def test_a_host_is_connected_to_and_has_the_line() -> None:
    async with (
        server() as host,
        serial_line() as line,
        dialling("localhost", port_of(host), line.bus) as (unit, service, _),
        await host.accept() as peer,
    ):
        await state(unit, "up")
        await peer.send_all(b"pan")
        assert await line.hear(3) == b"pan"
        line.say(b"done")
        assert await peer.receive_some() == b"done"
        assert [handle.holder for handle in service.handle.children] == [f"connect to localhost:{port_of(host)}"]


async def test_a_peer_that_leaves_is_dialled_again() -> None:
    async with server() as host, dialling("127.0.0.1", port_of(host)) as (unit, service, _):
        first = await host.accept()
        await state(unit, "up")
        first.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await first.aclose()
        await state(unit, "the connection ended")
        async with await host.accept():
            await state(unit, "up")
            assert len(service.handle.children) == 1


async def test_a_peer_that_is_not_there_holds_up_no_settings_and_is_found_when_it_comes() -> None:
    listener = server()
    port = port_of(listener)
    await listener.aclose()
    async with dialling("127.0.0.1", port) as (unit, _, _scope):
        await state(unit, f"all attempts to connect to 127.0.0.1:{port} failed")
        assert unit.settled.is_set()
        assert unit.refusal is None
        async with server(port) as host, await host.accept():
            await state(unit, "up")


@pytest.mark.parametrize("name", ["a..b", "x" * 64])
async def test_a_name_that_cannot_be_looked_up_is_a_state_and_no_crash(name: str) -> None:
    async with dialling(name, 4001) as (unit, _, _scope):
        await state(unit, "label")


async def test_a_peer_that_does_not_answer_is_given_up_after_a_while(
    monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    async def silence(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", silence)
    async with dialling("192.0.2.1", 4001, patience=60) as (unit, _, _scope):
        await blocked()
        mock_clock.jump(9.9)
        await blocked()
        assert unit.state == "starting"
        assert unit.settled.is_set()  # nobody's update waits for it
        mock_clock.jump(0.2)
        await state(unit, "no answer within 10 s")


async def test_a_connection_that_lasted_is_dialled_again_at_once_and_a_short_one_is_not(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with server() as host, dialling("127.0.0.1", port_of(host), patience=60) as (unit, service, _):
        for seconds, at_once in ((1, False), (16, True), (1, False)):
            peer = await host.accept()
            await state(unit, "up")
            mock_clock.jump(seconds)
            service.handle.children[0].revoke("the peer left")
            await state(unit, "the connection ended: the peer left")
            await peer.aclose()
            if at_once:
                await state(unit, "up")  # no time has passed
            else:
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert unit.state != "up"
                mock_clock.jump(0.1)
        async with await host.accept():
            await state(unit, "up")


async def test_the_connection_ends_when_it_is_not_wanted_any_more() -> None:
    async with server() as host, dialling("127.0.0.1", port_of(host)) as (unit, service, scope):
        async with await host.accept() as peer:
            await state(unit, "up")
            handle = service.handle.children[0]
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await peer.receive_some() == b""
        assert handle.revoked == "ConnectTo changed"


async def test_when_the_gateway_stops_the_connection_is_left_to_take_what_waits_for_it() -> None:
    bus, _ = narrow_port(NarrowTty())
    async with server() as host, open_service(bus) as service:
        unit = Unit("P0 connect", lambda: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, Dial("127.0.0.1", port_of(host)), service, unit, lambda: True)
            peer = await host.accept()
            await state(unit, "up")
            nursery.cancel_scope.cancel()
        bus.deliver(b"last words")
        assert await peer.receive_some() == b"last words"
        await peer.aclose()


async def test_where_no_place_is_free_the_connection_is_closed_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_CLIENTS", 0)
    async with server() as host, dialling("127.0.0.1", port_of(host)) as (unit, _, _scope):
        async with await host.accept() as peer:
            assert await peer.receive_some() == b""
        await state(unit, "this port cannot have the connection")


async def test_descriptors_of_tries_that_failed_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    async with server() as host:
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr("gateway.clients.dial.keep_alive", fail)
            async with dialling("127.0.0.1", port_of(host)) as (unit, _, _scope):
                async with await host.accept() as peer:
                    assert await peer.receive_some() == b""
                await state(unit, "Invalid argument")
        assert len(os.listdir("/proc/self/fd")) == before


# To itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_that_is_told_to_call_itself_never_feeds_the_line_with_its_own_echo(host: str) -> None:
    listener = server()
    port = port_of(listener)
    await listener.aclose()
    async with serial_line() as line, open_service(line.bus) as service, trio.open_nursery() as nursery:
        listening, calling = Unit("P0 listen", lambda: None), Unit("P0 connect", lambda: None)
        nursery.start_soon(listen_tcp, "127.0.0.1", port, service.welcome, listening)
        await listening.settled.wait()
        nursery.start_soon(dial, Dial(host, port), service, calling, lambda: False)
        while not service.refused:
            line.say(b"login: ")
            await blocked()
        await blocked()
        assert line.turns.written == 0
        assert any(words in calling.state for words in ("its own echo", "this port cannot have the connection"))
        with socket.create_connection(("127.0.0.1", port)) as client:  # anybody else is still welcome
            client.sendall(b"hello")
            assert await line.hear(5) == b"hello"
        nursery.cancel_scope.cancel()


async def test_a_number_that_the_kernel_joined_to_itself_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def join_itself(*_: object) -> trio.SocketStream:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    monkeypatch.setattr(trio, "open_tcp_stream", join_itself)
    async with dialling("127.0.0.1", 45678) as (unit, service, _):
        await state(unit, "nothing listens there")
        assert service.handle.children == ()
