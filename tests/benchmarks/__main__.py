"""The benchmark's command line: `python -m tests.benchmarks` from the top of a checkout."""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

from tests.benchmarks.peers import PEERS, NotReady
from tests.benchmarks.report import as_json, table
from tests.benchmarks.rounds import FULL, QUICK, run

_USUAL = ("daisyport", "ser2net", "tuned", "socat")


def main() -> int:
    """Measure what is there; 1 when a byte got lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="How fast and how big Daisyport is."
    )
    parser.add_argument("--quick", action="store_true", help="under 30 s instead of under 3 minutes; coarser")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=_USUAL, help="which of them (default: %(default)s)"
    )
    options = parser.parse_args()
    absent = [name for name in options.peers if not PEERS[name].present()]
    peers = [PEERS[name] for name in options.peers if name not in absent]
    if absent:
        print(f"not here: {', '.join(absent)}", file=sys.stderr)
    if not peers:
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        results = run(peers, QUICK if options.quick else FULL)
    except NotReady as exc:
        print(exc, file=sys.stderr)
        return 2
    print(table(results))
    if options.json:
        options.json.write_text(as_json(results))
    return 1 if results.lost else 0


if __name__ == "__main__":
    sys.exit(main())
