"""docs/operating.md, held against what it describes."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.host.reload import AT_ONCE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/operating.md").read_text()
EXAMPLE = (ROOT / "systemd/daisyport.toml").read_text()


def keys_of_the_example() -> set[str]:
    """Every key that there is, with its table: the example names them all, as a test of the configuration holds."""
    table, keys = "", set()
    for line in EXAMPLE.splitlines():
        if header := re.fullmatch(r"(?:# )?\[+([\w.]+)\]+", line):
            table = f"{header[1]}."
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            keys.add(table + key[1])
    return keys


def test_each_key_of_the_configuration_has_its_row_and_says_when_it_counts() -> None:
    rows = dict(re.findall(r"(?m)^\| `([\w.]+)` \| (at once|at the next start) \|$", PAGE))
    assert rows.keys() == keys_of_the_example()
    assert {key for key, counts in rows.items() if counts == "at once"} == AT_ONCE


def test_each_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"(?<![/\w])(?:systemd|docs)/[\w@.-]+\w", PAGE))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
