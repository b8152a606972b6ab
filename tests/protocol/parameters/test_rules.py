from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from protocol.parameters.hardware import PortMode, SerialHardware
from protocol.parameters.rules import conflicts
from protocol.parameters.settings import (
    ConnectTo,
    GenericTCPServer,
    Listener,
    PortManager,
    RemotePortServer,
    Serial,
    SerialPort,
    Settings,
)


def of_line(port: SerialPort) -> list[str]:
    return [conflict.why for conflict in conflicts(Settings(serial=Serial(ports=(SerialPort(), port))))]


@pytest.mark.parametrize(("mode", "rate"), list(itertools.product(PortMode, (300, 9600, 115200, 230400, 460800))))
def test_the_two_fastest_rates_require_an_rs485_mode(mode: PortMode, rate: int) -> None:
    wanting = rate > 115200 and mode not in (PortMode.RS485, PortMode.RS485_4)
    found = of_line(SerialPort(port_mode=mode, baud_rate=rate))
    assert found == ([f"{rate} requires RS485 or RS485_4, and the port's mode is {mode.value}"] if wanting else [])


def test_a_rate_that_the_host_vouches_for_requires_no_mode() -> None:
    settings = Settings(serial=Serial(ports=(SerialPort(baud_rate=230400), SerialPort(baud_rate=460800))))
    lines = SerialHardware(rates=(230400, 921600)), SerialHardware()
    assert [conflict.why for conflict in conflicts(settings, lines)] == [
        "460800 requires RS485 or RS485_4, and the port's mode is RS232"
    ]


@pytest.mark.parametrize("mode", PortMode)
def test_xon_xoff_requires_a_full_duplex_mode(mode: PortMode) -> None:
    found = of_line(SerialPort(port_mode=mode, flow_control_xonxoff=True))
    assert found == (["XON/XOFF requires full duplex, and the port's mode is RS485"] if mode is PortMode.RS485 else [])


@pytest.mark.parametrize("mode", PortMode)
def test_rts_cts_requires_rs232(mode: PortMode) -> None:
    found = of_line(SerialPort(port_mode=mode, flow_control_rtscts=True))
    assert found == ([] if mode is PortMode.RS232 else [f"RTS/CTS requires RS232, and the port's mode is {mode.value}"])


def test_a_line_conflict_is_between_the_mode_and_the_setting_that_requires_another() -> None:
    (conflict,) = conflicts(Settings(serial=Serial(ports=(SerialPort(baud_rate=230400),))))
    assert conflict.sides == ((("serial", "ports", 0, "port_mode"),), (("serial", "ports", 0, "baud_rate"),))


LISTENING = Listener(enabled=True, port=3000)
GENERIC = PortManager(generic_tcp_server=GenericTCPServer(enabled=True, listener=LISTENING))
REMOTE = PortManager(remote_port_server=RemotePortServer(enabled=True, listener=LISTENING))
BOTH = replace(GENERIC, remote_port_server=REMOTE.remote_port_server)


@pytest.mark.parametrize("managers", [(GENERIC, GENERIC), (GENERIC, REMOTE), (REMOTE, REMOTE), (BOTH,)])
def test_two_active_listeners_of_any_kind_cannot_share_a_tcp_port(managers: tuple[PortManager, ...]) -> None:
    (conflict,) = conflicts(Settings(port_managers=managers))
    assert len(conflict.sides) == 2
    assert conflict.why.startswith("only one server can listen on TCP port 3000; enabled there: PortManager.P0.")


def test_all_who_share_a_tcp_port_are_in_one_conflict_whose_reason_stays_short() -> None:
    (conflict,) = conflicts(Settings(port_managers=(GENERIC,) * 64))
    assert len(conflict.sides) == 64
    assert conflict.why.endswith("PortManager.P1.GenericTCPServer, PortManager.P2.GenericTCPServer and 61 more")


@pytest.mark.parametrize(
    "other",
    [
        GenericTCPServer(enabled=False, listener=LISTENING),
        GenericTCPServer(enabled=True, listener=Listener(enabled=False, port=3000)),
        GenericTCPServer(enabled=True, listener=Listener(enabled=True, port=3001)),
        GenericTCPServer(enabled=True, connect_to=ConnectTo(enabled=True, port=3000)),
    ],
)
def test_what_does_not_listen_there_does_not_collide(other: GenericTCPServer) -> None:
    managers = (GENERIC, PortManager(port_enabled=False, generic_tcp_server=other))
    assert list(conflicts(Settings(port_managers=managers))) == []
