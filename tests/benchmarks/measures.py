"""The metrics: a function each, which measures one gateway at a time and checks every byte.

A block is a short series of samples. The caller interleaves the blocks of different gateways, so that a machine that
becomes slower does so for all of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, final

from tests.benchmarks.lines import Line, Lost, Stalled, connect, deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "BULK",
    "BURST",
    "CALLS",
    "CHAINED",
    "CHAINED_BULK",
    "IDLE",
    "LATENCY",
    "MEMORY_MANY",
    "MEMORY_ONE",
    "PROCESSOR",
    "START_UP",
    "STUCK",
    "UNDER_LOAD",
    "Metric",
    "Rig",
    "Row",
    "connected",
    "to_line",
    "to_net",
]


_PERIOD = 1 << 20
_LONGEST = 1 << 16
_PATTERN = random.Random(1).randbytes(_PERIOD)
_ENDLESS = memoryview(_PATTERN + _PATTERN[:_LONGEST])
_WINDOW = 1 << 18
"""How far a device runs ahead of the slowest reader that reads at all."""
_PIECE = 1 << 14
_STALL = 1.0
PATIENCE = 5.0
"""Seconds until a message that did not arrive is given up."""
_BACKLOG = 4
_LOAD = 4096


@final
@dataclass(slots=True)
class Rig:
    """A gateway's lines, the TCP port of each, and one client on each; `carried` counts bytes proved to arrive."""

    lines: list[Line]
    ports: list[int]
    clients: list[socket.socket] = field(default_factory=list)
    carried: int = 0
    cpu: Callable[[], float] = lambda: 0.0
    """The seconds that the gateway had a processor so far."""
    _sent: int = 0

    def next(self, size: int) -> bytes:
        """Return bytes that were not sent lately."""
        start = self._sent % _PERIOD
        self._sent += size
        self.carried += size
        return bytes(_ENDLESS[start : start + size])


@final
@dataclass(frozen=True, slots=True)
class Row:
    """The name and the unit of a figure: the median of its blocks, or this `quantile` of all its samples."""

    name: str
    unit: str
    more_is_better: bool = False
    quantile: float = 0.5


@final
@dataclass(frozen=True, slots=True)
class Metric:
    """A row, and how to measure it: `block` returns samples, with so many `readers` on the line."""

    row: Row
    block: Callable[[Rig, float], list[float]]
    readers: int = 1


@contextlib.contextmanager
def connected(rig: Rig, readers: int, receive_buffer: int = 0) -> Iterator[None]:
    """Connect so many more clients to each line until the block ends; begin when all of them are served."""
    before = rig.clients
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, rig, "clients", before)
        for line, port in zip(rig.lines, rig.ports, strict=True):
            others = before if len(rig.lines) == 1 else []
            more: list[socket.socket] = []
            while len(more) < readers:
                # A few at a time: what does not fit a small backlog would be tried again a second later.
                few = range(min(_BACKLOG, readers - len(more)))
                more += [stack.enter_context(connect(port, receive_buffer)) for _ in few]
                _settle(line, [*others, *more])
            rig.clients = [*rig.clients, *more]
        yield


def _settle(line: Line, clients: Sequence[socket.socket]) -> None:
    """Wait until every client hears the line: the kernel connects a client before the gateway serves it."""
    for attempt in range(100):
        token = b"<%08d>" % attempt
        line.write(token)
        end = time.monotonic() + 0.1
        if all(_hears(client, token, end) for client in clients):
            return
    raise Lost("a client is connected and gets nothing")


def _hears(client: socket.socket, token: bytes, end: float) -> bool:
    heard = b""
    with contextlib.suppress(TimeoutError):
        while not heard.endswith(token):
            client.settimeout(max(1e-3, end - time.monotonic()))
            data = client.recv(_LONGEST)
            if not data:
                raise Lost("a client's connection was closed")
            heard += data
    client.settimeout(None)
    return heard.endswith(token)


def _block(exchange: Callable[[bytes], bytes], rig: Rig, size: int, seconds: float) -> list[float]:
    """Return the microseconds of one message after another, for about so many seconds."""
    samples: list[float] = []
    end = time.perf_counter() + seconds
    with deadline(seconds + PATIENCE, "a message"):
        while not samples or time.perf_counter() < end:
            message = rig.next(size)
            began = time.perf_counter_ns()
            arrived = exchange(message)
            samples.append((time.perf_counter_ns() - began) / 1000)
            _compare(arrived, message)
    return samples


def _compare(arrived: bytes, sent: bytes) -> None:
    if arrived != sent:
        raise Lost(f"sent {sent[:32].hex()}, arrived {arrived[:32].hex()}")


def _collect(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(_LONGEST)
    while len(data) < size:
        data += read(_LONGEST)
    return data


def _net_to_line(rig: Rig, seconds: float, size: int) -> list[float]:
    send, read = rig.clients[0].send, partial(os.read, rig.lines[0].fd)

    def exchange(message: bytes) -> bytes:
        send(message)
        return _collect(read, size)

    return _block(exchange, rig, size, seconds)


def _line_to_net(rig: Rig, seconds: float, size: int) -> list[float]:
    """Measure until the last reader has the message."""
    # Ask the client that connected last first: waiting for the first would wake this process once for each of them.
    fd, reads = rig.lines[0].fd, [client.recv for client in reversed(rig.clients)]

    def exchange(message: bytes) -> bytes:
        os.write(fd, message)
        arrived = {_collect(read, size) for read in reads}
        return arrived.pop() if len(arrived) == 1 else b"different for each reader"

    return _block(exchange, rig, size, seconds)


def _echo(rig: Rig, seconds: float, size: int) -> list[float]:
    fd, client = rig.lines[0].fd, rig.clients[0]

    def exchange(message: bytes) -> bytes:
        client.send(message)
        os.write(fd, _collect(partial(os.read, fd), size))
        return _collect(client.recv, size)

    return _block(exchange, rig, size, seconds)


def _all_speak(rig: Rig, seconds: float, size: int) -> list[float]:
    """Have every line say something at once, and measure until the last of it has arrived."""

    def exchange(message: bytes) -> bytes:
        for line in rig.lines:
            os.write(line.fd, message)
        arrived = {_collect(client.recv, size) for client in reversed(rig.clients)}
        return arrived.pop() if len(arrived) == 1 else b"different for each port"

    return _block(exchange, rig, size, seconds)


def _processor(rig: Rig, seconds: float, way: Callable[[Rig, float], list[float]]) -> list[float]:
    """Return the microseconds of processor time that the gateway spends on a message."""
    before = rig.cpu()
    count = len(way(rig, seconds))
    return [(rig.cpu() - before) / count * 1e6]


def _beside_bulk(rig: Rig, seconds: float) -> list[float]:
    """Measure a client's message to the line while the line says 4 KiB more to every client."""
    line, (client, *_) = rig.lines[0], rig.clients
    samples: list[float] = []
    waiting = select.poll()
    ends = [line.fileno(), *(each.fileno() for each in rig.clients)]
    for fd in ends:
        waiting.register(fd, select.POLLIN)
    end_at = time.perf_counter() + seconds
    with deadline(seconds + PATIENCE, "a message beside bulk"):
        while not samples or time.perf_counter() < end_at:
            said, message = rig.next(_LOAD), rig.next(16)
            heard = dict.fromkeys(ends, b"")
            line.write(said)
            began = time.perf_counter_ns()
            client.send(message)
            arrived = False
            while not arrived or any(len(heard[one.fileno()]) < _LOAD for one in rig.clients):
                for fd, _ in waiting.poll():
                    heard[fd] += os.read(fd, _LONGEST)
                if not arrived and len(heard[line.fileno()]) >= len(message):
                    arrived = True
                    samples.append((time.perf_counter_ns() - began) / 1000)
            _compare(heard.pop(line.fileno()), message)
            for data in heard.values():
                _compare(data, said)
    return samples


@final
@dataclass(slots=True)
class _Reader:
    """One end of a flood, which checks that what arrives is what was sent."""

    source: Line | socket.socket
    got: int = 0

    def read(self) -> int:
        try:
            data = os.read(self.source.fileno(), _LONGEST)
        except BlockingIOError:
            return 0
        start = self.got % _PERIOD
        if not data or data != _ENDLESS[start : start + len(data)]:
            raise Lost(f"wrong or no bytes after {self.got}")
        self.got += len(data)
        return len(data)

    def wake_at(self, size: int) -> None:
        """Wait for so many bytes at a time: a wake-up for each small piece costs more than the piece."""
        if isinstance(self.source, socket.socket):
            self.source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _flood(source: Line | socket.socket, sinks: Sequence[Line | socket.socket], total: int, window: int) -> float:
    """Carry `total` bytes from one end to each of the others; return the seconds that this took."""
    readers = [_Reader(sink) for sink in sinks]
    sent, began = 0, time.perf_counter()
    with _never_waiting(source, *sinks):
        while (slowest := min(readers, key=lambda reader: reader.got)).got < total:
            allowed = min(total, slowest.got + window) - sent
            wrote = _write(source.fileno(), sent, allowed)
            sent += wrote
            if not wrote + sum([reader.read() for reader in readers]):
                slowest.wake_at(max(1, min(_PIECE, sent - slowest.got)))
                _wait(slowest.source, source if allowed else None)
        for reader in readers:
            reader.wake_at(1)
    return time.perf_counter() - began


def _write(fd: int, sent: int, allowed: int) -> int:
    start = sent % _PERIOD
    try:
        return os.write(fd, _ENDLESS[start : start + min(allowed, _LONGEST)]) if allowed else 0
    except BlockingIOError:
        return 0


def _wait(sink: Line | socket.socket, source: Line | socket.socket | None) -> None:
    waiting = select.poll()
    waiting.register(sink, select.POLLIN)
    if source is not None:
        waiting.register(source, select.POLLOUT)
    if not waiting.poll(_STALL * 1000):
        raise Stalled(f"nothing moved for {_STALL:g} s")


@contextlib.contextmanager
def _never_waiting(*ends: Line | socket.socket) -> Iterator[None]:
    for end in ends:
        os.set_blocking(end.fileno(), False)
    try:
        yield
    finally:
        for end in ends:
            os.set_blocking(end.fileno(), True)


def _megabytes(
    rig: Rig, source: Line | socket.socket, sinks: Sequence[Line | socket.socket], total: int, window: int
) -> list[float]:
    seconds = _flood(source, sinks, total, window)
    rig.carried += total * len(sinks)
    return [total / seconds / 1e6]


def _bulk_to_line(rig: Rig, seconds: float) -> list[float]:
    return _megabytes(rig, rig.clients[0], rig.lines, _bulk(seconds), _PERIOD)


def _bulk_to_net(rig: Rig, seconds: float) -> list[float]:
    return _megabytes(rig, rig.lines[0], rig.clients, _bulk(seconds), _PERIOD)


def _paced_to_net(rig: Rig, seconds: float) -> list[float]:
    """Let the device wait for its readers: a pty is faster than any link, and a link keeps no more than 1 MiB."""
    return _megabytes(rig, rig.lines[0], rig.clients, _bulk(seconds), _WINDOW)


def _to_all(rig: Rig, seconds: float) -> list[float]:
    return _megabytes(rig, rig.lines[0], rig.clients, _bulk(seconds / 3), _WINDOW)


def _bulk(seconds: float) -> int:
    """Return a number of bytes that does not keep the slow peers busy for minutes."""
    return int(seconds * 100e6)


def _beside_a_stuck_one(rig: Rig, seconds: float) -> list[float]:
    """Measure what each of the healthy readers gets beside one that never reads."""
    healthy = rig.clients
    # More than a gateway and the kernel together keep for one client.
    total = max(_bulk(seconds), 8 << 20)
    with connected(rig, 1, receive_buffer=4096):
        return _megabytes(rig, rig.lines[0], healthy, total, _WINDOW)


to_line = partial(_net_to_line, size=16)
to_net = partial(_line_to_net, size=16)
START_UP = Row("start-up", "ms")
MEMORY_ONE = Row("memory, 1 port", "MiB")
MEMORY_MANY = Row("memory, 64 ports", "MiB")
CALLS = (Row("system calls, net to line", "a message"), Row("system calls, line to net", "a message"))
IDLE = Row("idle CPU a second, 64 ports", "ms")
LATENCY = (
    *(Metric(Row(f"net to line, {n} bytes", "us"), partial(_net_to_line, size=n)) for n in (1, 16, 200)),
    *(Metric(Row(f"line to net, {n} bytes", "us"), partial(_line_to_net, size=n)) for n in (1, 16, 200)),
    Metric(Row("echo, 7 bytes", "us"), partial(_echo, size=7)),
    *(Metric(Row(f"{n} readers, 16 bytes", "us"), partial(_line_to_net, size=16), n) for n in (8, 64)),
)
PROCESSOR = (
    Metric(Row("CPU, net to line, 16 bytes", "us"), partial(_processor, way=to_line)),
    Metric(Row("CPU, line to net, 16 bytes", "us"), partial(_processor, way=to_net)),
)
UNDER_LOAD = Metric(Row("beside bulk to 8, 90 of 100", "us", quantile=0.9), _beside_bulk, 8)
BULK = (
    Metric(Row("bulk net to line", "MB/s", more_is_better=True), _bulk_to_line),
    Metric(Row("bulk line to net", "MB/s", more_is_better=True), _bulk_to_net),
    Metric(Row("8 readers, each", "MB/s", more_is_better=True), _to_all, 8),
)
STUCK = Metric(Row("8 readers beside a stuck one", "MB/s", more_is_better=True), _beside_a_stuck_one, 8)
BURST = Metric(Row("64 ports speak at once", "us"), partial(_all_speak, size=16))
CHAINED = (*(metric for metric in LATENCY if metric.readers == 1), *PROCESSOR)
CHAINED_BULK = (BULK[0], Metric(Row("paced line to net", "MB/s", more_is_better=True), _paced_to_net))
