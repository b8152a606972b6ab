"""The benchmark's command line: `python -m tests.benchmarks` from the top of a checkout."""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.chains import CHAINS
from tests.benchmarks.peers import PEERS, NotReady, other_version
from tests.benchmarks.report import as_json, table
from tests.benchmarks.rounds import FULL, QUICK, run, run_chained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.peers import Peer

_USUAL = ("daisyport", "again", "ser2net", "tuned", "socat")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the programs that are installed. Return 1 when a byte was lost, 2 when nothing could be measured."""
    options = _options(arguments)
    direct, chained = [PEERS[name] for name in options.peers], list(CHAINS.values())
    if options.before:
        direct.insert(1, other_version(PEERS["daisyport"], "before", options.before.resolve()))
        chained.insert(2, other_version(CHAINS["1 hop"], "1 hop before", options.before.resolve()))
    cases = {"direct": (run, direct), "chained": (run_chained, chained)}
    chosen = {case: (measure, _present(peers)) for case, (measure, peers) in cases.items() if case in options.cases}
    if not all(peers for _, peers in chosen.values()):
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    schedule = replace(QUICK if options.quick else FULL, rows=tuple(options.rows))
    try:
        results = {case: measure(peers, schedule) for case, (measure, peers) in chosen.items()}
    except NotReady as exc:
        print(exc, file=sys.stderr)
        return 2
    results = {case: figures for case, figures in results.items() if figures.figures or figures.lost}
    if not results:
        print("no row has such a name", file=sys.stderr)
        return 2
    print("\n\n".join(f"{case}\n{table(figures)}" for case, figures in results.items()))
    if options.json:
        options.json.write_text(as_json(results))
    return 1 if any(figures.lost for figures in results.values()) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure the speed and the size of Daisyport."
    )
    parser.add_argument("--quick", action="store_true", help="coarser, in a quarter of the time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument(
        "--cases", nargs="+", choices=("direct", "chained"), default=("direct", "chained"), help="default: both"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=_USUAL, help="which in the direct case (default: %(default)s)"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=(),
        metavar="PART",
        help="only rows with this in their names, and beside them what is measured with them: one figure once more, or "
        "a machine that needs minutes for all (default: all)",
    )
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="measure the code of another checkout beside this one's"
    )
    return parser.parse_args(arguments)


def _present(peers: Sequence[Peer]) -> list[Peer]:
    absent = [peer.name for peer in peers if not peer.present()]
    if absent:
        print(f"not here: {', '.join(absent)}", file=sys.stderr)
    return [peer for peer in peers if peer.name not in absent]


if __name__ == "__main__":
    sys.exit(main())
