"""``daisyport trace``: show live what passes at a port, with the times and the writers, or write it as pcapng."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.command import CommandError, add_config_option
from gateway.cli.control import asked_for_lines, quoted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gateway.cli.command import Commands

__all__ = ["add_to", "hex_rows", "rows"]

_WIDTH = 80
_ROW = 16
"""Bytes in a row."""
_MIB = 1 << 20
_SIGNS = {"from line": "<", "to line": ">", "note": "-"}


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("trace", help="show live what passes at a port, or write it for Wireshark")
    parser.add_argument("port", metavar="PORT", help="the port, such as P0")
    parser.add_argument(
        "--pcapng", metavar="FILE", help="write it into a file that Wireshark opens; - writes to a pipe"
    )
    parser.add_argument("--rotate", metavar="MIB", type=int, default=100, help="begin a new file at so many MiB (100)")
    parser.add_argument("--keep", metavar="N", type=int, default=4, help="keep so many full files: FILE.1, ... (4)")
    add_config_option(parser)
    parser.set_defaults(command=_trace)


def _trace(arguments: argparse.Namespace) -> int:
    for name in ("rotate", "keep"):
        if getattr(arguments, name) < 1:
            arguments.parser.error(f"--{name} must be 1 or more")
    pieces = map(json.loads, asked_for_lines(arguments, f"/daisyport/trace/{quoted(arguments.port)}"))
    try:
        if arguments.pcapng is None:
            for piece in pieces:
                print("\n".join(rows(piece)), flush=True)
        elif arguments.pcapng == "-":
            _pipe(arguments, pieces)
        else:
            _capture(arguments, pieces)
    except (KeyboardInterrupt, BrokenPipeError):  # the operator, or the reader of the pipe, has seen enough
        return 0
    raise CommandError("the gateway ended the trace")


def rows(piece: dict[str, Any]) -> Iterator[str]:
    """Write one piece: its time, way and writer, then its bytes, in hexadecimal and as text."""
    when = datetime.datetime.fromtimestamp(piece["time"] // 1_000_000).astimezone()
    head = f"{when:%H:%M:%S}.{piece['time'] % 1_000_000:06} {_SIGNS[piece['way']]}"
    data = bytes.fromhex(piece["data"])
    if piece["way"] == "note":
        yield f"{head} {piece['text']}"[:_WIDTH]
        return
    whose = f" from {piece['text']}" if piece["text"] else ""
    yield f"{head} {len(data)} {'byte' if len(data) == 1 else 'bytes'}{whose}"[:_WIDTH]
    yield from hex_rows(data)


def hex_rows(data: bytes) -> Iterator[str]:
    """Write bytes, in hexadecimal and as text."""
    for start in range(0, len(data), _ROW):
        row = data[start : start + _ROW]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"    {row.hex(' '):{3 * _ROW}} {text}"


def _packets(pieces: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    from gateway.cli.pcapng import packet

    for piece in pieces:
        yield packet(piece["time"], piece["way"], piece["text"], bytes.fromhex(piece["data"]))


def _pipe(arguments: argparse.Namespace, pieces: Iterator[dict[str, Any]]) -> None:
    from gateway.cli.pcapng import preamble

    if sys.stdout.isatty():
        raise CommandError("--pcapng - writes to a pipe: daisyport trace P0 --pcapng - | wireshark -k -i -")
    for data in itertools.chain([preamble(arguments.port)], _packets(pieces)):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _capture(arguments: argparse.Namespace, pieces: Iterator[dict[str, Any]]) -> None:
    from gateway.cli.pcapng import Capture

    path = Path(arguments.pcapng)
    try:
        capture = Capture(path, arguments.port, arguments.rotate * _MIB, arguments.keep)
        print(f"Writing to {path} until Ctrl-C.", file=sys.stderr)
        with contextlib.closing(capture):
            for data in _packets(pieces):
                capture.write(data)
    except OSError as exc:
        raise CommandError(f"{path}: {exc.strerror}") from None
