"""The README names each command of the longer tests as CI runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = re.findall(r'(?m)^check ".*" \d+ (python -m pytest .*-m .*)$', (ROOT / ".ci" / "run").read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_has_the_command(command: str) -> None:
    assert command in (ROOT / "README.md").read_text().splitlines()


def test_each_marker_that_is_left_out_has_a_stage_in_ci() -> None:
    left_out = re.findall(r"not (\w+)", (ROOT / "pyproject.toml").read_text())
    assert set(left_out) == {command.split(" -m ")[2].split()[0] for command in COMMANDS}
