"""The control socket of a running gateway: who may use it, for what, and when nothing else can be reached."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.clients.peer import Members, Peer
from gateway.host.config import ControlConfig, HttpConfig
from gateway.web.control_socket import ControlSocket
from gateway.web.message import Response
from protocol.parameters.roles import Role
from tests.helpers import running_gateway

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from gateway.web.message import Request
    from tests.helpers import Gateway


async def ask(gateway: Gateway, target: str, *, user: int = 0, headers: str = "") -> str:
    """Return what the gateway answers to a process of this user, without a login."""
    script = f"""
import os, socket
os.setgroups([]); os.setgid({user}); os.setuid({user})
sock = socket.socket(socket.AF_UNIX)
sock.connect({str(gateway.config.runtime_dir / "control/http.sock")!r})
sock.sendall(b"GET {target} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n{headers}\\r\\n")
print(sock.makefile("rb").read().decode())
"""
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        [sys.executable, "-c", script], capture_stdout=True, capture_stderr=True, check=False
    )
    return done.stdout.decode() or done.stderr.decode()


async def test_root_lists_and_changes_parameters_without_a_login_though_http_is_off(short_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(short_path, http=HttpConfig(listen=())) as gateway:
            changed = await ask(gateway, "/axis-cgi/param.cgi?action=update&PortManager.P0.SerialCGI.Enabled=yes")
            assert changed.endswith("\r\n\r\nOK\n")
            listed = await ask(gateway, "/axis-cgi/param.cgi?action=list&group=PortManager.P0.SerialCGI")
            assert "root.PortManager.P0.SerialCGI.Enabled=yes" in listed
            status = json.loads((await ask(gateway, "/daisyport/status")).partition("\r\n\r\n")[2])
            assert status["ports"][0]["services"]["service SerialCGI"] == "up"


async def test_nobody_else_reaches_it_by_default(short_path: Path) -> None:
    short_path.chmod(0o755)  # noqa: ASYNC240
    with trio.fail_after(20):
        async with running_gateway(short_path) as gateway:
            folder = gateway.config.runtime_dir / "control"
            assert folder.stat().st_mode & 0o777 == 0o750
            assert "PermissionError" in await ask(gateway, "/daisyport/status", user=54321)


async def test_whom_the_configuration_names_may_do_what_it_says_and_others_are_told_why_not(
    short_path: Path,
) -> None:
    short_path.chmod(0o755)  # noqa: ASYNC240
    control = ControlConfig(admins=("daemon",), viewers=("games",))
    daemon, games = 1, 5
    with trio.fail_after(20):
        async with running_gateway(short_path, control=control) as gateway:
            update = "/axis-cgi/param.cgi?action=update&PortManager.P0.SerialCGI.Enabled=yes"
            assert (await ask(gateway, update, user=daemon)).endswith("\r\n\r\nOK\n")
            refused = await ask(gateway, update, user=games)
            assert refused.startswith("HTTP/1.1 403 ")
            assert f"user {games} is a viewer, and this requires an operator." in refused
            assert "HTTP/1.1 200 " in await ask(gateway, "/daisyport/status", user=games)
            assert "403 Forbidden\nNeither this user nor a group of it" in await ask(gateway, update, user=54321)


async def test_a_page_of_another_site_cannot_reach_through_a_proxy_to_the_socket(short_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(short_path) as gateway:
            update = "/axis-cgi/param.cgi?action=update&PortManager.P0.SerialCGI.Enabled=yes"
            refused = await ask(gateway, update, headers="Origin: https://elsewhere\\r\\n")
            assert refused.startswith("HTTP/1.1 403 ")


def test_the_daemons_own_group_which_opens_the_ptz_sockets_is_no_admin() -> None:
    control = ControlSocket(no_answer, Members(), Members())
    assert control.role(Peer(1, 54321, frozenset({os.getgid()}))) is None
    assert control.role(Peer(1, 0, frozenset())) is Role.ADMIN
    assert control.role(Peer(1, os.getuid(), frozenset())) is Role.ADMIN


async def no_answer(_: Request) -> Response:
    return Response(204)


def test_groups_and_users_are_told_apart_and_an_admin_who_is_a_viewer_too_is_an_admin() -> None:
    control = ControlSocket(
        no_answer, Members(frozenset({7}), frozenset({70})), Members(frozenset({7, 8}), frozenset())
    )
    assert control.role(Peer(1, 7, frozenset())) is Role.ADMIN
    assert control.role(Peer(1, 54321, frozenset({70}))) is Role.ADMIN
    assert control.role(Peer(1, 70, frozenset({7}))) is None
    assert control.role(Peer(1, 8, frozenset())) is Role.VIEWER


async def test_more_connections_than_it_has_are_told_so_and_leave_again() -> None:
    control = ControlSocket(no_answer, Members(), Members())
    with trio.fail_after(10), contextlib.ExitStack() as undo:
        async with trio.open_nursery() as nursery:
            pairs = [socket.socketpair() for _ in range(9)]
            for near, far in pairs:
                undo.enter_context(near)
                far.setblocking(False)
                control.admit(nursery, far, "")
                await trio.testing.wait_all_tasks_blocked()
            near = pairs[-1][0]
            near.setblocking(True)
            assert near.recv(100).startswith(b"HTTP/1.1 503 ")
            assert control.open == 8
            for near, _ in pairs:
                near.close()
            while control.open:
                await trio.lowlevel.checkpoint()


async def test_it_answers_when_no_descriptor_is_left_for_clients(short_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with trio.fail_after(30):
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        try:
            async with running_gateway(short_path) as gateway:
                clients = []
                with contextlib.suppress(OSError):
                    for _ in range(400):
                        client = socket.socket()
                        clients.append(client)
                        client.setblocking(False)
                        client.connect_ex(("127.0.0.1", gateway.http_port))
                assert "HTTP/1.1 200 " in await ask(gateway, "/daisyport/status")
                for client in clients:
                    client.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", ["no-such-name", "root"])
async def test_a_name_that_this_host_does_not_know_is_told(
    short_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with trio.fail_after(20):
        async with running_gateway(short_path, control=ControlConfig(admins=(name,))):
            pass
    told = f"[control]: this host has no user or group named '{name}'" in caplog.text
    assert told is (name == "no-such-name")
