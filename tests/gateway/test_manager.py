"""One port manager by itself: what it starts and stops, whom it makes responsible, and what a bug in it costs."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import trio

from gateway import manager as module
from gateway.clients.connections import Connections
from gateway.clients.drivers import Drivers
from gateway.host.config import Config
from gateway.host.descriptor_store import DescriptorStore
from gateway.host.sdnotify import Notifier
from gateway.manager import Manager
from gateway.port.bus import Bus
from gateway.port.device import Refusal
from gateway.port.plan import ServiceKind
from gateway.port.rights import Right
from gateway.port.router import Router
from gateway.services import Host
from gateway.state.old_keys import OldKeys
from gateway.state.store import Published
from gateway.tasks.watch import Cell
from protocol.link.guesses import GuessLimit
from protocol.link.identity import NodeKey
from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import ManagerHardware
from protocol.parameters.roles import Role
from tests.helpers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest
    from trio.testing import MockClock

    from gateway.discovery.bonjour import Bonjour


@dataclass
class Port:
    """A port manager without a line, which parameters are set for."""

    manager: Manager
    catalogue: Catalogue
    published: Cell[Published]
    stop: trio.Event

    async def set(self, **values: str) -> tuple[Refusal, ...]:
        """Set parameters of the port (``GenericTCPServer__Enabled``), and wait until it has settled."""
        return await self.set_named(
            {f"PortManager.P0.{name.replace('__', '.')}": text for name, text in values.items()}
        )

    async def set_named(self, values: dict[str, str]) -> tuple[Refusal, ...]:
        before = self.published.value
        update = self.catalogue.updated(before.settings, tuple(values.items()), Role.ADMIN)
        assert not update.refused
        self.published.set(Published(before.version + 1, update.settings))
        await self.manager.settled(before.version + 1)
        return self.manager.responsible(tuple(values))


async def _no_keys(*_: object) -> NoReturn:
    raise AssertionError("no server tells a key here")


@contextlib.asynccontextmanager
async def running_port(directory: Path) -> AsyncIterator[Port]:
    config = Config(
        state_dir=directory, runtime_dir=directory, node_name="cpu1", managers=(ManagerHardware(remote_port=0),)
    )
    catalogue = Catalogue(config.hardware)
    published = Cell(Published(0, catalogue.restored("").settings))
    bus = Bus("P0")
    router = Router({"P0": bus})
    host = Host(
        config,
        NodeKey(bytes(32)),
        Drivers(frozenset({0}), frozenset()),
        GuessLimit(),
        cast("Bonjour", None),
        Connections(),
        OldKeys(directory),
        _no_keys,
        DescriptorStore(Notifier(None)),
    )
    port = Port(
        Manager(0, host, bus, lambda rights, holder: router.grant("P0", rights, holder), published),
        catalogue,
        published,
        trio.Event(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.manager.run, port.stop)
        await port.manager.settled(0)
        yield port
        port.stop.set()


class Bug:
    """Fails in place of ``plan`` as long as ``alive``, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive = True
        self.met: list[float] = []
        self._plan = module.plan  # type: ignore[attr-defined]  # replaced where it is used
        monkeypatch.setattr(module, "plan", self)

    def __call__(self, *arguments: Any) -> object:
        if self.alive:
            self.met.append(trio.current_time())
            raise LookupError("the secret is xyzzy")
        return self._plan(*arguments)


async def test_a_service_runs_while_it_is_enabled(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            assert set(port.manager.units) == {"service WebSocket", "R0"}
            await port.set(PortEnabled="no", SerialCGI__Enabled="yes", PTZServer__Enabled="yes")
            assert set(port.manager.units) == {
                "service WebSocket",
                "service SerialCGI",
                "service PTZServer",
                "PTZ stream socket",
                "PTZ packet socket",
            }
            assert port.manager.services.serial_cgi is not None
            assert set(port.manager.units.values()) == {"up"}
            await port.set(SerialCGI__Enabled="no", PTZServer__Enabled="no")
            assert set(port.manager.units) == {"service WebSocket"}
            assert port.manager.services.serial_cgi is None
            assert not os.listdir(tmp_path)


async def test_a_client_of_a_service_that_is_disabled_is_told_which_parameter_did_it(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            tcp = free_port()
            settings = {"GenericTCPServer__Enabled": "yes", "GenericTCPServer__Listener__Enabled": "yes"}
            assert await port.set(**settings, GenericTCPServer__Listener__Port=str(tcp)) == ()
            async with await trio.open_tcp_stream("127.0.0.1", tcp):
                while not port.manager.services.sessions:
                    await trio.lowlevel.checkpoint()
                ((kind, session),) = port.manager.services.sessions
                assert kind is ServiceKind.GENERIC_TCP
                await port.set(GenericTCPServer__Enabled="no")
                assert session.ended == "PortManager.P0.GenericTCPServer.Enabled is no"


async def test_a_refused_address_is_counted_as_long_as_its_service_runs(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            tcp = free_port()
            settings = {"GenericTCPServer__Enabled": "yes", "GenericTCPServer__Listener__Enabled": "yes"}
            await port.set(
                **settings,
                GenericTCPServer__Listener__Port=str(tcp),
                GenericTCPServer__AllowedIPAddresses="192.0.2.1",
            )
            async with await trio.open_tcp_stream("127.0.0.1", tcp) as client:
                assert await client.receive_some() == b""
            assert port.manager.services.clients_refused == 1


async def test_a_listener_that_cannot_be_is_the_doing_of_its_own_parameters_alone(tmp_path: Path) -> None:
    with trio.fail_after(10):
        (squatter,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with squatter, running_port(tmp_path) as port:
            taken = squatter.socket.getsockname()[1]
            refusals = await port.set(
                GenericTCPServer__Enabled="yes",
                GenericTCPServer__Listener__Enabled="yes",
                GenericTCPServer__Listener__Port=str(taken),
                GenericTCPServer__Timeout="7",
            )
            server = "PortManager.P0.GenericTCPServer."
            assert {refusal.name for refusal in refusals} == {f"{server}Listener.Enabled", f"{server}Listener.Port"}
            assert all("Address already in use" in refusal.why for refusal in refusals)


async def test_a_port_without_a_device_says_why_it_is_down(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            await port.set(PortEnabled="no")
            assert port.manager.bus.down == "the port is disabled; PortManager.P0.PortEnabled=yes opens it"


async def test_the_stop_ends_clients_after_they_took_what_waited(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            tcp = free_port()
            settings = {"GenericTCPServer__Enabled": "yes", "GenericTCPServer__Listener__Enabled": "yes"}
            await port.set(**settings, GenericTCPServer__Listener__Port=str(tcp))
            async with await trio.open_tcp_stream("127.0.0.1", tcp) as client:
                while not port.manager.services.sessions:
                    await trio.lowlevel.checkpoint()
                port.manager.bus.deliver(b"the last words")
                port.stop.set()
                heard = b""
                while piece := await client.receive_some():
                    heard += piece
                assert heard == b"the last words"


async def test_a_bug_is_tried_again_after_growing_pauses_and_then_each_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    bug = Bug(monkeypatch)
    async with running_port(tmp_path):
        await trio.sleep(15 + 3 * 60 + 1)
    assert bug.met == [0, 0, 1, 3, 7, 15, 75, 135, 195]


async def test_a_parked_port_says_so_to_the_bus_to_the_log_and_to_who_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    Bug(monkeypatch)
    parked = "the port manager is parked after a bug (LookupError, see the log); next try within 60 s"
    async with running_port(tmp_path) as port:
        await trio.sleep(20)
        assert port.manager.bus.down == parked
        assert f"P0 {parked}" in caplog.messages
        assert await port.set(PortEnabled="yes") == (Refusal("PortManager.P0.PortEnabled", parked),)
        assert await port.set_named({"Network.HTTP.AuthenticationPolicy": "basic"}) == ()


async def test_the_reason_of_a_parked_port_gives_no_value_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    Bug(monkeypatch)
    async with running_port(tmp_path) as port:
        await trio.sleep(20)
        assert "xyzzy" not in (port.manager.bus.down or "")


async def test_a_change_that_mends_a_parked_port_brings_it_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    bug = Bug(monkeypatch)
    async with running_port(tmp_path) as port:
        await trio.sleep(20)
        bug.alive = False
        assert await port.set(SerialCGI__Enabled="yes") == ()
        assert trio.current_time() == 20
        assert port.manager.failure == ""
        assert set(port.manager.units) == {"service WebSocket", "service SerialCGI", "R0"}


async def test_a_port_that_ran_for_a_minute_has_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    bug = Bug(monkeypatch)
    async with running_port(tmp_path) as port:
        await trio.sleep(20)
        bug.alive = False
        await port.set(SerialCGI__Enabled="yes")
        await trio.sleep(61)
        bug.alive = True
        bug.met.clear()
        await port.set(SerialCGI__Enabled="no")
        await trio.sleep(4)
        assert bug.met == [81, 81, 82, 84]


async def test_a_stop_ends_the_pause_of_a_parked_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    Bug(monkeypatch)
    async with running_port(tmp_path):
        await trio.sleep(20)
    assert trio.current_time() == 20


async def test_a_manager_counts_heartbeats_while_it_follows_and_while_it_is_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    bug = Bug(monkeypatch)
    async with running_port(tmp_path) as port:
        await trio.sleep(20)  # parked
        before = port.manager.beats
        await trio.sleep(30)
        assert 29 <= port.manager.beats - before <= 31
        bug.alive = False
        await port.set(PortEnabled="no")
        before = port.manager.beats
        await trio.sleep(30)
        assert 29 <= port.manager.beats - before <= 31


async def test_a_manager_that_hangs_says_where_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_port(tmp_path) as port:
        hung = trio.Event()

        async def hang(*_: object) -> None:
            hung.set()
            await trio.sleep_forever()

        with monkeypatch.context() as patched:
            patched.setattr(module.Units, "apply", hang)  # type: ignore[attr-defined]  # as the manager uses it
            port.published.set(replace(port.published.value, version=1))
            await hung.wait()
        beats = port.manager.beats
        await trio.sleep(10)
        assert port.manager.beats == beats
        port.manager.restart("it did not answer for 5 s")
        await trio.sleep(2)
        assert port.manager.beats > beats
        assert port.manager.failure == ""
        assert set(port.manager.units) == {"service WebSocket", "R0"}
    assert "NoAnswer: it did not answer for 5 s, waiting in Manager._follow (manager.py, line " in caplog.text


async def test_each_line_of_the_log_of_a_unit_names_its_port(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            await port.set(PTZServer__Enabled="yes")
    told = [record for record in caplog.records if record.getMessage() == "P0 service PTZServer: up"]
    assert [record.__dict__["port"] for record in told] == ["P0"]


MAY_ALL = Right.READ | Right.TCP | Right.WATCH | Right.LINES | Right.CONFIGURE
"""What an admin may do in a browser; each session has less, by its role and by what it asked for."""


async def test_no_right_of_a_service_goes_beyond_its_kind(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with running_port(tmp_path) as port:
            assert port.manager.services.web_socket is not None
            assert port.manager.services.web_socket.handle.rights == MAY_ALL


async def test_events_that_were_counted_and_not_logged_are_told_without_another_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with running_port(tmp_path) as port:
        for _ in range(464):
            port.manager.bus.events.log(logging.WARNING, "wrong keys", "wrong key")
        await trio.sleep(62)
    assert "wrong keys: 454 more in 6" in caplog.text
