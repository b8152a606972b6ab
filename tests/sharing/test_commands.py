"""A PTZ command overtakes what others send on a slow line, by a driver that takes seconds of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from protocol.http.serial_cgi import CgiError, SerialRequest
from tests.sharing.driver import cdc_acm, ftdi_sio, serial_core
from tests.sharing.port import chained_port, port_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clients.serial_cgi import SerialCgi
    from tests.sharing.driver import Driver
    from tests.sharing.port import Port

COUNT = 20
COMMAND = 9
LINK = 0.05
"""Seconds that a link adds."""
DRIVERS = pytest.mark.parametrize("made", [serial_core, ftdi_sio, cdc_acm], ids=lambda made: str(made.__name__))
RATES = pytest.mark.parametrize(("rate", "bound"), [(9600, 0.2), (1200, 0.4), (115200, 0.2)])


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps only when no socket of a link has anything on its way."""
    return MockClock(autojump_threshold=0.003)


def share_of_the_line(driver: Driver, since: float, until: float, what: int) -> float:
    """Return which part of the line's rate the bytes ``what`` had between two times."""
    carried = sum(since < time <= until for time, byte in zip(driver.times, driver.sent, strict=True) if byte == what)
    return carried / ((until - since) * driver.rate)


@DRIVERS
@RATES
async def test_twenty_commands_beside_a_bulk_writer_are_on_the_wire_in_time_and_it_keeps_the_line(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, made: Callable[[], Driver], rate: int, bound: float
) -> None:
    driver = made()
    every = 1.0 if rate > 1200 else 4.0
    async with port_on(monkeypatch, driver, rate) as port:
        port.nursery.start_soon(port.send_bulk)
        await trio.sleep(5)
        began = trio.current_time()
        sent = await port.send_commands(COUNT, every)
        until = trio.current_time()
        driver.advance()
    delays = sent.delays(driver)
    assert max(delays) < bound, delays
    assert share_of_the_line(driver, began, until, ord("b")) > 0.95


async def test_commands_of_two_drivers_beside_five_bulk_writers_are_as_fast(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver) as port:
        for fill in (b"b", b"c", b"d", b"e", b"f"):
            port.nursery.start_soon(port.send_bulk, 16_384, fill)
        await trio.sleep(5)
        began = trio.current_time()
        sent = await port.send_commands(COUNT, 1.0)
        until = trio.current_time()
        driver.advance()
    assert max(sent.delays(driver)) < 0.2
    shares = [share_of_the_line(driver, began, until, byte) for byte in b"bcdef"]
    assert sum(shares) > 0.95
    assert max(shares) - min(shares) < 0.03


@pytest.mark.parametrize("size", [32, 256, 1024])
async def test_beside_whole_messages_a_command_waits_for_one_of_them_at_most(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, size: int
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver) as port:
        for _ in range(2):
            port.nursery.start_soon(port.send_messages, size)
        await trio.sleep(5)
        sent = await port.send_commands(COUNT, 1.3)
        driver.advance()
    assert max(sent.delays(driver)) < 0.2 + size / 960


async def test_beside_messages_longer_than_its_age_a_command_is_in_time_or_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver) as port:
        port.nursery.start_soon(port.send_messages, 4096)
        await trio.sleep(5)
        sent = await port.write_commands(COUNT, 0.9)
        driver.advance()
    for command, when in sent.sent.items():
        if command in sent.refused:
            assert sent.refused[command] - when < 0.05
            assert command not in driver.sent
        else:
            assert driver.left(command) - when < 2.0 + COMMAND / 960
    assert 0 < len(sent.refused) < COUNT


async def test_a_command_is_never_later_than_its_age_whatever_the_others_send(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = ftdi_sio()
    async with port_on(monkeypatch, driver, 1200) as port:
        port.nursery.start_soon(port.send_bulk)
        port.nursery.start_soon(port.send_messages, 200)
        port.nursery.start_soon(port.send_messages, 40)
        await trio.sleep(30)
        sent = await port.write_commands(COUNT, 1.7)
        driver.advance()
    for command, when in sent.sent.items():
        if command in driver.sent:
            assert driver.left(command) - when < 2.0 + COMMAND / 120
        else:
            assert command in sent.refused


async def two_viewers(port: Port) -> None:
    """Loop serial.cgi?write=...&read=65536&wait=9 twice, beside each other."""
    cgi = port.cgi()
    for _ in range(2):
        port.nursery.start_soon(_view, cgi)


async def _view(cgi: SerialCgi) -> None:
    while True:
        try:
            await cgi.perform(SerialRequest(output=b"v", read=65536, timeout=9), "a viewer")
        except CgiError:
            await trio.sleep(0.1)


async def test_two_viewers_that_loop_write_and_read_starve_no_command(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver) as port:
        await two_viewers(port)
        await trio.sleep(5)
        sent = await port.send_commands(COUNT, 1.5)
        driver.advance()
    assert max(sent.delays(driver)) < 1.2
    assert driver.sent.count(b"v") >= 3, "nor does a command starve them"


async def test_a_read_whose_turn_ended_for_a_command_goes_on_to_its_own_end_and_says_so(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    driver = serial_core()
    async with port_on(monkeypatch, driver) as port:
        cgi, answers = port.cgi(), []

        async def view() -> None:
            answer = await cgi.perform(SerialRequest(output=b"v", read=65536, timeout=9), "a viewer")
            answers.append((answer, trio.current_time()))

        began = trio.current_time()
        port.nursery.start_soon(view)
        await trio.sleep(3)
        sent = await port.send_commands(1, 0)
        driver.say(b"late")
        await trio.sleep(5)
        driver.advance()
    (delay,) = sent.delays(driver)
    assert 1.0 < delay < 1.1
    ((received, ended),) = answers
    assert received == (b"late", True)
    assert ended == pytest.approx(began + 9, abs=0.1)


# Chained ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "bound"), [(9600, 0.2), (1200, 0.4)])
@pytest.mark.parametrize("bulk_at", ["owner", "the chained CPU", "both"])
async def test_chained_the_same_holds_plus_the_link(
    monkeypatch: pytest.MonkeyPatch, clock: MockClock, rate: int, bound: float, bulk_at: str
) -> None:
    driver = serial_core()
    async with chained_port(monkeypatch, driver, rate) as (owner, far):
        for where in {"owner": [owner], "the chained CPU": [far], "both": [owner, far]}[bulk_at]:
            where.nursery.start_soon(where.send_bulk)
        await trio.sleep(10)
        began = trio.current_time()
        sent = await far.send_commands(COUNT, 1.0 if rate > 1200 else 4.0)
        until = trio.current_time()
        driver.advance()
    delays = sent.delays(driver)
    assert max(delays) < bound + LINK, delays
    assert share_of_the_line(driver, began, until, ord("b")) > 0.95


async def test_two_viewers_starve_no_command_of_a_chained_cpu(
    monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> None:
    driver = serial_core()
    async with chained_port(monkeypatch, driver) as (owner, far):
        await two_viewers(owner)
        await trio.sleep(5)
        sent = await far.send_commands(COUNT, 1.5)
        driver.advance()
    assert max(sent.delays(driver)) < 1.2 + LINK
