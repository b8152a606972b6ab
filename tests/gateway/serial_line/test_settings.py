"""Line settings, over their whole product; pyserial itself is asked what its arguments come to."""

from __future__ import annotations

import itertools
import os
import termios
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
import serial

from gateway.serial_line import settings as line_settings
from protocol.parameters.hardware import PortMode
from protocol.parameters.settings import FAST_RATES, SLOW_RATES, Parity, SerialPort

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_YES = (False, True)
FORMATS = tuple(
    SerialPort(
        baud_rate=rate,
        data_bits=data,
        stop_bits=stop,
        parity=parity,
        flow_control_xonxoff=xonxoff,
        flow_control_rtscts=rtscts,
    )
    for rate, data, stop, parity, xonxoff, rtscts in itertools.product(
        SLOW_RATES + FAST_RATES, (7, 8), (1, 2), Parity, NO_YES, NO_YES
    )
)
BUSES = tuple(
    SerialPort(port_mode=mode, termination=termination, bias=bias)
    for mode, termination, bias in itertools.product(PortMode, NO_YES, NO_YES)
)
IDLE = (0,) * 8


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[serial.Serial, list[Any]]]:
    """An open pyserial port whose termios attributes land in a list, on a device that takes them all."""
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)

    def put(_fd: int, _when: int, new: list[Any]) -> None:
        attributes[:] = new

    monkeypatch.setattr(termios, "tcgetattr", lambda _fd: list(attributes))
    monkeypatch.setattr(termios, "tcsetattr", put)
    with serial.Serial(os.ttyname(slave), timeout=0) as tty:
        yield tty, attributes
    os.close(slave)
    os.close(master)


def test_what_pyserial_makes_of_each_line_reads_back_as_that_line(
    recorder: tuple[serial.Serial, list[Any]],
) -> None:
    tty, attributes = recorder
    for line in FORMATS:
        tty.apply_settings(dict(line_settings.arguments(line)))
        assert line_settings.found(attributes, IDLE, bias=False) == line


@pytest.mark.parametrize(
    ("parity", "bits"),
    [
        (Parity.NONE, 0),
        (Parity.EVEN, termios.PARENB),
        (Parity.ODD, termios.PARENB | termios.PARODD),
        (Parity.MARK, termios.PARENB | termios.PARODD | 0o10000000000),
        (Parity.SPACE, termios.PARENB | 0o10000000000),
    ],
)
def test_parity_is_in_the_bits_that_termios_gives_it(
    recorder: tuple[serial.Serial, list[Any]], parity: Parity, bits: int
) -> None:
    tty, attributes = recorder
    tty.apply_settings(dict(line_settings.arguments(SerialPort(parity=parity))))
    assert attributes[2] & (termios.PARENB | termios.PARODD | 0o10000000000) == bits


def test_what_is_left_of_a_refused_parity_is_no_parity() -> None:
    attributes = [0, 0, termios.CS8 | termios.PARODD, 0, termios.B9600, termios.B9600, []]
    assert line_settings.found(attributes, IDLE, bias=False).parity is Parity.NONE


def test_a_rate_without_a_name_reads_as_none_that_can_be_asked_for() -> None:
    attributes = [0, 0, termios.CS8, 0, 0o010000, 0o010000, []]
    assert line_settings.found(attributes, IDLE, bias=False).baud_rate == 0


def test_half_of_xon_xoff_is_not_xon_xoff() -> None:
    attributes = [termios.IXON, 0, termios.CS8, 0, termios.B9600, termios.B9600, []]
    assert not line_settings.found(attributes, IDLE, bias=False).flow_control_xonxoff


@pytest.mark.parametrize("line", BUSES, ids=str)
@pytest.mark.parametrize("board", [IDLE, (0b111110111, 3, 4, 5, 6, 7, 8, 9)], ids=["plain", "everything"])
def test_an_rs485_control_reads_back_as_the_line_it_was_made_for(line: SerialPort, board: line_settings.Rs485) -> None:
    attributes = [0, 0, termios.CS8, 0, termios.B9600, termios.B9600, []]
    control = line_settings.rs485(line, board)
    wanted = line_settings.wanted(line)
    assert line_settings.found(attributes, control, bias=wanted.bias) == wanted


@pytest.mark.parametrize(
    ("mode", "flags"),
    [(PortMode.RS232, 0), (PortMode.RS485, 1), (PortMode.RS485_4, 1 | 16), (PortMode.RS422, 1 | 512)],
)
def test_each_mode_has_the_flags_that_linux_documents(mode: PortMode, flags: int) -> None:
    assert line_settings.rs485(SerialPort(port_mode=mode), IDLE)[0] == flags
    terminated = 0 if mode is PortMode.RS232 else 32
    assert line_settings.rs485(SerialPort(port_mode=mode, termination=True), IDLE)[0] == flags | terminated


def test_the_boards_rts_polarity_and_delays_stay_its_own() -> None:
    board = (0b100, 3, 4, 0, 0, 0, 0, 0)
    assert line_settings.rs485(SerialPort(port_mode=PortMode.RS485), board) == (0b101, *board[1:])


def test_rs232_has_no_bus_to_terminate_or_bias() -> None:
    line = SerialPort(termination=True, bias=True)
    assert line_settings.wanted(line) == SerialPort()
    assert line_settings.wanted(replace(line, port_mode=PortMode.RS422)) == replace(line, port_mode=PortMode.RS422)


def test_every_setting_has_the_contracts_name() -> None:
    assert tuple(line_settings.NAMES) == tuple(field.name for field in fields(SerialPort))
    assert line_settings.NAMES["flow_control_rtscts"] == "FlowControlRTSCTS"


def test_differences_are_named_in_the_order_of_the_contract() -> None:
    other = SerialPort(baud_rate=300, bias=True)
    assert line_settings.differing(SerialPort(), other) == ("baud_rate", "bias")
    assert line_settings.differing(other, other) == ()


@pytest.mark.parametrize(
    ("line", "speed"),
    [
        (SerialPort(), 960),
        (SerialPort(baud_rate=115200), 11520),
        (SerialPort(data_bits=7, parity=Parity.EVEN), 960),
        (SerialPort(stop_bits=2, parity=Parity.SPACE), 800),
        (SerialPort(baud_rate=300, data_bits=7, stop_bits=2), 30),
    ],
)
def test_a_character_costs_its_start_parity_and_stop_bits(line: SerialPort, speed: float) -> None:
    assert line_settings.bytes_per_second(line) == speed
    assert line_settings.line_time(line, 960) == 960 / speed


def test_a_portion_is_a_tenth_of_a_second_of_line_but_never_less_than_512_bytes() -> None:
    assert line_settings.message_portion(SerialPort(baud_rate=300)) == 512
    assert line_settings.message_portion(SerialPort(baud_rate=115200)) == 1152
    assert line_settings.message_portion(SerialPort(baud_rate=460800)) == 4608
