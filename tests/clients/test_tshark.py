"""Wireshark's own reader at a trace: it finds each direction, each writer, and what a dissector makes of the bytes."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateway.cli.test_operator_commands import tracing
from tests.helpers import running_gateway

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

QUESTION = bytes.fromhex("010300000002c40b")
ANSWER = bytes.fromhex("0103040000000ffa37")
FIELDS = ("frame.packet_flags_direction", "rtacser.eventtype", "data.data", "frame.comment", "frame.interface_name")


def read(file: Path, *options: str) -> list[str]:
    """Return the lines that tshark prints of a file; it must have nothing to complain of."""
    done = subprocess.run(["tshark", "-r", str(file), *options], capture_output=True, check=True, text=True)
    assert "The capture file appears to be damaged" not in done.stderr
    return done.stdout.splitlines()


async def test_tshark_reads_the_direction_the_writer_and_modbus_in_a_trace(short_path: Path) -> None:
    file = short_path / "trace.pcapng"
    with trio.fail_after(60):
        async with (
            running_gateway(short_path) as gateway,
            await trio.open_tcp_stream("127.0.0.1", await gateway.open_tcp()) as client,
            tracing(gateway, "P0", "--pcapng", str(file)),
        ):
            await client.send_all(QUESTION)
            assert await gateway.lines[0].hear(len(QUESTION)) == QUESTION
            await gateway.lines[0].say(ANSWER)
            while ANSWER not in file.read_bytes():
                await trio.lowlevel.checkpoint()
            holder = f"127.0.0.1:{client.socket.getsockname()[1]}"
    fields = [word for field in FIELDS for word in ("-e", field)]
    packets = [line.split("\t") for line in read(file, "-T", "fields", *fields)]
    data = [packet for packet in packets if packet[2]]
    assert data == [
        ["0x00000002", "0x01", QUESTION.hex(), holder, "P0"],
        ["0x00000001", "0x02", ANSWER.hex(), "", "P0"],
    ]
    assert [packet[3] for packet in packets if packet[3].startswith("the port")] == ["the port is up"]
    decoded = [line for line in read(file, "-d", "rtacser.data,mbrtu") if "Modbus RTU" in line]
    assert ["Query" in line for line in decoded] == [True, False]
    assert all("Read Holding Registers" in line for line in decoded)
