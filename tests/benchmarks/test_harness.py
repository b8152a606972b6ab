"""The benchmark measures a gateway, and notices a byte that is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import measures, rounds
from tests.benchmarks.__main__ import main
from tests.benchmarks.chains import CHAINS
from tests.benchmarks.lines import Line, Lost, deadline, free_ports
from tests.benchmarks.measures import Rig, connected
from tests.benchmarks.peers import PEERS, NotReady, Peer, Port, has, start
from tests.benchmarks.report import as_json, table
from tests.benchmarks.rounds import Schedule, run, run_chained

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.long

BRIEF = Schedule(rounds=1, bulk_rounds=1, block=0.002, ports=3, idle=0.05)
RELAY = PEERS["relay"]


def wrong(change: str) -> Peer:
    """Return a relay that changes `data` from the line before it reaches the clients."""
    source = Path(rounds.__file__).with_name("relay.py").read_text()
    broken = source.replace("data = os.read(line, 65536)", f"data = os.read(line, 65536); {change}")

    def commands(ports: Sequence[Port], directory: Path) -> list[list[str]]:
        (directory / "relay.py").write_text(broken)
        return [[sys.executable, str(directory / "relay.py"), str(port.tcp), port.device] for port in ports]

    return Peer("wrong", commands, lambda: True)


def test_a_run_has_a_figure_in_every_row_and_proves_every_byte() -> None:
    results = run([RELAY], BRIEF)
    metrics = (*measures.LATENCY, *measures.PROCESSOR, measures.UNDER_LOAD, *measures.BULK, measures.STUCK)
    metrics += (measures.BURST,)
    rows = [measures.START_UP, measures.MEMORY_ONE, measures.MEMORY_MANY, measures.IDLE]
    rows += measures.CALLS if has("strace")() else ()
    assert set(results.figures) == {metric.row for metric in metrics} | set(rows)
    assert results.lost == []
    assert results.carried["relay"] > 0
    # The relay uses sendall, so a client that never reads stops it.
    assert results.figures[measures.STUCK.row]["relay"].value == 0
    assert all(results.figures[metric.row]["relay"].value > 0 for metric in (*measures.LATENCY, *measures.BULK))


def test_a_chained_run_has_a_figure_for_every_way_and_proves_every_byte() -> None:
    ways = [CHAINS[name] for name in ("1 hop", "2 hops")] + [
        way for name, way in CHAINS.items() if "hop" not in name and way.present()
    ]
    results = run_chained(ways, BRIEF)
    assert results.lost == []
    assert set(results.figures) == {metric.row for metric in (*measures.CHAINED, *measures.CHAINED_BULK)}
    assert all(figures.keys() == set(results.peers) for figures in results.figures.values())
    for metric in measures.PROCESSOR:
        del results.figures[metric.row]  # so short a block may end between two ticks of the kernel
    assert all(figure.value > 0 for figures in results.figures.values() for figure in figures.values())


def test_only_the_rows_that_were_asked_for_are_measured() -> None:
    results = run([RELAY], replace(BRIEF, rows=("echo", "bulk line")))
    assert {row.name for row in results.figures} == {"echo, 7 bytes", "bulk line to net"}
    assert results.lost == []


def test_rows_that_no_case_has_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--peers", "relay", "--rows", "echos"]) == 2
    assert "no row has such a name" in capsys.readouterr().err


def test_a_report_has_medians_ratios_stalls_and_losses() -> None:
    results = rounds.Results(("daisyport", "tuned", "socat"))
    results.add(measures.BURST.row, "tuned", [1.0, 2.0, 30.0])
    results.add(measures.BURST.row, "tuned", [4.0])
    results.add(measures.BURST.row, "daisyport", [1.5])
    results.add(measures.STUCK.row, "tuned", [0.0])
    results.add(measures.STUCK.row, "daisyport", [125.0])
    results.lost.append("socat: echo: nothing for 5 s")
    text = table(results).splitlines()
    assert text[1].split() == ["64", "ports", "speak", "at", "once,", "us", "1.5", "(0.50)", "3.0", "(1.00)", "-"]
    assert text[2].split()[-3:] == ["125", "stall", "-"]
    assert text[-1] == "LOST socat: echo: nothing for 5 s"
    burst = json.loads(as_json({"direct": results}))["direct"]["rows"][0]["peers"]["tuned"]
    assert burst == {"median": 3.0, "p99": 30.0, "blocks": [2.0, 4.0]}


def test_a_report_says_how_far_the_same_program_differs_from_itself_and_what_the_slowest_took() -> None:
    results = rounds.Results(("daisyport", "again"))
    for name, factor in (("daisyport", 1.0), ("again", 1.25)):
        results.add(measures.BURST.row, name, [100.0 * factor])
        results.add(measures.UNDER_LOAD.row, name, [float(number) for number in range(1, 201)])
    text = table(results)
    assert (
        "daisyport and again are the same program: they differ by 20 %, at most 20 % (64 ports speak at once)" in text
    )
    assert "beside bulk to 8, 90 of 100: 99 of 100 within daisyport 199, again 199" in text
    assert text.splitlines()[2].split()[-2:] == ["181", "(1.00)"]


LOSES = "data = data.replace(b'\\0', b'')"
REORDERS = "data = data[::-1] if len(data) == 16 else data"


@pytest.mark.parametrize("change", [LOSES, REORDERS])
def test_a_peer_that_loses_or_reorders_a_byte_is_named_and_out(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "PATIENCE", 0.2)
    results = run([wrong(change)], replace(BRIEF, block=0.05))
    assert len(results.lost) >= 1
    assert results.lost[0].startswith("wrong: ")
    assert measures.STUCK.row not in results.figures


def test_a_wrong_byte_in_a_flood_is_noticed(tmp_path: Path) -> None:
    with closing(Line()) as line:
        rig = Rig([line], free_ports(1))
        peer = wrong("data = data.replace(b'\\0', b'1')")
        with (
            start(peer, [Port(line.device, rig.ports[0])], tmp_path / "peer", os.sched_getaffinity(0)),
            connected(rig, 1),
            pytest.raises(Lost, match="wrong or no bytes after"),
        ):
            measures.BULK[1].block(rig, 0.01)


def test_a_peer_that_does_not_start_says_why(tmp_path: Path) -> None:
    broken = Peer("broken", lambda _ports, _directory: [[sys.executable, "-c", "exit('no such device')"]], lambda: True)
    with (
        pytest.raises(NotReady, match=r"broken ended:\nno such device"),
        start(broken, [Port("/dev/null", free_ports(1)[0])], tmp_path / "peer", os.sched_getaffinity(0)),
    ):
        pass


def test_a_peer_that_notifies_is_awaited(tmp_path: Path) -> None:
    says = """
import os, signal, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"STATUS=so far", os.environ["NOTIFY_SOCKET"])
notify.sendto(b"READY=1\\nSTATUS=here", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""
    peer = Peer("says", lambda _ports, _directory: [[sys.executable, "-c", says]], lambda: True, notifies=True)
    with start(peer, [], tmp_path / "peer", os.sched_getaffinity(0)) as running:
        assert running.startup > 0
        assert running.memory() > 1
        assert running.cpu() > 0


def test_a_wait_for_what_never_comes_ends() -> None:
    with (
        closing(Line()) as line,
        pytest.raises(Lost, match=r"a message: nothing for 0\.01 s"),
        deadline(0.01, "a message"),
    ):
        line.read()


def test_the_command_says_what_it_can() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--help"], capture_output=True, text=True, check=True
    )
    assert "--quick" in done.stdout
