"""RFC 2217 clients at a daemon over a pty: each request is answered with what is in force, in its place among bytes."""

from __future__ import annotations

import functools
import itertools
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.clients.relay import Manner
from gateway.clients.rfc2217 import serve
from gateway.clients.streams import SocketStream
from gateway.host.config import PortConfig, Rfc2217Config
from gateway.serial_line.tty import Counters
from gateway.tasks.watch import Cell
from protocol.sharing.turn_rule import TurnRule
from tests.gateway.remote_port.linked import holds
from tests.gateway.serial_line.test_controls import port as modem_port
from tests.gateway.serial_line.test_controls import session
from tests.helpers import free_port, needs_curl, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.port.router import Session
    from tests.gateway.serial_line.test_controls import Modem
    from tests.helpers import Gateway

pytestmark = needs_curl

WILL_COM_PORT = bytes([255, 251, 44])
BRK = bytes([255, 243])


def com_port(command: int, *value: int) -> bytes:
    """A sub-negotiation of the COM port option."""
    return bytes([255, 250, 44, command]) + bytes(value).replace(b"\xff", b"\xff\xff") + bytes([255, 240])


def rate(bits_a_second: int) -> bytes:
    return com_port(1, *bits_a_second.to_bytes(4, "big"))


def answered(command: int, *value: int) -> bytes:
    return com_port(100 + command, *value)


class Client:
    """One connection, which has told that it speaks RFC 2217."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.heard = b""

    async def ask(self, *requests: bytes) -> None:
        await self.stream.send_all(b"".join(requests))

    async def until(self, wanted: bytes) -> bytes:
        """Read until ``wanted`` has come; return, and forget, what came before it."""
        while wanted not in self.heard:
            data = await self.stream.receive_some()
            assert data, f"the connection ended without {wanted!r}: {self.heard!r}"
            self.heard += data
        before, _, self.heard = self.heard.partition(wanted)
        return before


@asynccontextmanager
async def serving(directory: Path, *, configure: bool = True, **more: object) -> AsyncIterator[tuple[Gateway, int]]:
    port = free_port()
    sharing = PortConfig(rfc2217=Rfc2217Config((("127.0.0.1", port),), configure=configure), **more)  # type: ignore[arg-type]
    with trio.fail_after(20):
        async with running_gateway(directory, sharing=(sharing,)) as gateway:
            await gateway.until(lambda status: status["services"].get(f"listen 127.0.0.1:{port} for RFC 2217") == "up")
            yield gateway, port


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        made = Client(stream)
        await made.ask(WILL_COM_PORT)
        await made.until(answered(7, 0))
        yield made


async def rate_of(gateway: Gateway) -> int:
    found = (await gateway.status())["settings_in_force"]["BaudRate"]
    assert isinstance(found, int)
    return found


async def test_bytes_pass_both_ways_whatever_they_are(tmp_path: Path) -> None:
    every = bytes(range(256))
    async with serving(tmp_path) as (gateway, port), client(port) as mine:
        await mine.ask(every.replace(b"\xff", b"\xff\xff"))
        assert await gateway.lines[0].hear(256) == every
        await gateway.lines[0].say(every)
        assert await mine.until(b"\xff\xff") == every[:-1]


async def test_each_sub_command_is_answered_with_the_value_in_force(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, port), client(port) as mine:
        for asked, answer in (
            (com_port(0), answered(0, *b"Daisyport P0")),
            (rate(19200), answered(1, 0, 0, 0x4B, 0)),
            (rate(123), answered(1, 0, 0, 0x4B, 0)),
            (rate(0), answered(1, 0, 0, 0x4B, 0)),
            (com_port(2, 7), answered(2, 8)),  # a pty has no other than eight
            (com_port(3, 3), answered(3, 1)),  # nor parity
            (com_port(4, 2), answered(4, 2)),
            (com_port(4, 3), answered(4, 2)),
            (com_port(5, 0), answered(5, 1)),
            (com_port(5, 2), answered(5, 2)),
            (com_port(5, 13), answered(5, 15)),
            (com_port(5, 1), answered(5, 1)),
            (com_port(5, 4), answered(5, 6)),
            (com_port(5, 7), answered(5, 8)),
            (com_port(5, 9), answered(5, 9)),
            (com_port(5, 7), answered(5, 9)),
            (com_port(5, 12), answered(5, 12)),
            (com_port(5, 10), answered(5, 12)),
            (com_port(10, 255), answered(10, 255)),
            (com_port(11, 0), answered(11, 0)),
            (com_port(12, 3), answered(12, 3)),
        ):
            await mine.ask(asked)
            assert await mine.until(answer) == b""


async def test_a_request_keeps_its_place_among_the_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, port), client(port) as mine:
        await mine.ask(b"before", rate(19200), b"after", com_port(4, 2), b"!")
        assert await gateway.lines[0].hear(12) == b"beforeafter!"
        await mine.until(answered(1, 0, 0, 0x4B, 0))
        await mine.until(answered(4, 2))


async def test_settings_end_with_the_session_and_param_cgi_keeps_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, port), client(port) as mine:
        await mine.ask(rate(115200))
        await mine.until(answered(1, 0, 1, 0xC2, 0))
        assert await rate_of(gateway) == 115200
        held = (await gateway.status())["settings_held"]
        assert held["values"] == {"BaudRate": "115200"}
        assert held["holder"].startswith("127.0.0.1:")
        listed = await gateway.curl("/axis-cgi/param.cgi?action=list&group=Serial.Ser1.BaudRate")
        assert listed == "Serial.Ser1.BaudRate=9600\n"
        await mine.stream.aclose()
        await gateway.until(lambda status: status["settings_in_force"]["BaudRate"] == 9600)


async def test_a_client_that_comes_back_at_once_sets_the_line_anew(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, port):
        for bits_a_second in (19200, 38400, 300):
            async with client(port) as mine:
                await mine.ask(rate(bits_a_second))
                assert await mine.until(answered(1, *bits_a_second.to_bytes(4, "big"))) == b""


async def test_one_client_at_a_time_sets_the_line_and_the_other_is_told_what_holds(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, port), client(port) as first, client(port) as second:
        await first.ask(rate(19200))
        await first.until(answered(1, 0, 0, 0x4B, 0))
        await second.ask(rate(300))
        assert await second.until(answered(1, 0, 0, 0x4B, 0)) == b""


@pytest.mark.parametrize("value", [4800, 9600], ids=["another value", "the same"])
async def test_an_admins_update_is_in_force_when_ok_is_said_and_the_holder_is_told(tmp_path: Path, value: int) -> None:
    async with serving(tmp_path) as (gateway, port), client(port) as mine:
        await mine.ask(rate(19200))
        await mine.until(answered(1, 0, 0, 0x4B, 0))
        assert await gateway.set({"Serial.Ser1.BaudRate": value}) == "OK"
        assert await rate_of(gateway) == value
        await mine.until(answered(1, *value.to_bytes(4, "big")))


async def test_who_may_not_configure_is_answered_with_what_is_in_force(tmp_path: Path) -> None:
    async with serving(tmp_path, configure=False) as (gateway, port), client(port) as mine:
        await mine.ask(rate(19200))
        assert await mine.until(answered(1, 0, 0, 0x25, 0x80)) == b""
        assert await rate_of(gateway) == 9600


async def test_a_suspended_client_gets_answers_and_no_data_until_it_resumes(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, port), client(port) as mine:
        await mine.ask(com_port(8), rate(0))
        await mine.until(answered(1, 0, 0, 0x25, 0x80))
        await gateway.lines[0].say(b"held back")
        await gateway.until(lambda status: any(one["queue"] == 9 for one in status["clients"]))
        await mine.ask(com_port(4, 0))
        assert await mine.until(answered(4, 1)) == b""
        await mine.ask(com_port(9))
        assert await mine.until(b"held back") == b""


async def test_a_request_waits_for_its_turn_and_splits_no_reply(tmp_path: Path) -> None:
    rule = TurnRule("line", end=b"\r", reply_timeout=5.0, max_wait=5.0)
    async with (
        serving(tmp_path, turn=rule) as (gateway, port),
        client(port) as mine,
        await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as tcp,
    ):
        await tcp.send_all(b"ask\r")
        assert await gateway.lines[0].hear(4) == b"ask\r"
        await mine.ask(rate(19200))
        await gateway.until(lambda status: status["sharing"]["waiting"] == 1)
        assert await rate_of(gateway) == 9600
        await gateway.lines[0].say(b"answer\r")
        assert await tcp.receive_some() == b"answer\r"
        assert await mine.until(answered(1, 0, 0, 0x4B, 0)) == b"", "the reply is another's"


async def test_a_telnet_break_on_a_pty_harms_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, port), client(port) as mine:
        await mine.ask(b"a", BRK, b"b", com_port(5, 5), com_port(5, 4), com_port(5, 6), b"c")
        assert await gateway.lines[0].hear(3) == b"abc"
        for value in (5, 5, 6):
            assert await mine.until(answered(5, value)) == b""


async def test_the_lines_of_a_device_move_in_order_as_soon_as_they_are_asked_for_and_are_told_of(
    tmp_path: Path,
) -> None:
    ours, theirs = socket.socketpair()
    async with modem_port() as (tty, router), trio.open_nursery() as nursery:
        served = functools.partial(serve, SocketStream(ours), session(router), Cell(0), Manner(), "P0")
        nursery.start_soon(served)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as stream:
            mine = Client(stream)
            await mine.ask(WILL_COM_PORT)
            # The reset of esptool: RTS resets the chip, DTR holds its boot pin.
            moments = [trio.current_time()]
            for asked in (9, 11, 8, 12, 9):
                await mine.ask(com_port(5, asked))
                await mine.until(answered(5, asked))
                moments.append(trio.current_time())
            # A busy machine makes some of them late, and whoever looked only now and then would make all.
            assert min(after - before for before, after in itertools.pairwise(moments)) < 0.05
            tty.lines = replace(tty.lines, cts=True, dcd=True)
            await mine.until(answered(7, 0x99))
            await mine.ask(BRK, com_port(12, 2), com_port(12, 1))
            await mine.until(answered(12, 1))
        nursery.cancel_scope.cancel()
    told = [what for what, _ in tty.log]
    assert told[:5] == [
        "dtr False rts None",
        "dtr None rts True",
        "dtr True rts None",
        "dtr None rts False",
        "dtr False rts None",
    ]
    assert told[5:] == ["break", "no break", "purge"]


@asynccontextmanager
async def on_a_modem() -> AsyncIterator[tuple[Client, Modem, Session]]:
    """A client of a line with modem lines, whose driver counts errors."""
    ours, theirs = socket.socketpair()
    with trio.fail_after(20):
        async with modem_port() as (tty, router), trio.open_nursery() as nursery:
            held = session(router)
            nursery.start_soon(functools.partial(serve, SocketStream(ours), held, Cell(0), Manner(), "P0"))
            async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as stream:
                yield Client(stream), tty, held
            nursery.cancel_scope.cancel()


async def ask_for_errors(mine: Client, tty: Modem, held: Session) -> Counters:
    """Have the client want to know of each kind of error; return what the driver has counted once that is known."""
    counted = tty.counted = Counters(0, 0, framing=7, overrun=7, parity=7, breaks=0, buffer_overrun=0)
    await mine.ask(WILL_COM_PORT, com_port(11, 0), com_port(10, 0x0E))
    await mine.until(answered(10, 0x0E))
    await holds(lambda: held.state.value.line_errors is not None)
    return counted


async def test_errors_are_told_of_where_the_client_wants_to_know_each_kind_by_its_bit() -> None:
    async with on_a_modem() as (mine, tty, held):
        counted = await ask_for_errors(mine, tty, held)
        for change, told in (
            ({"parity": 9}, 0x04),
            ({"buffer_overrun": 1}, 0x02),
            ({"framing": 8, "overrun": 8}, 0x0A),
            ({"framing": 0, "overrun": 0, "parity": 0}, None),  # another device
            ({"parity": 1}, 0x04),
        ):
            before = held.state.value.line_errors
            counted = tty.counted = replace(counted, **change)
            if told is None:
                while held.state.value.line_errors == before:
                    await trio.lowlevel.checkpoint()
            else:
                assert await mine.until(answered(6, told)) == b""


async def test_errors_that_come_while_nothing_is_counted_are_told_after_that() -> None:
    async with on_a_modem() as (mine, tty, held):
        counted = await ask_for_errors(mine, tty, held)
        tty.counted = None  # the link is away, or the device
        await holds(lambda: held.state.value.line_errors is None)
        await trio.testing.wait_all_tasks_blocked()
        tty.counted = replace(counted, parity=8)
        assert await mine.until(answered(6, 0x04)) == b""


async def test_nobody_looks_at_the_lines_for_a_client_that_wants_to_know_of_nothing() -> None:
    async with on_a_modem() as (mine, tty, held):
        await mine.ask(b"data of plain telnet", WILL_COM_PORT)
        await holds(lambda: held.state.value.modem_lines == tty.lines)
        await mine.ask(com_port(11, 0))
        await mine.until(answered(11, 0))
        await holds(lambda: held.state.value.modem_lines is None)
        before = tty.looks
        await trio.sleep(0.35)
        assert tty.looks == before
        tty.lines = replace(tty.lines, cts=True)
        await mine.ask(com_port(7))  # who asks is told all the same
        await mine.until(answered(7, 0x10))
        assert tty.looks == before + 1
        await mine.ask(com_port(11, 0x40))
        await mine.until(answered(11, 0x40))
        tty.lines = replace(tty.lines, ri=True)
        await mine.until(answered(7, 0x40))


async def test_addresses_are_those_of_the_generic_tcp_server(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, port), client(port) as mine:
        assert await gateway.update(GenericTCPServer_AllowedIPAddresses="192.0.2.1") == "OK"
        with pytest.raises(AssertionError, match="ended"):
            await mine.until(b"never")


async def test_pyserial_opens_the_port_without_a_special_word_and_sets_it(tmp_path: Path) -> None:
    program = """
import serial, sys
port = serial.serial_for_url(f"rfc2217://127.0.0.1:{sys.argv[1]}", baudrate=19200, stopbits=2, timeout=5)
port.write(b"ask" + bytes([255, 0]))
assert port.read(5) == b"ask" + bytes([255, 0])
port.baudrate = 38400
port.dtr = port.rts = False
port.break_condition = True
port.break_condition = False
port.reset_input_buffer()
port.reset_output_buffer()
assert (port.cts, port.dsr, port.ri, port.cd) == (False,) * 4
try:
    port.parity = "E"
except ValueError:
    print("no parity here")
"""
    async with serving(tmp_path) as (gateway, port):

        async def echo() -> None:
            await gateway.lines[0].say(await gateway.lines[0].hear(5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            done = await trio.run_process(
                [sys.executable, "-c", program, str(port)], capture_stdout=True, capture_stderr=True, check=False
            )
        assert (done.returncode, done.stdout) == (0, b"no parity here\n"), done.stderr.decode()
        await gateway.until(lambda status: status["settings_in_force"]["BaudRate"] == 9600)
