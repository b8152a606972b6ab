"""The figures as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.measures import Row
    from tests.benchmarks.rounds import Figure, Results

__all__ = ["as_json", "table"]

_BASELINES = ("tuned", "ser2net", "max", "socat")
_TWINS = (("daisyport", "again"), ("1 hop", "1 hop again"))
"""The same program under two names."""


def table(results: Results) -> str:
    """Return the medians, and in brackets the ratio of each to the first baseline that was measured."""
    baseline = next((name for name in _BASELINES if name in results.peers), results.peers[0])
    head = f"{'':40}" + "".join(f"{name:>20}" for name in results.peers)
    rows = [
        f"{f'{row.name}, {row.unit}':40}"
        + "".join(f"{_cell(row, figures.get(name), figures.get(baseline)):>20}" for name in results.peers)
        for row, figures in results.figures.items()
    ]
    return "\n".join([head, *rows, "", f"(x): times the figure of {baseline}", *_proofs(results)])


def _cell(row: Row, figure: Figure | None, baseline: Figure | None) -> str:
    if figure is None:
        return "-"
    value = figure.at(row.quantile)
    if row.more_is_better and value == 0:
        return "stall"
    if baseline is None or baseline.at(row.quantile) == 0:
        return f"{_number(value)}        "
    return f"{_number(value)} {f'({value / baseline.at(row.quantile):.2f})':>7}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _proofs(results: Results) -> list[str]:
    carried = ", ".join(f"{name} {count / 1e6:.0f} MB" for name, count in results.carried.items())
    strays = f"{results.strays} blocks with the kernel's worker on another core: expect scatter"
    return [
        f"arrived whole and in order: {carried}",
        *_noise(results),
        *_tails(results),
        *([strays] if results.strays else []),
        *(f"LOST {what}" for what in results.lost),
    ]


def _noise(results: Results) -> list[str]:
    """Say how far two runs of the same program differ: a difference between programs below that is none."""
    said = []
    for one, other in _TWINS:
        differences = {
            row.name: abs(figures[one].at(row.quantile) / figures[other].at(row.quantile) - 1) * 100
            for row, figures in results.figures.items()
            if one in figures and other in figures and figures[other].at(row.quantile)
        }
        if differences:
            worst = max(differences, key=lambda name: differences[name])
            usual = sorted(differences.values())[len(differences) // 2]
            differ = f"they differ by {usual:.0f} %, at most {differences[worst]:.0f} % ({worst})"
            said.append(f"{one} and {other} are the same program: {differ}")
    return said


def _tails(results: Results) -> list[str]:
    return [
        f"{row.name}: 99 of 100 within " + ", ".join(f"{name} {_number(each.p99)}" for name, each in figures.items())
        for row, figures in results.figures.items()
        if row.quantile != 0.5
    ]


def as_json(cases: Mapping[str, Results]) -> str:
    """Return the rows of every case; a block is given as its median."""
    return json.dumps({case: _plain(results) for case, results in cases.items()}, indent=2)


def _plain(results: Results) -> dict[str, object]:
    rows = [
        {
            "metric": row.name,
            "unit": row.unit,
            "more_is_better": row.more_is_better,
            "peers": {
                name: {"median": figure.value, "p99": figure.p99, "blocks": figure.medians}
                for name, figure in figures.items()
            },
        }
        for row, figures in results.figures.items()
    ]
    return {"rows": rows, "carried": results.carried, "lost": results.lost}
