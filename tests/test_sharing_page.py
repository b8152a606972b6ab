"""docs/sharing.md, held against the configuration that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.host.config_file import parse
from protocol.sharing.turn_rule import KINDS

PAGE = (Path(__file__).parent.parent / "docs/sharing.md").read_text()
EXAMPLES = re.findall(r"(?s)```toml\n(.+?)```", PAGE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_a_file_without_errors_that_shares_its_port(example: str) -> None:
    assert len(parse(example.encode()).sharing) == 1


def test_each_kind_of_turn_has_its_row() -> None:
    assert sorted(re.findall(r'(?m)^\| `"([\w-]+)"` \|', PAGE)) == sorted(KINDS)
