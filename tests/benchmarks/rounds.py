"""One run: every metric on every peer, block by block in turn, so that drift of the machine affects all alike.

A peer that loses a byte is left out of the rest of its stage, and the reason is kept.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, final

from tests.benchmarks import measures
from tests.benchmarks.cores import Core, one_core
from tests.benchmarks.lines import Line, Lost, Stalled, free_ports
from tests.benchmarks.measures import Metric, Rig, Row, connected
from tests.benchmarks.peers import Peer, Port, Running, has, start
from tests.benchmarks.system_calls import calls_a_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["FULL", "QUICK", "Figure", "Results", "Schedule", "run", "run_chained"]


_MOST_CLIENTS = 65


@final
@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to measure: rounds of blocks of so many seconds each, on so many ports; and which `rows`.

    These are parts of the rows' names; without any, all are measured.
    """

    rounds: int
    bulk_rounds: int
    block: float
    ports: int
    idle: float
    rows: tuple[str, ...] = ()

    def has(self, *rows: Row) -> bool:
        """Return whether any of these rows is wanted."""
        return not self.rows or any(part in row.name for part in self.rows for row in rows)

    def of(self, metrics: Iterable[Metric]) -> list[Metric]:
        """Return those of the metrics that are wanted."""
        return [metric for metric in metrics if self.has(metric.row)]


FULL = Schedule(rounds=15, bulk_rounds=5, block=0.05, ports=64, idle=3.0)
QUICK = Schedule(rounds=3, bulk_rounds=3, block=0.03, ports=64, idle=1.0)


@final
@dataclass(slots=True)
class Figure:
    """The samples of one metric of one peer, block by block."""

    blocks: list[list[float]] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median of the blocks' medians."""
        return median(self.medians)

    @property
    def medians(self) -> list[float]:
        """The median of each block."""
        return [median(block) for block in self.blocks]

    @property
    def p99(self) -> float:
        """The 99th percentile of all samples; the largest where there are few."""
        return self.at(0.99)

    def at(self, quantile: float) -> float:
        """Return the figure that a row of this quantile shows."""
        if quantile == 0.5:
            return self.value
        samples = [sample for block in self.blocks for sample in block]
        return quantiles(samples, n=100)[round(quantile * 100) - 1] if len(samples) > 100 else max(samples)


@final
@dataclass(slots=True)
class Results:
    """The figures by row and peer; what was lost and why; how many bytes were proved to arrive."""

    peers: tuple[str, ...]
    figures: dict[Row, dict[str, Figure]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    carried: dict[str, int] = field(default_factory=dict)
    strays: int = 0

    def add(self, row: Row, peer: str, block: list[float]) -> None:
        self.figures.setdefault(row, {}).setdefault(peer, Figure()).blocks.append(block)


@final
@dataclass(frozen=True, slots=True)
class _Bench:
    """One gateway that runs, with its lines and clients."""

    peer: Peer
    rig: Rig
    running: Running


def run(peers: Sequence[Peer], schedule: Schedule) -> Results:
    """Measure everything on one machine. Raises NotReady when a peer does not start."""
    return _run(peers, schedule, _start_ups, _one_port, _many_ports, _system_calls)


def run_chained(peers: Sequence[Peer], schedule: Schedule) -> Results:
    """Measure the peers that reach the line over links. Raises NotReady when one does not start."""
    return _run(peers, schedule, _chained)


def _run(
    peers: Sequence[Peer], schedule: Schedule, *stages: Callable[[Results, Sequence[Peer], Schedule, Path], None]
) -> Results:
    results = Results(tuple(peer.name for peer in peers))
    gc.disable()
    try:
        with tempfile.TemporaryDirectory(prefix="daisyport-benchmark-") as directory:
            for stage in stages:
                stage(results, peers, schedule, Path(directory))
    finally:
        gc.enable()
    return results


def _start_ups(results: Results, peers: Sequence[Peer], schedule: Schedule, directory: Path) -> None:
    if not schedule.has(measures.START_UP, measures.MEMORY_ONE):
        return
    for number in range(schedule.bulk_rounds + 1):
        for peer in peers:
            with _bench(peer, 1, directory / f"start-{peer.name}-{number}", os.sched_getaffinity(0)) as bench:
                # The first start reads files that no other has read yet.
                if number:
                    results.add(measures.START_UP, peer.name, [bench.running.startup * 1000])
                    results.add(measures.MEMORY_ONE, peer.name, [bench.running.memory()])


def _one_port(results: Results, peers: Sequence[Peer], schedule: Schedule, directory: Path) -> None:
    messages = schedule.of((*measures.LATENCY, *measures.PROCESSOR, measures.UNDER_LOAD))
    bulk = schedule.of((*measures.BULK, measures.STUCK))
    if not messages + bulk:
        return
    with one_core() as core, _benches(peers, 1, directory, core.cpus) as benches:
        for metric in messages:
            _measure(results, core, benches, metric, schedule.rounds, schedule.block)
        for metric in bulk:
            _measure(results, core, benches, metric, schedule.bulk_rounds, schedule.block)
        results.strays += core.strays


def _chained(results: Results, peers: Sequence[Peer], schedule: Schedule, directory: Path) -> None:
    messages, bulk = schedule.of(measures.CHAINED), schedule.of(measures.CHAINED_BULK)
    if not messages + bulk:
        return
    with one_core() as core, _benches(peers, 1, directory, core.cpus) as benches:
        for metric in messages:
            _measure(results, core, benches, metric, schedule.rounds, schedule.block)
        for metric in bulk:
            _measure(results, core, benches, metric, schedule.bulk_rounds, schedule.block)
        results.strays += core.strays


def _system_calls(results: Results, peers: Sequence[Peer], schedule: Schedule, directory: Path) -> None:
    if not schedule.has(*measures.CALLS):
        return
    if not has("strace")():
        print("  not here: strace, to count system calls", file=sys.stderr)
        return
    for peer in peers:
        with _bench(peer, 1, directory / f"calls-{peer.name}", os.sched_getaffinity(0)) as bench:
            for row, way in zip(measures.CALLS, (measures.to_line, measures.to_net), strict=True):
                with _out_when_lost(results, [bench], bench, row):
                    results.add(row, peer.name, [calls_a_message(bench.running, bench.rig, way, directory / "strace")])


def _many_ports(results: Results, peers: Sequence[Peer], schedule: Schedule, directory: Path) -> None:
    if not schedule.has(measures.MEMORY_MANY, measures.IDLE, measures.BURST.row):
        return
    with one_core() as core, _benches(peers, schedule.ports, directory, core.cpus) as benches:
        for bench in benches:
            results.add(measures.MEMORY_MANY, bench.peer.name, [bench.running.memory()])
        before = {bench.peer.name: bench.running.cpu() for bench in benches}
        time.sleep(schedule.idle)
        for bench in benches:
            spent = bench.running.cpu() - before[bench.peer.name]
            results.add(measures.IDLE, bench.peer.name, [spent / schedule.idle * 1000])
        _measure(results, core, benches, measures.BURST, schedule.rounds, schedule.block)
        results.strays += core.strays


def _measure(results: Results, core: Core, benches: list[_Bench], metric: Metric, rounds: int, seconds: float) -> None:
    print(f"  {metric.row.name}", file=sys.stderr)
    able = [bench for bench in benches if bench.peer.shares or metric.readers == 1]
    with contextlib.ExitStack() as children:
        for bench in able:
            with _out_when_lost(results, benches, bench, metric.row):
                children.enter_context(connected(bench.rig, metric.readers - 1))
        for bench in able * rounds:
            if bench in benches:
                core.gather()
                with _out_when_lost(results, benches, bench, metric.row):
                    results.add(metric.row, bench.peer.name, metric.block(bench.rig, seconds))


@contextlib.contextmanager
def _out_when_lost(results: Results, benches: list[_Bench], bench: _Bench, row: Row) -> Iterator[None]:
    """Take out a peer that stalls or loses bytes: what it carries after that proves nothing."""
    name, before = bench.peer.name, bench.rig.carried
    try:
        yield
        results.carried[name] = results.carried.get(name, 0) + bench.rig.carried - before
    except Stalled:
        results.add(row, name, [0.0])
        benches.remove(bench)
    except (Lost, OSError) as lost:
        results.lost.append(f"{name}: {row.name}: {lost}")
        benches.remove(bench)


@contextlib.contextmanager
def _benches(peers: Sequence[Peer], ports: int, directory: Path, cpus: set[int]) -> Iterator[list[_Bench]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_bench(peer, ports, directory / f"{ports}-{peer.name}", cpus)) for peer in peers]


@contextlib.contextmanager
def _bench(peer: Peer, ports: int, directory: Path, cpus: set[int]) -> Iterator[_Bench]:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(contextlib.closing(Line())) for _ in range(ports)]
        rig = Rig(lines, free_ports(ports))
        clients = 1 if ports > 1 else _MOST_CLIENTS
        links = tuple(free_ports(peer.links))
        wanted = [Port(line.device, tcp, clients, links) for line, tcp in zip(lines, rig.ports, strict=True)]
        running = stack.enter_context(start(peer, wanted, directory, cpus))
        rig.cpu = running.cpu
        stack.enter_context(connected(rig, 1))
        yield _Bench(peer, rig, running)
