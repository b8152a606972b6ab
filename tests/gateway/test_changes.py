"""Updates that a port refuses after they were stored; a pty is a driver that takes neither parity nor RS-485."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from gateway.composition import compose
from gateway.host.config import SerialConfig
from protocol.parameters.hardware import PortMode, SerialHardware
from protocol.parameters.roles import Role
from tests.helpers import configuration, lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from protocol.parameters.catalogue import Update


async def updated(directory: Path, hardware: SerialHardware, *requests: Sequence[tuple[str, str]]) -> list[Update]:
    """What became of these requests, one after another, on a port with ``hardware``."""
    with lines(directory, 1) as ends, trio.fail_after(10):
        config = configuration(directory, ends, 0, serial=(SerialConfig(str(ends[0].path), hardware),))
        parts = compose(config)
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


async def test_the_log_says_what_would_have_been_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.changes")
    await updated(tmp_path, BOTH, [("Serial.Ser1.DataBits", "9"), ("Serial.Ser1.Baud\nRate", "9600")])
    assert caplog.messages == [
        "not set: 'Serial.Ser1.DataBits': must be one of 7, 8",
        "not set: 'Serial.Ser1.Baud\\nRate': no such parameter on this product",
    ]


async def test_a_request_of_junk_does_not_fill_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.changes")
    await updated(tmp_path, BOTH, [(f"Junk{number}", "") for number in range(1000)])
    assert len(caplog.messages) == 17
    assert caplog.messages[-1] == "not set: 984 more"


async def test_the_log_repeats_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await updated(tmp_path, BOTH, [("RemotePort.R0.AuthenticationKey", "hunter2" * 1000)])
    assert "not set: 'RemotePort.R0.AuthenticationKey'" in caplog.text
    assert "hunter2" not in caplog.text
