"""``daisyport connect`` as its user meets it: a process on a terminal, which is a pty here, and a gateway."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.cli import terminal
from gateway.port.line import ModemLines
from gateway.serial_line.uart import Uart
from tests.gateway.cli.test_operator_commands import config_of, ran
from tests.helpers import running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.helpers import Gateway


class User:
    """Who sits at the terminal: types, and reads what the screen shows."""

    def __init__(self, master: int, process: trio.Process) -> None:
        self.process = process
        self.screen = b""
        self._master = master

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def sees(self, text: bytes) -> None:
        """Read until the text is shown, and forget the screen up to there."""
        while text not in self.screen:
            with trio.move_on_after(10) as patience:
                await trio.lowlevel.wait_readable(self._master)
            assert not patience.cancelled_caught, f"no {text!r} in {self.screen!r}"
            self.screen += os.read(self._master, 65536)
        self.screen = self.screen.partition(text)[2]


@contextlib.asynccontextmanager
async def at_a_terminal(gateway: Gateway, *words: str) -> AsyncIterator[User]:
    """Run the command on a terminal of its own; its settings must be what they were when it has ended."""
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        command = [sys.executable, "-m", "gateway", "connect", *words, "--config", str(config_of(gateway))]
        process = await trio.lowlevel.open_process(command, stdin=slave, stdout=slave, stderr=slave)
        try:
            yield User(master, process)
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


async def test_what_is_typed_goes_to_the_line_and_what_the_line_says_to_the_screen(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            (end,) = gateway.lines
            async with at_a_terminal(gateway, "P0") as user:
                await user.sees(b"-- P0 is up\r\n")
                user.type(b"AT\x03\r")
                assert await end.hear(4) == b"AT\x03\r"
                await end.say(b"OK\r\n")
                await user.sees(b"OK\r\n")
                user.type(b"\x1d")
                await user.sees(b"q quit")
                user.type(b"\x1d")
                assert await end.hear(1) == b"\x1d"
                user.type(b"before\x1dxafter")
                assert await end.hear(11) == b"beforeafter"
                (client,) = (await gateway.status())["clients"]
                assert client["holder"].startswith("user ")
                user.type(b"\x1dq")
                await user.sees(b"-- left\r\n")
            assert user.process.returncode == 0


async def test_the_menu_asks_for_what_is_beside_the_bytes_and_shows_hexadecimal(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {"dtr": True, "rts": True}  # a pty has none

    def modem_lines(_: Uart) -> ModemLines:
        return ModemLines(**lines, cts=False, dsr=True, ri=False, dcd=False)

    def set_modem_lines(_: Uart, dtr: bool | None, rts: bool | None) -> None:
        lines.update({name: to for name, to in (("dtr", dtr), ("rts", rts)) if to is not None})

    async def send_break(_: Uart, seconds: float) -> None:
        await trio.sleep(seconds)

    for replaced in (modem_lines, set_modem_lines, send_break):
        monkeypatch.setattr(Uart, replaced.__name__, replaced)
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            (end,) = gateway.lines
            async with at_a_terminal(gateway, "P0") as user:
                await user.sees(b"-- P0 is up\r\n")
                user.type(b"\x1db")
                await user.sees(b"-- a break of 250 ms\r\n")
                user.type(b"\x1dl")
                await user.sees(b"-- DTR on  RTS on  CTS off  DSR on  RI off  DCD off\r\n")
                user.type(b"\x1dd")
                await user.sees(b"-- DTR off  RTS on ")
                user.type(b"\x1dR")
                await user.sees(b"-- DTR off  RTS off ")
                assert lines == {"dtr": False, "rts": False}
                user.type(b"\x1ds19x\x7f9200\r")
                await user.sees(b"the line is at 19200 as long as you are here")
                assert (await gateway.status())["settings_held"]["values"] == {"BaudRate": "19200"}
                user.type(b"\x1ds\x1b")
                await user.sees(b"the rate stays")
                user.type(b"\x1dh")
                await user.sees(b"hex view on")
                await end.say(b"\x00AZ\r")
                await user.sees(b"    00 41 5a 0d " + b" " * 36 + b" .AZ.\r\n")
                user.type(b"\x1dh")
                await user.sees(b"hex view off")
                end.unplug()
                await user.sees(b"-- P0 is down: ")
                user.type(b"\x1dQ")
                await user.sees(b"-- left")
            held = await gateway.until(lambda status: status["settings_held"]["holder"] is None)
            assert held["settings_held"]["values"] == {}


async def test_a_monitor_hears_the_line_and_writes_nothing(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            (end,) = gateway.lines
            async with at_a_terminal(gateway, "P0", "--monitor", "--hex") as user:
                await user.sees(b"-- P0 is up\r\n")
                user.type(b"x")
                await user.sees(b"a monitor does not write")
                await end.say(b"B")
                await user.sees(b"    42 ")
                assert (await gateway.status())["bytes_to_line"] == 0
                user.type(b"\x1dq")
                await user.sees(b"-- left")
            command = [sys.executable, "-m", "gateway", "connect", "P0", "--monitor", "--config"]
            # Without a terminal a monitor writes to whatever its output is, until it is ended.
            process = await trio.lowlevel.open_process(
                [*command, str(config_of(gateway))], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            shown = b""
            await gateway.until(lambda status: len(status["clients"]) == 1)
            await end.say(b"to a pipe")
            while b"to a pipe" not in shown:
                shown += await process.stdout.receive_some()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
            process = await trio.lowlevel.open_process(
                [*command, str(config_of(gateway))], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            await gateway.until(lambda status: len(status["clients"]) == 1)
            await process.stdout.aclose()
            await end.say(b"nobody reads")
            assert await process.wait() == 0


async def test_whoever_ends_it_the_terminal_is_as_it_was(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            async with at_a_terminal(gateway, "P0") as user:
                await user.sees(b"-- P0 is up\r\n")
                user.process.terminate()
            assert user.process.returncode == 128 + signal.SIGTERM
            async with at_a_terminal(gateway, "P0") as user:
                await user.sees(b"-- P0 is up\r\n")
                (client,) = (await gateway.status())["clients"]
                assert (await ran(gateway, "kick", client["holder"])).returncode == 0
                await user.sees(b"daisyport: P0: ")
            assert user.process.returncode == 1


async def test_what_cannot_be_is_said_in_words(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            async with at_a_terminal(gateway, "P9") as user:
                await user.sees(b"no such port; ports: P0")
            for port in ("P 0", "P0?monitor=1", "Pä"):
                async with at_a_terminal(gateway, port) as user:
                    await user.sees(b"daisyport: there is no port 'P")
            done = await trio.run_process(
                [sys.executable, "-m", "gateway", "connect", "P0", "--config", str(config_of(gateway))],
                stdin=b"",
                capture_stderr=True,
                check=False,
            )
            assert done.returncode == 1
            assert b"this is for a terminal" in done.stderr
        (short_path / "other").mkdir()
        async with running_gateway(short_path / "other") as other:
            config = config_of(other)
        async with at_a_terminal(other, "P0") as user:
            await user.sees(b"no gateway answers")
        assert config.exists()


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"event": "port", "state": "closed", "reason": "nobody"}, "is closed: nobody"),
        ({"event": "line", "words": "RS232 9600 8N1"}, "the line is set to RS232 9600 8N1"),
        ({"event": "break", "count": 1}, "a break came from the line"),
        ({"event": "modem"}, "DTR or RTS was moved"),
        ({"event": "modem", "by": "anna"}, "DTR or RTS was moved by anna"),
        ({"event": "refused", "reason": "why"}, "why"),
        ({"event": "gap", "count": 3}, "3 bytes of the line are missing here: this terminal reads too slowly"),
        ({"event": "turns", "reply": None}, None),
    ],
)
def test_events_are_told_in_words(message: dict[str, object], word: str | None) -> None:
    assert terminal.word_of(message) == word
