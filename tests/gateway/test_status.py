"""The status of a gateway whose parts are in a known state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from gateway import __version__
from gateway.clients.connections import Connections
from gateway.host.config import Config
from gateway.status import in_words, status
from gateway.tasks.reconcile import Unit
from protocol.parameters.hardware import ManagerHardware
from tests.gateway.test_manager import running_port
from tests.helpers import free_port

if TYPE_CHECKING:
    from typing import Any

    from tests.gateway.test_manager import Port

TLS = {"certificate": "self-signed"}


def shown(port: Port) -> dict[str, Any]:
    """The status, after a way through JSON."""
    config = Config(
        state_dir=Path(),
        runtime_dir=Path(),
        managers=(ManagerHardware(remote_port=0),),
        node_name="cpu1",
        chassis="blade 7",
    )
    settings = port.published.value.settings
    whole: dict[str, Any] = json.loads(
        json.dumps(status(config, "1.2.3", 0.0, settings, [port.manager], TLS, {"errors": []}, Connections(1, 1024)))
    )
    return whole


async def test_the_node_says_who_it_is(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            whole = shown(port)
    assert whole.pop("uptime_seconds") > 0
    assert len(whole.pop("ports")) == 1
    assert whole == {
        "product": "Daisyport",
        "version": "1.2.3",
        "installed_version": __version__,
        "node": "cpu1",
        "chassis": "blade 7",
        "tls": TLS,
        "configuration": {"errors": []},
        "connections": {"open": 0, "clients_turned_away": 0, "descriptors": 1024, "descriptors_reserved": 258},
    }


async def test_a_port_that_is_off_says_why(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            await port.set(PortEnabled="no")
            (shown_port,) = shown(port)["ports"]
    assert (shown_port["name"], shown_port["serial_port"], shown_port["remote_port"]) == ("P0", None, 0)
    assert (shown_port["enabled"], shown_port["state"]) == (False, "down")
    assert shown_port["reason"] == "the port is disabled; PortManager.P0.PortEnabled=yes opens it"
    assert shown_port["services"] == {"service WebSocket": "up"}
    assert shown_port["clients"] == []
    assert "remote_port_server" not in shown_port


async def test_a_client_is_shown_with_its_counters(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            tcp = free_port()
            settings = {"GenericTCPServer__Enabled": "yes", "GenericTCPServer__Listener__Enabled": "yes"}
            await port.set(PortEnabled="no", **settings, GenericTCPServer__Listener__Port=str(tcp))
            async with await trio.open_tcp_stream("127.0.0.1", tcp) as client:
                own = client.socket.getsockname()
                await client.send_all(b"nobody is there to hear this")
                while not any(session.counters.received for _, session in port.manager.services.sessions):
                    await trio.lowlevel.checkpoint()
                port.manager.bus.deliver(b"heard")
                assert await client.receive_some() == b"heard"
                (shown_port,) = shown(port)["ports"]
    (shown_client,) = shown_port["clients"]
    assert shown_client.pop("since") > 0
    assert shown_client == {
        "service": "GenericTCPServer",
        "writes": True,
        "holder": f"127.0.0.1:{own[1]}",
        "bytes_in": 28,
        "bytes_out": 5,
        "written": 0,
        "dropped": 28,
        "queue": 0,
        "missed": 0,
    }
    assert (shown_port["bytes_from_line"], shown_port["bytes_dropped"]) == (5, 28)


async def test_a_remote_port_server_without_a_key_carries_a_warning_and_never_a_key(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            await port.set(RemotePortServer__Enabled="yes")
            (open_to_all,) = shown(port)["ports"]
            await port.set(RemotePortServer__AuthenticationKey="the key itself")
            whole = json.dumps(shown(port))
            (keyed,) = shown(port)["ports"]
    assert open_to_all["remote_port_server"]["links"] == []
    assert "anybody on this host's own links may chain to it" in open_to_all["remote_port_server"]["warning"]
    assert "duplicate_nodes" not in open_to_all["remote_port_server"]
    assert "warning" not in keyed["remote_port_server"]
    assert "the key itself" not in whole


async def test_two_cpus_with_one_node_id_are_shown_with_both_addresses(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            await port.set(RemotePortServer__Enabled="yes")
            service = port.manager.services.remote_port
            assert service is not None
            what = "node 63636363 R0 is at 127.0.0.2 and at 127.0.0.1"
            service._duplicates[b"c" * 16, 0] = (trio.current_time() + 300, what)
            service._duplicates[b"d" * 16, 0] = (trio.current_time() - 1, "long ago")
            (shown_port,) = shown(port)["ports"]
    assert shown_port["remote_port_server"]["duplicate_nodes"] == [what]


async def test_one_line_says_what_is_up_and_what_is_wrong(tmp_path: Path) -> None:
    taken, up = Unit("HTTP server 127.0.0.1:80", lambda: None), Unit("HTTP server [::1]:80", lambda: None)
    taken.refused("Address already in use")
    up.up()
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            await port.set(PortEnabled="no")
            words = in_words("cpu1", [port.manager], [taken, up])
    assert words == (
        "cpu1: 0 of 1 ports up; P0: the port is disabled; PortManager.P0.PortEnabled=yes opens it; "
        "HTTP server 127.0.0.1:80: Address already in use"
    )
