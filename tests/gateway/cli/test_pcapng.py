"""The files of a trace: their blocks, and how they are turned over. tests/clients has tshark read one."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from gateway.cli.pcapng import Capture, packet, preamble

if TYPE_CHECKING:
    from pathlib import Path


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Take a file apart; each block says its length at both of its ends."""
    found = []
    while data:
        kind, size = struct.unpack_from("<II", data)
        assert size % 4 == 0
        assert struct.unpack_from("<I", data, size - 4) == (size,)
        found.append((kind, data[8 : size - 4]))
        data = data[size:]
    return found


def test_a_packet_has_its_time_its_direction_its_writer_and_its_bytes() -> None:
    ((kind, body),) = blocks(packet(1_764_116_000_123_456, "to line", "anna", b"abcde"))
    interface, high, low, captured, size = struct.unpack_from("<IIIII", body)
    assert (kind, interface, high << 32 | low, captured, size) == (6, 0, 1_764_116_000_123_456, 17, 17)
    assert body[20:37] == struct.pack(">IIBBH", 1_764_116_000, 123_456, 1, 0, 0) + b"abcde"
    assert body[40:] == bytes.fromhex("0200040002000000 01000400") + b"anna" + bytes(4)


def test_a_note_is_a_packet_without_bytes() -> None:
    ((_, body),) = blocks(packet(1, "note", "12 bytes not shown", b""))
    assert body[28:32] == bytes(4)
    assert b"12 bytes not shown" in body


def test_a_full_file_gives_way_and_only_so_many_are_kept_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    packets = [packet(number, "from line", "", b"x" * 400) for number in range(9)]
    capture = Capture(file, "P0", most=1100, keep=2)
    for each in packets:
        capture.write(each)
    capture.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.pcapng", "trace.pcapng.1", "trace.pcapng.2"]
    assert file.read_bytes() == preamble("P0") + packets[8]
    assert file.with_name("trace.pcapng.1").read_bytes() == preamble("P0") + b"".join(packets[6:8])
    assert file.with_name("trace.pcapng.2").read_bytes() == preamble("P0") + b"".join(packets[4:6])
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_packet_larger_than_a_file_has_one_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    capture = Capture(file, "P0", most=100, keep=1)
    for _ in range(2):
        capture.write(packet(1, "from line", "", b"x" * 400))
    capture.close()
    assert len(blocks(file.read_bytes())) == 3
    assert len(blocks(file.with_name("trace.pcapng.1").read_bytes())) == 3
