"""Who comes through a service, who does not, and that nobody who leaves leaves anything behind."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
import trio.lowlevel
import trio.testing

from gateway.clients import service as services
from gateway.clients.connections import Connections
from gateway.clients.service import Service
from gateway.clients.streams import SocketStream
from gateway.port.rights import Right
from gateway.port.router import Router
from protocol.endpoint import Endpoint
from protocol.parameters.addresses import AddressList
from tests.gateway.line import NarrowTty, narrow_port, serial_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from gateway.port.bus import Bus


@asynccontextmanager
async def open_service(bus: Bus) -> AsyncIterator[Service]:
    handle = Router({"P0": bus}).grant("P0", Right.READ | Right.TCP, "GenericTCPServer")
    with trio.fail_after(5):
        async with trio.open_nursery() as clients:
            yield Service("P0", handle, Right.TCP, clients)
            clients.cancel_scope.cancel()
    assert handle.children == ()


def pair() -> tuple[SocketStream, socket.socket]:
    near, far = socket.socketpair()
    far.settimeout(5)
    return SocketStream(near), far


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def hears_the_end(far: socket.socket) -> bool:
    return await trio.to_thread.run_sync(far.recv, 1) == b""


async def test_a_client_that_may_come_in_has_the_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serial_line() as line, open_service(line.bus) as service:
        stream, far = pair()
        with far:
            assert service.admit(stream, "192.0.2.7:40000", "192.0.2.7")
            far.sendall(b"hello")
            assert await line.hear(5) == b"hello"
            assert [client.holder for client in service.handle.children] == ["192.0.2.7:40000"]
            far.close()
            while service.handle.children:
                line.say(b"x")  # it has left, which is only known when it is written to
                await trio.lowlevel.checkpoint()
    assert "P0 192.0.2.7:40000 connected" in caplog.text
    assert "P0 192.0.2.7:40000 gone: " in caplog.text


async def test_a_tcp_client_is_welcomed_under_its_endpoint_and_given_up_when_it_is_dead_for_half_a_minute() -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            far = socket.create_connection(listener.getsockname())
            near, peer = listener.accept()
        with far:
            service.welcome(near, peer)
            assert [client.holder for client in service.handle.children] == [f"127.0.0.1:{far.getsockname()[1]}"]
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_one_address_has_its_share_of_a_service_and_leaves_places_for_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, _ = narrow_port(NarrowTty())
    handle = Router({"P0": bus}).grant("P0", Right.READ | Right.TCP, "GenericTCPServer")
    connections = Connections(limit=4096)
    with trio.fail_after(5), contextlib.ExitStack() as ends:
        async with trio.open_nursery() as clients:
            service = Service("P0", handle, Right.TCP, clients, connections, share=3)

            def connect(address: str, port: int) -> bool:
                near, far = socket.socketpair()
                ends.enter_context(far)
                peer = Endpoint(address, port)
                stream = SocketStream(near, connections.open(near.fileno(), peer.network))
                return service.admit(stream, str(peer), address)

            crowd = [f"2001:db8::{host}" for host in range(5)]
            assert [connect(address, 1) for address in crowd] == [True, True, True, False, False]
            assert "refused: 3 clients from 2001:db8::/64 are connected already" in caplog.text
            assert [connect("192.0.2.7", port) for port in range(4)] == [True, True, True, False]
            assert service.refused == 3
            # Whoever leaves makes room for his own network.
            handle.children[0].revoke("he leaves")
            await blocked()
            assert [connect("192.0.2.7", 5), connect("2001:db8::9", 1)] == [False, True]
            clients.cancel_scope.cancel()


async def test_a_client_that_closes_its_connection_is_said_to_have_done_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bus, _ = narrow_port(NarrowTty(100))
    near, far = socket.socketpair()
    handle = Router({"P0": bus}).grant("P0", Right.READ | Right.TCP, "GenericTCPServer")
    with trio.fail_after(5):
        async with trio.open_nursery() as clients:
            Service("P0", handle, Right.TCP, clients).serve(SocketStream(near), "a driver")
            far.close()
    assert caplog.messages[-1] == "P0 a driver gone: it closed the connection"


async def test_a_client_may_be_given_fewer_rights_than_its_service_has() -> None:
    bus, _ = narrow_port(NarrowTty(100))
    async with open_service(bus) as service:
        (stream, far), (other, beside) = pair(), pair()
        listener = service.serve(stream, "a viewer", rights=Right.READ)
        client = service.serve(other, "an operator")
        await blocked()
        assert listener is not None
        assert client is not None
        assert [handle.session and handle.session.writes for handle in (listener, client)] == [False, True]
        far.close()
        beside.close()


async def test_a_service_is_open_until_it_is_cancelled() -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await blocked()
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()


async def test_a_client_whose_address_is_not_allowed_is_refused_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        service.update_policy(AddressList.parse("192.0.2.*"), 0)
        stream, far = pair()
        with far:
            assert not service.admit(stream, "198.51.100.1:5", "198.51.100.1")
            assert await hears_the_end(far)
        assert service.refused == 1
    assert "P0 198.51.100.1:5 refused: its address is not among AllowedIPAddresses" in caplog.text


async def test_a_new_list_ends_the_clients_that_it_does_not_allow_and_no_others() -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        streams = [pair() for _ in range(3)]
        for (stream, _), address in zip(streams, ("192.0.2.1", "192.0.2.2"), strict=False):
            service.admit(stream, f"{address}:1", address)
        driver = service.serve(streams[2][0], "a driver, which has no address")
        await blocked()
        service.update_policy(AddressList.parse("192.0.2.2"), 0)
        await blocked()
        assert [client.holder for client in service.handle.children] == [
            "192.0.2.2:1",
            "a driver, which has no address",
        ]
        assert driver in service.handle.children
        assert await hears_the_end(streams[0][1])
        for _, far in streams:
            far.close()


async def test_a_new_idle_limit_reaches_those_who_are_in(autojump_clock: trio.testing.MockClock) -> None:
    bus, _ = narrow_port(NarrowTty())
    near, far = socket.socketpair()
    handle = Router({"P0": bus}).grant("P0", Right.READ | Right.TCP, "GenericTCPServer")
    with far:
        async with trio.open_nursery() as clients:
            service = Service("P0", handle, Right.TCP, clients)
            service.admit(SocketStream(near), "192.0.2.1:1", "192.0.2.1")
            await trio.sleep(100)
            assert handle.children
            service.update_policy(AddressList(), 120)
            await trio.sleep(19)
            assert handle.children
            await trio.sleep(2)
            assert not handle.children


async def test_a_full_service_refuses_clients_until_one_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_CLIENTS", 2)
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        streams = [pair() for _ in range(6)]
        assert [service.serve(stream, "driver") is not None for stream, _ in streams[:3]] == [True, True, False]
        assert not service.admit(streams[4][0], "192.0.2.9:1", "192.0.2.9")
        assert service.dialled(streams[5][0], "connect to b:1", "192.0.2.8:1", trio.Event()) is None
        for number in (2, 4, 5):
            assert await hears_the_end(streams[number][1])
        await blocked()
        service.handle.children[0].revoke("somebody must go")
        assert service.admit(streams[3][0], "192.0.2.1:1", "192.0.2.1")
        for _, far in streams:
            far.close()


async def test_revoking_a_service_ends_all_its_clients_and_who_comes_after() -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        streams = [pair() for _ in range(3)]
        service.serve(streams[0][0], "stays")
        await blocked()
        service.serve(streams[1][0], "has not begun yet")
        service.revoke("the service is closed")
        assert service.serve(streams[2][0], "late") is None
        await blocked()
        assert service.handle.children == ()
        for _, far in streams:
            assert await hears_the_end(far)
            far.close()


async def test_a_client_that_ends_with_its_port_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        stream, far = pair()
        service.serve(stream, "a client")
        await blocked()
    far.close()
    assert "P0 a client gone: its port stops" in caplog.messages


async def test_what_a_client_lost_is_told_when_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bus, _ = narrow_port(NarrowTty(3))
    bus.disconnect("the cable is out")
    async with open_service(bus) as service:
        stream, far = pair()
        with far:
            ended = trio.Event()
            handle = service.serve(stream, "client", ended)
            far.sendall(b"12345")
            await blocked()
            while far.fileno() >= 0 and stream.send_nowait(bytes(65536)):
                pass
            bus.deliver(bytes(100))
            assert handle is not None
            handle.revoke("the service is closed")
            await ended.wait()
    assert "client gone: the service is closed; 5 bytes of it dropped; 100 bytes unread" in caplog.text


async def test_who_sat_when_the_gateway_stopped_is_said_to_go_for_that(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        stream, far = pair()
        with far:
            service.serve(stream, "client")
            await blocked()
            for session in service.handle.sessions:
                session.pumping.cancel()
            assert await hears_the_end(far)
            await blocked()
    assert "client gone: the gateway stops" in caplog.text


async def test_a_bug_met_by_one_client_ends_that_client_and_leaks_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        streams = [pair() for _ in range(2)]
        good = service.serve(streams[0][0], "good")
        await blocked()

        async def stumble(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(services, "relay", stumble)
            service.serve(streams[1][0], "unlucky")
            await blocked()
        assert await hears_the_end(streams[1][1])
        assert service.handle.children == (good,)
        for _, far in streams:
            far.close()
    assert "unlucky: a bug" in caplog.text


async def test_a_thousand_comings_and_goings_leave_no_descriptor_behind() -> None:
    async with serial_line() as line, open_service(line.bus) as service:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(1000):
            stream, far = pair()
            handle = service.serve(stream, "client")
            if number % 3:
                await trio.lowlevel.checkpoint()
            assert handle is not None
            handle.revoke("next")
            far.close()
        await blocked()
        assert len(os.listdir("/proc/self/fd")) == before


async def test_clients_that_hammer_do_not_fill_the_log_and_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        service.update_policy(AddressList.parse("192.0.2.*"), 0)
        for number in range(200):
            stranger, far = pair()
            assert not service.admit(stranger, f"198.51.100.{number % 2}:{number}", "198.51.100.1")
            far.close()
            client, far = pair()
            far.close()
            assert service.admit(client, f"192.0.2.1:{number}", "192.0.2.1")
            while service.handle.children:
                await trio.lowlevel.checkpoint()
                for handle in service.handle.children:
                    handle.revoke("next")
    for what in ("refused: its address", " connected", " gone: "):
        assert sum(what in message for message in caplog.messages) == 10
    assert service.refused == 200


# The port's own connection ----------------------------------------------------------------------------------


async def test_the_ports_own_call_is_refused_by_its_own_service(caplog: pytest.LogCaptureFixture) -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        (calling, far), (called, other) = pair(), pair()
        ended = trio.Event()
        handle = service.dialled(calling, "connect to localhost:4001", "127.0.0.1:5555", ended)
        assert handle is not None
        assert not service.admit(called, "127.0.0.1:5555", "127.0.0.1")
        await ended.wait()
        assert handle.revoked is not None
        assert "its own echo" in handle.revoked
        # The number is free again for anybody.
        again, third = pair()
        assert service.admit(again, "127.0.0.1:5555", "127.0.0.1")
        for sock in (far, other, third):
            sock.close()


async def test_the_ports_own_call_is_known_when_its_service_was_the_first_to_see_it() -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        (calling, far), (called, other) = pair(), pair()
        assert service.admit(called, "127.0.0.1:5555", "127.0.0.1")
        assert service.dialled(calling, "connect to localhost:4001", "127.0.0.1:5555", trio.Event()) is None
        assert await hears_the_end(far)
        far.close()
        other.close()


async def test_the_endpoint_of_a_client_that_has_left_may_be_our_own_end_of_the_next_call() -> None:
    bus, _ = narrow_port(NarrowTty())
    async with open_service(bus) as service:
        (stream, first), (calling, second) = pair(), pair()
        assert service.admit(stream, "127.0.0.1:5555", "127.0.0.1")
        await blocked()
        service.handle.children[0].revoke("enough")
        await blocked()
        assert service.dialled(calling, "connect to localhost:4001", "127.0.0.1:5555", trio.Event()) is not None
        first.close()
        second.close()
