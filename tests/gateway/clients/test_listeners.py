"""Listeners on loopback and on Unix sockets, with real credentials of real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from gateway.clients import service as services
from gateway.clients.drivers import Drivers
from gateway.clients.listeners import accept_clients, listen_tcp, listen_unix
from gateway.clients.service import Service
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.tasks.reconcile import Unit
from protocol.endpoint import Endpoint
from tests.gateway.line import ALL, NarrowTty, narrow_port
from tests.helpers import no_descriptor_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

EVERYBODY = Drivers(frozenset({0, os.getuid()}), frozenset())
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@asynccontextmanager
async def open_service() -> AsyncIterator[Service]:
    bus, _ = narrow_port(NarrowTty(1000))
    handle = Router({"P0": bus}).grant("P0", ALL, "service")
    async with trio.open_nursery() as clients:
        yield Service("P0", handle, Right.TCP, clients)
        clients.cancel_scope.cancel()


def new_unit() -> Unit:
    return Unit("P0 listen", lambda: None)


def free_port(host: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> int:
    with socket.create_server((host, 0), family=family) as server:
        return int(server.getsockname()[1])


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="daisyport") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# TCP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}")])
async def test_a_client_is_connected_under_its_endpoint(host: str, shown: str) -> None:
    port = free_port(host, socket.AF_INET6 if ":" in host else socket.AF_INET)
    with trio.fail_after(5):
        async with open_service() as service, trio.open_nursery() as nursery:
            unit = new_unit()
            nursery.start_soon(listen_tcp, host, port, service.welcome, unit)
            await unit.settled.wait()
            assert unit.state == "up"
            with socket.create_connection((host, port)) as client:
                while not service.handle.children:
                    await blocked()
                assert [client.holder for client in service.handle.children] == [shown.format(client.getsockname()[1])]
            nursery.cancel_scope.cancel()


def test_an_endpoint_is_written_as_in_a_url() -> None:
    assert str(Endpoint.of(("192.0.2.1", 4001))) == "192.0.2.1:4001"
    assert str(Endpoint.of(("fe80::1%eth0", 4001, 0, 2))) == "[fe80::1%eth0]:4001"


async def test_every_address_of_both_families_can_be_listened_on_with_one_port() -> None:
    port = free_port()
    with trio.fail_after(5):
        async with open_service() as service, trio.open_nursery() as nursery:
            for host in ("0.0.0.0", "::"):
                unit = new_unit()
                nursery.start_soon(listen_tcp, host, port, service.welcome, unit)
                await unit.settled.wait()
                assert unit.state == "up"
            nursery.cancel_scope.cancel()


async def test_a_port_that_stays_taken_is_a_refusal_and_is_had_when_it_is_free(autojump_clock: MockClock) -> None:
    async with open_service() as service, trio.open_nursery() as nursery:
        unit = new_unit()
        with socket.create_server(("127.0.0.1", 0)) as squatter:
            nursery.start_soon(listen_tcp, "127.0.0.1", squatter.getsockname()[1], service.welcome, unit)
            start = trio.current_time()
            await unit.settled.wait()
            refusal = unit.refusal
            assert refusal == "Address already in use"
            assert 1 <= trio.current_time() - start < 1.1
        await trio.sleep(1.1)
        assert unit.state == "up"
        nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken_is_tried_often_for_a_second_and_then_once_a_second(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    class Counting(socket.socket):
        def bind(self, address: object) -> None:
            nonlocal tries
            tries += 1
            raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket, "socket", Counting)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen_tcp, "127.0.0.1", 4001, lambda *_: None, new_unit())
        await trio.sleep(1.01)
        assert 25 <= tries <= 60
        often = tries
        await trio.sleep(20)
        assert 19 <= tries - often <= 21
        nursery.cancel_scope.cancel()


async def test_a_port_that_another_is_just_leaving_is_no_refusal(autojump_clock: MockClock) -> None:
    async with open_service() as service, trio.open_nursery() as nursery:
        unit = new_unit()
        with socket.create_server(("127.0.0.1", 0)) as leaving:
            nursery.start_soon(listen_tcp, "127.0.0.1", leaving.getsockname()[1], service.welcome, unit)
            await trio.sleep(0.5)
            assert not unit.settled.is_set()
        await unit.settled.wait()
        assert (unit.state, unit.refusal) == ("up", None)
        nursery.cancel_scope.cancel()


async def test_an_address_that_is_not_there_yet_is_a_state_and_no_refusal(autojump_clock: MockClock) -> None:
    async with open_service() as service, trio.open_nursery() as nursery:
        unit = new_unit()
        nursery.start_soon(listen_tcp, "192.0.2.1", 4001, service.welcome, unit)
        await unit.settled.wait()
        await trio.sleep(5)
        assert (unit.state, unit.refusal) == ("Cannot assign requested address", None)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("port", "why"),
    [(80, "Permission denied: the service may bind no port below 1024"), (8080, "Permission denied")],
)
async def test_a_port_that_may_not_be_bound_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, port: int, why: str
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", forbidden)
    unit = new_unit()
    with trio.move_on_after(5):
        await listen_tcp("127.0.0.1", port, lambda *_: None, unit)
    assert unit.refusal == why


async def test_a_listener_that_moves_accepts_first_who_has_connected() -> None:
    port = free_port()
    with trio.fail_after(5):
        async with open_service() as service:
            async with trio.open_nursery() as nursery:
                unit = new_unit()
                nursery.start_soon(listen_tcp, "127.0.0.1", port, service.welcome, unit)
                await unit.settled.wait()
                clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
                nursery.cancel_scope.cancel()
            assert len(service.handle.children) == 20
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            for client in clients:
                client.close()


async def test_a_client_that_leaves_while_it_is_connected_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with trio.fail_after(5):
        async with open_service() as service, trio.open_nursery() as nursery:
            unit = new_unit()
            nursery.start_soon(listen_tcp, "127.0.0.1", port, service.welcome, unit)
            await unit.settled.wait()

            def fail(*_: object) -> None:
                raise OSError(22, "Invalid argument")

            with monkeypatch.context() as patch, socket.create_connection(("127.0.0.1", port)) as client:
                patch.setattr(services, "keep_alive", fail)
                assert await trio.to_thread.run_sync(client.recv, 1) == b""
            with socket.create_connection(("127.0.0.1", port)):
                while not service.handle.children:
                    await blocked()
            nursery.cancel_scope.cancel()


async def test_a_client_that_meets_a_bug_is_closed_and_the_next_one_is_served(caplog: pytest.LogCaptureFixture) -> None:
    port, welcomed = free_port(), 0

    def welcome(sock: socket.socket, _: object) -> None:
        nonlocal welcomed
        welcomed += 1
        if welcomed == 1:
            raise KeyError("bug")
        sock.sendall(b"hello")
        sock.close()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            unit = new_unit()
            nursery.start_soon(listen_tcp, "127.0.0.1", port, welcome, unit)
            await unit.settled.wait()
            heard = []
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    heard.append(await trio.to_thread.run_sync(client.recv, 9))
            nursery.cancel_scope.cancel()
    assert heard == [b"", b"hello"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "a client could not be welcomed" in record.message


async def test_what_comes_after_a_listener_starts_though_its_port_is_taken() -> None:
    began = trio.Event()
    with trio.fail_after(5), socket.create_server(("127.0.0.1", 0)) as squatter:
        async with trio.open_nursery() as nursery:
            unit = Unit("P0 listen", began.set)
            nursery.start_soon(listen_tcp, "127.0.0.1", squatter.getsockname()[1], lambda *_: None, unit)
            await began.wait()
            nursery.cancel_scope.cancel()


async def test_a_listener_that_comes_back_has_its_port_at_once_though_it_closed_connections_there() -> None:
    port = free_port()
    with trio.fail_after(5):
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                unit = new_unit()
                nursery.start_soon(listen_tcp, "127.0.0.1", port, lambda sock, _: sock.close(), unit)
                await unit.settled.wait()
                assert unit.state == "up"
                with socket.create_connection(("127.0.0.1", port)) as client:
                    assert await trio.to_thread.run_sync(client.recv, 1) == b""
                nursery.cancel_scope.cancel()


async def test_out_of_descriptors_is_a_state_told_once_and_the_clients_are_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with trio.fail_after(5):
        async with open_service() as service, trio.open_nursery() as nursery:
            unit = new_unit()
            nursery.start_soon(listen_tcp, "127.0.0.1", port, service.welcome, unit)
            await unit.settled.wait()
            clients = [socket.socket() for _ in range(3)]
            with no_descriptor_left():
                service.connections.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                for client in clients:
                    client.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        client.connect(("127.0.0.1", port))
                    await trio.lowlevel.wait_readable(client)  # neither deaf, nor for ever in the backlog
                    assert client.recv(1) == b""
            for client in clients:
                client.close()
            assert unit.state == "cannot accept a client: Too many open files"
            service.connections.limit = 1024
            with socket.create_connection(("127.0.0.1", port)):
                while not service.handle.children:
                    await blocked()
            assert unit.state == "up"
            nursery.cancel_scope.cancel()
    assert len([record for record in caplog.records if "Too many" in record.message]) == 1


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM, errno.ENFILE, errno.ENETDOWN])
async def test_a_kernel_that_cannot_accept_now_is_asked_again_ten_times_a_second(
    error: int, autojump_clock: MockClock
) -> None:
    tries = 0

    class Listener:
        def fileno(self) -> int:
            return readable.fileno()

        def accept(self) -> None:
            nonlocal tries
            tries += 1
            raise OSError(error, os.strerror(error))

        def close(self) -> None:
            pass

    readable, other = socket.socketpair()
    with readable, other, trio.move_on_after(5):
        other.send(b"x")
        await accept_clients(cast("socket.socket", Listener()), lambda *_: None, new_unit())
    assert 40 <= tries <= 110  # twice each time where the spare descriptor is tried too


# Unix -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def sockets(
    path: Path, drivers: Drivers = EVERYBODY, packets: bool = False, seconds: float = 5
) -> AsyncIterator[tuple[Service, Unit]]:
    kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
    with trio.fail_after(seconds):
        async with open_service() as service, trio.open_nursery() as nursery:
            unit = new_unit()
            nursery.start_soon(
                listen_unix, path, kind, drivers.mode, lambda sock, _: drivers.welcome(service, sock), unit
            )
            await unit.settled.wait()
            yield service, unit
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("packets", [False, True])
async def test_a_driver_is_connected_as_its_process_and_the_socket_goes_with_its_listener(
    folder: Path, packets: bool
) -> None:
    path = folder / "ptz-P0"
    async with sockets(path, packets=packets) as (service, unit):
        assert unit.state == "up"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
        with socket.socket(socket.AF_UNIX, kind) as driver:
            driver.connect(str(path))
            while not service.handle.children:
                await blocked()
            assert [client.holder for client in service.handle.children] == [
                f"process {os.getpid()} of user {os.getuid()}"
            ]
    assert not path.exists()


async def test_a_socket_left_by_a_daemon_that_was_killed_is_replaced(folder: Path) -> None:
    path = folder / "ptz-P0.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with sockets(path) as (_, unit):
        assert unit.state == "up"


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_socket_that_somebody_removed_is_made_again_within_five_seconds(
    folder: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, replaced: bool
) -> None:
    path = folder / "ptz-P0.sock"
    async with sockets(path, seconds=60) as (_, unit):
        path.unlink()
        if replaced:
            with socket.socket(socket.AF_UNIX) as foreign:
                foreign.bind(str(path))
        await trio.sleep(5)
        assert unit.state == "up"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert caplog.text.count("the socket was removed, and is made again") == 1


async def test_a_folder_of_its_own_is_made_with_the_socket_whenever_that_can_be(
    folder: Path, autojump_clock: MockClock
) -> None:
    path = folder / "run" / "control" / "http.sock"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            unit = new_unit()
            nursery.start_soon(listen_unix, path, socket.SOCK_STREAM, 0o660, lambda *_: None, unit, 0o750)
            await unit.settled.wait()
            assert unit.state == "No such file or directory"
            path.parent.parent.mkdir()
            for _ in range(2):
                await trio.sleep(5)
                assert (unit.state, path.is_socket()) == ("up", True)
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
                shutil.rmtree(path.parent)
            nursery.cancel_scope.cancel()


async def test_a_socket_that_is_there_is_left_alone(folder: Path, autojump_clock: MockClock) -> None:
    path = folder / "ptz-P0.sock"
    async with sockets(path, seconds=120):
        before = path.lstat().st_ino
        await trio.sleep(60)
        assert path.lstat().st_ino == before


async def test_a_file_in_the_place_of_the_socket_is_told_and_never_removed(folder: Path) -> None:
    path = folder / "ptz-P0.sock"
    path.write_text("somebody's")
    async with sockets(path) as (_, unit):
        assert unit.state == f"{path} exists and is no socket"
        assert unit.refusal is None
    assert path.read_text() == "somebody's"


async def test_a_runtime_directory_that_is_not_there_is_a_state(folder: Path) -> None:
    async with sockets(folder / "missing" / "ptz-P0.sock") as (_, unit):
        assert unit.state == "No such file or directory"


async def test_a_path_that_is_too_long_is_a_state(folder: Path) -> None:
    async with sockets(folder / ("x" * 120)) as (_, unit):
        assert "too long" in unit.state


@pytest.mark.parametrize(
    ("users", "groups", "mode"),
    [
        ({54321}, set(), 0o666),
        (set(), {54321}, 0o666),
        ({os.getuid()}, {os.getgid(), 54321}, 0o666),
        ({os.getuid()}, {os.getgid()}, 0o660),
    ],
)
async def test_who_is_named_can_reach_the_socket_though_the_daemon_is_no_such_user(
    folder: Path, users: set[int], groups: set[int], mode: int
) -> None:
    path = folder / "ptz-P0.sock"
    async with sockets(path, Drivers(frozenset(users), frozenset(groups))):
        assert stat.S_IMODE(path.stat().st_mode) == mode


KNOCK = """
import os, socket, sys
kind, path, user, group, groups = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), eval(sys.argv[5])
driver = socket.socket(socket.AF_UNIX, kind)
driver.settimeout(5)
os.setgroups(groups)
os.setresgid(group, group, group)
os.setresuid(user, user, user)
driver.connect(path)
driver.shutdown(socket.SHUT_WR)
print("connected" if sys.stdin.read(1) == "s" else "away", driver.recv(1))
"""


async def connects(path: Path, service: Service, kind: socket.SocketKind, *who: object) -> bool:
    """Connect as somebody else; say whether that was let in."""
    command = [sys.executable, "-c", KNOCK, str(int(kind)), str(path), *map(str, who)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:  # noqa: ASYNC220
        while not service.handle.children and not service.refused:
            await blocked()
        connected = bool(service.handle.children)
        for handle in service.handle.children:
            handle.revoke("seen")
        await blocked()
        out, _ = await trio.to_thread.run_sync(driver.communicate, b"s")
    assert out == b"connected b''\n"  # both hear the end
    return connected


@as_root
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize(
    ("user", "group", "groups", "welcome"),
    [
        (1234, 1234, [], False),
        (1000, 1234, [], True),
        (1234, 2000, [], True),
        (1234, 1234, [7, 2000], True),
        (1234, 1234, [7, 8], False),
        (1234, 2000, list(range(5000, 5300)), True),
        (1234, 1234, [2000, *range(5000, 5300)], False),  # more groups than can be looked at
    ],
)
async def test_only_drivers_whose_user_or_group_is_known_are_connected(
    folder: Path, kind: socket.SocketKind, user: int, group: int, groups: list[int], welcome: bool
) -> None:
    path = folder / "ptz-P0"
    drivers = Drivers(frozenset({0, 1000}), frozenset({2000}))
    async with sockets(path, drivers, packets=kind is socket.SOCK_SEQPACKET) as (service, _):
        assert await connects(path, service, kind, user, group, groups) is welcome
        assert service.refused == (not welcome)
