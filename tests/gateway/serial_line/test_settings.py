"""Line settings, over their whole product; pyserial is asked what it makes of each."""

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


def cooked() -> list[Any]:
    """What a tty has before anybody sets it: canonical, with echo, and everything that changes bytes."""
    return [0o177777, 0o177777, 0o177777 | termios.HUPCL, 0o177777, termios.B9600, termios.B9600, [b"\0"] * 32]


@pytest.fixture
def pyserial(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[serial.Serial, list[Any]]]:
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


def test_each_line_reads_back_as_it_was_made() -> None:
    for line in FORMATS:
        assert line_settings.found(line_settings.attributes(cooked(), line), IDLE, bias=False) == line


def test_pyserial_makes_the_same_of_each_line(pyserial: tuple[serial.Serial, list[Any]]) -> None:
    words = {Parity.NONE: "N", Parity.EVEN: "E", Parity.ODD: "O", Parity.MARK: "M", Parity.SPACE: "S"}
    port, theirs = pyserial
    ours = termios.CSIZE | termios.CSTOPB | termios.PARENB | termios.PARODD | 0o10000000000 | termios.CRTSCTS
    flow = termios.IXON | termios.IXOFF
    for line in FORMATS:
        port.apply_settings(
            {
                "baudrate": line.baud_rate,
                "bytesize": line.data_bits,
                "parity": words[line.parity],
                "stopbits": line.stop_bits,
                "xonxoff": line.flow_control_xonxoff,
                "rtscts": line.flow_control_rtscts,
            }
        )
        made = line_settings.attributes(cooked(), line)
        assert made[2] & ours == theirs[2] & ours
        assert made[0] & flow == theirs[0] & flow
        assert made[4:6] == theirs[4:6]


def test_a_tty_is_raw_waits_for_a_byte_and_does_not_drop_dtr() -> None:
    iflag, oflag, cflag, lflag, _, _, characters = line_settings.attributes(cooked(), SerialPort())
    assert iflag == 0
    assert not oflag & termios.OPOST
    assert not cflag & termios.HUPCL
    assert cflag & termios.CLOCAL
    assert cflag & termios.CREAD
    assert not lflag & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    assert (characters[termios.VMIN], characters[termios.VTIME]) == (1, 0)


def test_marks_are_asked_for_without_the_parity_check_that_would_mark_bytes() -> None:
    iflag = line_settings.attributes(cooked(), SerialPort(parity=Parity.ODD), marks=True)[0]
    assert iflag == termios.PARMRK


def test_a_rate_without_a_name_leaves_the_one_that_is_there() -> None:
    before = cooked()
    before[4:6] = [0o010000, 0o010000]
    assert line_settings.attributes(before, SerialPort(baud_rate=0))[4:6] == [0o010000, 0o010000]


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
def test_parity_is_in_the_bits_that_termios_gives_it(parity: Parity, bits: int) -> None:
    made = line_settings.attributes(cooked(), SerialPort(parity=parity))
    assert made[2] & (termios.PARENB | termios.PARODD | 0o10000000000) == bits


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


def test_a_portion_is_a_tenth_of_a_second_of_line_and_a_message_no_longer_than_a_second() -> None:
    assert line_settings.message_portion(SerialPort(baud_rate=300)) == 16
    assert line_settings.message_limit(SerialPort(baud_rate=300)) == 30
    assert line_settings.message_limit(SerialPort(baud_rate=9600)) == 512
    assert line_settings.message_portion(SerialPort(baud_rate=115200)) == 1152
    assert line_settings.message_portion(SerialPort(baud_rate=460800)) == 4608
