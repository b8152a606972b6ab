"""``daisyport status --watch``: what is shown of one moment, how it is drawn, and how it goes on and ends."""

from __future__ import annotations

import contextlib
import copy
import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from rich.console import Console

from gateway.cli import watch as watching
from gateway.cli.command import CommandError
from gateway.cli.watch import Table, screen, watch
from tests.gateway.web.test_openmetrics import STATUS
from tests.helpers import running_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN_FORCE = {"PortMode": "RS485", "BaudRate": 19200, "DataBits": 8, "Parity": "None", "StopBits": 1}


def moment() -> dict[str, Any]:
    """A status with a serial port that has clients and links, and one of another CPU that has none."""
    status = copy.deepcopy(STATUS)
    serial, remote = status["ports"]
    serial |= {"device": "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI", "settings_in_force": IN_FORCE}
    remote |= {"remote_port": 1}
    remote["remote_port_candidates"] = [
        {"name": "cpu7", "address": "10.0.0.7", "next_try_seconds": 4, "last_answer": "no"}
    ]
    for client in serial["clients"]:
        client |= {"since": 1000.0, "writes": client["queue"] != 10, "written": 0, "bytes_out": 0}
    return status


def shown(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    return "\n".join(line for table in screen(after, before, 2.0, 1300.0) for line in table.lines())


def test_one_moment_tells_ports_what_is_wrong_clients_and_links_in_80_columns() -> None:
    text = shown(None, moment())
    assert max(map(len, text.splitlines())) <= 80
    assert "P0   up     RS485 19200 8N1   " in text
    assert "P0: Parity is not as it is wanted: the driver says None" in text
    assert "P1: no route to host" in text
    assert "P0   192.0.2.7:40000        GenericTCPS read     5 min                       10B" in text
    assert "P0   from cpu2 R0             up    yes    12 ms       4   1.2K     7B     8B" in text
    assert "P0   from cpu2 R1             down  old                0     0B     0B     0B" in text
    assert 'P1   to the "owner"\\ P0       down  yes     3 ms       2    77B     5B      1' in text
    assert "P0   RS485 19200 8E1   modbus-rtu" in text
    assert "P1   cpu7                         4 s no" in text


def test_who_has_the_turn_is_shown_and_how_many_wait() -> None:
    status = moment()
    status["ports"][0]["sharing"] |= {"holder": "192.0.2.7:40000", "held_ms": 12, "waiting": 3}
    assert "modbus-rtu  192.0.2.7:40000 for 12 ms" in shown(None, status)
    assert [line for line in shown(None, status).splitlines() if line.endswith(" 3")]


def test_rates_are_those_since_the_look_before_and_none_where_a_counter_began_anew() -> None:
    before, after = moment(), moment()
    after["ports"][0]["bytes_from_line"] += 4_000_000
    after["ports"][0]["bytes_to_line"] = 3
    after["ports"][0]["clients"][1]["written"] = 2500
    text = shown(before, after)
    (port,) = [line for line in text.splitlines() if line.startswith("P0   up ")]
    assert port.split()[-1] == "2.0M/s"  # none to the line: that counter is lower than before
    assert "1.2K/s" in text


def test_a_gateway_with_nobody_there_is_one_table() -> None:
    status = moment()
    port = status["ports"][1]
    del port["remote_port_client"], port["remote_port_candidates"]
    status["ports"] = [port | {"reason": ""}]
    assert len(list(screen(status, None, 0.0, 0.0))) == 1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1.0K"), (99_500, "100K"), (5e9, "5.0G"), (7e12, "7T")]
)
def test_a_number_of_bytes_is_short(count: float, text: str) -> None:
    assert watching._short(count) == text


def test_what_a_peer_calls_itself_is_no_markup_for_rich() -> None:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(watching._drawn("cpu1", [Table(["LINK", "STATE"], [30, -6], [["[red]cpu2[/red]", "down"]])]))
        text = console.export_text()
    assert "[red]cpu2[/red]" in text


def test_a_gateway_that_is_away_is_told_and_the_watch_goes_on_until_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: Iterator[Any] = iter([moment(), CommandError("no gateway answers at /run: is it running?"), moment()])

    def ask() -> dict[str, Any]:
        answer = next(answers, KeyboardInterrupt())
        if isinstance(answer, BaseException):
            raise answer
        found: dict[str, Any] = answer
        return found

    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert watch(ask) == 0
    text = capsys.readouterr().out
    assert text.count("cpu1: Daisyport 1.2.3") == 2
    assert "no gateway answers at /run: is it running?" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("with_rich", [True, False])
async def test_on_a_terminal_it_is_drawn_until_ctrl_c(short_path: Path, with_rich: bool) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            file = short_path / "daisyport.toml"
            file.write_text(f'state_dir = "{short_path}/state"\nruntime_dir = "{gateway.config.runtime_dir}"\n')
            (short_path / "without").mkdir()
            if not with_rich:
                (short_path / "without/rich.py").write_text("raise ImportError")
            environ = os.environ | {
                "TERM": "xterm",
                "COLUMNS": "80",
                "LINES": "24",
                "PYTHONPATH": f"{short_path}/without:{os.getcwd()}",
            }
            master, slave = pty.openpty()
            command = [sys.executable, "-m", "gateway", "status", "--watch", "--config", str(file)]
            process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ)  # noqa: ASYNC220
            os.close(slave)
            os.set_blocking(master, False)
            drawn = b""
            while drawn.count(b"cpu1: Daisyport") < 2:
                await trio.lowlevel.wait_readable(master)
                drawn += os.read(master, 65536)
            process.send_signal(signal.SIGINT)
            while process.poll() is None:
                with trio.move_on_after(0.05):
                    await trio.lowlevel.wait_readable(master)
                    with contextlib.suppress(OSError):  # nobody has the other end open any more
                        drawn += os.read(master, 65536)
            os.close(master)
    assert process.returncode == 0
    assert b"Traceback" not in drawn
    assert (b"\x1b[?1049h" in drawn) is with_rich  # the other screen, which is left again
    assert (b"\x1b[?1049l" in drawn) is with_rich
