"""Updates that a port refuses after they were stored; a pty is a driver that takes neither parity nor RS-485."""

from __future__ import annotations

import contextlib
import termios
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway import changes
from gateway.composition import compose
from gateway.host.config import SerialConfig
from gateway.host.descriptor_store import DescriptorStore
from gateway.host.sdnotify import Notifier
from gateway.port.device import Refusal
from gateway.serial_line.device import SerialDevice
from protocol.parameters.hardware import ManagerHardware, PortMode, SerialHardware
from protocol.parameters.roles import Role
from tests.gateway.line import Writer
from tests.gateway.serial_line.adapter import Adapter, plug
from tests.helpers import configuration, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from gateway.composition import Composition
    from protocol.parameters.catalogue import Update
    from protocol.parameters.settings import Settings


async def updated(directory: Path, hardware: SerialHardware, *requests: Sequence[tuple[str, str]]) -> list[Update]:
    """What became of these requests, one after another, on a port with ``hardware``."""
    with lines(directory, 1) as ends, trio.fail_after(10):
        config = configuration(directory, ends, 0, serial=(SerialConfig(str(ends[0].path), hardware),))
        parts = compose(config, DescriptorStore(Notifier(None)))
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for manager in parts.managers:
                nursery.start_soon(manager.run, stop)
            updates = [await parts.changes.update(request, Role.ADMIN) for request in requests]
            stop.set()
        parts.store.close()
        return updates


BOTH = SerialHardware(modes=(PortMode.RS232, PortMode.RS485))


async def test_what_the_driver_refuses_is_put_back_and_the_rest_stays(tmp_path: Path) -> None:
    (update,) = await updated(tmp_path, BOTH, [("Serial.Ser1.Parity", "Even"), ("Serial.Ser1.BaudRate", "19200")])
    assert [(error.name, error.value) for error in update.refused] == [("Serial.Ser1.Parity", "Even")]
    assert update.changed == ("Serial.Ser1.BaudRate",)
    assert update.settings.serial.ports[0].baud_rate == 19200


async def test_what_cannot_be_without_the_refused_is_put_back_with_it(tmp_path: Path) -> None:
    (update,) = await updated(tmp_path, BOTH, [("Serial.Ser1.PortMode", "RS485"), ("Serial.Ser1.BaudRate", "230400")])
    assert {error.name for error in update.refused} == {"Serial.Ser1.PortMode", "Serial.Ser1.BaudRate"}
    line = update.settings.serial.ports[0]
    assert (line.port_mode, line.baud_rate) == (PortMode.RS232, 9600)
    assert update.changed == ()


async def test_a_refusal_does_not_come_back_with_the_next_request(tmp_path: Path) -> None:
    first, second = await updated(
        tmp_path, BOTH, [("Serial.Ser1.Parity", "Even")], [("PortManager.P0.PTZServer.Enabled", "yes")]
    )
    assert first.refused
    assert second.refused == ()


# A real driver: a line that is slow, a value that is stored and not in force, another program


@contextlib.asynccontextmanager
async def on(adapter: Adapter, directory: Path) -> AsyncIterator[Composition]:
    """A gateway whose only port is on this adapter."""
    serial = (SerialConfig(adapter.config.device, BOTH),)
    (directory / "run").mkdir()
    config = configuration(directory, (), 0, serial=serial, managers=(ManagerHardware(serial=1),))
    parts = compose(config, DescriptorStore(Notifier(None)))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for manager in parts.managers:
            nursery.start_soon(manager.run, stop)
            await manager.settled(0)
        yield parts
        stop.set()
    parts.store.close()


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
    fake = Adapter()
    plug(monkeypatch, fake)
    yield fake
    fake.put_away()


async def set_to(parts: Composition, **values: str) -> Update:
    return await parts.changes.update([(f"Serial.Ser1.{name}", text) for name, text in values.items()], Role.ADMIN)


def told(update: Update) -> dict[str, str]:
    return {error.name.rpartition(".")[2]: error.why for error in update.refused}


async def test_a_slow_line_refuses_a_change_within_two_seconds_and_holds_up_nothing_else(
    adapter: Adapter, tmp_path: Path
) -> None:
    adapter.block = 256
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            assert told(await set_to(parts, BaudRate="300")) == {}
            await parts.managers[0].bus.line.write(bytes(1000), Writer(), trio.current_time())
            began = trio.current_time()
            answers: list[Update] = []

            async def change() -> None:
                answers.append(await set_to(parts, PortMode="RS485", StopBits="2"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(change)
                await trio.testing.wait_all_tasks_blocked()
                quick = await parts.changes.update([("PortManager.P0.PTZServer.Enabled", "yes")], Role.ADMIN)
                assert quick.changed
                assert (tmp_path / "run/ptz-P0.sock").exists()
                assert not answers
            assert trio.current_time() - began < 2
            assert told(answers[0]) == dict.fromkeys(("PortMode", "StopBits"), "line busy: 1000 bytes")
            line = parts.store.published.value.settings.serial.ports[0]
            assert (line.port_mode, line.stop_bits) == (PortMode.RS232, 1)
            stored = (tmp_path / "state/parameters").read_text()
            assert "Ser1.BaudRate=300" in stored
            assert "RS485" not in stored
            assert "StopBits=2" not in stored
            assert parts.managers[0].not_in_force() == {}
            adapter.queue = b""


async def test_a_held_line_is_purged_for_a_change(adapter: Adapter, tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            assert told(await set_to(parts, FlowControlRTSCTS="yes")) == {}
            adapter.cts = False
            await parts.managers[0].bus.line.write(bytes(1000), Writer(), trio.current_time())
            began = trio.current_time()
            assert told(await set_to(parts, StopBits="2")) == {}
            assert trio.current_time() - began < 2
            assert parts.managers[0].not_in_force() == {}
            assert adapter.attributes[2] & termios.CSTOPB


async def test_a_value_that_is_stored_and_not_in_force_is_no_ok_when_it_is_asked_for_again(
    adapter: Adapter, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/parameters").write_text("root.Serial.Ser1.PortMode=RS485\n")
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            update = await set_to(parts, PortMode="RS485", StopBits="2")
            assert told(update) == {"PortMode": "asked for RS485, the device keeps RS232"}
            assert update.changed == ("Serial.Ser1.StopBits",)
            assert told(await set_to(parts, PortMode="RS232")) == {}


async def test_what_another_program_set_is_put_right_by_asking_for_the_same_again(
    adapter: Adapter, tmp_path: Path
) -> None:
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            adapter.attributes[4:6] = [termios.B300, termios.B300]
            assert told(await set_to(parts, BaudRate="9600")) == {}
            assert adapter.attributes[5] == termios.B9600


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes nothing up, and updates that wait for it a tenth of a second."""

    async def adjust(_device: SerialDevice, settings: Settings) -> tuple[Refusal, ...]:
        if settings.serial.ports[0].baud_rate != 9600:
            await trio.sleep_forever()
        return ()

    monkeypatch.setattr(SerialDevice, "adjust", adjust)
    monkeypatch.setattr(changes, "_SETTLE", 0.1)


@pytest.mark.usefixtures("hanging")
async def test_what_a_port_does_not_take_up_in_time_is_put_back(adapter: Adapter, tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            update = await set_to(parts, BaudRate="19200")
            assert told(update) == {"BaudRate": "the port did not take it up in time"}
            assert parts.store.published.value.settings.serial.ports[0].baud_rate == 9600


@pytest.mark.usefixtures("hanging")
async def test_two_updates_that_both_come_to_nothing_leave_what_stood_before_both(
    adapter: Adapter, tmp_path: Path
) -> None:
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            both: list[Update] = []

            async def change(rate: str) -> None:
                both.append(await set_to(parts, BaudRate=rate))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(change, "19200")
                await trio.testing.wait_all_tasks_blocked(0.02)
                nursery.start_soon(change, "38400")
            assert [told(update) for update in both] == [{"BaudRate": "the port did not take it up in time"}] * 2
            assert parts.store.published.value.settings.serial.ports[0].baud_rate == 9600


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """A device that takes up 19200 once the event is set, and refuses what is faster."""
    ready = trio.Event()

    async def adjust(_device: SerialDevice, settings: Settings) -> tuple[Refusal, ...]:
        rate = settings.serial.ports[0].baud_rate
        if rate == 19200:
            await ready.wait()
        return (Refusal("Serial.Ser1.BaudRate", "too fast"),) if rate > 19200 else ()

    monkeypatch.setattr(SerialDevice, "adjust", adjust)
    return ready


async def test_what_is_put_back_is_what_stood_last_and_no_older_value(
    adapter: Adapter, tmp_path: Path, strict: trio.Event
) -> None:
    strict.set()
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            for rate, in_force in (("4800", 4800), ("38400", 4800), ("19200", 19200), ("57600", 19200)):
                assert bool(told(await set_to(parts, BaudRate=rate))) == (int(rate) != in_force)
                assert parts.store.published.value.settings.serial.ports[0].baud_rate == in_force


async def test_who_sets_again_what_another_is_still_trying_comes_back_to_that(
    adapter: Adapter, tmp_path: Path, strict: trio.Event
) -> None:
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts, trio.open_nursery() as nursery:
            answers: dict[str, Update] = {}

            async def change(rate: str) -> None:
                answers[rate] = await set_to(parts, BaudRate=rate)

            for rate in ("19200", "38400"):
                nursery.start_soon(change, rate)
                await trio.testing.wait_all_tasks_blocked(0.02)
            strict.set()
            while len(answers) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert {rate: told(update) for rate, update in answers.items()} == {
                "19200": {},
                "38400": {"BaudRate": "too fast"},
            }
            assert parts.store.published.value.settings.serial.ports[0].baud_rate == 19200


@pytest.mark.usefixtures("hanging")
async def test_a_caller_that_goes_away_leaves_nothing_behind_that_a_port_refused(
    adapter: Adapter, tmp_path: Path
) -> None:
    with trio.fail_after(20):
        async with on(adapter, tmp_path) as parts:
            async with trio.open_nursery() as caller:
                caller.start_soon(lambda: set_to(parts, BaudRate="19200"))
                # The store writes in a thread, which takes its time on a busy machine.
                await parts.store.published.wait_for(
                    lambda published: published.settings.serial.ports[0].baud_rate == 19200
                )
                await trio.testing.wait_all_tasks_blocked(0.02)
                caller.cancel_scope.cancel()
            assert parts.store.published.value.settings.serial.ports[0].baud_rate == 9600


async def test_the_log_says_what_is_put_back_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (update,) = await updated(tmp_path, BOTH, [("Serial.Ser1.Parity", "Even")])
    assert f"put back: {update.refused[0]}" in caplog.messages


async def test_the_log_says_what_would_have_been_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.changes")
    await updated(tmp_path, BOTH, [("Serial.Ser1.DataBits", "9"), ("Serial.Ser1.Baud\nRate", "9600")])
    assert caplog.messages == [
        "not set: 'Serial.Ser1.DataBits': must be one of 7, 8",
        "not set: 'Serial.Ser1.Baud\\nRate': no such parameter on this product",
    ]


async def test_a_request_of_junk_does_not_fill_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.changes")
    await updated(tmp_path, BOTH, [(f"Junk{number}", "") for number in range(16)])
    assert [message.partition(":")[0] for message in caplog.messages] == ["not set"] * 16
    assert "more" not in caplog.text
    caplog.clear()
    await updated(tmp_path, BOTH, [(f"Junk{number}", "") for number in range(1000)])
    assert len(caplog.messages) == 17
    assert caplog.messages[-1] == "not set: 984 more"


async def test_the_log_repeats_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await updated(tmp_path, BOTH, [("RemotePort.R0.AuthenticationKey", "hunter2" * 1000)])
    assert "not set: 'RemotePort.R0.AuthenticationKey'" in caplog.text
    assert "hunter2" not in caplog.text
